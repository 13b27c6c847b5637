"""A source says something else again and again while calls are made: the whole way from the document to the pool."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import resource
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import pytest
from dependency_injector import providers

from llmwire.container import LLMContainer
from llmwire.container.watching import Watcher
from llmwire.services.discovery.catalogue import Snapshot
from llmwire.services.discovery.watch import WatchSpec
from llmwire.services.events import DocumentRefused
from llmwire.services.routing.pool import LATE_S

from .efforts import efforts

MIB = 2**20
PATIENCE_S = 600.0  #: ten thousand reloads on a slow machine; reached only where it fails
LOOK_S = 0.01
INSTANCES = 4  #: in a document
CALLS_A_SECOND = 20
LATE_CALLS = int(CALLS_A_SECOND * (LATE_S + 1))  #: so many, and nobody is kept any more who left before them


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is done; `late_calls` are made before anything is measured."""

    reloads: int
    every_s: float
    late_calls: int


class Restless:
    """A source that says something else each time it is asked, for as often as it shall; then the same.

    Attributes:
        applied_s: how long it took to take each document, in seconds.
    """

    name = "test://restless"
    is_remote = True
    is_whole = False

    def __init__(self, first: dict[str, Any], *, every_s: float) -> None:
        self._document, self._every_s = first, every_s
        self._coming: Iterator[dict[str, Any]] = iter(())
        self._next: dict[str, Any] | None = None
        self._is_over = threading.Event()
        self._said_s = 0.0
        self.applied_s: list[float] = []

    def say(self, documents: Iterable[dict[str, Any]]) -> None:
        """Say these one after the other. Returns when the last one was taken."""
        self._is_over.clear()
        self._coming = iter(documents)
        self._next = next(self._coming)
        assert self._is_over.wait(PATIENCE_S), "not all documents were asked for"

    def catalogue(self, function: str, env: object) -> Restless:
        return self

    def warnings(self, env: object) -> tuple[str, ...]:
        return ()

    async def fetch(self) -> Snapshot:
        self._said_s = 0.0
        if self._next is not None:
            self._document, self._next = self._next, next(self._coming, None)
            self._said_s = time.perf_counter()
        return Snapshot(origin=self.name, content=json.dumps(self._document).encode(), version="the latest")

    async def watch(self, since: Snapshot) -> None:
        if self._said_s:
            self.applied_s.append(time.perf_counter() - self._said_s)
            if self._next is None:
                self._is_over.set()
        await asyncio.sleep(self._every_s)
        while self._next is None:
            await asyncio.sleep(LOOK_S)

    async def aclose(self) -> None:
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell of open files in /proc")
@efforts(
    fast=Effort(reloads=300, every_s=0.004, late_calls=8),
    full=Effort(reloads=10_000, every_s=0.005, late_calls=LATE_CALLS),
)
def test_reloads_fail_no_call_and_leave_no_connection_and_no_memory_behind(effort, calling, upstream, figures, seed):
    """Two callers, twenty calls a second, as in test_swaps.py. Each document names instances that nobody heard of."""
    servers = [upstream(service_s=0.03).base_url.removesuffix("/v1") for _ in range(6)]
    made = instances(servers)
    source = Restless(next(made), every_s=effort.every_s)

    with (
        followed(source, seed) as (container, events),
        calling(container, callers=2, every_s=2 / CALLS_A_SECOND) as load,
    ):
        source.say(itertools.islice(made, effort.reloads // 5))
        before = at_rest(source, load, servers[:2], effort.late_calls)
        source.applied_s.clear()
        began_s = time.monotonic()
        source.say(itertools.islice(made, effort.reloads))
        took_s, applied_s = time.monotonic() - began_s, list(source.applied_s)
        after = at_rest(source, load, servers[:2], effort.late_calls)
        calls = load.stop()
        known = len(container.completion.pool().snapshot())

    grown_mib = (after[1] - before[1]) / MIB
    line = figures.told(
        reloads=effort.reloads,
        reloads_a_second=effort.reloads / took_s,
        applied_ms_median=1000 * median(applied_s),
        applied_ms_p99=1000 * quantiles(applied_s, n=100)[98],
        calls=len(calls),
        failed=len(calls.failed()),
        attempts_a_call=calls.attempts_a_call(),
        files_before=before[0],
        files_after=after[0],
        grown_mib=grown_mib,
    )
    assert not calls.failed(), f"{line}: {calls.errors()}"
    assert calls.attempts_a_call() == 1.0, f"{line}: a call lost its connection"
    assert not [event for event in events if isinstance(event, DocumentRefused)]
    assert known == 1, "endpoints of former documents are still known"
    assert abs(after[0] - before[0]) <= 2, line
    assert grown_mib <= 10, line


def instances(servers):
    """Documents without end, of which no two share a name, a path, a tag or a pool."""
    numbers = itertools.count()
    for generation in itertools.count():
        served = [servers[(generation + place) % len(servers)] for place in range(INSTANCES)]
        pool = f"pool-{generation}"
        endpoints = {f"llama-{(number := next(numbers))}": at(server, number, pool) for server in served}
        yield {"endpoints": endpoints, "routes": [{"pool": pool, "pattern": f"question|{generation}"}]}


def at(server, number, pool):
    return {
        "base_url": f"{server}/{number}/v1",
        "tags": [f"zone-{number}"],
        "weight": 1 + number % 3,
        "pools": ["default", pool],
    }


@contextmanager
def followed(source, seed):
    """A container that follows the source without a rest, and what its listener was told."""
    events: list[Any] = []
    config = {"completion": {"first_byte_timeout_s": 10, "model": "a-model", "tokenizer": "estimate"}}
    container: Any = LLMContainer(env={}, config=config, listener=providers.Object(lambda event: note(events, event)))
    lane = container.completion
    spec = WatchSpec(debounce_s=0.0)
    watcher = Watcher("completion", lane.documents, lane.settings, [source], listener=lane.listener(), spec=spec)
    lane.watcher.override(providers.Object(watcher))
    lane.traffic().randomness.seed(seed)
    try:
        yield container, events
    finally:
        watcher.stop()
        container.shutdown_resources()


def note(events, event):
    if isinstance(event, DocumentRefused):  # of all others there are very many
        events.append(event)


def at_rest(source, load, servers, late_calls):
    """Open files and resident bytes, where all calls of late went to one endpoint, which was not in use just before.

    What left the pool is kept for some seconds, for calls that were decided on before.
    """
    for number, server in enumerate(servers):
        source.say([{"endpoints": {f"rest-{number}": {"base_url": f"{server}/v1"}}}])
        load.wait_for(8 if number else late_calls)
    gc.collect()
    return len(os.listdir("/proc/self/fd")), _resident_bytes()  # noqa: PTH208  # its listing is a file of its own


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
