"""The status page: its routes, and the state of all endpoints as server-sent events. Knows requests and time."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from time import monotonic
from typing import Annotated, Any

from dependency_injector.wiring import Provide
from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from app_example.pages import PAGE_HEADERS, STATIC, ClosingStream
from app_example.status import status_of
from llmwire.container import LLMContainer
from llmwire.services import inject

EVERY_S = 1.0  #: between two events: what a person still sees as live

RETRY_MS = 2_000  #: after so long a browser that lost its connection comes back

router = APIRouter()


class Watch:
    """What all who look at the page see together: it is found out once for all of them, and only while one looks.

    Args:
        look: gives what they see; it is called on another thread.
        every_s: between two looks.
    """

    def __init__(self, look: Callable[[], dict[str, Any]], *, every_s: float = EVERY_S) -> None:
        self._look, self._every_s = look, every_s
        self._closed = asyncio.Event()
        self._looking = asyncio.Lock()
        self._seen, self._seen_at_s = b"", float("-inf")

    async def events(self) -> AsyncGenerator[bytes, None]:
        """As `text/event-stream`, until the watch is closed or the reader goes away."""
        yield f"retry: {RETRY_MS}\n\n".encode()
        while not self._closed.is_set():
            yield b"data: " + await self._now() + b"\n\n"
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), self._every_s)

    def close(self) -> None:
        """End all events: a server that is told to stop waits for its answers."""
        self._closed.set()

    async def _now(self) -> bytes:
        async with self._looking:
            if monotonic() - self._seen_at_s > self._every_s / 2:
                self._seen = json.dumps(await run_in_threadpool(self._look)).encode()
                self._seen_at_s = monotonic()
            return self._seen


class EventStream(ClosingStream):
    """Server-sent events."""

    media_type = "text/event-stream"


def watch(llm: LLMContainer) -> Watch:
    """Of the endpoints of a container."""

    def history(function: str, endpoint: str) -> Any:
        return getattr(llm, function).meter().history(endpoint)

    return Watch(lambda: status_of(llm.report(), history))


@router.get("/status")
async def page() -> FileResponse:
    return FileResponse(STATIC / "status.html", headers=PAGE_HEADERS)


@router.get("/api/status/events")
async def events(request: Request) -> EventStream:
    return EventStream(request.app.state.watch.events())


@router.get("/api/figures")
@inject
def figures(llm: Annotated[LLMContainer, Depends(Provide["llm"])]) -> dict[str, Any]:
    """What `llmwire top` reads. Names servers and costs, no keys and no texts: show it to those who may see these."""
    return llm.report().as_dict()
