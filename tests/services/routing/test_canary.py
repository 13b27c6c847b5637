"""Before an endpoint's first vector is used, it has shown that it is of the pool's space: once, and in one order."""

from __future__ import annotations

import random
import threading
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.budget import Budget, BudgetSpec
from llmwire.services.routing.canary import CANARY_S, LONG_S, MAX_KINDS, POLL_S, Canaries, may_differ
from llmwire.services.routing.failover import CallSpec, Rest, Send, Wish, failover
from llmwire.services.routing.outcome import Blame, Outcome
from llmwire.services.routing.pool import Pool, Selection

from .actors import BAD_GATEWAY, CALLERS, LOST, REFUSED, SERVED, Clock, Drawn, an_endpoint, busy, play

FOREIGN = Outcome(blame=Blame.ENDPOINT, label="WrongSpace", is_failure=True, disable_s=300.0)
INTERNAL_ERROR = Outcome(blame=Blame.ENDPOINT, label="500", status=500, is_failure=True)
DEADLINE_S = 30.0


class Embedding:
    """A pool whose endpoints must show their space."""

    def __init__(self, *names, **spec):
        self.clock, self.spec = Clock(), CallSpec(**spec)
        self.pool = Pool(
            [an_endpoint(name, function="embedding") for name in names],
            clock=self.clock,
            randomness=random.Random(1),
            make_lock=threading.RLock,
            listener=lambda event: None,
        )
        self.known = {}
        self.canaries = Canaries(
            self.known.__contains__, lambda: next(iter(self.known), None), clock=self.clock, make_lock=threading.Lock
        )
        self.budget = Budget(BudgetSpec(), clock=self.clock, make_lock=threading.Lock)

    def story(self, kind="k", **wish):
        return failover(
            self.pool,
            Wish(ends_at_s=self.clock() + DEADLINE_S, canary=kind, **wish),
            spec=self.spec,
            budget=self.budget,
            clock=self.clock,
            randomness=Drawn(0.5),
            canaries=self.canaries,
        )

    def call(self, answer=lambda send: SERVED, kind="k", **wish):
        """Plays a call; gives what was sent, as in `a*` for a canary and `a` for the caller's own, and the ending."""
        sent = []

        def told(send):
            sent.append(send.lease.endpoint.name + "*" * send.is_canary)
            return self.noted(send, answer(send))

        played = play(self.story(kind, **wish), dict.fromkeys(self.names, told), clock=self.clock)
        return sent, played.ending

    def noted(self, send, outcome):
        """As the transport does: the first canary that is answered is the reference."""
        if send.is_canary and outcome.has_served:
            self.known.setdefault(send.canary)
        return outcome

    @property
    def names(self):
        return [state.name for state in self.pool.snapshot()]

    def health(self, name):
        return next(str(state.health) for state in self.pool.snapshot() if state.name == name)


def foreign(*names):
    """Canaries of these endpoints are not of the pool's space."""
    return lambda send: FOREIGN if send.is_canary and send.lease.endpoint.name in names else SERVED


def failing(**outcomes):
    """These endpoints answer nothing but that."""
    return lambda send: outcomes.get(send.lease.endpoint.name, SERVED)


def test_the_first_call_asks_the_first_endpoint_that_was_named_to_show_itself():
    for _ in range(10):
        sent, _ = Embedding("a", "b", "c").call()

        assert sent == ["a*", "a"]


def test_each_endpoint_shows_itself_once():
    embedding = Embedding("a", "b", "c")

    sent = [each for _ in range(100) for each in embedding.call()[0]]

    assert sorted(each for each in sent if each.endswith("*")) == ["a*", "b*", "c*"]
    assert all(sent.index(f"{name}*") == sent.index(name) - 1 for name in "abc")


def test_each_kind_of_request_is_shown_apart():
    embedding = Embedding("a", "b")
    embedding.call(kind="k")

    assert embedding.call(kind="another")[0] == ["a*", "a"]


def test_an_endpoint_of_another_space_gives_nothing_and_is_disabled():
    embedding = Embedding("a", "b", "c")

    sent = [each for _ in range(100) for each in embedding.call(foreign("b"))[0]]

    assert "b" not in sent
    assert embedding.health("b") == "disabled"
    assert embedding.health("c") == "ok"


def test_a_call_that_meets_another_space_is_answered_by_the_next_endpoint():
    embedding = Embedding("a", "b")
    embedding.call()

    endings = [embedding.call(foreign("b"))[1] for _ in range(20)]

    assert all(ending.outcome.has_served for ending in endings)
    assert {attempt.label for ending in endings for attempt in ending.attempts} == {"served", "WrongSpace"}


def test_a_disabled_endpoint_shows_itself_again_before_it_is_used():
    embedding = Embedding("a", "b")
    for _ in range(20):
        embedding.call(foreign("b"))
    embedding.clock.advance(301)

    sent = [each for _ in range(20) for each in embedding.call()[0]]

    assert sent[0] == "b*"
    assert "b" in sent


def test_an_endpoint_whose_breaker_opened_shows_itself_again():
    embedding = Embedding("a", "b")
    for _ in range(20):
        embedding.call()
    for _ in range(20):
        embedding.pool.lease(only="b").settle(BAD_GATEWAY, 0.1)
    embedding.clock.advance(61)

    sent = [each for _ in range(30) for each in embedding.call()[0]]

    assert sent.count("b*") == 1
    assert sent.index("b*") < sent.index("b")
    assert "a*" not in sent


def test_where_the_first_named_is_down_the_next_gives_the_reference():
    sent, _ = Embedding("a", "b", "c").call(failing(a=REFUSED))

    assert sent == ["a*", "b*", "b"]


def test_a_canary_that_failed_is_the_attempt_and_is_asked_again_later():
    embedding = Embedding("a", "b")

    sent, ending = embedding.call(failing(a=LOST))

    assert sent == ["a*", "b*", "b"]
    assert [attempt.label for attempt in ending.attempts] == ["ReadError", "served"]
    assert "a*" in [each for _ in range(20) for each in embedding.call()[0]]


def test_a_request_that_no_server_takes_is_told_to_its_caller_and_shows_nothing():
    embedding = Embedding("a", "b")

    sent, ending = embedding.call(lambda send: CALLERS)

    assert (sent, ending.outcome.label) == (["a*"], "400")
    assert embedding.call()[0] == ["a*", "a"]


def test_while_the_first_of_all_shows_itself_other_calls_wait():
    embedding = Embedding("a", "b")
    with closing(embedding.story()) as first, closing(embedding.story()) as second:
        assert first.send(None).is_canary

        rest = second.send(None)
        embedding.known["k"] = None
        own = first.send(SERVED)
        after = second.send(None)

    assert rest == Rest(POLL_S)
    assert (own.lease.endpoint.name, own.is_canary) == ("a", False)
    assert isinstance(after, Send)


def test_while_a_further_one_shows_itself_other_calls_go_to_those_that_have():
    embedding = Embedding("a", "b")
    embedding.call()
    while True:
        story = embedding.story()
        if story.send(None).is_canary:
            break
        story.close()

    sent = [each for _ in range(20) for each in embedding.call()[0]]

    assert set(sent) == {"a"}
    story.close()


def test_a_call_does_not_wait_for_the_canary_of_one_that_it_may_never_ask():
    embedding = Embedding("a", "b")
    embedding.call()
    embedding.pool.lease(only="a").settle(busy(60), 0.1)
    while True:
        other = embedding.story(among=Selection(names=frozenset({"b"})))
        if other.send(None).is_canary:
            break
        other.close()

    sent, ending = embedding.call(among=Selection(names=frozenset({"a"})))

    assert sent == []
    assert not ending.is_overdue
    assert set(ending.unavailable.reasons) == {"a"}
    other.close()


def test_a_call_that_waits_longer_than_it_has_time_says_for_what():
    embedding = Embedding("a")
    with closing(embedding.story()) as first:
        first.send(None)

        _, ending = embedding.call()

    assert ending.is_overdue
    assert ending.outcome is None
    assert "being checked" in ending.unavailable.reasons["a"]


def test_a_call_that_is_given_up_in_mid_canary_holds_nothing():
    embedding = Embedding("a", "b")
    story = embedding.story()
    story.send(None)

    story.close()

    assert embedding.canaries.asked("k") == frozenset()
    assert all(state.in_flight == 0 for state in embedding.pool.snapshot())


def test_in_a_child_process_nobody_is_being_asked():
    embedding = Embedding("a", "b")
    story = embedding.story()
    story.send(None)

    embedding.canaries.renew_after_fork()

    assert embedding.call()[0] == ["a*", "a"]
    story.close()


def test_made_up_kinds_fill_no_memory():
    embedding = Embedding("a", "b")

    for number in range(MAX_KINDS + 5):
        embedding.call(kind=f"kind {number}")

    assert all(len(member.verified) <= MAX_KINDS for member in embedding.pool._members)


def test_for_a_later_kind_an_endpoint_first_shows_itself_for_the_first():
    embedding = Embedding("a", "b")
    embedding.call(kind="first")

    sent, _ = embedding.call(failing(a=REFUSED), kind="later")

    assert sent == ["a*", "b*", "b*", "b"]  # of b: for the first kind, and then the reference of the later one


def test_an_endpoint_of_another_space_never_gives_the_reference_of_a_later_kind():
    embedding = Embedding("a", "b")
    embedding.call(kind="first")

    sent, ending = embedding.call(lambda send: REFUSED if send.lease.endpoint.name == "a" else FOREIGN, kind="later")

    assert sent == ["a*", "b*"]
    assert not ending.outcome.has_served
    assert "later" not in embedding.known


def test_where_the_first_does_not_answer_its_canary_the_next_call_asks_another():
    embedding = Embedding("a", "b")
    hung = embedding.story()
    assert hung.send(None).lease.endpoint.name == "a"
    hung.close()  # its caller had less time

    sent, _ = embedding.call()

    assert sent == ["b*", "b"]


def test_a_canary_has_little_time_of_its_own():
    embedding = Embedding("a", "b")
    with closing(embedding.story()) as story:
        send = story.send(None)

    assert send.ends_at_s == embedding.clock() + CANARY_S < embedding.clock() + DEADLINE_S


def test_nobody_waits_long_for_the_first_reference():
    embedding = Embedding("a", "b")
    with closing(embedding.story()) as hung:
        hung.send(None)
        embedding.clock.advance(LONG_S)

        sent, _ = embedding.call()

    assert sent == ["b*", "b"]


def test_one_that_did_not_answer_its_canary_is_asked_again_in_a_while_or_where_no_other_can_answer():
    embedding = Embedding("a", "b")
    hung = embedding.story()
    hung.send(None)
    hung.close()

    assert embedding.call(failing(b=REFUSED))[0] == ["b*", "a*", "a"]


def test_a_canary_is_no_text_of_the_callers_and_blames_none_of_them():
    embedding = Embedding("a", "b", "c", poisoned=1)

    sent, ending = embedding.call(lambda send: LOST if send.lease.endpoint.name != "c" else SERVED)

    assert sent == ["a*", "b*", "c*", "c"]
    assert ending.outcome.has_served


def test_an_endpoint_that_failed_shows_itself_again_unless_it_only_said_500():
    for outcome, shows in ((LOST, True), (BAD_GATEWAY, True), (INTERNAL_ERROR, False)):
        embedding = Embedding("a", "b")
        embedding.call()
        embedding.pool.lease(only="a").settle(outcome, 0.1)

        embedding.clock.advance(100)
        sent = [each for _ in range(10) for each in embedding.call()[0]]

        assert ("a*" in sent) is shows


@pytest.mark.parametrize(
    ("others", "differ"),
    [
        ({"base_url": "http://a:8000/v1"}, False),
        ({"base_url": "http://b:8000/v1"}, True),
        ({"base_url": "http://a:8000/other/v1"}, True),
        ({"base_url": "http://a:8000/v1", "model": "m"}, True),
        ({"base_url": "http://a:8000/v1", "deployment": "d"}, True),
        ({"base_url": "http://a:8000/v1", "weight": 2.0}, False),
    ],
    ids=str,
)
def test_two_keys_of_one_server_cannot_differ_anything_else_can(others, differ):
    assert may_differ([an_endpoint("a"), an_endpoint("b", **others)]) is differ


@given(
    seed=st.integers(0, 2**32),
    foreigners=st.sets(st.sampled_from("bcd")),
    steps=st.lists(st.sampled_from(["begin", "serve", "lose", "refuse", "give up"]), max_size=80),
)
def test_however_calls_interleave_no_vector_comes_from_an_endpoint_that_has_not_shown_itself(seed, foreigners, steps):
    embedding, chance = Embedding("a", "b", "c", "d"), random.Random(seed)
    open_calls = []
    shown = set()

    def answer(send, step):
        name = send.lease.endpoint.name
        if send.is_canary:
            if step == "serve" and name not in foreigners:
                shown.add(name)
                return SERVED
            return FOREIGN if step == "serve" else {"lose": LOST, "refuse": REFUSED}[step]
        assert name in shown
        assert name not in foreigners
        return {"serve": SERVED, "lose": LOST, "refuse": REFUSED}[step]

    for step in steps:
        if step == "begin":
            story = embedding.story()
            open_calls.append([story, story.send(None)])
        elif open_calls:
            number = chance.randrange(len(open_calls))
            story, sent = open_calls[number]
            if step == "give up":
                story.close()
                del open_calls[number]
                continue
            embedding.clock.advance(0.02)
            try:
                outcome = None if isinstance(sent, Rest) else embedding.noted(sent, answer(sent, step))
                open_calls[number][1] = story.send(outcome)
            except StopIteration:
                del open_calls[number]
    for story, _ in open_calls:
        story.close()

    assert all(state.in_flight == 0 for state in embedding.pool.snapshot())
    assert embedding.canaries.asked("k") == frozenset()


def test_a_call_without_a_kind_shows_nothing():
    embedding = Embedding("a", "b")

    sent, _ = embedding.call(kind=None)

    assert not sent[0].endswith("*")
