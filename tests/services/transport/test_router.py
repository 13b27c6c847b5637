"""A request is read and decided for, and whoever listens is told of it; an explanation shows what then happens."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace

import httpx2
import pytest

from llmwire.services.errors import NoRoute
from llmwire.services.events import RequestRouted, RouteFailed
from llmwire.services.routing.endpoint import Abilities, Endpoint
from llmwire.services.routing.pool import Pool
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import NamedPool, Router, Scores, Unscored
from llmwire.services.transport.call import Call
from llmwire.services.transport.patterns import searching
from llmwire.services.transport.router import EXPLAIN_S, NO_MEANING, LaneRouter, Reading, asks_of
from llmwire.services.wanted import NOTHING, Wanted, routed

PLAIN, LONG, EU = "plain", "long", "eu"
MATHS = Route(name="maths", pool=LONG, examples=("add two numbers",), threshold=0.5)
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Meaning:
    """Knows one answer; keeps what it was asked for."""

    def __init__(self, scores):
        self._scores, self.asked, self.is_renewed = scores, [], False

    def scores(self, text, trust, *, limit_s=None):
        self.asked.append((text, trust, limit_s))
        return self._scores

    def renew_after_fork(self):
        self.is_renewed = True


class Lane:
    """A router over endpoints that are never asked; keeps what is told.

    The endpoint `plain` serves the pool default, `long` the pool long, and `eu`, which is trusted as such, the pool eu.
    """

    def __init__(self, *routes, function="completion", meaning=None, reading=None, abilities=None, **options):
        self.told = []
        endpoints = [
            Endpoint(
                function=function,
                name=name,
                base_url=f"http://{name}.test/v1",
                pools=(pool,),
                trust=trust,
                abilities=Abilities(**(abilities or {}).get(name, {})),
            )
            for name, pool, trust in ((PLAIN, "default", None), (LONG, LONG, None), (EU, EU, EU))
        ]
        pool = Pool(
            endpoints,
            clock=time.monotonic,
            randomness=random.Random(7),
            make_lock=threading.RLock,
            listener=self.told.append,
        )
        rules = Router(routes, compile_pattern=searching, **options)
        self.router = LaneRouter(rules, pool, listener=self.told.append, reading=reading, meaning=meaning)

    def question(self, *, wanted=NOTHING, **fields):
        return self.router.question(a_call(CHAT | fields), wanted)

    def routed(self):
        """What was told of decisions, without their time."""
        return [(one.route, one.pool, one.is_shadow) for one in self.told if isinstance(one, RequestRouted)]

    def failed(self):
        return [(one.route, one.problem) for one in self.told if isinstance(one, RouteFailed)]


def a_call(body, operation="chat/completions", *, headers=()):
    return Call(httpx2.Request("POST", f"http://facade.test/v1/{operation}", json=body, headers=headers), operation)


def broken(facts):
    raise LookupError(facts.user)


# Whether there is anything to ask.


def test_where_every_endpoint_serves_the_pool_default_and_nothing_is_demanded_there_is_no_question():
    endpoints = [Endpoint(function="completion", name=name, base_url="http://a.test/v1") for name in "ab"]
    pool = Pool(endpoints, clock=time.monotonic, randomness=random.Random(7), make_lock=threading.RLock, listener=print)
    router = LaneRouter(Router(compile_pattern=searching), pool, listener=print)

    assert router.question(a_call(CHAT), NOTHING) is None
    assert router.question(a_call(CHAT), Wanted(tags=frozenset({"x"}))) is None
    with pytest.raises(NoRoute):
        router.question(a_call(CHAT), Wanted(trust=frozenset({EU})))


def test_where_endpoints_serve_other_pools_a_request_without_a_route_goes_to_the_pool_default():
    question = Lane().question()

    assert question.open is None
    assert question.decision.choice.among.names == {PLAIN}


# Who is told.


def test_a_decision_is_told_with_its_route_and_its_time():
    lane = Lane(Route(name="tagged", pool=LONG, tags=("x",)))
    began_at_s = time.perf_counter()

    question = lane.question(wanted=Wanted(tags=frozenset({"x"})))

    assert question.decision.choice.among.names == {LONG}
    [event] = lane.told
    assert (event.function, event.route, event.pool, event.is_shadow) == ("completion", "tagged", LONG, False)
    assert 0 < event.took_s <= time.perf_counter() - began_at_s


def test_a_decision_that_no_route_made_is_told_too():
    lane = Lane(Route(name="tagged", pool=LONG, tags=("x",)))

    lane.question()

    assert lane.routed() == [(None, "default", False)]


def test_a_pool_that_the_request_names_is_told_without_a_route():
    lane = Lane(Route(name="all", pool=EU))

    question = lane.question(model=LONG)

    assert question.decision.is_named
    assert lane.routed() == [(None, LONG, False)]


def test_where_a_function_has_no_routes_nothing_is_told():
    lane = Lane()

    lane.question(wanted=NOTHING)
    with pytest.raises(NoRoute):
        lane.question(wanted=Wanted(trust=frozenset({EU})))

    assert lane.told == []


def test_a_request_that_nobody_may_have_is_told_without_a_pool_and_refused():
    lane = Lane(Route(name="all", pool=LONG))

    with pytest.raises(NoRoute) as caught:
        lane.question(wanted=Wanted(trust=frozenset({"local"})))

    assert lane.routed() == [(None, None, False)]
    assert list(caught.value.reasons) == [PLAIN]
    assert list(caught.value.passed) == ["all"]


def test_a_route_that_cannot_be_decided_is_told_before_the_decision_and_never_with_the_request():
    lane = Lane(Route(name="odd", pool=LONG, predicate=broken))

    lane.question()

    assert lane.told[0] == RouteFailed(function="completion", route="odd", problem="its predicate raised LookupError")
    assert lane.routed() == [(None, "default", False)]


def test_a_route_that_cannot_be_decided_is_told_also_where_nobody_may_have_the_request():
    lane = Lane(Route(name="odd", pool=LONG, predicate=broken, trust=("local",)))

    with pytest.raises(NoRoute) as caught:
        lane.question()

    assert lane.failed() == [("odd", "its predicate raised LookupError")]
    assert caught.value.undecided == {"odd": "its predicate raised LookupError"}
    assert lane.routed() == [(None, None, False)]


def test_a_listener_that_raises_changes_no_decision():
    lane = Lane(Route(name="odd", pool=LONG, predicate=broken), Route(name="all", pool=LONG))
    lane.router.listener = broken

    assert lane.question().decision.route == "all"


# Where the meaning of a text decides.


def test_where_the_meaning_decides_a_question_is_open_until_there_are_scores():
    lane = Lane(MATHS)

    question = lane.question()
    assert question.open == Unscored(text="hello", trust=None)
    assert lane.told == []

    question.settle(Scores(by_route={"maths": 0.9}))

    assert question.open is None
    assert question.decision.route == "maths"
    assert lane.routed() == [("maths", LONG, False)]


def test_what_is_embedded_demands_the_trust_of_the_request():
    question = Lane(MATHS).question(wanted=Wanted(trust=frozenset({EU})))

    assert question.open == Unscored(text="hello", trust=frozenset({EU}))


def test_the_wait_for_the_scores_is_of_the_time_of_the_decision():
    lane = Lane(MATHS)
    question = lane.question()
    question._began_at_s -= 60.0

    question.settle(Scores(by_route={"maths": 0.9}))

    assert lane.told[0].took_s >= 60.0


def test_scores_that_are_not_there_in_time_leave_the_route_undecided():
    lane = Lane(MATHS)
    question = lane.question()

    question.settle(Scores(problem="no embedding within 0.15 s"))

    assert question.decision.route is None
    assert lane.failed() == [("maths", "no embedding within 0.15 s")]
    assert lane.routed() == [(None, "default", False)]


def test_scores_may_show_that_nobody_may_have_the_request():
    lane = Lane(Route(name="maths", pool=LONG, examples=("add",), trust=("local",)))
    question = lane.question()

    with pytest.raises(NoRoute):
        question.settle(NO_MEANING)

    assert lane.failed() == [("maths", NO_MEANING.problem)]
    assert lane.routed() == [(None, None, False)]


# What routes in shadow mode would have done.


def test_without_routes_in_shadow_mode_nothing_more_is_told():
    lane = Lane(Route(name="all", pool=LONG))

    assert lane.question().shadow() is None
    assert lane.routed() == [("all", LONG, False)]


def test_a_shadow_is_told_beside_what_is_followed():
    lane = Lane(Route(name="new", pool=LONG, mode=Mode.SHADOW), Route(name="old", pool=EU))
    question = lane.question()

    assert question.shadow() is None

    assert question.decision.choice.among.names == {EU}
    assert lane.routed() == [("old", EU, False), ("new", LONG, True)]


def test_all_routes_of_a_function_may_be_in_shadow_mode():
    lane = Lane(Route(name="all", pool=LONG), mode=Mode.SHADOW)
    question = lane.question()

    question.shadow()

    assert question.decision.choice.among.names == {PLAIN}
    assert lane.routed() == [(None, "default", False), ("all", LONG, True)]


def test_a_shadow_that_would_leave_nobody_is_told_without_a_pool():
    lane = Lane(Route(name="strict", pool=LONG, trust=("local",), mode=Mode.SHADOW))
    question = lane.question()

    question.shadow()

    assert question.decision.choice.among.names == {PLAIN}
    assert lane.routed() == [(None, "default", False), (None, None, True)]


def test_a_shadow_gives_a_text_to_nobody_who_may_not_have_its_request():
    meaning = Meaning(Scores(by_route={"maths": 0.75}))
    shadow = replace(MATHS, mode=Mode.SHADOW)
    lane = Lane(shadow, Route(name="private", pool=EU, trust=(EU,)), meaning=meaning)

    asked = lane.question().shadow()
    lane.router.explain(CHAT)

    assert asked == Unscored(text="hello", trust=frozenset({EU}))
    assert meaning.asked == [("hello", frozenset({EU}), EXPLAIN_S)]


def test_a_shadow_that_cannot_be_decided_is_told():
    lane = Lane(Route(name="odd", pool=LONG, predicate=broken, mode=Mode.SHADOW))
    question = lane.question()
    assert lane.failed() == []

    question.shadow()

    assert lane.failed() == [("odd", "its predicate raised LookupError")]


def test_what_cannot_be_decided_is_told_once_though_a_shadow_meets_it_too():
    lane = Lane(
        Route(name="odd", pool=LONG, predicate=broken),
        Route(name="new", pool=LONG, predicate=broken, mode=Mode.SHADOW),
    )

    lane.question().shadow()

    assert [route for route, _ in lane.failed()] == ["odd", "new"]


def test_a_shadow_whose_meaning_decides_is_told_when_its_scores_are_there():
    lane = Lane(Route(name="new", pool=LONG, examples=("add",), mode=Mode.SHADOW))
    question = lane.question()
    assert question.open is None  # nobody waits for it

    assert question.shadow() == Unscored(text="hello", trust=None)
    assert lane.routed() == [(None, "default", False)]

    assert question.shadow(Scores(by_route={"new": 0.9})) is None
    assert lane.routed() == [(None, "default", False), ("new", LONG, True)]
    assert question.decision.choice.among.names == {PLAIN}


def test_a_shadow_has_the_scores_that_the_request_waited_for():
    lane = Lane(Route(name="new", pool=EU, examples=("add",), mode=Mode.SHADOW), MATHS)
    question = lane.question()
    question.settle(Scores(by_route={"maths": 0.8, "new": 0.9}))

    assert question.shadow() is None

    assert lane.routed() == [("maths", LONG, False), ("new", EU, True)]


# What the headers of one call ask for.


def headers(*pairs):
    return a_call({}, headers=[(f"x-llmwire-{name}", value) for name, value in pairs])


def test_a_call_without_such_headers_asks_for_nothing():
    assert asks_of(headers()) == (frozenset(), None)
    assert asks_of(headers(("only", "a"), ("nonsense", "b"))) == (frozenset(), None)


def test_tags_of_several_headers_are_joined():
    assert asks_of(headers(("tags", "a, b"), ("TAGS", "b,c,"), ("tags", ""))) == (frozenset("abc"), None)


def test_every_demand_of_trust_holds():
    assert asks_of(headers(("trust", "eu,local"), ("Trust", "local, vendor"))) == (frozenset(), frozenset({"local"}))


def test_demands_that_exclude_each_other_are_one_that_nobody_meets():
    assert asks_of(headers(("trust", "eu"), ("trust", "local"))) == (frozenset(), frozenset())


@pytest.mark.parametrize("blank", ["", " ", ",", " , "])
def test_a_demand_of_trust_that_names_no_label_is_one_that_nobody_meets(blank):
    _, trust = asks_of(headers(("trust", blank)))
    assert trust == frozenset()

    with pytest.raises(NoRoute):
        Lane().question(wanted=Wanted(trust=trust))


# Explaining.


@pytest.mark.parametrize(
    ("function", "request_", "operation"),
    [
        ("completion", CHAT, "chat/completions"),
        ("completion", {"model": "m", "messages": [], "extra_body": {"top_k": 3}}, "chat/completions"),
        ("completion", {"model": "m", "input": "hello"}, "responses"),
        ("completion", {"model": "m", "input": "hello", "prompt": {"id": "p1"}}, "responses"),
        ("completion", {"model": "m", "prompt": {"id": "p1"}}, "responses"),
        ("completion", {"model": "m", "prompt": "hello"}, "completions"),
        ("completion", {"model": "m", "prompt": ["a", "b"]}, "completions"),
        ("embedding", {"model": "m", "input": ["hello"]}, "embeddings"),
    ],
)
def test_the_arguments_say_which_request_of_the_sdk_is_meant(function, request_, operation):
    seen = []

    def looked_at(facts):
        seen.append((facts.function, facts.operation))
        return True

    found = Lane(Route(name="all", pool=LONG, predicate=looked_at), function=function).router.explain(request_)

    assert (found.function, found.pool, found.route) == (function, LONG, "all")
    assert set(seen) == {(function, operation)}


@pytest.mark.parametrize(
    ("function", "request_"),
    [
        ("completion", CHAT),
        ("completion", {"model": "m", "input": "hello"}),
        ("completion", {"model": "m", "prompt": "hello"}),
        ("embedding", {"model": "m", "input": ["hello"]}),
    ],
)
def test_what_the_user_says_is_looked_at(function, request_):
    lane = Lane(Route(name="greeting", pool=LONG, keywords=("hello",)), function=function)

    assert lane.router.explain(request_).route == "greeting"


def test_extra_headers_ask_as_those_of_a_call_do():
    lane = Lane(Route(name="tagged", pool=EU, tags=("a", "b")))
    extra = {"X-LLMWire-Tags": "a,b", "x-llmwire-trust": EU}

    found = lane.router.explain({**CHAT, "extra_headers": extra})

    assert (found.route, found.pool, list(found.candidates)) == ("tagged", EU, [EU])


def test_extra_headers_and_arguments_and_the_block_around_all_hold():
    lane = Lane(Route(name="tagged", pool=EU, tags=("a", "b", "c")))

    with routed(tags="a", trust=(EU, "local")):
        found = lane.router.explain({**CHAT, "extra_headers": {"x-llmwire-tags": "b"}}, tags="c", trust=(EU, "x"))

    assert (found.route, list(found.candidates)) == ("tagged", [EU])


def test_extra_body_is_of_the_request_and_wins_over_its_arguments():
    seen = []

    def looked_at(facts):
        seen.append(dict(facts.body))
        return True

    lane = Lane(Route(name="all", pool=LONG, predicate=looked_at))

    lane.router.explain({**CHAT, "extra_body": {"top_k": 3, "model": "other"}, "extra_headers": None})

    assert seen[0] == {**CHAT, "top_k": 3, "model": "other"}


def test_an_explanation_leaves_what_it_is_given_as_it_is():
    given = {**CHAT, "extra_headers": {"x-llmwire-tags": "a"}, "extra_body": {"top_k": 3}}
    copy = {**given, "extra_headers": {"x-llmwire-tags": "a"}, "extra_body": {"top_k": 3}}

    Lane().router.explain(given)

    assert given == copy


def test_an_explanation_tells_no_listener():
    lane = Lane(Route(name="odd", pool=LONG, predicate=broken), Route(name="all", pool=LONG))

    lane.router.explain(CHAT)

    assert lane.told == []


def test_an_explanation_of_what_nobody_may_have_says_why():
    found = Lane().router.explain(CHAT, trust="local")

    assert (found.pool, dict(found.candidates)) == (None, {})
    assert list(found.left_out) == [PLAIN]
    assert "no completion endpoint of the pool default may have this request" in found.problem


def test_an_explanation_embeds_the_user_s_text_with_more_time_than_a_request_has():
    meaning = Meaning(Scores(by_route={"maths": 0.75}))
    lane = Lane(MATHS, meaning=meaning)

    found = lane.router.explain(CHAT, trust=EU)

    assert meaning.asked == [("hello", frozenset({EU}), EXPLAIN_S)]
    assert [rule.score for rule in found.rules] == [0.75]


def test_an_explanation_embeds_no_text_that_a_request_would_not_embed():
    meaning = Meaning(Scores(by_route={"maths": 0.75}))
    private = Route(name="private", pool=LONG, keywords=("hello",))

    found = Lane(private, MATHS, meaning=meaning).router.explain(CHAT)

    assert meaning.asked == []
    assert found.route == "private"


def test_a_request_without_a_text_is_explained_without_its_meaning():
    meaning = Meaning(Scores(by_route={"maths": 0.75}))

    found = Lane(MATHS, meaning=meaning).router.explain({"model": "m", "messages": []})

    assert meaning.asked == []
    assert found.pool == "default"


def test_where_nothing_embeds_an_explanation_says_what_becomes_of_a_request():
    lane = Lane(Route(name="maths", pool=LONG, examples=("add",), trust=(EU,)), Route(name="all", pool=EU))
    question = lane.question()
    question.settle(NO_MEANING)

    found = lane.router.explain(CHAT)

    assert found.route == question.decision.route == "all"
    assert [(rule.verdict, rule.reason) for rule in found.rules] == [
        ("undecided", NO_MEANING.problem),
        ("chosen", ""),
    ]


def test_an_explanation_shows_the_health_of_those_that_may_have_the_request():
    assert dict(Lane().router.explain(CHAT).candidates) == {PLAIN: "ok"}


# How texts are looked at.


def test_tokens_and_languages_are_found_as_the_reading_says():
    reading = Reading(count_tokens=lambda text: 4, detect_language=lambda text: "eo")  # and 4 for the message
    lane = Lane(
        Route(name="far", pool=EU, min_tokens=9),
        Route(name="saluton", pool=LONG, language=("eo",), min_tokens=8),
        reading=reading,
    )

    question = lane.question()

    assert question.decision.route == "saluton"


def test_a_server_that_is_too_small_by_that_count_is_left_out():
    lane = Lane(reading=Reading(count_tokens=lambda text: 5), abilities={PLAIN: {"context_length": 8}})

    with pytest.raises(NoRoute, match="too small: it holds 8 tokens, and the request is about 9"):
        lane.question()


def test_the_trust_of_a_pool_is_demanded_of_what_is_sent_there():
    local = Lane(pools=[NamedPool(name=LONG, trust=frozenset({"local"}))])
    trusted = Lane(pools=[NamedPool(name=EU, trust=frozenset({EU}))])

    with pytest.raises(NoRoute):
        local.question(model=LONG)
    assert trusted.question(model=EU).decision.choice.among.names == {EU}


# After a fork.


def test_a_child_process_renews_what_finds_out_meanings():
    meaning = Meaning(Scores())

    Lane(MATHS, meaning=meaning).router.renew_after_fork()
    Lane().router.renew_after_fork()

    assert meaning.is_renewed


def swapped(lane, *endpoints):
    lane.router.pool.swap(endpoints)


def test_who_may_answer_is_asked_anew_only_after_a_swap():
    lane = Lane(Route(name="all", pool=LONG, min_tokens=0))
    question = lane.question()
    plain, long, eu = lane.router.pool.endpoints
    assert question.renewed() is None

    swapped(lane, plain, replace(long, name="other"), eu)

    assert question.renewed().names == {"other"}
    assert question.renewed() is None
    assert question.decision.choice.among.names == {LONG}


def test_a_call_that_would_go_to_another_pool_by_now_keeps_its_own():
    lane = Lane(Route(name="all", pool=LONG, min_tokens=0))
    question = lane.question()
    plain, _, eu = lane.router.pool.endpoints

    swapped(lane, plain, eu)

    assert question.renewed() is None


def test_where_the_trust_that_is_demanded_is_nobodys_by_now_those_of_before_are_meant():
    lane = Lane(Route(name="all", pool=EU, min_tokens=0))
    question = lane.question(wanted=replace(NOTHING, trust=frozenset({EU})))
    plain, long, _ = lane.router.pool.endpoints

    swapped(lane, plain, long)

    assert question.renewed() is None
