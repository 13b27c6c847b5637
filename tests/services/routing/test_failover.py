"""The story of one call: whom it asks, for how long, and what it does with what became of it."""

import gc
import random
import threading
from contextlib import closing

import pytest

from llmwire.services.routing.budget import Budget, BudgetSpec
from llmwire.services.routing.failover import AfterSend, CallSpec, Rest, Send, Tally, Wish, failover
from llmwire.services.routing.member import Health
from llmwire.services.routing.outcome import CANCELLED, Blame, Outcome
from llmwire.services.routing.pool import Lease, Selection
from llmwire.services.transport.drive import drive

from .actors import (
    BAD_GATEWAY,
    BAD_KEY,
    CALLERS,
    CERTIFICATE,
    CONFLICT,
    LOCAL,
    LOST,
    NO_MODEL,
    REFUSED,
    SERVED,
    WRONG_URL,
    Drawn,
    an_endpoint,
    busy,
    play,
    unavailable,
)

DEADLINE_S = 120.0
TOO_LONG = Outcome(blame=Blame.CALLER, label="400", status=400, is_too_long=True)
NO_TOKEN = Outcome(blame=Blame.KEY, label="NoToken", is_failure=True, was_sent=False)


class Caller:
    """Makes calls through a pool, with a budget."""

    def __init__(self, pool, clock, *, tokens=200.0, draw=0.5, **spec):
        self.pool, self.clock, self.draw = pool, clock, Drawn(draw)
        self.spec = CallSpec(**spec)
        budget = BudgetSpec(tokens=tokens, per_second=0)
        self.budget = Budget(budget, clock=clock, make_lock=threading.Lock)

    def story(self, *, lasts_s=DEADLINE_S, **wish):
        return failover(
            self.pool,
            Wish(ends_at_s=self.clock() + lasts_s, **wish),
            spec=self.spec,
            budget=self.budget,
            clock=self.clock,
            randomness=self.draw,
        )

    def call(self, answers, *, takes_s=0.1, **wish):
        return play(self.story(**wish), answers, clock=self.clock, takes_s=takes_s)


def among(*names, **fields):
    """A selection of endpoints."""
    return Selection(names=frozenset(names), **fields)


def state(pool, name):
    return next(one for one in pool.snapshot() if one.name == name)


@pytest.fixture
def a_caller(a_pool, clock):
    """Makes a caller of a pool whose endpoints are asked in order."""

    def make(*names, **options):
        return Caller(a_pool(*names, strategy="in-order"), clock, **options)

    return make


def labels(played):
    return [attempt.label for attempt in played.ending.attempts]


class TestAttempts:
    def test_an_answer_that_serves_is_the_end(self, a_caller):
        caller = a_caller("a", "b")

        played = caller.call([SERVED], takes_s=0.5)

        assert (played.asked, played.rests_s) == (["a"], [])
        assert played.ending.outcome is SERVED
        assert played.ending.lease.endpoint.name == "a"
        [attempt] = played.ending.attempts
        assert (attempt.endpoint, attempt.server, attempt.blame, attempt.label) == (
            "a",
            "http://a:8000",
            None,
            "served",
        )
        assert attempt.took_s == pytest.approx(0.5)
        assert state(caller.pool, "a").ewma_s == pytest.approx(0.5)

    def test_after_a_failure_another_endpoint_is_asked_at_once(self, a_caller):
        played = a_caller("a", "b", "c").call([BAD_GATEWAY, SERVED])

        assert (played.asked, played.rests_s) == (["a", "b"], [])
        assert labels(played) == ["502", "served"]

    def test_at_most_three_are_asked(self, a_caller):
        played = a_caller("a", "b", "c", "d", "e").call([BAD_GATEWAY] * 9)

        assert played.asked == ["a", "b", "c"]
        assert played.ending.outcome is BAD_GATEWAY
        assert played.ending.unavailable is None

    def test_where_all_were_tried_the_last_failure_is_the_end(self, a_caller):
        played = a_caller("a", "b").call([BAD_GATEWAY, unavailable()])

        assert played.asked == ["a", "b"]
        assert played.ending.outcome == unavailable()
        assert played.ending.unavailable.wait_s is None

    def test_a_request_that_was_never_sent_counts_for_nothing_and_costs_nothing(self, a_caller):
        caller = a_caller(*"abcdef", tokens=1)

        played = caller.call([REFUSED] * 4 + [BAD_GATEWAY, SERVED])

        assert played.asked == list("abcdef")
        assert caller.budget.tokens == pytest.approx(0.2)

    @pytest.mark.parametrize("outcome", [CALLERS, LOCAL, CANCELLED], ids=lambda one: one.label)
    def test_what_nobody_else_could_do_better_is_the_end(self, a_caller, outcome):
        caller = a_caller("a", "b")

        played = caller.call([outcome])

        assert played.ending.outcome is outcome
        assert caller.budget.tokens == 200
        assert state(caller.pool, "a").health is Health.OK

    @pytest.mark.parametrize(
        "outcome", [BAD_KEY, NO_MODEL, CERTIFICATE, unavailable(retry_after_s=3), busy(3), LOST, REFUSED], ids=str
    )
    def test_another_endpoint_may_do_better(self, a_caller, outcome):
        played = a_caller("a", "b").call([outcome, SERVED], model="m")

        assert (played.asked, played.rests_s) == (["a", "b"], [])

    def test_where_all_do_not_know_the_model_that_is_the_answer(self, a_caller):
        caller = a_caller("a", "b")

        for _ in range(2):
            played = caller.call([NO_MODEL, NO_MODEL], model="m")

            assert played.asked == ["a", "b"]
            assert played.ending.outcome is NO_MODEL

    def test_where_no_endpoint_may_be_asked_there_is_no_attempt(self, a_caller):
        caller = a_caller("a", "b")
        caller.call([BAD_KEY, BAD_KEY])

        played = caller.call([])

        assert played.asked == []
        assert played.ending.outcome is played.ending.lease is None
        assert played.ending.unavailable.status == 401
        assert set(played.ending.unavailable.reasons) == {"a", "b"}

    def test_an_answer_that_goes_on_is_settled_by_who_reads_it(self, a_caller):
        caller = a_caller("a", "b")
        stream = Outcome(is_open=True)

        played = caller.call([stream])

        assert state(caller.pool, "a").in_flight == 1
        played.ending.lease.settle(Outcome(), 0.1)
        assert state(caller.pool, "a").in_flight == 0

    def test_an_endpoint_that_comes_by_a_reload_may_answer_a_call_under_way(self, a_caller):
        caller = a_caller("a", "b")

        def reload(send):
            caller.pool.swap([an_endpoint("c")])
            return BAD_GATEWAY

        assert caller.call([reload, SERVED]).asked == ["a", "c"]


class TestOnly:
    @pytest.mark.parametrize("outcome", [SERVED, BAD_GATEWAY, REFUSED, busy(1), CONFLICT], ids=lambda one: one.label)
    def test_the_one_endpoint_that_is_wanted_is_asked_once(self, a_caller, outcome):
        played = a_caller("a", "b", "c").call([outcome], only="b")

        assert (played.asked, played.rests_s) == (["b"], [])
        assert played.ending.outcome is outcome

    def test_where_it_may_not_be_asked_nobody_is(self, a_caller):
        caller = a_caller("a", "b")
        caller.call([BAD_KEY], only="b")

        played = caller.call([], only="b")

        assert played.asked == []
        assert set(played.ending.unavailable.reasons) == {"b"}


class TestPoolOfOne:
    def test_it_is_asked_again_after_a_rest(self, a_caller):
        played = a_caller("a").call([BAD_GATEWAY, BAD_GATEWAY, SERVED])

        assert played.asked == ["a", "a", "a"]
        assert played.rests_s == [0.25, 0.5]  # half of 0.5 and of 1, by the draw

    def test_it_is_asked_three_times_at_most_also_where_nothing_was_sent(self, a_caller):
        assert a_caller("a").call([REFUSED] * 9).asked == ["a", "a", "a"]

    def test_its_repetitions_are_paid_for(self, a_caller):
        caller = a_caller("a", tokens=1)

        assert caller.call([BAD_GATEWAY] * 3).asked == ["a", "a"]
        assert caller.call([BAD_GATEWAY] * 3).asked == ["a"]

    def test_it_is_asked_while_its_breaker_is_open(self, a_caller):
        caller = a_caller("a", max_attempts=1)
        for _ in range(30):
            caller.call([BAD_GATEWAY])

        assert state(caller.pool, "a").health is Health.OPEN
        assert caller.call([SERVED]).ending.outcome is SERVED

    @pytest.mark.parametrize(
        "outcome", [BAD_KEY, NO_TOKEN, NO_MODEL, CERTIFICATE, WRONG_URL], ids=lambda one: one.label
    )
    def test_what_it_certainly_cannot_answer_it_is_asked_once(self, a_caller, outcome):
        caller = a_caller("a")

        played = caller.call([outcome] * 3, model="m")

        assert (played.asked, played.rests_s) == (["a"], [])
        assert caller.budget.tokens == 200

    def test_no_rest_goes_beyond_the_deadline(self, a_caller):
        played = a_caller("a").call([BAD_GATEWAY] * 3, lasts_s=0.3)

        assert (played.asked, played.rests_s) == (["a"], [])

    def test_while_it_is_paused_it_is_waited_for(self, a_caller):
        played = a_caller("a").call([busy(3), SERVED])

        assert (played.asked, played.rests_s) == (["a", "a"], [pytest.approx(3)])


class TestSelection:
    def test_failover_never_leaves_it(self, a_caller):
        played = a_caller("a", "b", "c", "d").call([BAD_GATEWAY, BAD_GATEWAY], among=among("b", "d"))

        assert played.asked == ["b", "d"]
        assert played.ending.outcome is BAD_GATEWAY

    def test_where_nobody_of_it_may_be_asked_nobody_is(self, a_caller):
        caller = a_caller("a", "b", "c")
        caller.call([BAD_KEY, BAD_KEY], among=among("a", "b"))

        played = caller.call([], among=among("a", "b"))

        assert played.asked == []
        assert set(played.ending.unavailable.reasons) == {"a", "b"}

    def test_one_that_is_alone_in_it_is_asked_again_after_a_rest_as_in_a_pool_of_one(self, a_caller):
        played = a_caller("a", "b").call([BAD_GATEWAY, BAD_GATEWAY, SERVED], among=among("b"))

        assert played.asked == ["b", "b", "b"]
        assert played.rests_s == [0.25, 0.5]

    @pytest.mark.parametrize("outcome", [BAD_KEY, NO_TOKEN, NO_MODEL, CERTIFICATE], ids=lambda one: one.label)
    def test_what_one_that_is_alone_in_it_cannot_answer_it_is_asked_once_a_call(self, a_caller, outcome):
        caller = a_caller("a", "b")

        for _ in range(2):
            played = caller.call([outcome], among=among("b"), model="m")

            assert played.asked == ["b"]
            assert played.ending.outcome is outcome

    def test_the_one_endpoint_that_is_wanted_is_not_asked_where_it_is_not_of_it(self, a_caller):
        played = a_caller("a", "b").call([], among=among("b"), only="a")

        assert played.asked == []

    def test_what_is_waited_for_is_of_it(self, a_caller):
        caller = a_caller("a", "b", "c")
        for name, pause_s in (("a", 1), ("b", 3), ("c", 4)):
            caller.pool.lease(only=name).settle(busy(pause_s), 0.1)

        played = caller.call([SERVED], among=among("b", "c"))

        assert (played.asked, played.rests_s) == (["b"], [3])

    def test_where_all_of_it_are_busy_that_is_said_though_others_are_free(self, a_caller):
        played = a_caller("a", "b", "c", max_attempts=2).call([busy(30), busy(7)], among=among("b", "c"))

        assert set(played.ending.unavailable.reasons) == {"b", "c"}

    def test_an_endpoint_that_comes_by_a_reload_is_not_of_it(self, a_caller):
        caller = a_caller("a", "b")

        def reload(send):
            caller.pool.swap([an_endpoint("b"), an_endpoint("c")])
            return BAD_GATEWAY

        assert caller.call([reload, SERVED], among=among("a")).asked == ["a", "a"]

    def test_after_a_swap_it_goes_on_among_those_that_are_meant_now(self, a_caller):
        caller, now = a_caller("a", "b"), []

        def swap(send):
            caller.pool.swap([an_endpoint("c"), an_endpoint("d")])
            now.append(among("c"))
            return BAD_GATEWAY

        played = caller.call([swap, SERVED], among=among("a"), renewed=lambda: now.pop() if now else None)

        assert played.asked == ["a", "c"]

    def test_the_ending_says_who_was_left_out_and_why(self, a_caller):
        left_out = {"a": "unable to call tools"}

        ending = a_caller("a", "b").call([SERVED], among=among("b", left_out=left_out)).ending

        assert (ending.left_out, ending.has_moved) == (left_out, False)

    def test_without_one_nobody_was(self, a_caller):
        assert a_caller("a", "b").call([SERVED]).ending.left_out == {}


class TestTooLong:
    def larger(self, *names, lasts_s=DEADLINE_S, begins_s=1000.0, **fields):
        """Where to go instead, as a wish says it; by the clock of a test that begins."""
        return {"larger": among(*names, **fields), "larger_ends_at_s": begins_s + lasts_s}

    def test_it_goes_to_the_larger_endpoints_at_once_and_only_there(self, a_caller):
        caller = a_caller("a", "b", "c", "d")

        played = caller.call([TOO_LONG, BAD_GATEWAY, SERVED], among=among("a", "b"), **self.larger("c", "d"))

        assert (played.asked, played.rests_s) == (["a", "c", "d"], [])
        assert played.ending.has_moved
        assert labels(played) == ["400", "502", "served"]

    def test_it_goes_there_once(self, a_caller):
        played = a_caller("a", "c", "d").call([TOO_LONG, TOO_LONG], among=among("a"), **self.larger("c", "d"))

        assert played.asked == ["a", "c"]
        assert played.ending.outcome is TOO_LONG
        assert played.ending.has_moved

    def test_where_there_are_none_the_answer_is_the_callers(self, a_caller):
        played = a_caller("a", "b").call([TOO_LONG], among=among("a"))

        assert played.asked == ["a"]
        assert (played.ending.outcome, played.ending.has_moved) == (TOO_LONG, False)

    def test_another_fault_of_the_callers_goes_nowhere(self, a_caller):
        played = a_caller("a", "b").call([CALLERS], among=among("a"), **self.larger("b"))

        assert (played.asked, played.ending.has_moved) == (["a"], False)

    def test_a_body_that_cannot_be_sent_again_goes_nowhere(self, a_caller):
        played = a_caller("a", "b").call([TOO_LONG], among=among("a"), is_replayable=False, **self.larger("b"))

        assert (played.asked, played.ending.has_moved) == (["a"], False)

    def test_where_one_endpoint_is_wanted_no_other_is_asked(self, a_caller):
        played = a_caller("a", "b").call([TOO_LONG], among=among("a", "b"), only="a", **self.larger("b"))

        assert (played.asked, played.ending.has_moved) == (["a"], False)

    @pytest.mark.parametrize("lasts_s", [3.0, 300.0])
    def test_there_the_deadline_is_that_of_the_larger_pool(self, a_caller, clock, lasts_s):
        ends = []

        def noting(outcome):
            def answer(send):
                ends.append(send.ends_at_s)
                return outcome

            return answer

        wish = {"among": among("a"), "lasts_s": 9.0, **self.larger("b", "c", lasts_s=lasts_s)}
        a_caller("a", "b", "c").call([noting(TOO_LONG), noting(BAD_GATEWAY), noting(SERVED)], **wish)

        assert ends == [1009.0, 1000.0 + lasts_s, 1000.0 + lasts_s]

    def test_where_that_is_over_already_it_goes_nowhere(self, a_caller):
        wish = {"among": among("a"), **self.larger("b", lasts_s=0.1)}
        played = a_caller("a", "b").call([TOO_LONG], takes_s=0.1, **wish)

        assert (played.asked, played.ending.has_moved) == (["a"], False)

    def test_after_it_no_further_endpoint_is_asked(self, a_caller):
        wish = {"among": among("a"), **self.larger("b", "c", lasts_s=2)}
        played = a_caller("a", "b", "c").call([TOO_LONG, BAD_GATEWAY], takes_s=1, **wish)

        assert played.asked == ["a", "b"]
        assert played.ending.is_overdue

    def test_to_move_costs_nothing_and_is_no_failure_of_the_endpoint(self, a_caller):
        caller = a_caller("a", "b", tokens=1, max_attempts=1)

        played = caller.call([TOO_LONG, SERVED], among=among("a"), **self.larger("b"))

        assert played.asked == ["a", "b"]
        assert caller.budget.tokens == 1
        assert (state(caller.pool, "a").failed, state(caller.pool, "a").health) == (0, Health.OK)

    def test_the_endpoint_that_said_so_is_not_asked_again_though_it_is_of_the_larger_ones_too(self, a_caller):
        played = a_caller("a", "b").call([TOO_LONG, SERVED], among=among("a"), **self.larger("a", "b"))

        assert played.asked == ["a", "b"]

    def test_where_it_is_the_only_one_of_them_its_answer_is_the_end(self, a_caller):
        played = a_caller("a", "b").call([TOO_LONG], among=among("a"), **self.larger("a"))

        assert played.asked == ["a"]
        assert played.ending.outcome is TOO_LONG

    def test_it_may_come_after_other_failures(self, a_caller):
        wish = {"among": among("a", "b"), **self.larger("c")}
        played = a_caller("a", "b", "c").call([BAD_GATEWAY, TOO_LONG, SERVED], **wish)

        assert played.asked == ["a", "b", "c"]

    def test_the_ending_says_who_of_the_larger_ones_was_left_out(self, a_caller):
        wish = {"among": among("a", left_out={"x": "too small"}), **self.larger("b", left_out={"c": "unable"})}

        assert a_caller("a", "b").call([TOO_LONG, SERVED], **wish).ending.left_out == {"c": "unable"}

    def test_where_nobody_of_them_may_be_asked_the_first_answer_stays(self, a_caller):
        caller = a_caller("a", "b", "c")
        for name in ("b", "c"):
            caller.pool.lease(only=name).settle(BAD_KEY, 0.1)

        played = caller.call([TOO_LONG], among=among("a"), **self.larger("b", "c"))

        assert played.ending.outcome is TOO_LONG
        assert set(played.ending.unavailable.reasons) == {"b", "c"}


class TestPoison:
    def test_a_request_that_brings_down_two_endpoints_is_sent_to_no_third(self, a_caller):
        played = a_caller("a", "b", "c").call([LOST] * 3)

        assert played.asked == ["a", "b"]
        assert played.ending.outcome.label == LOST.label

    def test_its_second_penalty_is_withdrawn(self, a_caller):
        caller = a_caller("a", "b", "c")
        for name in "abc":
            for _ in range(4):
                caller.pool.lease(only=name).settle(BAD_GATEWAY, 0.1)

        caller.call([LOST, LOST])

        assert [one.health for one in caller.pool.snapshot()] == [Health.OPEN, Health.OK, Health.OK]

    def test_the_first_penalty_holds(self, a_caller):
        caller = a_caller("a", "b", "c")

        caller.call([LOST, SERVED])

        assert state(caller.pool, "a").failed == 1

    def test_what_the_caller_is_told_is_not_withdrawn(self, a_caller):
        lost = Outcome(blame=Blame.ENDPOINT, label="500", status=500, is_failure=True, may_be_poison=True, result="r")

        ending = a_caller("a", "b").call([lost, lost]).ending

        assert (ending.outcome.label, ending.outcome.status, ending.outcome.result) == ("500", 500, "r")

    def test_other_failures_between_do_not_make_it_innocent(self, a_caller):
        caller = a_caller(*"abcd", max_attempts=4)

        assert caller.call([LOST, BAD_GATEWAY, LOST]).asked == ["a", "b", "c"]

    def test_a_failure_that_says_nothing_of_the_request_is_no_suspicion(self, a_caller):
        assert a_caller("a", "b", "c").call([BAD_GATEWAY, BAD_GATEWAY, SERVED]).asked == ["a", "b", "c"]


class TestBudget:
    def test_a_failover_after_send_costs_a_token(self, a_caller):
        caller = a_caller("a", "b", "c")

        caller.call([BAD_GATEWAY, BAD_GATEWAY, SERVED])

        assert caller.budget.tokens == pytest.approx(198.2)

    def test_without_a_token_the_real_error_surfaces(self, a_caller):
        played = a_caller("a", "b", tokens=0).call([BAD_GATEWAY])

        assert played.asked == ["a"]
        assert played.ending.outcome is BAD_GATEWAY

    def test_a_success_earns_a_fifth_of_a_failover(self, a_caller):
        caller = a_caller("a", "b", tokens=1)
        caller.call([BAD_GATEWAY, SERVED])
        caller.call({"a": SERVED, "b": SERVED})

        assert caller.budget.tokens == pytest.approx(0.4)

    def test_the_last_attempt_costs_nothing(self, a_caller):
        caller = a_caller("a", "b", "c", "d")

        caller.call([BAD_GATEWAY] * 3)

        assert caller.budget.tokens == 198

    def test_always_needs_no_token(self, a_caller):
        assert a_caller("a", "b", tokens=0, after_send=AfterSend.ALWAYS).call([BAD_GATEWAY, SERVED]).asked == ["a", "b"]


class TestAfterSend:
    NEVER = pytest.mark.parametrize(
        ("spec", "wish"),
        [({"after_send": AfterSend.NEVER}, {}), ({}, {"is_stateful": True})],
        ids=["never", "stateful"],
    )

    @NEVER
    @pytest.mark.parametrize("outcome", [LOST, BAD_GATEWAY, unavailable(), CONFLICT], ids=lambda one: one.label)
    def test_a_request_that_may_have_had_effects_is_not_sent_twice(self, a_caller, spec, wish, outcome):
        assert a_caller("a", "b", **spec).call([outcome], **wish).asked == ["a"]

    @NEVER
    @pytest.mark.parametrize("outcome", [busy(3), BAD_KEY, NO_MODEL, REFUSED, CERTIFICATE], ids=lambda one: one.label)
    def test_one_that_certainly_had_none_is(self, a_caller, spec, wish, outcome):
        assert a_caller("a", "b", **spec).call([outcome, SERVED], **wish).asked == ["a", "b"]

    @NEVER
    def test_a_pool_of_one_is_no_exception(self, a_caller, spec, wish):
        assert a_caller("a", **spec).call([LOST], **wish).asked == ["a"]

    @pytest.mark.parametrize("outcome", [LOST, BAD_GATEWAY, busy(3), BAD_KEY, CONFLICT], ids=lambda one: one.label)
    def test_a_body_that_can_be_read_once_is_sent_once(self, a_caller, outcome):
        assert a_caller("a", "b").call([outcome], is_replayable=False).asked == ["a"]

    def test_a_body_that_was_not_read_yet_is_sent_elsewhere(self, a_caller):
        assert a_caller("a", "b").call([REFUSED, SERVED], is_replayable=False).asked == ["a", "b"]


class TestConflict:
    def test_it_is_asked_once_more_at_the_same_endpoint_after_half_a_second(self, a_caller):
        caller = a_caller("a", "b")

        played = caller.call([CONFLICT, SERVED])

        assert (played.asked, played.rests_s) == (["a", "a"], [0.5])
        assert caller.budget.tokens == 200

    def test_the_second_one_is_the_answer(self, a_caller):
        played = a_caller("a", "b").call([CONFLICT, CONFLICT])

        assert played.asked == ["a", "a"]
        assert played.ending.outcome is CONFLICT

    def test_it_changes_nothing_of_the_endpoints_health(self, a_caller):
        caller = a_caller("a", "b")

        for _ in range(30):
            caller.call([CONFLICT, CONFLICT])

        assert state(caller.pool, "a").health is Health.OK

    def test_a_failure_after_it_goes_elsewhere(self, a_caller):
        assert a_caller("a", "b").call([CONFLICT, BAD_GATEWAY, SERVED]).asked == ["a", "a", "b"]

    def test_it_is_not_repeated_beyond_the_deadline(self, a_caller):
        assert a_caller("a", "b").call([CONFLICT], lasts_s=0.4).asked == ["a"]

    def test_where_its_endpoint_is_paused_meanwhile_it_is_not_repeated_elsewhere(self, a_caller):
        caller = a_caller("a", "b")

        def conflict(send):
            caller.pool.lease(only="a").settle(busy(60), 0.1)
            return CONFLICT

        played = caller.call([conflict])

        assert played.asked == ["a"]
        assert played.ending.outcome is CONFLICT


class TestWaiting:
    def all_paused(self, a_caller, *pauses_s, **options):
        names = "abc"[: len(pauses_s)]
        caller = a_caller(*names, **options)
        for name, pause_s in zip(names, pauses_s, strict=True):
            caller.pool.lease(only=name).settle(busy(pause_s), 0.1)
        return caller

    def test_a_busy_endpoint_is_not_waited_for_where_another_is_free(self, a_caller):
        caller = self.all_paused(a_caller, 3)
        caller.pool.swap([an_endpoint("a"), an_endpoint("b")])

        assert caller.call([SERVED]).rests_s == []

    def test_where_all_are_paused_the_earliest_end_is_waited_for(self, a_caller):
        played = self.all_paused(a_caller, 30, 3).call([SERVED])

        assert (played.asked, played.rests_s) == (["b"], [3])

    def test_an_endpoint_that_was_busy_may_be_asked_again_when_its_pause_is_over(self, a_caller):
        played = a_caller("a", "b").call([busy(1), busy(30), SERVED])

        assert played.asked == ["a", "b", "a"]
        assert played.rests_s == [pytest.approx(0.9)]

    def test_more_than_five_seconds_are_not_waited(self, a_caller):
        played = self.all_paused(a_caller, 30, 5.1).call([])

        assert (played.asked, played.rests_s) == ([], [])
        assert played.ending.unavailable.wait_s == pytest.approx(5.1)
        assert not played.ending.is_overdue

    def test_where_all_that_were_asked_are_busy_it_says_when_the_first_is_free(self, a_caller):
        played = a_caller("a", "b", "c").call([busy(30), busy(7), busy(12)])

        assert played.ending.unavailable.wait_s == pytest.approx(6.9)
        assert set(played.ending.unavailable.reasons) == {"a", "b", "c"}

    def test_where_another_is_free_but_may_not_be_asked_any_more_it_says_nothing_of_it(self, a_caller):
        played = a_caller("a", "b", "c", max_attempts=2).call([busy(30), busy(7)])

        assert played.ending.unavailable is None

    def test_five_seconds_are_the_most_of_a_call_and_not_of_a_rest(self, a_caller):
        played = a_caller("a").call([busy(3), busy(3)])

        assert played.rests_s == [3]
        assert played.ending.outcome == busy(3)
        assert played.ending.unavailable.wait_s == 3

    def test_nobody_waits_beyond_the_deadline(self, a_caller):
        played = self.all_paused(a_caller, 3, 3).call([], lasts_s=3)

        assert played.rests_s == []
        assert played.ending.unavailable.wait_s == 3

    def test_a_disabled_endpoint_is_not_waited_for(self, a_caller):
        caller = a_caller("a", "b")
        caller.call([BAD_KEY, BAD_KEY])

        assert caller.call([]).rests_s == []

    def test_an_endpoint_that_this_call_has_tried_is_not_waited_for(self, a_caller):
        played = a_caller("a", "b").call([unavailable(retry_after_s=1), unavailable(retry_after_s=1)])

        assert (played.asked, played.rests_s) == (["a", "b"], [])


class TestDeadline:
    def test_every_attempt_is_told_when_the_call_is_over(self, a_caller, clock):
        ends = []

        def fails(send):
            ends.append(send.ends_at_s)
            return BAD_GATEWAY

        ends_at_s = clock() + 9
        a_caller("a", "b", "c").call([fails] * 3, lasts_s=9)

        assert ends == [ends_at_s] * 3

    def test_after_it_no_other_endpoint_is_asked(self, a_caller):
        played = a_caller("a", "b").call([BAD_GATEWAY], takes_s=9, lasts_s=9)

        assert played.asked == ["a"]
        assert played.ending.is_overdue

    def test_a_failure_before_it_is_not_overdue(self, a_caller):
        assert not a_caller("a").call([CALLERS]).ending.is_overdue

    def test_an_answer_that_comes_after_it_is_an_answer(self, a_caller):
        ending = a_caller("a").call([SERVED], takes_s=9, lasts_s=9).ending

        assert (ending.outcome, ending.is_overdue) == (SERVED, False)


class TestClosing:
    def test_a_story_that_is_closed_while_an_attempt_is_under_way_gives_its_place_back(self, a_caller):
        caller = a_caller("a", "b")
        before = caller.pool.snapshot()
        story = caller.story()
        step = next(story)
        assert isinstance(step, Send)

        story.close()

        assert caller.pool.snapshot() == before
        assert step.lease._is_settled

    @pytest.mark.parametrize(
        "script",
        [
            [],
            [BAD_GATEWAY],
            [CONFLICT],
            [CONFLICT, None],
            [busy(1), busy(1)],
            [busy(1), busy(1), None],
        ],
        ids=["sent", "sent elsewhere", "resting", "sent again", "waiting", "sent after waiting"],
    )
    def test_a_story_that_is_closed_at_any_point_has_nothing_in_flight(self, a_caller, script):
        caller = a_caller("a", "b")
        story = caller.story()
        step = next(story)
        for outcome in script:
            step = story.send(outcome)
            if isinstance(step, Rest):
                caller.clock.advance(step.seconds)

        story.close()

        assert [one.in_flight for one in caller.pool.snapshot()] == [0, 0]

    def test_a_story_that_never_began_has_leased_nothing(self, a_caller):
        caller = a_caller("a")
        caller.story().close()

        assert state(caller.pool, "a").in_flight == 0

    def test_a_story_that_is_forgotten_gives_its_place_back(self, a_caller):
        caller = a_caller("a", "b")
        story = caller.story()
        next(story)

        del story
        gc.collect()

        assert state(caller.pool, "a").in_flight == 0

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, GeneratorExit])
    def test_what_the_player_throws_in_settles_the_lease_as_cancelled_and_goes_on(self, a_caller, error):
        caller = a_caller("a", "b")
        before = caller.pool.snapshot()
        story = caller.story()
        next(story)

        with pytest.raises(error):
            story.throw(error())

        assert caller.pool.snapshot() == before

    def test_a_stop_iteration_that_is_thrown_in_is_not_taken_for_an_answer(self, a_caller):
        caller = a_caller("a", "b")
        story = caller.story()
        next(story)

        with pytest.raises(RuntimeError, match="StopIteration"):
            story.throw(StopIteration("no ending"))

        assert state(caller.pool, "a").in_flight == 0

    def test_a_stop_iteration_of_the_sender_is_not_taken_for_an_answer(self, a_caller):
        caller = a_caller("a", "b")

        def send(step):
            raise StopIteration("no ending")

        with pytest.raises(StopIteration, match="no ending"):
            drive(caller.story(), send)

        assert state(caller.pool, "a").in_flight == 0

    def test_an_attempt_without_an_outcome_was_cancelled(self, a_caller):
        with closing(a_caller("a", "b").story()) as story:
            next(story)
            with pytest.raises(StopIteration) as end:
                story.send(None)

        assert end.value.value.outcome is CANCELLED

    @pytest.mark.parametrize("seed", range(3))
    def test_however_many_are_closed_anywhere_nothing_stays_in_flight_and_nobody_is_ill(self, a_pool, clock, seed):
        chance = random.Random(seed)
        caller = Caller(a_pool("a", "b", "c"), clock)

        for _ in range(300):
            story = caller.story()
            step, outcome = next(story), None
            while chance.random() < 0.6:
                clock.advance(0.01)
                outcome = chance.choice([SERVED, CALLERS, CONFLICT]) if isinstance(step, Send) else None
                try:
                    step = story.send(outcome)
                except StopIteration:
                    break
            story.close()

        assert [(one.in_flight, one.health) for one in caller.pool.snapshot()] == [(0, Health.OK)] * 3
        assert all(isinstance(caller.pool.lease(), Lease) for _ in range(3))


def test_the_stories_of_one_call_bring_down_two_endpoints_between_them(a_caller):
    caller, tally = a_caller("a", "b", "c", "d"), Tally()

    first = caller.call([LOST, SERVED], tally=tally)
    second = caller.call([LOST, SERVED], tally=tally)

    assert len(first.asked) == 2
    assert len(second.asked) == 1  # it met the second, and no third is asked
    assert tally.suspicions == 2


def test_of_many_threads_no_more_begin_than_one_request_may_bring_down():
    tally, spec, begun = Tally(threading.Lock()), CallSpec(max_attempts=100), []
    threads = [threading.Thread(target=lambda: begun.append(tally.begins(spec))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(begun) == spec.poisoned
