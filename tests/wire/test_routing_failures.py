"""No rule loses a call: one that cannot be decided counts as one that does not hold, and somebody is told of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from dependency_injector import providers

from llmwire.container import NoRoute
from llmwire.services import recorded
from llmwire.services.events import AttemptEnded

from .callers import SYNC, embedding, saying, text_of
from .pools import is_async, repeated
from .routes import ROUTING_S, Heard, after, at, lane, to, under, where
from .servers import hang, refuse, trickle_body, vectors

CATASTROPHIC = r"(a|aa)+$"
STUMBLING_BLOCK = "a" * 20_000 + "b"
LIMIT_S = 1.0
MUCH_LATER_S = 8.0  #: what no call takes that does not wait for a server that hangs


@pytest.fixture
def two(serve, contain):
    """A container with the routes of a test, an endpoint in the default pool and one in the pool `other`."""

    def two(*routes, embedding=None, **function):
        plain, other = serve(), serve()
        endpoints = {"plain": at(plain, trust="vendor"), "other": at(other, "other", trust="local")}
        tables = {"completion": lane(endpoints, *routes, **function)}
        container = contain(**tables, **({} if embedding is None else {"embedding": embedding}))
        return container, Heard(container), plain, other

    return two


# Patterns, predicates, and what cannot be read.


def test_a_pattern_that_takes_too_long_is_given_up_and_the_call_goes_on(two, caller):
    container, heard, plain, _ = two(to("other", name="bad", pattern=CATASTROPHIC))
    began_at_s = time.monotonic()

    answer = caller.run(container, saying(STUMBLING_BLOCK))

    assert time.monotonic() - began_at_s < MUCH_LATER_S
    assert text_of(answer) == STUMBLING_BLOCK
    assert len(plain.seen) == 1
    assert heard.failed == [("bad", "its pattern took too long")]
    assert heard.routed == [(None, "default", False)]


def broken(facts):
    raise KeyError(facts.user)


def test_a_predicate_that_raises_is_one_that_does_not_hold(two, caller):
    container, heard, plain, _ = two(to("other", name="bad", predicate=broken), to("other", name="good", tags="never"))

    caller.run(container, saying("a secret"))

    assert len(plain.seen) == 1
    assert heard.failed == [("bad", "its predicate raised KeyError")]
    assert "secret" not in repr(heard.events)


def test_a_predicate_sees_what_is_asked_and_decides(two, caller):
    container, heard, plain, other = two(
        to("other", predicate=lambda facts: facts.body["temperature"] == 0 and facts.messages == 1)
    )

    caller.run(container, saying("cold", temperature=0))
    caller.run(container, saying("warm", temperature=1))

    assert [seen.body["temperature"] for seen in other.seen] == [0]
    assert [seen.body["temperature"] for seen in plain.seen] == [1]
    assert heard.failed == []


def test_a_predicate_may_be_named_and_given_to_the_container(serve, contain, caller):
    plain, other = serve(), serve()
    endpoints = {"plain": at(plain), "other": at(other, "other")}
    container = contain(completion=lane(endpoints, to("other", predicate="asks")))
    container.predicates.override(providers.Object({"asks": lambda facts: facts.user.endswith("?")}))

    assert where(caller, container, saying("Is it?"))[2] == "other"
    assert where(caller, container, saying("It is."))[2] == "plain"


@pytest.mark.parametrize("condition", [{"pattern": CATASTROPHIC}, {"predicate": broken}], ids=["pattern", "predicate"])
def test_a_boundary_does_not_open_as_its_rule_breaks(two, caller, condition):
    container, heard, plain, other = two(to("other", trust="local", **condition))

    with pytest.raises(NoRoute):
        caller.run(container, saying(STUMBLING_BLOCK))

    assert plain.seen == other.seen == []
    assert heard.routed == [(None, None, False)]


def test_the_next_rule_is_asked_where_one_cannot_be_decided(two, caller):
    container, heard, *_ = two(to("other", name="bad", predicate=broken), to("other", name="good"))

    assert where(caller, container, saying("hi")) == ("other", "good", "other")
    assert heard.failed == [("bad", "its predicate raised KeyError")]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": 7},
        {"messages": [None, 3, {"role": 5}, {"role": "user"}, {"role": "user", "content": [[], {"type": 1}]}]},
        {"messages": "x", "model": ["m"], "stream": "yes", "tools": 1, "max_tokens": "many", "response_format": []},
        [],
        "text",
    ],
    ids=["nothing", "a number", "odd messages", "odd fields", "a list", "a text"],
)
def test_a_body_of_any_shape_reaches_a_server_which_is_to_refuse_it(serve, contain, caller, body):
    server = serve(refuse(422))
    everything = to(
        "other",
        min_tokens=1,
        keywords="x",
        pattern="x+",
        has_images=True,
        script="Latin",
        model="m*",
    )
    endpoints = {"plain": at(server, context_length=100), "other": at(server, "other")}
    container = contain(completion=lane(endpoints, everything))

    [error] = caller.run(
        container, repeated(lambda client: client.post("/chat/completions", cast_to=object, body=body), 1)
    )

    assert error.status_code == 422
    assert len(server.seen) == 1


def test_a_listener_that_raises_at_a_decision_changes_nothing(serve, contain, caller):
    container = contain(completion=lane({"plain": at(serve())}, to("default", predicate=broken), to("default")))

    def listener(event):
        raise RuntimeError("the listener is broken")

    container.listener.override(providers.Object(listener))

    assert text_of(caller.run(container, saying("hi"))) == "hi"


# An embedding endpoint that does not answer as it should.


LIKE = {"name": "like", "examples": ["An example."], "threshold": -1.0}


def refused_by_stopping(serve):
    server = serve()
    server.stop()
    return server


def answering(answer):
    return lambda serve: serve(answer)


def wrong_numbers(exchange):
    body = vectors(exchange.seen.body)
    exchange.json({**body, "data": body["data"] * 2})


TROUBLES = {
    "down": refused_by_stopping,
    "hung": answering(hang),
    "trickling": answering(trickle_body),
    "slow": answering(after(30)),
    "broken": answering(refuse(500)),
    "without a key": answering(refuse(401)),
    "busy": answering(refuse(429, headers={"retry-after": "60"})),
    "another server": answering(lambda exchange: exchange.send(b"<html>", headers={"content-type": "text/html"})),
    "wrong": answering(wrong_numbers),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=list(TROUBLES))
def test_a_completion_arrives_whatever_becomes_of_the_embedding(two, serve, caller, trouble):
    knowing = lane({"knowing": at(trouble(serve))})
    container, heard, plain, _ = two(to("other", **LIKE), embedding=knowing, routing_timeout_s=LIMIT_S)
    began_at_s = time.monotonic()

    answers = caller.run(container, repeated(saying("a secret"), 2))

    assert [text_of(answer) for answer in answers] == ["a secret"] * 2
    assert time.monotonic() - began_at_s < 2 * LIMIT_S + MUCH_LATER_S
    assert len(plain.seen) == 2
    assert [route for route, _ in heard.failed] == ["like"] * 2
    assert "secret" not in repr(heard.events)


def test_the_limit_holds_for_each_call_and_is_kept_also_by_many_at_once(two, serve, contain):
    knowing = lane({"knowing": at(serve(hang))})
    container, heard, plain, _ = two(to("other", **LIKE), embedding=knowing, routing_timeout_s=LIMIT_S)

    async def main():
        client = container.async_completion_client()
        return await asyncio.gather(*(saying(f"text {number}")(client) for number in range(50)))

    began_at_s = time.monotonic()
    answers = asyncio.run(main())

    assert time.monotonic() - began_at_s < LIMIT_S + MUCH_LATER_S
    assert len(answers) == len(plain.seen) == 50
    assert [problem for _, problem in heard.failed] == ["no embedding within 1 s"] * 50


def test_the_decision_is_told_with_its_time(two, serve, caller):
    knowing = lane({"knowing": at(serve(hang))})
    container, heard, *_ = two(to("other", **LIKE), embedding=knowing, routing_timeout_s=LIMIT_S)

    caller.run(container, saying("hi"))

    [event] = [event for event in heard.events if type(event).__name__ == "RequestRouted"]
    assert LIMIT_S * 0.9 < event.took_s < LIMIT_S + MUCH_LATER_S


def test_without_an_embedding_endpoint_in_the_settings_a_semantic_route_never_holds(two, caller):
    container, heard, plain, _ = two(to("other", **LIKE), routing_timeout_s=ROUTING_S)

    caller.run(container, saying("hi"))

    assert len(plain.seen) == 1
    [(route, problem)] = heard.failed
    assert route == "like"
    assert problem.endswith(" failed: ConfigError")


def test_a_semantic_route_that_is_undecided_still_demands_its_trust(two, serve, caller):
    knowing = lane({"knowing": at(serve(refuse(500)))})
    container, _, plain, other = two(to("other", trust="local", **LIKE), embedding=knowing, routing_timeout_s=LIMIT_S)

    with pytest.raises(NoRoute):
        caller.run(container, saying("hi"))

    assert plain.seen == other.seen == []


def test_an_embedding_that_came_too_late_is_there_for_the_next_call(two, serve, caller):
    knowing = lane({"knowing": at(serve(slow_vectors))})
    container, heard, plain, other = two(to("other", **LIKE), embedding=knowing, routing_timeout_s=LIMIT_S)

    def ask(client):
        if is_async(client):
            return both(client)
        first = saying("hi")(client)
        wait_for_vectors(heard)
        return first, saying("hi")(client)

    async def both(client):
        first = await saying("hi")(client)
        await asyncio.to_thread(wait_for_vectors, heard)
        await asyncio.sleep(0.05)  # for the task that was told to put it down
        return first, await saying("hi")(client)

    caller.run(container, ask)

    assert (len(plain.seen), len(other.seen)) == (1, 1)


def slow_vectors(exchange):
    if not exchange.stopping.wait(2 * LIMIT_S):
        exchange.json(vectors(exchange.seen.body))


def wait_for_vectors(heard):
    """Until the examples and the text are embedded."""

    def are_there(heard):
        embedded = [event for event in heard.of(AttemptEnded) if event.function == "embedding" and event.status == 200]
        return len(embedded) >= 2

    heard.wait_until(are_there, "two answers of the embedding endpoint")


# Shadow mode.


def test_a_route_in_shadow_mode_is_told_and_not_followed(two, caller):
    container, heard, _, other = two(to("other", name="new", keywords="word", mode="shadow"), to("default", name="old"))

    assert where(caller, container, saying("a word")) == ("default", "old", "plain")
    assert heard.routed == [("old", "default", False), ("new", "other", True)]
    assert other.seen == []


def test_all_routes_of_a_function_may_be_in_shadow_mode(two, caller):
    container, heard, *_ = two(to("other", name="new", keywords="word"), to("other", name="x"), routing="shadow")

    assert where(caller, container, saying("a word")) == ("default", None, "plain")
    assert where(caller, container, saying("none")) == ("default", None, "plain")
    assert heard.routed == [
        (None, "default", False),
        ("new", "other", True),
        (None, "default", False),
        ("x", "other", True),
    ]


def test_a_shadow_route_demands_no_trust(two, caller):
    container, heard, *_ = two(to("other", name="new", trust="local", mode="shadow"))

    assert where(caller, container, saying("hi"))[2] == "plain"
    assert heard.routed == [(None, "default", False), ("new", "other", True)]


def test_a_shadow_that_would_leave_nobody_is_told(two, caller):
    container, heard, *_ = two(to("other", name="new", trust="local", mode="shadow"))

    caller.run(container, under(saying("hi"), trust="vendor"))

    assert heard.routed == [(None, "default", False), (None, None, True)]


def test_a_shadow_route_that_cannot_be_decided_is_told_once(two, caller):
    container, heard, plain, _ = two(to("other", name="bad", predicate=broken, mode="shadow"), to("default"))

    caller.run(container, saying("hi"))

    assert heard.failed == [("bad", "its predicate raised KeyError")]
    assert len(plain.seen) == 1


def shadow_is_told(heard):
    return any(is_shadow for _, _, is_shadow in heard.routed)


def with_shadow(heard):
    """Asks, and waits until the shadow's decision is told, the event loop running all the while."""

    def ask(client):
        if is_async(client):
            return awaited(client)
        answer = saying("hi")(client)
        heard.wait_until(shadow_is_told, "a decision of a shadow")
        return answer

    async def awaited(client):
        answer = await saying("hi")(client)
        await asyncio.to_thread(heard.wait_until, shadow_is_told, "a decision of a shadow")
        return answer

    return ask


def test_a_semantic_route_in_shadow_mode_is_told_when_the_vectors_are_there(two, serve, caller):
    knowing = serve()
    container, heard, plain, other = two(
        to("other", **LIKE, mode="shadow"), embedding=lane({"knowing": at(knowing)}), routing_timeout_s=ROUTING_S
    )

    caller.run(container, with_shadow(heard))

    assert heard.routed == [(None, "default", False), ("like", "other", True)]
    assert (len(plain.seen), len(other.seen)) == (1, 0)
    assert knowing.seen


def test_nobody_waits_for_the_meaning_that_a_shadow_asks_for(two, serve, caller):
    container, _, plain, _ = two(
        to("other", **LIKE, mode="shadow"), embedding=lane({"knowing": at(serve(hang))}), routing_timeout_s=20
    )
    began_at_s = time.monotonic()

    caller.run(container, saying("hi"))

    assert time.monotonic() - began_at_s < MUCH_LATER_S
    assert len(plain.seen) == 1


def test_calls_inside_of_a_record_are_the_caller_s_own(two, serve, caller):
    container, *_ = two(to("other", **LIKE), embedding=lane({"knowing": at(serve())}), routing_timeout_s=ROUTING_S)

    with recorded() as calls:
        caller.run(container, saying("hi"))

    assert [(call.function, call.route) for call in calls] == [("completion", "like")]


def test_what_is_embedded_by_its_caller_asks_for_no_meaning(two, serve):
    knowing = serve()
    container, heard, *_ = two(to("other", **LIKE), embedding=lane({"knowing": at(knowing)}))

    SYNC.run(container, embedding("hi"), function="embedding")

    assert len(knowing.seen) == 1
    assert [event.is_for_routing for event in heard.of(AttemptEnded)] == [False]
