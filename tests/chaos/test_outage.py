"""All servers are gone for half a second: when they are back, no call fails for what was."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from llmwire.services.testing.faultd import FaultServer

from .efforts import efforts

OUTAGE_S = 0.5
NOISE_S = 0.3  #: between the last refusal and its being noted


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    callers: int
    after_s: float
    rounds: int


EFFORTS = efforts(fast=Effort(callers=8, after_s=1.0, rounds=1), full=Effort(callers=50, after_s=7.0, rounds=3))


@EFFORTS
def test_no_call_fails_after_all_were_killed_and_came_back(effort, calling, upstream, contain, figures):
    servers = [upstream(service_s=0.05) for _ in range(3)]
    ends_s = []

    with calling(contain(*servers), callers=effort.callers, every_s=0.05) as load:
        load.wait_for(effort.callers)
        begins_s = []
        for _ in range(effort.rounds):
            begins_s.append(time.monotonic())
            for server in servers:
                server.kill()
            time.sleep(OUTAGE_S)  # and as long as processes need to start
            for server in servers:
                server.launch()
            for server in servers:
                server.wait_until_it_listens()
            ends_s.append(time.monotonic())
            time.sleep(effort.after_s)
        calls = load.stop()

    check(calls, begins_s, ends_s, figures)


@EFFORTS
@pytest.mark.parametrize("fault", ["503", "503:retry_after=1", "500", "reset:request", "429:retry_after_ms=500"])
def test_no_call_fails_after_all_had_refused_for_a_while(effort, fault, calling, contain, figures):
    begins_s, ends_s = [], []
    with ExitStack() as stack:
        servers = [stack.enter_context(FaultServer("slow:0.05")) for _ in range(3)]
        load = stack.enter_context(calling(contain(*servers), callers=effort.callers, every_s=0.1))
        load.wait_for(effort.callers)
        for _ in range(effort.rounds):
            begins_s.append(time.monotonic())
            for server in servers:
                server.script(fault)
            time.sleep(OUTAGE_S)
            for server in servers:
                server.script("slow:0.05")
            ends_s.append(time.monotonic())
            time.sleep(effort.after_s)
        calls = load.stop()

    check(calls, begins_s, ends_s, figures)


def check(calls, begins_s, ends_s, figures):
    """Whoever fails began before the end of an outage, and failed in it."""
    outages = list(zip(begins_s, ends_s, strict=True))

    def is_excused(call):
        return any(call.began_s <= end_s and begin_s <= call.ended_s <= end_s + NOISE_S for begin_s, end_s in outages)

    extra = [call for call in calls.failed() if not is_excused(call)]
    line = figures.told(
        calls=len(calls),
        outage_s=max(end_s - begin_s for begin_s, end_s in outages),
        failed_in_outages=len(calls.failed()) - len(extra),
        failed_after=len(extra),
        slowest_s=max(call.took_s for call in calls),
    )
    assert not extra, f"{line}: {extra[:3]}"
