"""What hedging does to the tail, and what it costs, on virtual time.

`LLMWIRE_SEED=7` plays one other run; `pytest -s` shows the figures of all.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.failover import Ending, Rest, Story, Wish
from llmwire.services.routing.hedging import Hedge, Hedging, Track
from llmwire.services.routing.outcome import Outcome

from .simulator import TICK_S, Call, Run

SEEDS = [int(os.environ["LLMWIRE_SEED"])] if "LLMWIRE_SEED" in os.environ else [1, 2, 3]


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed {seed}")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@dataclass
class HedgedRun(Run):
    """A run whose calls may ask a second endpoint.

    Args:
        share: of the calls that may.
    """

    share: float = 0.05
    hedged: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.hedging = Hedging(self.share, threading.Lock)

    def _begin(self, then: Callable[[], None]) -> None:
        _HedgedCall(self, then).begin()


class _HedgedCall:
    """The third player of two stories, beside the blocking one and that of asyncio."""

    def __init__(self, run: HedgedRun, then: Callable[[], None]) -> None:
        self._run, self._then, self._began_at_s = run, then, run.world.now_s
        wish = Wish(ends_at_s=self._began_at_s + run.call_spec.deadline_s)
        self._hedge = Hedge(run.hedging, wish, run.story, size_bytes=100, clock=run.world.clock)
        self._playing: dict[Track, tuple[Story, Callable[[], None]]] = {}
        self._endings: list[Ending] = []
        self._is_over = False

    def begin(self) -> None:
        self._go_on(self._hedge.first, self._hedge.first_story(), None)
        if self._hedge.delay_s is not None:
            self._ask_another_after(self._hedge.delay_s)

    def _ask_another_after(self, alone_s: float) -> None:
        def ask() -> None:
            if self._is_over or self._endings:
                return
            if (story := self._hedge.second_story()) is not None:
                self._go_on(self._hedge.second, story, None)
            else:
                self._ask_another_after(2 * alone_s)

        self._run.world.after(alone_s, ask)

    def _go_on(self, track: Track, story: Story, outcome: Outcome | None) -> None:
        if self._is_over:
            return
        self._playing.pop(track, None)
        try:
            step = story.send(outcome)
        except StopIteration as end:
            self._ended(end.value)
            return
        if isinstance(step, Rest):
            self._run.world.after(step.seconds + TICK_S, lambda: self._go_on(track, story, None))
            self._playing[track] = story, lambda: None
            return
        server = self._run._by_name[track.asks(step).lease.endpoint.name]
        self._playing[track] = story, server.ask(lambda outcome: self._go_on(track, story, outcome))

    def _ended(self, ending: Ending) -> None:
        self._endings.append(ending)
        if self._playing and not self._hedge.is_over(self._endings):
            return
        self._is_over = True
        for story, cut in self._playing.values():
            cut()
            story.close()
        ending = self._hedge.ending(self._endings)
        run, now_s = self._run, self._run.world.now_s
        if ending.is_hedged:
            run.hedged.append(self._began_at_s)
        has_served = ending.outcome is not None and ending.outcome.has_served
        run.calls.append(Call(self._began_at_s, now_s, len(ending.attempts), has_served))
        self._then()


def a_run(seed: int, share: float, *, slow_share: float = 0.03, until_s: float = 120.0) -> HedgedRun:
    """A hundred calls a second at three servers: most of a tenth of a second, a few of two seconds."""
    run = HedgedRun(seed, services_s=(0.1, 0.1, 0.1), share=share)
    for server in run.servers:
        server.slow_share, server.slow_s = slow_share, 2.0
    run.stream(100, until_s=until_s)
    return run


def extra(run: HedgedRun) -> float:
    """Requests beyond one for each call, as a share of the calls."""
    return sum(server.attempts(0, math.inf) for server in run.servers) / len(run.calls) - 1


def check(run: HedgedRun, **figures: float) -> str:
    """The figures in a line, which is printed; nobody was harmed."""
    line = f"LLMWIRE_SEED={run.seed}: {len(run.calls)} calls, {len(run.hedged)} hedged"
    line += "".join(f", {name} {figure:.4g}" for name, figure in figures.items())
    print(f"\n    {line}", end="")
    assert run.in_flight == [0] * len(run.servers), line
    assert all(state.breaker is BreakerState.CLOSED for state in run.pool.snapshot()), line
    return line


def test_a_hedge_for_one_call_in_twenty_takes_the_tail_away(seed):
    without = a_run(seed, 0.0).play()
    hedged = a_run(seed, 0.05).play()

    before_s, after_s, cost = without.quantile_s(0.99, 10), hedged.quantile_s(0.99, 10), extra(hedged)
    figures = check(hedged, p99_before_s=before_s, p99_s=after_s, extra=cost, p50_s=hedged.quantile_s(0.5, 10))
    assert extra(without) == 0, figures
    assert before_s > 1.6, figures
    assert after_s < 0.3, figures
    assert cost <= 0.05, figures
    assert hedged.failed() == 0, figures
    assert sum(state.failed for state in hedged.pool.snapshot()) == 0, figures


def test_where_all_is_slow_at_once_hedging_adds_no_more_than_its_share(seed):
    run = a_run(seed, 0.05)
    for server in run.servers:
        run.world.at(40, lambda server=server: setattr(server, "slow_share", 1.0))
        run.world.at(80, lambda server=server: setattr(server, "slow_share", 0.03))
    run.play()

    while_slow = sum(40 <= at_s < 80 for at_s in run.hedged) / len(run.of(40, 80))
    figures = check(run, extra=extra(run), hedged_while_slow=while_slow, failed=run.failed())
    assert run.failed() == 0, figures
    assert extra(run) <= 0.05, figures
    assert while_slow <= 0.055, figures


def test_calls_that_a_frozen_endpoint_holds_are_answered_elsewhere_without_a_failure(seed):
    run = a_run(seed, 0.2, slow_share=0.0, until_s=60)
    frozen = run.servers[0]
    run.world.at(30, frozen.freeze)
    run.world.at(31, frozen.thaw)
    run.play()

    held = [call for call in run.calls if call.began_at_s < 31 and call.ended_at_s > 30]
    slow = sum(call.ended_at_s - call.began_at_s > 0.4 for call in held)
    figures = check(run, held=len(held), slow=slow, failed=run.failed(), extra=extra(run))
    assert run.failed() == 0, figures
    assert slow <= len(held) / 4, figures
    assert sum(state.failed for state in run.pool.snapshot()) == 0, figures


def test_no_call_goes_twice_to_one_endpoint(seed):
    run = HedgedRun(seed, services_s=(0.1, 0.1), share=0.5)
    for server in run.servers:
        server.slow_share, server.slow_s = 0.2, 2.0
    ends_s = [10.0 * number for number in range(1, 201)]  # one call after another, far apart
    for end_s in ends_s:
        run.world.at(end_s - 10, lambda: run._begin(lambda: None))
    run.play()

    figures = check(run)
    assert run.hedged, figures
    for from_s, until_s in pairwise([0.0, *ends_s]):
        assert max(server.attempts(from_s, until_s) for server in run.servers) == 1, figures
