"""The pool gets other endpoints again and again while calls are made: none fails, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import random
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from .efforts import efforts

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    swaps: int
    every_s: float


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="this system does not tell of open files in /proc")
@efforts(fast=Effort(swaps=1000, every_s=0.004), full=Effort(swaps=10_000, every_s=0.005))
def test_swaps_fail_no_call_and_leave_no_connection_and_no_memory_behind(
    effort, calling, upstream, contain, figures, seed
):
    """Two callers, twenty calls a second; the service time keeps calls in flight at most swaps."""
    container = contain(*(upstream(service_s=0.03) for _ in range(6)), first_byte_timeout_s=10)
    pool, chance = container.completion.pool(), random.Random(seed)
    all_of_them = pool.endpoints
    few = all_of_them[:2]

    pool.swap(few)
    with calling(container, callers=2, every_s=0.1) as load:
        swap_often(pool, few, chance, swaps=effort.swaps // 10, every_s=effort.every_s)
        before = at_rest(pool, load, few)
        began_s = time.monotonic()
        swap_often(pool, all_of_them, chance, swaps=effort.swaps, every_s=effort.every_s)
        took_s = time.monotonic() - began_s
        after = at_rest(pool, load, few)
        calls = load.stop()

    grown_mib = (after[1] - before[1]) / MIB
    line = figures.told(
        swaps=effort.swaps,
        swaps_a_second=effort.swaps / took_s,
        calls=len(calls),
        failed=len(calls.failed()),
        attempts_a_call=calls.attempts_a_call(),
        files_before=before[0],
        files_after=after[0],
        grown_mib=grown_mib,
    )
    assert not calls.failed(), f"{line}: {calls.errors()}"
    assert calls.attempts_a_call() == 1.0, f"{line}: a call lost its connection"
    assert abs(after[0] - before[0]) <= 2, line
    assert grown_mib <= 10, line


def swap_often(pool, endpoints, chance, *, swaps, every_s):
    """Each time to two thirds of them, or to one of two: of six, any two choices overlap in two at least."""
    for _ in range(swaps):
        pool.swap(chance.sample(endpoints, len(endpoints) * 2 // 3))
        time.sleep(every_s)


def at_rest(pool, load, few):
    """Open files and resident bytes, where all calls of late went to one endpoint, which was not in use just before."""
    for endpoint in few:
        pool.swap([endpoint])
        load.wait_for(8)
    gc.collect()
    return len(os.listdir("/proc/self/fd")), _resident_bytes()  # noqa: PTH208  # its listing is a file of its own


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
