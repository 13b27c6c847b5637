"""Routes that go by the meaning of a text: the embedding endpoint is asked what it is like."""

from __future__ import annotations

import asyncio

import pytest

from llmwire.container import overriding
from llmwire.services import recorded
from llmwire.services.events import AttemptEnded
from llmwire.services.testing import AsyncFakeEmbeddings, Failure, FakeEmbeddings, StandIn

from .callers import ASYNC, SYNC, saying
from .pools import repeated
from .routes import ROUTING_S, Heard, at, lane, to, where

LAW = ["Is this clause of the contract legally binding?", "Can the landlord end the lease before its term?"]
FOOD = ["How long do potatoes have to boil?", "Which herbs go with roasted lamb?"]
OF_LAW = "Is a clause of the lease legally binding for the landlord?"
OF_FOOD = "How long does lamb with potatoes have to be roasted?"
OF_NEITHER = "Name three rivers."


@pytest.fixture
def knowing():
    with StandIn(functions=("embedding",)) as server:
        yield server


@pytest.fixture
def three(serve, contain, knowing):
    """A container with a pool for law and one for food, and their servers by name."""

    def three(*routes, embedding=True, **function):
        servers = {name: serve() for name in ("plain", "law", "food")}
        endpoints = {name: at(server, *([] if name == "plain" else [name])) for name, server in servers.items()}
        rules = routes or (
            to("law", name="law", examples=LAW, threshold=0.3, top_k=1),
            to("food", name="food", examples=FOOD, threshold=0.3, top_k=1),
        )
        table = lane(endpoints, *rules, **{"routing_timeout_s": ROUTING_S, **function})
        tables = {"embedding": lane({"knowing": at(knowing)})} if embedding else {}
        return contain(completion=table, **tables), servers

    return three


@pytest.mark.parametrize(("text", "pool"), [(OF_LAW, "law"), (OF_FOOD, "food"), (OF_NEITHER, "default")])
def test_a_text_goes_where_what_it_is_like_goes(three, caller, text, pool):
    container, _ = three()

    assert where(caller, container, saying(text))[0] == pool


def test_the_nearest_of_several_routes_wins_whatever_their_order(three, caller):
    container, _ = three(
        to("law", name="law", examples=LAW, threshold=-1.0, top_k=1),
        to("food", name="food", examples=FOOD, threshold=-1.0, top_k=1),
    )

    assert where(caller, container, saying(OF_FOOD))[:2] == ("food", "food")
    assert where(caller, container, saying(OF_LAW))[:2] == ("law", "law")


def test_a_rule_above_decides_first_and_nothing_is_embedded(three, caller, knowing):
    container, _ = three(to("food", tags="eat"), to("law", examples=LAW, threshold=-1.0))

    landed = where(caller, container, saying(OF_LAW, extra_headers={"x-llmwire-tags": "eat"}))

    assert landed[0] == "food"
    assert knowing.requests == []


def test_the_other_conditions_of_a_semantic_route_hold_too(three, caller):
    container, _ = three(to("law", examples=LAW, threshold=-1.0, is_streamed=True))

    assert where(caller, container, saying(OF_LAW))[0] == "default"


def test_the_examples_are_embedded_once_and_a_text_is_remembered(three, caller, knowing):
    container, _ = three()

    caller.run(container, repeated(saying(OF_LAW), 3))

    sent = [request.body["input"] for request in knowing.requests]
    assert sorted(sent, key=len) == [[OF_LAW], LAW + FOOD]


def test_both_clients_share_what_is_known(three, knowing):
    container, _ = three()

    SYNC.run(container, saying(OF_LAW))
    for _ in range(2):  # two event loops
        ASYNC.run(container, saying(OF_LAW))

    assert len(knowing.requests) == 2


def test_only_the_beginning_of_a_long_text_is_embedded(three, caller, knowing):
    container, _ = three()

    caller.run(container, saying(OF_LAW * 500))

    longest = max((text for request in knowing.requests for text in request.body["input"]), key=len)
    assert longest == (OF_LAW * 500)[:2000]


def test_a_request_for_a_meaning_is_told_as_llmwire_s_own(three, caller):
    container, _ = three()
    heard = Heard(container)

    with recorded() as calls:
        caller.run(container, saying(OF_LAW))

    attempts = [(event.function, event.is_for_routing) for event in heard.of(AttemptEnded)]
    assert sorted(attempts) == [("completion", False), ("embedding", True), ("embedding", True)]
    assert [call.function for call in calls] == ["completion"]
    assert heard.routed == [("law", "law", False)]


def test_no_header_of_the_caller_s_goes_to_the_embedding_endpoint(three, caller, knowing):
    container, _ = three()
    headers = {"x-llmwire-tags": "eu", "x-tenant": "acme"}

    caller.run(container, saying(OF_LAW, extra_headers=headers))

    names = {name for request in knowing.requests for name in request.headers}
    assert knowing.requests
    assert not [name for name in names if name.startswith("x-llmwire") or name == "x-tenant"]


def test_an_embedding_pool_with_rules_of_its_own_is_asked_as_ever(serve, contain, caller, knowing):
    plain, other, answering = serve(), knowing, serve()
    container = contain(
        completion=lane(
            {"plain": at(answering), "law": at(answering, "law")},
            to("law", name="law", examples=LAW, threshold=0.3, top_k=1),
            routing_timeout_s=ROUTING_S,
        ),
        embedding=lane({"plain": at(plain), "other": at(other, "other")}, to("other", max_inputs=100)),
    )

    assert where(caller, container, saying(OF_LAW))[1] == "law"
    assert plain.seen == []


# Fakes, without any network.


def fakes(**options):
    return {
        "embedding_client": FakeEmbeddings(**options),
        "async_embedding_client": AsyncFakeEmbeddings(**options),
    }


def test_fakes_in_the_place_of_the_embedding_clients_decide(three, caller, knowing):
    container, _ = three(embedding=False)

    with overriding(container, **fakes()):
        # They know nothing of meaning, but that a text is like itself.
        assert where(caller, container, saying(LAW[0]))[1] == "law"
        assert where(caller, container, saying(FOOD[1]))[1] == "food"

    assert knowing.requests == []


def test_a_fake_that_fails_loses_no_call(three, caller):
    container, _ = three(embedding=False)
    heard = Heard(container)

    with overriding(container, **fakes(failure=Failure(status=503))):
        assert where(caller, container, saying(OF_LAW))[0] == "default"

    assert {route for route, _ in heard.failed} == {"law", "food"}
    assert all(problem.endswith(" failed: InternalServerError") for _, problem in heard.failed)


def test_a_service_in_the_place_of_the_embedding_service_decides(three):
    class Service:
        def embed(self, texts):
            import numpy as np

            return np.array([[1.0, 0.0] if "law" in text or "legal" in text else [0.0, 1.0] for text in texts])

    container, _ = three(to("law", name="law", examples=["legal"], threshold=0.9), embedding=False)

    with overriding(container, embedding_service=Service()):
        assert where(SYNC, container, saying("of law"))[1] == "law"
        assert where(SYNC, container, saying("of bread"))[1] is None


# Explaining.


def test_an_explanation_shows_the_scores_and_sends_nothing_to_a_completion_endpoint(three):
    container, servers = three()

    explained = container.completion.router().explain({"messages": [{"role": "user", "content": OF_LAW}]})

    law, food = explained.rules
    assert (explained.pool, explained.route) == ("law", "law")
    assert (law.verdict, food.verdict) == ("chosen", "missed")
    assert law.score > 0.3 > food.score
    assert all(server.seen == [] for server in servers.values())


def test_an_event_loop_is_not_held_up_by_a_question(three, serve, contain):
    container, _ = three()

    async def main():
        client = container.async_completion_client()
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(saying(f"{OF_LAW} {number}")(client) for number in range(20)))
        ticking.cancel()
        return ticks

    assert asyncio.run(main()) > 20
