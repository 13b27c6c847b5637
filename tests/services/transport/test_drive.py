"""One set of stories is played through both players: what is sent, what ends a story, and when its lease is settled."""

from __future__ import annotations

import asyncio
import time

import pytest

from llmwire.services.routing.backoff import BackoffSpec
from llmwire.services.routing.budget import Budget, BudgetSpec
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.failover import CallSpec, Ending, Rest, Send, Wish, failover
from llmwire.services.routing.outcome import Blame, Outcome
from llmwire.services.routing.pool import Pool
from llmwire.services.transport.drive import drive, drive_async


def play_sync(story, send):
    return drive(story, send)


def play_async(story, send):
    async def sent(step):
        await asyncio.sleep(0)
        return send(step)

    return asyncio.run(drive_async(story, sent))


@pytest.fixture(params=[play_sync, play_async], ids=["sync", "async"])
def play(request):
    return request.param


@pytest.fixture
def rests(monkeypatch):
    """The seconds of each rest, none of which is waited for."""
    seen = []

    async def rest(seconds, sleep=asyncio.sleep):
        if seconds:
            seen.append(seconds)
        await sleep(0)

    monkeypatch.setattr(time, "sleep", seen.append)
    monkeypatch.setattr(asyncio, "sleep", rest)
    return seen


class Steps:
    """A story that takes the given steps, and remembers what it was sent and whether it was closed."""

    def __init__(self, *steps, ending=None):
        self.got, self.is_closed = [], False
        self.ending = ending or Ending(None, None, [])
        self.story = self._told(steps)

    def _told(self, steps):
        try:
            for step in steps:
                self.got.append((yield step))
            return self.ending
        finally:
            self.is_closed = True


class Lot:
    """Randomness without any."""

    def random(self):
        return 0.5


class NoLock:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def a_pool(*names):
    endpoints = [Endpoint(function="completion", name=name, base_url=f"http://{name}.test/v1") for name in names]
    return Pool(endpoints, clock=lambda: 0.0, randomness=Lot(), make_lock=NoLock, listener=lambda event: None)


def a_call(pool, **spec):
    budget = Budget(BudgetSpec(), clock=lambda: 0.0, make_lock=NoLock)
    wish = Wish(ends_at_s=60.0)
    return failover(pool, wish, spec=CallSpec(**spec), budget=budget, clock=lambda: 0.0, randomness=Lot())


def in_flight(pool):
    return [state.in_flight for state in pool.snapshot()]


A, B = Send(None, 1.0), Send(None, 2.0)
SERVED = Outcome(result="served")
LOST = Outcome(blame=Blame.ENDPOINT, label="ReadError", is_failure=True)


# To the end.


def test_a_story_is_sent_what_became_of_each_step_and_its_ending_is_returned(play):
    script, sent = Steps(A, B), []

    ending = play(script.story, lambda step: sent.append(step) or Outcome(label=f"{len(sent)}"))

    assert ending is script.ending
    assert sent == [A, B]
    assert [outcome.label for outcome in script.got] == ["1", "2"]


def test_a_story_that_ends_before_its_first_step_sends_nothing(play):
    script, sent = Steps(), []

    assert play(script.story, sent.append) is script.ending
    assert sent == []


def test_a_rest_is_waited_for_and_brings_no_outcome(play, rests):
    script, sent = Steps(A, Rest(2.5), B, Rest(0.25)), []

    play(script.story, lambda step: sent.append(step) or SERVED)

    assert rests == [2.5, 0.25]
    assert sent == [A, B]
    assert script.got == [SERVED, None, SERVED, None]


def test_a_rest_of_nothing_passes(play):
    script = Steps(Rest(0.0))

    assert play(script.story, lambda step: SERVED) is script.ending
    assert script.got == [None]


# What sending raises.


@pytest.mark.parametrize("error", [RuntimeError("x"), OSError("x"), KeyboardInterrupt()], ids=repr)
def test_what_sending_raises_ends_the_story_at_once_and_passes_on(play, error):
    script = Steps(A, B)

    def send(step):
        raise error

    with pytest.raises(type(error)) as caught:
        play(script.story, send)

    assert caught.value is error
    assert script.is_closed
    assert script.got == []


@pytest.mark.parametrize("error", [StopIteration("a value"), StopAsyncIteration("a value")], ids=repr)
def test_the_end_of_an_iteration_inside_sending_is_no_answer(play, error):
    script = Steps(A)

    def send(step):
        raise error

    with pytest.raises((StopIteration, StopAsyncIteration, RuntimeError)) as caught:
        play(script.story, send)

    assert error in (caught.value, caught.value.__cause__)
    assert script.is_closed


def test_what_a_story_raises_passes_on(play):
    def broken():
        yield A
        raise LookupError("of the story")

    with pytest.raises(LookupError, match="of the story"):
        play(broken(), lambda step: SERVED)


# Cancelled.


def test_a_cancellation_while_sending_closes_the_story_at_once():
    script, is_sending = Steps(A, B), asyncio.Event()

    async def send(step):
        is_sending.set()
        await asyncio.Event().wait()

    async def cancelled():
        task = asyncio.create_task(drive_async(script.story, send))
        await is_sending.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())

    assert script.is_closed
    assert script.got == []


def test_a_cancellation_while_resting_closes_the_story_at_once():
    script = Steps(Rest(1000.0), A)

    async def cancelled():
        task = asyncio.create_task(drive_async(script.story, None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())

    assert script.is_closed


# With the story of a call.


def test_a_call_goes_to_another_endpoint_after_a_failure_and_settles_every_lease(play):
    pool, asked = a_pool("a", "b"), []

    def send(step):
        asked.append(step.lease.endpoint.name)
        assert sum(in_flight(pool)) == 1
        return LOST if len(asked) == 1 else SERVED

    ending = play(a_call(pool), send)

    assert sorted(asked) == ["a", "b"]
    assert ending.outcome is SERVED
    assert [attempt.label for attempt in ending.attempts] == ["ReadError", "served"]
    assert in_flight(pool) == [0, 0]


def test_a_call_with_one_endpoint_rests_before_it_asks_it_again(play, rests):
    pool, outcomes = a_pool("a"), iter([LOST, LOST, SERVED])

    ending = play(a_call(pool, backoff=BackoffSpec(base_s=2.0)), lambda step: next(outcomes))

    assert ending.outcome is SERVED
    assert rests == [1.0, 2.0]


def test_an_error_while_sending_settles_the_lease_as_cancelled(play):
    pool = a_pool("a", "b")

    def send(step):
        raise LookupError

    with pytest.raises(LookupError):
        play(a_call(pool), send)

    assert in_flight(pool) == [0, 0]
    assert [(state.served, state.failed) for state in pool.snapshot()] == [(0, 0), (0, 0)]


def test_a_cancelled_call_settles_its_lease_before_the_cancellation_is_seen():
    pool = a_pool("a", "b")

    async def send(step):
        await asyncio.Event().wait()

    async def cancelled():
        task = asyncio.create_task(drive_async(a_call(pool), send))
        await asyncio.sleep(0)
        assert sum(in_flight(pool)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert in_flight(pool) == [0, 0]

    asyncio.run(cancelled())

    assert [state.failed for state in pool.snapshot()] == [0, 0]
