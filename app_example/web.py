"""The page and its HTTP interface. Knows requests and JSON; asks the same `Asking` as the command line.

`create_app` wires this module to one application's container. The answer comes as lines of JSON, each with its `kind`:
`sources`, `piece`, `trouble`, and `done` as the last of a whole answer.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, assert_never

from dependency_injector.wiring import Provide, Provider
from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, StringConstraints

from app_example import live
from app_example.application import Application
from app_example.asking import Asking, Piece, Sources, Told, Trouble
from app_example.failures import AppError, EmptyStoreError
from app_example.journal import Journal
from app_example.pages import PAGE_HEADERS, STATIC, ClosingStream
from app_example.store import Store
from llmwire.container import LLMContainer
from llmwire.services import PrometheusCollector, inject

LONGEST = 2_000  #: characters of a question: a page of text; more is a document, and belongs into the folder

TITLES = 12  #: documents named on the page: two lines of it

router = APIRouter()


def create_app(application: Application) -> FastAPI:
    """The web application over a container; closes the container's async clients when it stops."""
    application.wire(modules=[__name__, live])

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        await application.llm.aclose()

    app = FastAPI(title="Ask your documents", lifespan=closing, docs_url=None, redoc_url=None)  # docs load from a CDN
    app.include_router(router)
    app.include_router(live.router)
    app.state.watch = live.watch(application.llm())
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


class Question(BaseModel):
    """What the page sends."""

    question: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST)]


class JsonLines(ClosingStream):
    """One for each line of an answer: that its reader went away closes the model's stream too."""

    media_type = "application/x-ndjson"

    def __init__(self, told: AsyncGenerator[Told, None]) -> None:
        super().__init__(_lines(told))


@router.get("/")
async def page() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether this process serves. Asks no endpoint: one that is down is no reason to restart the page."""
    return {"status": "ok"}


@router.get("/metrics")
@inject
def metrics(llm: Annotated[LLMContainer, Depends(Provide["llm"])]) -> Response:
    """What Prometheus scrapes. Names servers and costs: show it to those who may see these."""
    collector = PrometheusCollector(llm.report)
    return Response(collector.text(), media_type=collector.content_type)


@router.post("/api/ask")
@inject
async def ask(body: Question, asking: Annotated[Asking, Depends(Provide["asking"])]) -> JsonLines:
    return JsonLines(asking.ask(body.question))


@router.get("/api/status")
@inject
def status(
    journal: Annotated[Journal, Depends(Provide["journal"])],
    store: Annotated[Callable[[], Store], Depends(Provider["store"])],
    stand_ins: Annotated[list[str], Depends(Provide["config.stand_ins"])],
) -> dict[str, Any]:
    """What the page's corner shows."""
    return {
        "documents": _documents(store),
        "stand_ins": stand_ins,
        "endpoints": [asdict(record) for record in journal.records()],
        "warnings": journal.warnings(),
    }


def _documents(store: Callable[[], Store]) -> dict[str, Any]:
    try:
        with store() as opened:
            return {"passages": opened.count(), "titles": opened.titles(TITLES)}
    except EmptyStoreError:
        return {"passages": 0}
    except AppError as error:
        return {"passages": 0, "problem": str(error)}


async def _lines(told: AsyncGenerator[Told, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(told):
        async for item in told:
            yield _line(_as_json(item))
            if isinstance(item, Trouble):
                return
    yield _line({"kind": "done"})


def _line(item: dict[str, Any]) -> bytes:
    return json.dumps(item).encode() + b"\n"


def _as_json(told: Told) -> dict[str, Any]:
    match told:
        case Sources(nearby=nearby):
            return {
                "kind": "sources",
                "sources": [
                    {"file": near.passage.file, "heading": near.passage.heading, "text": near.passage.text}
                    for near in nearby
                ],
            }
        case Piece(text=text):
            return {"kind": "piece", "text": text}
        case Trouble(message=message):
            return {"kind": "trouble", "message": message}
        case _:
            assert_never(told)
