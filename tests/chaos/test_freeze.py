"""A server that is stopped by SIGSTOP takes connections and answers nothing: the worst kind of outage."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .efforts import efforts

SHARE = 1 / 3
ENOUGH = 0.6 * SHARE  #: of the attempts of one second; by chance a third of them is seldom less
BACK_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    callers: int
    service_s: float
    frozen_s: float


@efforts(
    fast=Effort(callers=8, service_s=0.06, frozen_s=4.0),
    full=Effort(callers=20, service_s=0.1, frozen_s=20.0),
)
def test_a_frozen_server_costs_no_call_and_is_used_again_when_it_is_back(effort, calling, upstream, contain, figures):
    servers = [upstream(service_s=effort.service_s) for _ in range(3)]
    container = contain(*servers)

    with calling(container, callers=effort.callers) as load:
        time.sleep(1.0)
        frozen_s = time.monotonic()
        servers[0].freeze()
        time.sleep(effort.frozen_s)
        servers[0].thaw()
        thawed_s = time.monotonic()
        while (share := share_of_late(load.so_far())) < ENOUGH and time.monotonic() < thawed_s + BACK_S:
            time.sleep(0.2)
        back_s = time.monotonic() - thawed_s
        calls = load.stop()

    meanwhile = calls.begun_between(frozen_s, thawed_s)
    line = figures.told(
        calls=len(calls),
        failed=len(calls.failed()),
        attempts_while_frozen=meanwhile.attempts(),
        share_while_frozen=meanwhile.share_of("a"),
        back_after_s=back_s,
        share_at_the_end=share,
    )
    assert not calls.failed(), f"{line}: {calls.errors()}"
    assert meanwhile.share_of("a") <= 0.02, line
    assert share >= ENOUGH, line


def share_of_late(calls):
    """What it has of the attempts in the last second."""
    return calls.begun_between(time.monotonic() - 1.0, time.monotonic()).share_of("a")
