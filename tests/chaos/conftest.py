"""Pools of real processes, callers, and figures that are printed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from llmwire.container import LLMContainer

from .load import Calling, Tasks, Threads
from .processes import Upstream

FIRST_BYTE_S = 1.0


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests, and no proxy of it. The seed is read before."""
    prefixes = ("OPENAI_", "COMPLETION_", "EMBEDDING_", "AZURE_", "LLMWIRE_")
    for name in os.environ:
        if (name.startswith(prefixes) and name != "LLMWIRE_SEED") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def seed() -> int:
    """Of all that is drawn by chance: `LLMWIRE_SEED`, or the same in every run."""
    return int(os.environ.get("LLMWIRE_SEED", "20240607"))


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """Starts a server process: `upstream(service_s=0.5)`."""
    with ExitStack() as stack:

        def start(**options: float) -> Upstream:
            started = Upstream(**options)
            stack.callback(started.kill)
            return started

        yield start


@pytest.fixture
def contain(seed: int) -> Iterator[Callable[..., Any]]:
    """Makes a container over servers, whose endpoints are called a, b, c, ...: `contain(*servers, **settings)`."""
    made: list[Any] = []

    def contain(*servers: Any, **settings: object) -> Any:
        names = "abcdefgh"[: len(servers)]
        endpoints = {
            name: {"base_url": server.base_url, "api_key": f"key-of-{name}"}
            for name, server in zip(names, servers, strict=True)
        }
        completion = {"first_byte_timeout_s": FIRST_BYTE_S, "endpoints": endpoints, **settings}
        container: Any = LLMContainer(env={}, config={"completion": completion})
        container.completion.traffic().randomness.seed(seed)
        made.append(container)
        return container

    yield contain
    for container in made:
        container.shutdown_resources()


@pytest.fixture(params=[Threads, Tasks], ids=["sync", "async"])
def calling(request: pytest.FixtureRequest) -> Calling:
    """Callers of the synchronous client, and once more of the asynchronous one."""
    return request.param  # type: ignore[no-any-return]


class Figures:
    """What a test has measured: one line, printed and part of its assertions' messages."""

    def __init__(self, test: str, seed: int) -> None:
        self._test, self._seed = test, seed

    def told(self, **figures: object) -> str:
        text = ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in figures.items())
        line = f"{self._test}: {text}, seed {self._seed}"
        print(f"\n{line}")
        return line


@pytest.fixture
def figures(request: pytest.FixtureRequest, seed: int) -> Figures:
    """`line = figures.told(calls=200, failed=0)`."""
    return Figures(request.node.name, seed)


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else f"{value}"
