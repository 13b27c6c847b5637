"""What the tests of the example share: documents, a database of their own, an environment without settings."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from threading import Event, Thread
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from app_example.application import Application
from app_example.passages import Passage
from app_example.serving import PageServer, listen
from llmwire.container import overriding
from llmwire.services.testing import AsyncFakeCompletions, AsyncFakeEmbeddings, FakeEmbeddings

IS_BROWSER_REQUIRED = os.environ.get("LLMWIRE_REQUIRE_BROWSER") == "1"  # read here: a test sees no settings
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)

PREFIXES = ("COMPLETION_", "EMBEDDING_", "OPENAI_", "AZURE_", "LLMWIRE_", "ASK_")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the settings of who runs it."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents, five passages."""
    made = tmp_path / "texts"
    (made / "more").mkdir(parents=True)
    (made / "cats.md").write_text("# Cats\n\nCats sleep a lot.\n\n## Food\n\nCats eat fish.\n")
    (made / "dogs.md").write_text("# Dogs\n\nDogs bark.\n\n## Food\n\nDogs eat bones.\n")
    (made / "more" / "birds.txt").write_text("Birds sing in the morning.\n")
    return made


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "documents.sqlite"


@pytest.fixture
def application(database: Path) -> Iterator[Application]:
    """The whole application over fakes: embeddings of 8 numbers, and a model that knows one answer."""
    made = Application()
    made.config.database.from_value(database)
    fakes = {
        "llm.embedding_client": FakeEmbeddings(dimensions=8),
        "llm.async_embedding_client": AsyncFakeEmbeddings(dimensions=8),
        "llm.async_completion_client": AsyncFakeCompletions("Cats eat fish [1]."),
    }
    with overriding(made, **fakes):
        yield made


@pytest.fixture
def ingested(application: Application, folder: Path) -> Application:
    """The application with the three documents in its database."""
    ingesting = application.ingesting()
    list(ingesting.carry_out(ingesting.plan(folder)))
    return application


@pytest.fixture
def a_passage() -> Callable[[str], Passage]:
    def make(text: str) -> Passage:
        return Passage(folder="/texts", file="a.md", heading="A", text=text)

    return make


@pytest.fixture
def some_passages(a_passage: Callable[[str], Passage]) -> Sequence[Passage]:
    return [a_passage(text) for text in ("one", "two", "three")]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium without a window, driven by selenium."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    missing += [] if find_spec("selenium") else ["selenium"]
    if missing:
        no_browser = pytest.fail if IS_BROWSER_REQUIRED else pytest.skip
        no_browser(f"not here: {', '.join(missing)} (apt-get install chromium chromium-driver; pip install selenium)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield started
    started.quit()


class Endless:
    """A completion service that says one word and then waits; tells when its stream was closed."""

    def __init__(self) -> None:
        self.closed = Event()

    async def stream(self, *_: object, **__: object) -> AsyncGenerator[str, None]:
        try:
            yield "Once"
            await asyncio.Event().wait()
        finally:
            self.closed.set()


@pytest.fixture
def endless() -> Endless:
    return Endless()


@pytest.fixture
def serving() -> Callable[..., AbstractContextManager[str]]:
    """Serves an app over real HTTP, on a free port unless one is named, in a context that gives its URL."""
    return _serving


@contextmanager
def _serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    ready = Event()
    listening = listen("127.0.0.1", port)
    server = _Telling(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2), ready)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert ready.wait(timeout=20)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


class _Telling(PageServer):
    """A server that tells when it serves."""

    def __init__(self, config: uvicorn.Config, ready: Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()
