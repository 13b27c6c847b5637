"""What it costs to change endpoints while a program runs: to read and check a document, to exchange it, and a call."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Mapping
from statistics import median
from typing import TYPE_CHECKING, Any

from dependency_injector import providers

from llmwire.container.watching import Watcher
from llmwire.services.discovery.catalogue import Snapshot
from llmwire.services.routing.pool import LATE_S

from .figures import ratio, written
from .peers import KEY, MESSAGES, MODEL
from .processes import Upstreams
from .running import Effort, Result, Say, a_table

if TYPE_CHECKING:
    from rich.table import Table

    from llmwire.container import LLMContainer

SIZES = (3, 20, 60)  #: endpoints of a document
ROUNDS = 40  #: documents of each size, each with other weights
CHURN = 500  #: documents of 20 endpoints, each with other names
WARM_UP_CALLS = 200


class Silent:
    """A source that says what it is told to say, and nothing by itself."""

    name, is_remote, is_whole = "benchmark", True, False

    def __init__(self, first: Snapshot) -> None:
        self._first = first

    def catalogue(self, function: str, env: Mapping[str, str]) -> Silent:  # noqa: ARG002  # as of any source
        return self

    def warnings(self, env: Mapping[str, str]) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    async def fetch(self) -> Snapshot:
        return self._first

    async def watch(self, since: Snapshot) -> None:  # noqa: ARG002
        await asyncio.Event().wait()

    async def aclose(self) -> None: ...


def run(effort: Effort, say: Say) -> Result:
    """Documents of several sizes; then names that are never the same; then calls, by turns."""
    table = a_table("one change, ms: median and longest", "endpoints", "checked and exchanged", "longest", "exchanged")
    figures: dict[str, float] = {}
    for size in SIZES:
        say(f"reloading: {size} endpoints")
        whole, exchanged = _changes(size)
        table.add_row(str(size), written(median(whole), 2), written(max(whole), 2), written(median(exchanged), 2))
        figures[f"apply {size} ms"], figures[f"exchange {size} ms"] = median(whole), median(exchanged)
    say(f"reloading: {CHURN} documents with names of their own")
    kept_kib = _kept_kib()
    churn = a_table(f"{CHURN} documents of {SIZES[1]} endpoints with names of their own", "", "")
    churn.add_row("memory that is kept of each, KiB", written(kept_kib, 2))
    figures["kept KiB"] = kept_kib
    say("reloading: whole calls")
    calls, found = _calls(effort)
    return Result(tables=[table, churn, calls], figures={**figures, **found})


def _changes(size: int) -> tuple[list[float], list[float]]:
    whole, exchanged = [], []
    container, watcher = _started(_snapshot(_document(size, 1)))
    pool = container.completion.pool()
    exchange = pool.exchange

    def timed(*arguments: Any, **named: Any) -> Any:
        began_s = time.perf_counter()
        event = exchange(*arguments, **named)
        exchanged.append((time.perf_counter() - began_s) * 1e3)
        return event

    pool.exchange = timed
    for number in range(ROUNDS):
        snapshot = _snapshot(_document(size, number + 2))
        began_s = time.perf_counter()
        watcher.heard(0, snapshot)
        whole.append((time.perf_counter() - began_s) * 1e3)
    container.shutdown_resources()
    return whole, exchanged


def _kept_kib() -> float:
    size = SIZES[1]
    container, watcher = _started(_snapshot(_document(size, 1)))

    def held_bytes(turn: str, documents: int) -> int:
        for number in range(documents):
            watcher.heard(0, _snapshot(_document(size, 1, prefix=f"{turn}{number}-")))
        time.sleep(LATE_S)  # so long an endpoint that left is still there for calls that were meant for it
        watcher.heard(0, _snapshot(_document(size, 1, prefix=f"{turn}-")))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    before = held_bytes("before", CHURN // 5)  # what is filled once, is
    kept = held_bytes("then", CHURN) - before
    tracemalloc.stop()
    container.shutdown_resources()
    return kept / CHURN / 1024


def _calls(effort: Effort) -> tuple[Table, dict[str, float]]:
    with Upstreams(ports=3) as upstreams:
        endpoints = {f"endpoint{number}": {"base_url": url} for number, url in enumerate(upstreams.base_urls)}
        without = _container({"endpoints": endpoints, "api_key": KEY})
        watched, _ = _started(_snapshot({"endpoints": endpoints}))
        ways = [_chats(container) for container in (without, watched)]
        samples: list[list[float]] = [[], []]
        for number in range(effort.rounds + 1):
            for way, of_way in zip(ways, samples, strict=True):
                calls = effort.calls if number else WARM_UP_CALLS
                took_us = way(calls) / calls * 1e6
                if number:
                    of_way.append(took_us)
        for container in (without, watched):
            container.shutdown_resources()
    one, other = median(samples[0]), median(samples[1])
    table = a_table(
        f"CPU of a call in us: median of {effort.rounds} rounds of {effort.calls} calls, by turns",
        *("call", "settings alone", "with a source", "x"),
    )
    table.add_row("sync chat", written(one), written(other), written(ratio(other, one), 3))
    return table, {"watched call": other / one}


def _chats(container: LLMContainer) -> Callable[[int], float]:
    create = container.completion_client().chat.completions.create

    def many(count: int) -> float:
        began_s = time.thread_time()
        for _ in range(count):
            create(model=MODEL, messages=MESSAGES)
        return time.thread_time() - began_s

    return many


def _container(completion: dict[str, Any]) -> LLMContainer:
    from llmwire.container import LLMContainer

    return LLMContainer(env={}, config={"completion": completion}, listener=providers.Object(_ignore))


def _ignore(_event: object) -> None: ...


def _started(first: Snapshot) -> tuple[LLMContainer, Watcher]:
    container = _container({"source": [Silent(first)]})
    container.completion.traffic()
    watcher: Watcher = container.completion.watcher()
    assert threading.active_count() > 1
    return container, watcher


def _document(size: int, weight: int, *, prefix: str = "endpoint") -> dict[str, Any]:
    return {
        "endpoints": {
            f"{prefix}{number}": {"base_url": f"http://10.0.0.{number}:8000", "weight": weight}
            for number in range(size)
        }
    }


def _snapshot(document: dict[str, Any]) -> Snapshot:
    return Snapshot(origin="benchmark", content=json.dumps(document).encode(), version="1")
