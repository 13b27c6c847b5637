"""What it costs to choose an endpoint: one lease and its settlement, without any HTTP."""

from __future__ import annotations

import random
import threading
import time
from statistics import median
from timeit import repeat

from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.outcome import Outcome
from llmwire.services.routing.pool import Pool

from .figures import written
from .running import Effort, Result, Say, a_table

SIZES = (1, 3, 10, 100)
PICKS = 20_000
TOOK_S = 0.01


def run(effort: Effort, say: Say) -> Result:
    """Pools of several sizes, in this process."""
    rounds = min(effort.rounds, 7)
    table = a_table(f"lease and settle, median of {rounds} rounds of {PICKS:,}", "endpoints", "us")
    figures = {}
    for size in SIZES:
        say(f"picks: {size} endpoints")
        figures[f"pick {size}"] = took_us = _pick_us(size, rounds)
        table.add_row(str(size), written(took_us, 2))
    return Result(tables=[table], figures=figures)


def _pick_us(size: int, rounds: int) -> float:
    pool = _pool(size)
    served = Outcome(label="200")

    def pick() -> None:
        lease = pool.lease()
        lease.settle(served, took_s=TOOK_S)  # type: ignore[union-attr]  # all are well: none is unavailable

    return median(repeat(pick, number=PICKS, repeat=rounds)) / PICKS * 1e6


def _pool(size: int) -> Pool:
    endpoints = [
        Endpoint(function="completion", name=f"endpoint{number}", base_url=f"http://127.0.0.1:{9000 + number}/v1")
        for number in range(size)
    ]
    return Pool(
        endpoints,
        clock=time.monotonic,
        randomness=random.Random(1),
        make_lock=threading.RLock,
        listener=lambda _event: None,
    )
