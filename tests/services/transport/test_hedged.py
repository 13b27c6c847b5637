"""Two stories of one call are played through both players: whose answer it is, and what becomes of the other."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from contextvars import ContextVar

import pytest

from llmwire.services.routing.budget import Budget, BudgetSpec
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.failover import CallSpec, Wish, failover
from llmwire.services.routing.hedging import Hedge, Hedging
from llmwire.services.routing.outcome import Blame, Outcome
from llmwire.services.routing.pool import Pool
from llmwire.services.transport.hedged import drive_hedged, drive_hedged_async

from .peers import PATIENCE_S

SERVED = Outcome(status=200)
LOST = Outcome(blame=Blame.ENDPOINT, label="ReadError", is_failure=True)
REFUSED = Outcome(blame=Blame.CALLER, label="400", status=400)
HANGS, STUCK = "hangs", "is stuck where nothing wakes it"


class Paid(Hedging):
    """Hedges every call at once: as soon as the first endpoint was asked."""

    def __init__(self, lane):
        super().__init__(0.5, threading.Lock)
        self._lane, self.times = lane, []

    def delay_s(self, size_bytes):
        return 0.0

    def spend(self):
        self._lane.wait_until(lambda: self._lane.asked)
        return True

    def took(self, size_bytes, seconds):
        self.times.append(seconds)


class Unpaid(Paid):
    """The same, without a budget."""

    def spend(self):
        super().spend()
        self._lane.let("a")
        return False


class PaidLater(Paid):
    """The same, where others must end first, and earn it."""

    def __init__(self, lane):
        super().__init__(lane)
        self.refusals = 2

    def spend(self):
        self.refusals -= 1
        return super().spend() and self.refusals < 0


class Line:
    """A connection that says nothing until it is ended."""

    def __init__(self):
        self.ended = threading.Event()

    def end(self):
        self.ended.set()


class Lane:
    """Endpoints that stand in order, what each answers, and one call. What `a` answers waits for `let("a")`."""

    def __init__(self, answers, *, hedging=Paid):
        self.answers, self.asked, self.cut = answers, [], []
        self._let, self._changed = set(), threading.Condition()
        randomness = random.Random(1)
        self.pool = Pool(
            [
                Endpoint(function="embedding", name=name, base_url=f"http://{name}.test/v1", tier=tier)
                for tier, name in enumerate(answers)
            ],
            clock=time.monotonic,
            randomness=randomness,
            make_lock=threading.RLock,
            listener=lambda event: None,
        )
        budget = Budget(BudgetSpec(), clock=time.monotonic, make_lock=threading.Lock)
        self.hedging = hedging(self)

        def story_of(wish):
            return failover(
                self.pool, wish, spec=CallSpec(), budget=budget, clock=time.monotonic, randomness=randomness
            )

        wish = Wish(ends_at_s=time.monotonic() + PATIENCE_S)
        self.hedge = Hedge(self.hedging, wish, story_of, size_bytes=1, clock=time.monotonic)

    def let(self, name):
        with self._changed:
            self._let.add(name)
            self._changed.notify_all()

    def wait_until(self, is_so):
        with self._changed:
            assert self._changed.wait_for(is_so, PATIENCE_S)

    def begins(self, step):
        name = step.lease.endpoint.name
        with self._changed:
            self.asked.append(name)
            self._changed.notify_all()
        return name, self.answers[name]

    def in_flight(self):
        return [state.in_flight for state in self.pool.snapshot()]

    def blamed(self):
        return [state.name for state in self.pool.snapshot() if state.failed]


def play_sync(lane):
    def send(step, cut):
        name, answer = lane.begins(step)
        if answer is STUCK:
            lane.wait_until(lambda: name in lane._let)
        elif answer is HANGS:
            line = Line()
            cut.takes(line)
            assert line.ended.wait(PATIENCE_S)
            cut.leaves()
            lane.cut.append(name)
            cut.check()
        elif isinstance(answer, tuple):
            lane.wait_until(lambda: name in lane._let or answer[0] in lane.asked)
            return answer[1]
        elif isinstance(answer, BaseException):
            raise answer
        return answer

    return drive_hedged(lane.hedge, send)


def play_async(lane):
    async def send(step):
        name, answer = lane.begins(step)
        if answer in (HANGS, STUCK):
            try:
                await asyncio.Event().wait()
            finally:
                lane.cut.append(name)
        elif isinstance(answer, tuple):
            while not (name in lane._let or answer[0] in lane.asked):
                await asyncio.sleep(0)
            return answer[1]
        elif isinstance(answer, BaseException):
            raise answer
        return answer

    return asyncio.run(drive_hedged_async(lane.hedge, send))


@pytest.fixture(params=[play_sync, play_async], ids=["sync", "async"])
def play(request):
    return request.param


def after(name, outcome):
    """An answer that comes once another endpoint was asked, or is let."""
    return name, outcome


def test_the_second_endpoint_answers_where_the_first_hangs(play):
    lane = Lane({"a": HANGS, "b": SERVED})

    ending = play(lane)

    assert ending.outcome is SERVED
    assert ending.lease.endpoint.name == "b"
    assert [attempt.endpoint for attempt in ending.attempts] == ["b"]
    assert ending.is_hedged
    assert lane.in_flight() == [0, 0]
    assert lane.blamed() == []
    assert len(lane.hedging.times) == 1


def test_the_first_endpoint_answers_where_the_second_hangs(play):
    lane = Lane({"a": after("b", SERVED), "b": HANGS})

    ending = play(lane)

    assert ending.lease.endpoint.name == "a"
    assert ending.is_hedged
    assert lane.in_flight() == [0, 0]
    assert lane.blamed() == []


@pytest.mark.parametrize("failed", [LOST, Outcome(blame=Blame.ENDPOINT, label="WrongSpace", disable_s=300.0)])
def test_where_the_second_fails_the_first_is_waited_for(play, failed):
    lane = Lane({"a": after("c", SERVED), "b": failed, "c": failed})

    ending = play(lane)

    assert ending.lease.endpoint.name == "a"
    assert [attempt.label for attempt in ending.attempts] == ["served"]
    assert lane.asked == ["a", "b", "c"]
    assert lane.in_flight() == [0, 0, 0]


def test_where_the_first_fails_the_second_is_waited_for(play):
    lane = Lane({"a": after("b", LOST), "b": after("a", SERVED)})

    ending = play(lane)

    assert ending.outcome is SERVED
    assert ending.lease.endpoint.name == "b"
    assert lane.asked == ["a", "b"]


def test_where_both_fail_the_attempts_of_both_are_told(play):
    lane = Lane({"a": after("b", LOST), "b": LOST})

    ending = play(lane)

    assert ending.outcome is LOST
    assert sorted(attempt.endpoint for attempt in ending.attempts) == ["a", "b"]
    assert ending.is_hedged
    assert sorted(lane.blamed()) == ["a", "b"]
    assert lane.hedging.times == []


def test_what_nobody_would_take_is_not_waited_for(play):
    lane = Lane({"a": HANGS, "b": REFUSED})

    ending = play(lane)

    assert ending.outcome is REFUSED
    assert lane.in_flight() == [0, 0]


BUG = LookupError("x")


@pytest.mark.parametrize("answers", [{"a": HANGS, "b": BUG}, {"a": BUG, "b": HANGS}], ids=["second", "first"])
def test_what_a_story_raises_ends_the_call_and_cuts_the_other(play, answers):
    lane = Lane(answers)

    with pytest.raises(LookupError, match="x"):
        play(lane)

    assert lane.in_flight() == [0, 0]
    assert lane.blamed() == []


def test_without_a_budget_the_first_is_waited_for(play):
    lane = Lane({"a": after("nobody", SERVED), "b": SERVED}, hedging=Unpaid)

    ending = play(lane)

    assert ending.lease.endpoint.name == "a"
    assert not ending.is_hedged
    assert lane.asked == ["a"]


def test_a_call_that_cannot_be_paid_for_is_hedged_as_soon_as_it_can(play):
    lane = Lane({"a": HANGS, "b": SERVED}, hedging=PaidLater)

    ending = play(lane)

    assert ending.lease.endpoint.name == "b"
    assert ending.is_hedged


def test_where_there_is_no_other_endpoint_the_first_is_waited_for(play):
    lane = Lane({"a": after("nobody", SERVED)})
    lane.hedging.spend = lambda: lane.let("a") or True

    ending = play(lane)

    assert ending.outcome is SERVED
    assert not ending.is_hedged


def test_before_a_delay_is_known_there_is_one_story_on_the_callers_own_thread():
    lane = Lane({"a": SERVED, "b": SERVED})
    lane.hedge.delay_s = None
    threads = []

    ending = drive_hedged(lane.hedge, lambda step, cut: threads.append((threading.current_thread(), cut)) or SERVED)

    assert threads == [(threading.current_thread(), None)]
    assert not ending.is_hedged
    assert len(lane.hedging.times) == 1


def test_before_a_delay_is_known_there_is_one_story_in_the_callers_own_task():
    lane = Lane({"a": SERVED, "b": SERVED})
    lane.hedge.delay_s = None
    tasks = []

    async def send(step):
        tasks.append(asyncio.current_task())
        return SERVED

    async def main():
        await drive_hedged_async(lane.hedge, send)
        assert tasks == [asyncio.current_task()]

    asyncio.run(main())

    assert len(lane.hedging.times) == 1


# Blocking.


def test_a_loser_that_nothing_wakes_holds_up_nobody_and_counts_no_longer():
    lane = Lane({"a": STUCK, "b": SERVED})

    ending = play_sync(lane)

    assert ending.lease.endpoint.name == "b"
    assert lane.in_flight() == [0, 0]
    lane.answers["a"] = LOST  # what it says in the end changes nothing
    lane.let("a")
    wait_for_players()
    assert lane.blamed() == []
    assert lane.in_flight() == [0, 0]
    assert lane.asked == ["a", "b"]


def wait_for_players():
    for thread in threading.enumerate():
        if thread.name == "llmwire hedging":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_no_thread_is_left_after_a_call():
    play_sync(Lane({"a": HANGS, "b": SERVED}))

    wait_for_players()


def test_an_interrupted_caller_cuts_both(monkeypatch):
    lane = Lane({"a": HANGS, "b": HANGS})

    def interrupted():
        lane.wait_until(lambda: lane.asked)
        raise KeyboardInterrupt

    lane.hedging.spend = interrupted

    with pytest.raises(KeyboardInterrupt):
        play_sync(lane)

    assert lane.in_flight() == [0, 0]
    wait_for_players()
    assert lane.blamed() == []


def test_the_stories_see_the_callers_context():
    lane, name, seen = Lane({"a": HANGS, "b": SERVED}), ContextVar("name", default="none"), []
    name.set("the caller's")
    begins = lane.begins
    lane.begins = lambda step: seen.append(name.get()) or begins(step)

    play_sync(lane)

    assert seen == ["the caller's"] * 2


def test_without_a_further_thread_the_call_is_played_on_the_callers_own(monkeypatch):
    lane = Lane({"a": SERVED, "b": SERVED})

    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)

    ending = play_sync(lane)

    assert ending.outcome is SERVED
    assert lane.in_flight() == [0, 0]


# With asyncio.


def test_a_cancelled_caller_cuts_both_before_it_is_seen():
    lane = Lane({"a": HANGS, "b": HANGS})

    async def send(step):
        name, _ = lane.begins(step)
        try:
            await asyncio.Event().wait()
        finally:
            lane.cut.append(name)

    async def main():
        task = asyncio.create_task(drive_hedged_async(lane.hedge, send))
        while len(lane.asked) < 2:
            await asyncio.sleep(0)
        assert lane.in_flight() == [1, 1]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert lane.in_flight() == [0, 0]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())

    assert sorted(lane.cut) == ["a", "b"]
    assert lane.blamed() == []


def test_what_a_loser_raises_while_it_is_cut_is_nobodys():
    lane, told = Lane({"a": HANGS, "b": SERVED}), []

    async def send(step):
        name, answer = lane.begins(step)
        if answer is HANGS:
            try:
                await asyncio.Event().wait()
            finally:
                raise OSError(name)
        return answer

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
        return await drive_hedged_async(lane.hedge, send)

    ending = asyncio.run(main())

    assert ending.lease.endpoint.name == "b"
    assert told == []
