"""A storm of 429 at one server of three, which says in its own way when it wants to be asked again."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from llmwire.services.routing.breaker import BreakerState
from llmwire.services.testing import faults
from llmwire.services.testing.faultd import FaultServer

from .efforts import efforts

STORM_S = 0.3  #: calls that were under way when the first one was turned down
PROBE_S = 0.4  #: how long the first answer after the pause takes
EARLY_S = 0.02  #: clocks are read on both sides of a socket
LATE_S = 1.5  #: a date is rounded up to a whole second, and the machine is busy


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    callers: int
    every_s: float
    pause_s: int


def forms(pause_s):
    """Every way to say it, with the seconds that it means: others than the second of who says nothing."""
    return {
        "seconds": (faults.status(429, retry_after=pause_s), pause_s),
        "date": (faults.status(429, retry_after=f"date:{pause_s}"), pause_s),
        "ms": (faults.status(429, retry_after_ms=pause_s * 1000 - 100), pause_s - 0.1),
        "reset-requests": (faults.status(429, x_ratelimit_reset_requests=f"{pause_s}s"), pause_s),
        "reset-tokens": (faults.status(429, x_ratelimit_reset_tokens=f"{pause_s}s10ms"), pause_s),
        "garbage": (faults.status(429, retry_after="soon", x_ratelimit_reset_requests="?"), 1.0),
        "nothing": (faults.status(429), 1.0),
    }


class Storm:
    """What the busy server does: refuses for a moment, then serves slowly."""

    def __init__(self, refusal):
        self._refusal = refusal
        self._first_s = None

    def __call__(self, request):
        now_s = time.monotonic()
        self._first_s = self._first_s or now_s
        return self._refusal if now_s < self._first_s + STORM_S else faults.slow(PROBE_S)


@efforts(fast=Effort(callers=3, every_s=0.12, pause_s=2), full=Effort(callers=8, every_s=0.1, pause_s=4))
def test_a_busy_server_is_left_alone_until_it_said_and_then_asked_once(effort, calling, upstream, contain, figures):
    steady = [upstream(service_s=0.02) for _ in range(2)]
    with ExitStack() as stack:
        busy, loads = {}, {}
        for form, (refusal, _) in forms(effort.pause_s).items():
            busy[form] = stack.enter_context(FaultServer(Storm(refusal)))
            container = contain(busy[form], *steady, first_byte_timeout_s=10)
            load = calling(container, callers=effort.callers, every_s=effort.every_s)
            loads[form] = container, stack.enter_context(load)
        breakers = set()
        until_s = time.monotonic() + STORM_S + effort.pause_s + PROBE_S + 2.0
        while time.monotonic() < until_s:
            breakers |= {container.completion.pool().snapshot()[0].breaker for container, _ in loads.values()}
            time.sleep(0.01)
        made = {form: load.stop() for form, (_, load) in loads.items()}

    failures = []
    for form, (_, pause_s) in forms(effort.pause_s).items():
        times = [request.at_s for request in busy[form].seen]
        refused = [at_s for at_s in times if at_s < times[0] + STORM_S]
        later = times[len(refused) :]
        asked_again_s = later[0] - refused[-1] if later else float("nan")
        beside_the_probe = sum(later[0] < at_s < later[0] + PROBE_S for at_s in later)
        line = figures.told(
            form=form,
            calls=len(made[form]),
            failed=len(made[form].failed()),
            refused=len(refused),
            pause_s=float(pause_s),
            asked_again_after_s=asked_again_s,
            beside_the_probe=beside_the_probe,
        )
        is_met = len(refused) <= effort.callers and beside_the_probe == 0 and not made[form].failed()
        if not is_met or not pause_s - EARLY_S <= asked_again_s <= pause_s + LATE_S:
            failures.append(f"{line}: {made[form].errors()}")
    assert not failures, "\n".join(failures)
    assert breakers == {BreakerState.CLOSED}, breakers
