"""What it costs to count: a call with and without the meter, a snapshot, and the memory of very many calls."""

from __future__ import annotations

import asyncio
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from dependency_injector import providers

from llmwire.services.events import AttemptEnded, CallEnded
from llmwire.services.monitoring.meter import Meter
from llmwire.services.usage import Usage

from .figures import ratio, written
from .peers import KEY, MESSAGES, MODEL
from .processes import Upstreams
from .running import Effort, Result, Say, a_table

if TYPE_CHECKING:
    from rich.table import Table

    from llmwire.container import LLMContainer

ENDPOINTS = 20
BOOKED = 600_000  #: calls: three times as many as fill every bucket that is in use
EARLY = 400_000  #: calls after which the memory is looked at first
HOURS = 6  #: in which they come, on a clock of their own: every window moves on many times
WARM_UP_CALLS = 200
KINDS = ("sync chat", "sync chat, streamed", "async chat")

Calls = Callable[[int], float]  #: makes so many, and gives their CPU in s


def run(effort: Effort, say: Say) -> Result:
    """Calls of two containers by turns, in this process; then a meter alone."""
    say("metering: whole calls")
    table = a_table(
        f"CPU of a call in us: median of {effort.rounds} rounds of {effort.calls} calls, by turns",
        *("call", "nobody counts", "meter", "x"),
    )
    figures: dict[str, float] = {}
    with Upstreams(ports=3) as upstreams, asyncio.Runner() as runner:
        for kind in KINDS:
            without, with_meter = _by_turns(kind, upstreams.base_urls, runner, effort)
            table.add_row(kind, written(without), written(with_meter), written(ratio(with_meter, without), 3))
            figures[f"metering {kind}"] = with_meter / without
    say(f"metering: {BOOKED:,} calls of {ENDPOINTS} endpoints")
    alone, found = _alone()
    return Result(tables=[table, alone], figures={**figures, **found})


def _by_turns(kind: str, base_urls: Sequence[str], runner: asyncio.Runner, effort: Effort) -> tuple[float, float]:
    containers = [_container(base_urls, is_metered=is_metered) for is_metered in (False, True)]
    ways = [_calls(kind, container, runner) for container in containers]
    samples: list[list[float]] = [[], []]
    for number in range(effort.rounds + 1):
        for way, of_way in zip(ways, samples, strict=True):
            calls = effort.calls if number else WARM_UP_CALLS
            of_way += [way(calls) / calls * 1e6] if number else [way(calls)][:0]
    for container in containers:
        runner.run(container.aclose())
    return median(samples[0]), median(samples[1])


def _container(base_urls: Sequence[str], *, is_metered: bool) -> LLMContainer:
    from llmwire.container import LLMContainer

    endpoints = {f"endpoint{number}": {"base_url": base_url} for number, base_url in enumerate(base_urls)}
    config = {"completion": {"api_key": KEY, "endpoints": endpoints, "price": "1/2"}}
    container = LLMContainer(env={}, config=config, listener=providers.Object(_ignore))
    if not is_metered:
        container.completion.meter.override(providers.Object(_ignore))
    return container


def _ignore(_event: object) -> None: ...


def _calls(kind: str, container: LLMContainer, runner: asyncio.Runner) -> Calls:
    if kind == "async chat":
        chat = container.async_completion_client().chat.completions.create

        async def many_async(count: int) -> float:
            began_s = time.thread_time()
            for _ in range(count):
                await chat(model=MODEL, messages=MESSAGES)
            return time.thread_time() - began_s

        return lambda count: runner.run(many_async(count))
    create = container.completion_client().chat.completions.create
    is_streamed = kind.endswith("streamed")

    def many(count: int) -> float:
        began_s = time.thread_time()
        for _ in range(count):
            if is_streamed:
                list(create(model=MODEL, messages=MESSAGES, stream=True))
            else:
                create(model=MODEL, messages=MESSAGES)
        return time.thread_time() - began_s

    return many


def _alone() -> tuple[Table, dict[str, float]]:
    now_s = 0.0
    meter = Meter("completion", clock=lambda: now_s)
    chance = random.Random(1)
    events = [_events(number, chance) for number in range(ENDPOINTS * 50)]
    memory = {}
    tracemalloc.start()
    for number in range(1, BOOKED + 1):
        now_s = number * HOURS * 3600 / BOOKED
        for event in events[number % len(events)]:
            meter(event)
        if number in (EARLY, BOOKED):
            meter.snapshot()
            memory[number] = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    snapshots, began_s = 200, time.perf_counter()
    for _ in range(snapshots):
        meter.snapshot()
    snapshot_ms = (time.perf_counter() - began_s) / snapshots * 1e3
    began_s = time.perf_counter()
    for number in range(EARLY):
        for event in events[number % len(events)]:
            meter(event)
    meter.snapshot()
    booked_us = (time.perf_counter() - began_s) / EARLY * 1e6
    table = a_table(f"a meter alone: {ENDPOINTS} endpoints, {BOOKED:,} calls in {HOURS} hours of its clock", "", "")
    table.add_row("to book a call, us", written(booked_us, 2))
    table.add_row("snapshot(), ms", written(snapshot_ms, 2))
    table.add_row(f"memory after {EARLY:,} calls, MiB", written(memory[EARLY], 2))
    table.add_row(f"memory after {BOOKED:,} calls, MiB", written(memory[BOOKED], 2))
    growth = memory[BOOKED] / memory[EARLY]
    return table, {"snapshot ms": snapshot_ms, "meter growth": growth, "book us": booked_us}


def _events(number: int, chance: random.Random) -> tuple[AttemptEnded, CallEnded]:
    name, took_s = f"endpoint{number % ENDPOINTS}", chance.lognormvariate(-0.5, 0.7)
    usage = Usage(input=chance.randrange(10, 2000), output=chance.randrange(10, 500))
    known: dict[str, Any] = {
        "function": "completion",
        "endpoint": name,
        "server": "http://127.0.0.1:1",
        "operation": "chat/completions",
    }
    attempt = AttemptEnded(
        **known, status=200, error=None, took_s=took_s, model=MODEL, usage=usage, cost=0.001, sent_bytes=300
    )
    ended = CallEnded(
        **known,
        call=number,
        pool="default",
        route=None,
        model=MODEL,
        reply_model=MODEL,
        error=None,
        took_s=took_s,
        first_content_s=None,
        attempts=1,
        usage=usage,
        cost=0.001,
    )
    return attempt, ended
