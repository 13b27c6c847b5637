"""When a second endpoint is asked, how often, and whose answer is taken."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.failover import CallSpec, Ending, Rest, Send, Wish, failover
from llmwire.services.routing.hedging import CAP, MIN_SAMPLES, SAMPLES, Hedge, Hedging
from llmwire.services.routing.outcome import Blame, Outcome

from .actors import BAD_GATEWAY, CALLERS, LOST, REFUSED, SERVED, Clock, Drawn, busy
from .test_canary import Embedding

SIZE = 100
TIMES = st.floats(0.001, 100.0)
SHARES = st.floats(0.001, 0.5)


def a_hedging(share=0.05, *times, size=SIZE):
    hedging = Hedging(share, threading.Lock)
    for seconds in times:
        hedging.took(size, seconds)
    return hedging


def spent(hedging):
    """How many hedges it pays for now."""
    count = 0
    while hedging.spend():
        count += 1
    return count


# The delay.


def test_the_delay_is_what_nineteen_of_twenty_calls_stayed_below():
    hedging = a_hedging(0.05, *range(1, 101))

    assert hedging.delay_s(SIZE) == 95


@given(times=st.lists(TIMES, min_size=MIN_SAMPLES, max_size=3 * SAMPLES), share=SHARES)
def test_the_delay_is_the_quantile_of_the_latest_times(times, share):
    latest = times[-SAMPLES:]

    delay_s = a_hedging(share, *times).delay_s(SIZE)

    assert delay_s in latest
    at_most = sum(seconds <= delay_s for seconds in latest)
    below = sum(seconds < delay_s for seconds in latest)
    assert at_most >= (1 - share) * len(latest) - 1e-9
    assert below < (1 - share) * len(latest) + 1e-9


def test_of_too_few_calls_there_is_no_delay():
    hedging = a_hedging(0.05, *[1.0] * (MIN_SAMPLES - 1))
    assert hedging.delay_s(SIZE) is None

    hedging.took(SIZE, 1.0)

    assert hedging.delay_s(SIZE) == 1.0


@pytest.mark.parametrize(("size", "is_like"), [(1, True), (1023, True), (1024, False), (100_000, False)])
def test_a_call_is_compared_with_calls_of_its_size(size, is_like):
    hedging = a_hedging(0.05, *[1.0] * MIN_SAMPLES, size=SIZE)

    assert (hedging.delay_s(size) is not None) is is_like


def test_what_was_long_ago_is_forgotten():
    hedging = a_hedging(0.05, *[9.0] * SAMPLES, *[1.0] * SAMPLES)

    assert hedging.delay_s(SIZE) == 1.0


def test_without_a_share_nothing_is_hedged():
    hedging = a_hedging(0.0, *[1.0] * 1000)

    assert hedging.delay_s(SIZE) is None
    assert not hedging.spend()


@pytest.mark.parametrize("share", [-0.01, 0.51, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"from 0 to 0\.5"):
        a_hedging(share)


# The budget.


@given(steps=st.lists(st.booleans(), max_size=500), share=SHARES)
def test_never_more_than_its_share_of_the_calls_is_hedged(steps, share):
    hedging, calls, hedges = a_hedging(share), 0, 0

    for is_hedge in steps:
        if is_hedge:
            hedges += hedging.spend()
        else:
            hedging.took(SIZE, 1.0)
            calls += 1

        assert hedges <= share * calls + 1e-9


def test_twenty_calls_pay_for_one_hedge():
    hedging = a_hedging(0.05, *[1.0] * 19)
    assert spent(hedging) == 0

    hedging.took(SIZE, 1.0)
    hedging.took(SIZE, 1.0)  # a twentieth is no number of the computer's

    assert spent(hedging) == 1


def test_quiet_times_save_up_no_more_than_the_cap():
    assert spent(a_hedging(0.5, *[1.0] * 1000)) == CAP


def test_threads_cannot_spend_a_token_twice():
    hedging, counts = a_hedging(0.5, *[1.0] * 1000), []
    threads = [threading.Thread(target=lambda: counts.append(spent(hedging))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(counts) == CAP


def test_a_child_process_has_a_lock_of_its_own_and_knows_nothing():
    hedging = a_hedging(0.5, *[1.0] * 100)
    hedging._lock.acquire()  # by a thread of the parent, that the child does not have

    hedging.renew_after_fork()

    assert hedging.delay_s(SIZE) is None
    assert not hedging.spend()


# Two stories of one call.


class Lane:
    """A pool of endpoints, and the stories of one call."""

    def __init__(self, *names, hedging=None):
        self.clock = Clock()
        self.hedging = hedging or a_hedging(0.5, *[0.1] * 40)
        self.embedding = Embedding(*names)
        self.pool, self.budget = self.embedding.pool, self.embedding.budget
        self.hedge = Hedge(
            self.hedging, Wish(ends_at_s=self.clock() + 30.0), self.story, size_bytes=SIZE, clock=self.clock
        )

    def story(self, wish):
        return failover(
            self.pool, wish, spec=CallSpec(), budget=self.budget, clock=self.embedding.clock, randomness=Drawn(0.5)
        )

    def begin(self, track, story):
        """The name of the endpoint that the story asks first."""
        return track.asks(story.send(None)).lease.endpoint.name

    def in_flight(self):
        return [state.in_flight for state in self.pool.snapshot()]


def an_ending(outcome, *attempts):
    return Ending(outcome, None, list(attempts))


def test_the_second_story_asks_another_endpoint():
    for _ in range(20):
        lane = Lane("a", "b", "c")
        first, second = lane.hedge.first_story(), lane.hedge.second_story()

        asked = [lane.begin(lane.hedge.first, first), lane.begin(lane.hedge.second, second)]

        assert len(set(asked)) == 2
        assert lane.hedge.is_hedged
        first.close()
        second.close()
        assert lane.in_flight() == [0, 0, 0]


def test_the_first_story_does_not_fail_over_to_the_endpoint_that_the_second_asks():
    lane = Lane("a", "b")
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    lane.begin(lane.hedge.first, first)
    lane.begin(lane.hedge.second, second)

    with pytest.raises(StopIteration) as end:
        first.send(LOST)

    assert end.value.value.outcome is LOST
    second.close()


def test_where_no_other_endpoint_is_the_second_story_asks_nobody():
    lane = Lane("a")
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    lane.begin(lane.hedge.first, first)

    with pytest.raises(StopIteration) as end:
        second.send(None)

    assert end.value.value.outcome is None
    assert not lane.hedge.is_hedged
    first.close()


@pytest.mark.parametrize(("outcome", "times"), [(LOST, 30), (busy(2.0), 1)], ids=["open", "paused"])
def test_the_second_story_asks_nobody_who_is_not_well_and_waits_for_nobody(outcome, times):
    lane = Lane("a", "b")
    for _ in range(times):
        lane.pool.lease(only="b").settle(outcome, 0.1)
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    assert lane.begin(lane.hedge.first, first) == "a"

    with pytest.raises(StopIteration):
        second.send(None)

    first.close()


def test_an_endpoint_that_is_asked_a_second_time_first_shows_its_space():
    embedding = Embedding("a", "b")
    embedding.call()  # the first in order gives the reference

    sent, ending = embedding.call(avoid=frozenset("a"), is_hedge=True)

    assert sent == ["b*", "b"]
    assert ending.outcome is SERVED


def test_the_second_story_does_not_wait_for_the_canary_of_the_first():
    embedding = Embedding("a", "b")
    embedding.call()  # of a
    embedding.pool.lease(only="a").settle(busy(60.0), 0.1)
    first = embedding.story()
    assert first.send(None).is_canary
    second = embedding.story(avoid=frozenset("b"), is_hedge=True)

    with pytest.raises(StopIteration) as end:
        second.send(None)

    assert end.value.value.outcome is None
    first.close()


@pytest.mark.parametrize("lost", ["first", "second"])
def test_a_text_that_may_have_brought_down_one_endpoint_is_sent_to_no_third_while_another_has_it(lost):
    lane = Lane("a", "b", "c")
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    lane.begin(lane.hedge.first, first)
    lane.begin(lane.hedge.second, second)
    loser, other = (first, second) if lost == "first" else (second, first)

    with pytest.raises(StopIteration) as end:
        loser.send(LOST)

    assert end.value.value.outcome is LOST
    assert sum(lane.in_flight()) == 1
    third = other.send(BAD_GATEWAY)  # nobody else has the text now
    assert isinstance(third, Send)
    other.close()
    assert lane.in_flight() == [0, 0, 0]


def test_a_text_that_may_have_brought_down_one_endpoint_is_not_hedged_at_the_next():
    lane = Lane("a", "b", "c")
    first = lane.hedge.first_story()
    lane.begin(lane.hedge.first, first)
    lane.hedge.first.asks(first.send(LOST))

    with pytest.raises(StopIteration) as end:
        lane.hedge.second_story().send(None)

    assert end.value.value.outcome is None
    assert sum(lane.in_flight()) == 1
    first.close()


def test_the_story_that_is_left_alone_waits_for_a_busy_endpoint_as_the_first_would_have():
    lane = Lane("a", "b")
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    lane.begin(lane.hedge.first, first)
    lane.begin(lane.hedge.second, second)
    with pytest.raises(StopIteration):
        first.send(LOST)

    following = second.send(busy(2.0))

    assert isinstance(following, Rest)
    second.close()


def test_both_stories_together_make_no_more_than_the_attempts_of_a_call():
    lane = Lane("a", "b", "c", "d")
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    lane.begin(lane.hedge.first, first)
    lane.begin(lane.hedge.second, second)
    lane.hedge.second.asks(second.send(BAD_GATEWAY))

    with pytest.raises(StopIteration) as end:
        second.send(BAD_GATEWAY)

    assert end.value.value.outcome is BAD_GATEWAY
    assert sum(lane.in_flight()) == 1
    first.close()


@given(
    outcomes=st.lists(st.sampled_from([LOST, BAD_GATEWAY, REFUSED, busy(1.0)]), min_size=20, max_size=20),
    turns=st.lists(st.booleans(), min_size=60, max_size=60),
)
def test_whatever_happens_two_stories_never_ask_more_than_one_could(outcomes, turns):
    lane = Lane(*"abcdefg")
    waiting = {True: lane.hedge.first_story(), False: lane.hedge.second_story()}
    steps, lost, sent = {}, 0, 0

    for turn in turns:
        if not (story := waiting.get(turn)):
            continue
        outcome = None
        if isinstance(steps.get(turn), Send):
            outcome = outcomes.pop() if outcomes else REFUSED
            lost += outcome is LOST
            sent += outcome.was_sent
        lane.clock.advance(0.1)
        try:
            steps[turn] = story.send(outcome)
        except StopIteration:
            del waiting[turn]
            steps.pop(turn, None)
            continue
        if isinstance(steps[turn], Send):
            (lane.hedge.first if turn else lane.hedge.second).asks(steps[turn])

        under_way = sum(isinstance(step, Send) for step in steps.values())
        assert lost + under_way <= CallSpec().poisoned
        assert sent + under_way <= CallSpec().max_attempts

    for story in waiting.values():
        story.close()
    assert set(lane.in_flight()) == {0}


# What a hedge costs that asks nobody.


def test_a_hedge_that_finds_no_endpoint_costs_nothing():
    lane = Lane("a")
    before = lane.hedging._tokens
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    lane.begin(lane.hedge.first, first)

    with pytest.raises(StopIteration):
        second.send(None)

    assert lane.hedging._tokens == before
    first.close()


def test_a_hedge_that_asks_costs_one_token_whatever_comes_of_it():
    lane = Lane("a", "b", "c")
    before = lane.hedging._tokens
    first, second = lane.hedge.first_story(), lane.hedge.second_story()
    lane.begin(lane.hedge.first, first)

    lane.begin(lane.hedge.second, second)
    second.close()

    assert lane.hedging._tokens == before - 1
    first.close()


@pytest.mark.parametrize(
    ("outcomes", "is_over"), [([SERVED], True), ([LOST, SERVED], True), ([CALLERS], True), ([LOST], False), ([], False)]
)
def test_a_call_is_over_when_a_story_has_served_or_nobody_would_take_it(outcomes, is_over):
    hedge = Lane("a", "b").hedge

    assert hedge.is_over([an_ending(outcome) for outcome in outcomes]) is is_over


def test_the_ending_is_that_of_the_story_which_served():
    served = an_ending(SERVED, "of b")

    ending = Lane("a", "b").hedge.ending([an_ending(LOST, "of a"), served])

    assert ending is served
    assert ending.attempts == ["of b"]


@pytest.mark.parametrize(
    ("endings", "outcome"),
    [
        ([an_ending(LOST, "1"), an_ending(REFUSED, "2")], REFUSED),
        ([an_ending(None), an_ending(REFUSED, "1", "2")], REFUSED),
        ([an_ending(LOST, "1", "2"), an_ending(None)], LOST),
    ],
)
def test_where_neither_served_the_ending_has_the_attempts_of_both(endings, outcome):
    ending = Lane("a", "b").hedge.ending(endings)

    assert ending.outcome is outcome
    assert ending.attempts == ["1", "2"]


def test_the_time_of_a_call_that_was_served_is_remembered():
    hedging = a_hedging(0.5, *[1.0] * MIN_SAMPLES)
    lane = Lane("a", "b", hedging=hedging)
    lane.clock.advance(7.0)

    for _ in range(SAMPLES):
        lane.hedge.ending([an_ending(SERVED)])

    assert hedging.delay_s(SIZE) == 7.0


@pytest.mark.parametrize("outcome", [LOST, CALLERS], ids=lambda outcome: outcome.label)
def test_the_time_of_a_call_that_failed_says_nothing(outcome):
    hedging = a_hedging(0.5, *[1.0] * MIN_SAMPLES)
    lane = Lane("a", "b", hedging=hedging)
    lane.clock.advance(7.0)

    for _ in range(SAMPLES):
        lane.hedge.ending([an_ending(outcome)])

    assert hedging.delay_s(SIZE) == 1.0


def test_a_call_that_is_not_hedged_fails_over_as_ever():
    lane = Lane("a", "b")
    first = lane.hedge.first_story()
    name = lane.begin(lane.hedge.first, first)

    following = first.send(LOST)

    assert following.lease.endpoint.name == ("b" if name == "a" else "a")
    assert not lane.hedge.is_hedged
    first.close()


def test_a_story_that_is_too_long_for_its_endpoint_leaves_the_call_to_the_other_which_may_ask_a_larger_one():
    def story_of(wish):
        yield from ()

    hedge = Hedge(Hedging(0.05, threading.Lock), Wish(ends_at_s=9.0), story_of, size_bytes=10, clock=lambda: 0.0)
    refused = Outcome(blame=Blame.CALLER, label="400", status=400)
    too_long = Outcome(blame=Blame.CALLER, label="400", status=400, is_too_long=True)

    assert hedge.is_over([Ending(refused, None, [])])
    assert not hedge.is_over([Ending(too_long, None, [])])
