"""Servers that go and come back: one after the other, or again and again."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .efforts import efforts


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    callers: int
    each_s: float
    rounds: int


@efforts(fast=Effort(callers=10, each_s=0.5, rounds=1), full=Effort(callers=50, each_s=3.0, rounds=3))
def test_no_call_fails_in_a_rolling_restart(effort, calling, upstream, contain, figures):
    servers = [upstream(service_s=0.05) for _ in range(3)]

    with calling(contain(*servers), callers=effort.callers) as load:
        load.wait_for(effort.callers)
        for server in servers * effort.rounds:
            server.kill()
            time.sleep(0.2)
            server.start()
            time.sleep(effort.each_s)
        calls = load.stop()

    line = figures.told(calls=len(calls), failed=len(calls.failed()), attempts_a_call=calls.attempts_a_call())
    assert not calls.failed(), f"{line}: {calls.errors()}"


@efforts(fast=Effort(callers=10, each_s=1.0, rounds=2), full=Effort(callers=50, each_s=5.0, rounds=4))
def test_no_call_fails_where_two_of_three_flap_in_turn(effort, calling, upstream, contain, figures):
    one, other, steady = (upstream(service_s=0.05) for _ in range(3))
    container = contain(one, other, steady)
    other.kill()

    with calling(container, callers=effort.callers) as load:
        load.wait_for(effort.callers)
        for going, coming in [(one, other), (other, one)] * effort.rounds:
            going.kill()
            coming.start()
            time.sleep(effort.each_s)
        calls = load.stop()

    line = figures.told(calls=len(calls), failed=len(calls.failed()), attempts_a_call=calls.attempts_a_call())
    assert not calls.failed(), f"{line}: {calls.errors()}"
