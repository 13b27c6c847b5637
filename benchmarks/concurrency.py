"""How many calls a second one process makes with many at once, over an upstream that takes 20 ms for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.markup import escape
from rich.table import Table

from .figures import percentile, ratio, written
from .peers import PEERS
from .processes import Failed, Upstreams, Worker, broken
from .running import Effort, Result, Say, a_table

BARE = "openai"
DELAY_MS = 20.0

Measured = dict[str, "Load | Failed"]  #: by peer: what it did, or why nothing is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What came of a window of time.

    Attributes:
        core: the share of a core that the process had. Well below 1 where it had work: another program took it, and
            the throughput says less than the CPU.
    """

    per_s: float
    p99_ms: float
    cpu_us: float
    core: float
    errors: int
    error: str = ""


def run(effort: Effort, say: Say) -> Result:
    """Each load, each peer in turn in a new process, round by round."""
    by_load: dict[int, Measured] = {}
    with Upstreams(ports=3, delay_ms=DELAY_MS) as upstreams:
        for callers in effort.loads:
            rounds: dict[str, list[Load] | Failed] = {peer: [] for peer in PEERS}
            for number in range(effort.load_rounds):
                for peer, loads in rounds.items():
                    if isinstance(loads, Failed):
                        continue
                    say(f"concurrency: {callers:,} calls at once, round {number + 1} of {effort.load_rounds}, {peer}")
                    try:
                        loads.append(_loaded(peer, upstreams, callers, effort.load_s))
                    except Failed as failure:
                        rounds[peer] = failure
            by_load[callers] = {
                peer: loads if isinstance(loads, Failed) else _of_rounds(loads) for peer, loads in rounds.items()
            }
    figures: dict[str, float] = {}
    for callers, measured in by_load.items():
        figures |= _figures(callers, measured)
    return Result(
        tables=[_table(callers, measured, effort) for callers, measured in by_load.items()],
        figures=figures,
        failures=[
            complaint
            for measured in by_load.values()
            for peer, load in measured.items()
            for complaint in broken(peer, load)
        ],
    )


def _loaded(peer: str, upstreams: Upstreams, callers: int, seconds: float) -> Load:
    base_urls = upstreams.base_urls if PEERS[peer].is_pool else upstreams.base_urls[:1]
    with Worker(peer, base_urls) as worker:
        worker.ask(do="concurrent", callers=callers, seconds=seconds)  # the first answer: the window is open
        return load_of(worker.answer())


def load_of(told: dict[str, Any]) -> Load:
    """From what a worker tells: the calls that ended in the window, and every error, also from before.

    A call that was under way when the window opened counts by the share of its time that lies inside.
    """
    opened_at, closed_at = told["opened_at"], told["closed_at"]
    took = [took_s for _, took_s in told["calls"]]
    done = sum(min(1.0, (at - opened_at) / took_s) for at, took_s in told["calls"])
    errors = told["errors"]
    return Load(
        per_s=done / (closed_at - opened_at),
        p99_ms=percentile(took, 0.99) * 1000,
        cpu_us=told["cpu_s"] / done * 1e6 if done else float("nan"),
        core=told["cpu_s"] / (closed_at - opened_at),
        errors=len(errors),
        error=errors[0][2] if errors else "",
    )


def _of_rounds(loads: Sequence[Load]) -> Load:
    return Load(
        per_s=median(load.per_s for load in loads),
        p99_ms=median(load.p99_ms for load in loads),
        cpu_us=median(load.cpu_us for load in loads),
        core=median(load.core for load in loads),
        errors=sum(load.errors for load in loads),
        error=next((load.error for load in loads if load.error), ""),
    )


def _table(callers: int, measured: Measured, effort: Effort) -> Table:
    windows = (
        f"median of {effort.load_rounds} windows of {effort.load_s:g} s and more"
        if effort.load_rounds > 1
        else "one window"
    )
    title = f"{callers:,} calls at once, upstream {DELAY_MS:g} ms: {windows}"
    table = a_table(title, "client", "calls/s", "x openai", "p99, ms", "CPU, us", "of a core", "errors")
    bare = measured[BARE]
    for peer, load in measured.items():
        if isinstance(load, Failed):
            table.add_row(PEERS[peer].title, escape(str(load)))
            continue
        times = ratio(load.per_s, bare.per_s if isinstance(bare, Load) else None)
        errors = escape(f"{load.errors:,} {load.error}".strip())
        table.add_row(
            PEERS[peer].title,
            written(load.per_s),
            written(times, 2),
            written(load.p99_ms),
            written(load.cpu_us),
            written(load.core, 2),
            errors,
        )
    return table


def _figures(callers: int, measured: Measured) -> dict[str, float]:
    ours, bare = measured["llmwire"], measured[BARE]
    if not isinstance(ours, Load) or not isinstance(bare, Load):
        return {}
    times = ratio(ours.per_s, bare.per_s)
    return {f"{callers} llmwire errors": ours.errors, **({f"{callers} llmwire/{BARE}": times} if times else {})}
