"""`kill -9` of one server of three under load: nobody notices but by a little time."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .efforts import efforts

NOISE_S = 2.0  #: a busy machine; whoever waits for a timeout in place of the reset waits for longer
FIRST_BYTE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    callers: int
    service_s: float
    before_s: float
    after_s: float


FAST = Effort(callers=80, service_s=0.4, before_s=2.0, after_s=2.5)
FULL = Effort(callers=200, service_s=0.5, before_s=4.0, after_s=10.0)


@efforts(fast=FAST, full=FULL)
def test_no_call_fails_where_one_of_three_is_killed(effort, calling, upstream, contain, figures):
    servers = [upstream(service_s=effort.service_s) for _ in range(3)]
    container = contain(*servers, first_byte_timeout_s=FIRST_BYTE_S)

    with calling(container, callers=effort.callers) as load:
        load.wait_for(effort.callers)  # the first calls open the connections
        settled_s = time.monotonic()
        time.sleep(effort.before_s)
        killed_s = time.monotonic()
        servers[0].kill()
        time.sleep(effort.after_s)
        calls = load.stop()

    base_s = calls.between(settled_s, killed_s).p99_s()
    hit_s = calls.in_flight(killed_s).p99_s()
    to_reach_s = base_s + effort.service_s + 0.1
    line = figures.told(
        calls=len(calls),
        in_flight=len(calls.in_flight(killed_s)),
        failed=len(calls.failed()),
        attempts_a_call=calls.attempts_a_call(),
        base_p99_s=base_s,
        p99_in_flight_s=hit_s,
        to_reach_s=to_reach_s,
    )
    assert not calls.failed(), f"{line}: {calls.errors()}"
    assert calls.attempts_a_call() <= 1.05, line
    assert hit_s <= to_reach_s + NOISE_S, line
