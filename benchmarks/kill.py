"""What callers notice when one of three upstreams is killed with `kill -9` in the middle of their calls."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from rich.markup import escape

from .figures import percentile, written
from .peers import PEERS
from .processes import Failed, Worker, broken, several_upstreams
from .running import Effort, Result, Say, a_table

CALLERS, DELAY_MS = 100, 100.0
KILL_AFTER_S = 1.5
WHO = ("llmwire", "llmwire-plain", "litellm", "langchain", "openai")


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """What came of the calls.

    Attributes:
        survivors_saw: attempts at the two upstreams that lived, from the first call on.
    """

    calls: int
    failed: int
    p99_before_ms: float
    p99_after_ms: float
    slowest_ms: float
    survivors_saw: int = 0
    error: str = ""


def run(effort: Effort, say: Say) -> Result:
    """Each peer in turn, with three new upstreams."""
    title = (
        f"kill -9 of one upstream of three: {CALLERS} callers, {effort.kill_s:g} s, {DELAY_MS:g} ms a call, "
        f"killed after {KILL_AFTER_S:g} s"
    )
    headings = (
        "calls",
        "failed",
        "p99 before, ms",
        "p99 after, ms",
        "slowest, ms",
        "attempts at the survivors",
        "first error",
    )
    table = a_table(title, "client", *headings)
    table.columns[-1].justify = "left"
    figures: dict[str, float] = {}
    failures: list[str] = []
    for peer in WHO:
        say(f"kill -9: {peer}")
        try:
            after = _killed(peer, effort.kill_s)
        except Failed as failure:
            table.add_row(PEERS[peer].title, *["-"] * (len(headings) - 1), escape(str(failure)))
            failures += broken(peer, failure)
            continue
        figures[f"kill {peer} failed"] = after.failed
        times = [written(value) for value in (after.p99_before_ms, after.p99_after_ms, after.slowest_ms)]
        row = PEERS[peer].title if PEERS[peer].is_pool else f"{PEERS[peer].title}, each caller at one of 3"
        table.add_row(
            row, f"{after.calls:,}", f"{after.failed:,}", *times, f"{after.survivors_saw:,}", escape(after.error)
        )
    return Result(tables=[table], figures=figures, failures=failures)


def _killed(peer: str, seconds: float) -> Aftermath:
    with several_upstreams(3, delay_ms=DELAY_MS) as upstreams:
        base_urls = [upstream.base_urls[0] for upstream in upstreams]
        victim, *survivors = upstreams  # the first: the one that a chain of fallbacks begins with
        with Worker(peer, base_urls) as worker:
            opened = worker.ask(do="concurrent", callers=CALLERS, seconds=seconds)
            time.sleep(max(0.0, opened["opened_at"] + KILL_AFTER_S - time.monotonic()))
            killed_at = time.monotonic()
            victim.kill()
            told = worker.answer()
            return aftermath_of(told, killed_at, sum(survivor.attempts() for survivor in survivors))


def aftermath_of(told: dict[str, Any], killed_at: float, survivors_saw: int) -> Aftermath:
    """From what a worker tells. Before: what ended by then; after: what ended later, well or not."""
    errors = [(at, took) for at, took, _ in told["errors"]]
    before = [took for at, took in told["calls"] if at < killed_at]
    after = [took for at, took in [*told["calls"], *errors] if at >= killed_at]
    return Aftermath(
        calls=len(before) + len(after),
        failed=len(errors),
        p99_before_ms=percentile(before, 0.99) * 1000,
        p99_after_ms=percentile(after, 0.99) * 1000,
        slowest_ms=max([*before, *after], default=float("nan")) * 1000,
        survivors_saw=survivors_saw,
        error=told["errors"][0][2] if errors else "",
    )
