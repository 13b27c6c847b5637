"""Every server fails for a share of the requests: most calls are saved, and the load does not double."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .efforts import efforts

FAILING = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """The budget begins with as many tokens for each call as it does in a minute at full figures."""

    callers: int
    service_s: float
    lasts_s: float
    calls: int
    tokens: int


@efforts(
    fast=Effort(callers=12, service_s=0.02, lasts_s=0.0, calls=2000, tokens=60),
    full=Effort(callers=16, service_s=0.05, lasts_s=60.0, calls=5000, tokens=200),
)
def test_thirty_percent_of_errors_everywhere_fail_a_fifth_of_the_calls_at_most(
    effort, calling, upstream, contain, figures, seed
):
    servers = [upstream(service_s=effort.service_s, failing=FAILING, seed=seed + number) for number in range(3)]
    container = contain(*servers)
    budget = container.completion.traffic().budget
    for _ in range(int(budget.tokens) - effort.tokens):
        budget.spend()

    began_s = time.monotonic()
    with calling(container, callers=effort.callers) as load:
        time.sleep(effort.lasts_s)
        load.wait_for(max(effort.calls - len(load.so_far()), 0))
        calls = load.stop()

    failed = len(calls.failed()) / len(calls)
    line = figures.told(
        calls=len(calls),
        calls_a_second=len(calls) / (time.monotonic() - began_s),
        failed=failed,
        attempts_a_call=calls.attempts_a_call(),
    )
    assert failed <= 0.2, f"{line}: {calls.errors()}"
    assert calls.attempts_a_call() <= 1.25, line
