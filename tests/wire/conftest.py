"""Real servers on loopback, and containers that speak to them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from llmwire.container import LLMContainer
from llmwire.services.testing.faultd import FaultServer

from .callers import ASYNC, SYNC, Caller
from .pools import Trio
from .servers import Answer, Server, ServerProcess, server_process


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests, and no proxy of it."""
    prefixes = ("OPENAI_", "COMPLETION_", "EMBEDDING_", "AZURE_", "LLMWIRE_")
    for name in os.environ:
        if name.startswith(prefixes) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts a server in this process: `serve(answer)`."""
    with ExitStack() as stack:

        def serve(answer: Answer | None = None, **options: Any) -> Server:
            return stack.enter_context(Server(answer, **options))

        yield serve


@pytest.fixture
def serve_apart() -> Iterator[Callable[[], ServerProcess]]:
    """Starts a server in a process of its own."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(server_process())


@pytest.fixture
def contain() -> Iterator[Callable[..., LLMContainer]]:
    """Makes a container: `contain(completion={...}, embedding={...})`; without tables it reads the environment."""
    made: list[LLMContainer] = []

    def contain(**tables: dict[str, object]) -> LLMContainer:
        made.append(LLMContainer(config=tables, env={}) if tables else LLMContainer())
        return made[-1]

    yield contain
    for container in made:
        container.shutdown_resources()


@pytest.fixture(scope="module")
def _trio() -> Iterator[Trio]:
    with FaultServer() as a, FaultServer() as b, FaultServer() as c:
        yield Trio((a, b, c))


@pytest.fixture
def trio(_trio: Trio) -> Trio:
    """Three servers, which all serve."""
    _trio.script()
    return _trio


@pytest.fixture(params=[SYNC, ASYNC], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    """Calls through the synchronous client, and once more through the asynchronous one."""
    return request.param  # type: ignore[no-any-return]
