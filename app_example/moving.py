"""The third act of the demo: the endpoints of a running program change, and none of its calls fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai

from app_example.endpoints import StandInProcess
from llmwire.container import LLMContainer, LLMWireError, overriding
from llmwire.services import recorded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractContextManager

    from app_example.centre import Centre
    from llmwire.services import Provenance

AT_ONCE = 10  #: calls under way at any time
SEEN_S = 5.0  #: so soon is a change followed, also on a busy machine
LOOK_S = 0.02


class Load:
    """Calls that are made all the time, and what became of them."""

    def __init__(self, calls: list[Provenance]) -> None:
        self.calls, self.failed = calls, 0
        self._is_over = False

    def answered_by(self, since: int = 0) -> Counter[str | None]:
        """How many calls each endpoint answered."""
        return Counter(call.endpoint for call in self.calls[since:])

    async def run(self, service: Any) -> None:
        """Make calls until it is stopped."""
        await asyncio.gather(*(self._caller(service) for _ in range(AT_ONCE)))

    def stop(self) -> None:
        """Let the calls under way be the last."""
        self._is_over = True

    async def _caller(self, service: Any) -> None:
        while not self._is_over:
            try:
                await service.complete("Is anybody there?")
            except (openai.OpenAIError, LLMWireError):
                self.failed += 1


async def endpoints_move(centre: Centre, say: Callable[[str], None], check: Callable[[str, bool], None]) -> None:
    """Add an endpoint, remove one, write nonsense: under load.

    Args:
        say: is given what happens.
        check: is given a claim, and whether it is true.
    """
    with StandInProcess() as one, StandInProcess() as two, centre:
        servers = {"one": {"base_url": one.base_url}, "two": {"base_url": two.base_url}}
        centre.write({"endpoints": {"one": servers["one"]}})
        async with _under_load(centre.source) as (container, load):
            lane: Any = container.completion

            def names() -> list[str]:
                return [endpoint.name for endpoint in lane.pool().endpoints]

            say(f"{centre.title} says where completions come from: {centre.source}")
            await _until(lambda: len(load.calls) > AT_ONCE)
            check("the endpoint it names answers every call", set(load.answered_by()) == {"one"})

            began_s = time.monotonic()
            centre.write({"endpoints": servers})
            await _until(lambda: load.answered_by()["two"] > 0)
            took_s = time.monotonic() - began_s
            check(f"an endpoint that was added there answers {took_s:.1f} s later", took_s < SEEN_S)

            centre.write({"endpoints": {"two": servers["two"]}})
            await _until(lambda: names() == ["two"])
            await _until(lambda: len(lane.pool().snapshot()) == 1)
            seen = len(load.calls)
            await _until(lambda: len(load.calls) > seen + AT_ONCE)
            check("one that was removed finished its calls and gets no more", set(load.answered_by(seen)) == {"two"})

            for problem, document in (
                ("no document at all", "endpoints = = nonsense"),
                ("a server that shall not be verified", {"endpoints": {"two": {**servers["two"], "verify": False}}}),
            ):
                before = _error(lane)
                centre.write(document)
                await _until(lambda before=before: _error(lane) not in (None, before))  # type: ignore[misc]
                say(f"refused, {problem}: {_error(lane)}")
            check("what makes no sense is refused, and the last good endpoints stay", names() == ["two"])
        check(f"0 of {len(load.calls) + load.failed} calls failed", load.failed == 0)


def _error(lane: Any) -> str | None:
    error: str | None = lane.watcher().state()[0].error
    return error


@asynccontextmanager
async def _under_load(source: str) -> AsyncIterator[tuple[LLMContainer, Load]]:
    container = LLMContainer(config={"completion": {"source": source, "model": "stand-in-completion"}})
    without_settings: AbstractContextManager[Any] = overriding(container, env={})
    with without_settings, recorded() as calls:
        load = Load(calls)
        running = asyncio.create_task(load.run(container.async_completion_service()))
        try:
            yield container, load
        finally:
            load.stop()
            await running
            await container.aclose()


async def _until(is_so: Callable[[], bool], patience_s: float = 30.0) -> None:
    """Raises TimeoutError where it never is."""
    async with asyncio.timeout(patience_s):
        while not is_so():
            await asyncio.sleep(LOOK_S)
