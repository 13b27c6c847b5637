"""One peer in a process of its own: it is told on stdin what to measure, a JSON line each, and answers with one.

`python -m benchmarks.worker openai http://127.0.0.1:8000/v1`, then `{"do": "sync", "kind": "chat", "calls": 100}`. The
process_time of this process is the peer's, with nothing else in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .peers import PEERS, AsyncCall, Call
from .upstream import more_files

Answer = Callable[[dict[str, Any]], None]

BRIEF = 60  #: characters of an error, for a table
REST_S = 0.1  #: of a caller after a failed call: it would not call again at once
WARM_UP_CALLS = 10  #: before each slice: connections that rested too long are opened again


class _Worker:
    def __init__(self, peer: str, base_urls: Sequence[str], runner: asyncio.Runner, answer: Answer) -> None:
        self._peer, self._base_urls, self._runner, self._answer = PEERS[peer], base_urls, runner, answer
        self._calls: dict[str, Call] = {}
        self._chat: AsyncCall | None = None

    def sync(self, kind: str, calls: int) -> dict[str, float]:
        """CPU and wall time of a call, in us, one call after the other."""
        if kind not in self._calls:
            assert self._peer.sync is not None, "the orchestrator asks only for what a peer has"
            self._calls[kind] = self._peer.sync(self._base_urls, kind)
        call = self._calls[kind]
        _repeat(call, WARM_UP_CALLS)
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        _repeat(call, calls)
        return _per_call(time.process_time() - cpu_s, time.perf_counter() - wall_s, calls)

    def asynchronous(self, calls: int) -> dict[str, float]:
        """The same with `await`, still one call after the other."""

        async def measured() -> dict[str, float]:
            chat = self._async_chat()
            for _ in range(WARM_UP_CALLS):
                await chat(0)
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            for _ in range(calls):
                await chat(0)
            return _per_call(time.process_time() - cpu_s, time.perf_counter() - wall_s, calls)

        return self._runner.run(measured())

    def concurrent(self, callers: int, seconds: float) -> dict[str, Any]:
        """Calls of so many callers at once, each calling again when it has its answer.

        The window opens once every caller has had an answer, which is told at once, and closes with the last answer to
        those that still waited when the time was over. Times are on the system's monotonic clock, so that another
        process can say when something happened.
        """
        return self._runner.run(_closed_loop(self._async_chat, callers, seconds, self._answer))

    def _async_chat(self) -> AsyncCall:
        if self._chat is None:
            self._chat = self._peer.asynchronous(self._base_urls)
        return self._chat


async def _closed_loop(
    chat_of: Callable[[], AsyncCall], callers: int, seconds: float, answer: Answer
) -> dict[str, Any]:
    chat = chat_of()
    calls: list[tuple[float, float]] = []  # when it ended, how long it took
    errors: list[tuple[float, float, str]] = []
    is_over, not_begun = False, callers
    all_have_begun = asyncio.Event()

    async def call(number: int) -> None:
        began_at = time.monotonic()
        try:
            await chat(number)
        except Exception as error:  # whatever a peer lets through is a failed call
            ended_at = time.monotonic()
            errors.append((ended_at, ended_at - began_at, _in_brief(error)))
            await asyncio.sleep(REST_S)
        else:
            ended_at = time.monotonic()
            calls.append((ended_at, ended_at - began_at))

    async def caller(number: int) -> None:
        nonlocal not_begun
        await call(number)
        not_begun -= 1
        if not not_begun:
            all_have_begun.set()
        while not is_over:
            await call(number)

    running = [asyncio.create_task(caller(number)) for number in range(callers)]
    await all_have_begun.wait()
    opened_at, cpu_s = time.monotonic(), time.process_time()
    answer({"opened_at": opened_at})
    await asyncio.sleep(seconds)
    is_over = True
    await asyncio.gather(*running)
    window = {"opened_at": opened_at, "closed_at": time.monotonic(), "cpu_s": time.process_time() - cpu_s}
    return {**window, "calls": [call for call in calls if call[0] >= opened_at], "errors": errors}


def _in_brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:BRIEF]


def _repeat(call: Call, times: int) -> None:
    for _ in range(times):
        call()


def _per_call(cpu_s: float, wall_s: float, calls: int) -> dict[str, float]:
    return {"cpu_us": cpu_s / calls * 1e6, "wall_us": wall_s / calls * 1e6}


def serve(does: Mapping[str, Callable[..., dict[str, Any]]], answer: Answer, *, needs: str | None) -> None:
    """Answer line after line, until stdin ends; then end the process.

    Args:
        needs: the module without which the peer counts as not installed.
    """
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(does[request.pop("do")](**request))
        except ModuleNotFoundError as error:
            if error.name != needs:
                raise
            answer({"missing": error.name})
    os._exit(0)  # all is told; some peers leave threads and sessions that would be waited for


def answers() -> Answer:
    """How this process answers. What peers print from here on goes to stderr, as stdout is for our answers."""
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    return lambda value: print(json.dumps(value), file=stdout, flush=True)


def main() -> None:
    """Measure the peer that the arguments name."""
    peer, *base_urls = sys.argv[1:]
    answer = answers()
    more_files()
    with asyncio.Runner() as runner:
        worker = _Worker(peer, base_urls, runner, answer)
        does: dict[str, Callable[..., dict[str, Any]]] = {
            "sync": worker.sync,
            "async": worker.asynchronous,
            "concurrent": worker.concurrent,
        }
        serve(does, answer, needs=PEERS[peer].needs)


if __name__ == "__main__":
    main()
