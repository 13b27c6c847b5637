"""What must not leave, does not leave: demands of trust hold whoever makes them, and whatever fails."""

from __future__ import annotations

import asyncio

import openai
import pytest

from llmwire.container import AllEndpointsFailed, NoRoute
from llmwire.services import BulkSpec, routed
from llmwire.services.bulk.batches import BatchSpec

from .callers import embedding, saying, text_of
from .pools import is_async, repeated
from .routes import IBAN, IBAN_PATTERN, ROUTING_S, Heard, at, lane, to, too_long, under, where
from .servers import refuse

SECRET = f"Close the account {IBAN}."


def asks_by_header(text):
    return saying(text, extra_headers={"x-llmwire-trust": "local"})


def asks_by_block(text):
    return under(saying(text), trust="local")


#: who demands it: the rules, the pools and how the request is made
DEMANDS = {
    "a header": ([], {}, asks_by_header),
    "a block": ([], {}, asks_by_block),
    "a route": ([to("default", pattern=IBAN_PATTERN, trust="local")], {}, saying),
    "a pool": ([], {"default": {"trust": "local"}}, saying),
    "a route to a pool": ([to("inside", pattern=IBAN_PATTERN, trust="local")], {}, saying),
    "a pool that a route names": ([to("inside", pattern=IBAN_PATTERN)], {"inside": {"trust": "local"}}, saying),
}


@pytest.fixture(params=DEMANDS, ids=lambda name: name)
def demanded(request, serve, contain):
    """A container with a trusted and an untrusted server, in both pools; the demand; the servers."""
    routes, pools, ask = DEMANDS[request.param]
    vendor, ours = serve(), serve()
    endpoints = {
        "vendor": at(vendor, "default", "inside", trust="vendor"),
        "ours": at(ours, "default", "inside", trust="local"),
    }
    return contain(completion=lane(endpoints, *routes, pools=pools)), ask(SECRET), vendor, ours


def test_a_demand_of_trust_is_met(demanded, caller):
    container, ask, vendor, ours = demanded

    answer = caller.run(container, ask)

    assert text_of(answer) == SECRET
    assert (len(vendor.seen), len(ours.seen)) == (0, 1)


def test_where_the_trusted_server_is_down_nobody_else_is_asked_and_the_error_says_why(demanded, caller):
    container, ask, vendor, ours = demanded
    ours.stop()

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(container, ask)

    cause = caught.value.__cause__
    assert isinstance(cause, AllEndpointsFailed)
    assert {attempt.endpoint for attempt in cause.attempts} == {"ours"}
    assert cause.reasons["vendor"] == "outside of the trust that is demanded (local): it is vendor"
    assert vendor.seen == []


def test_where_the_trusted_server_is_busy_nobody_else_is_asked(demanded, caller):
    container, ask, vendor, ours = demanded
    ours.answer = refuse(429, headers={"retry-after": "60"})

    [first, second] = caller.run(container, repeated(ask, 2))

    assert isinstance(first, openai.RateLimitError)
    assert isinstance(second, openai.RateLimitError)
    assert vendor.seen == []


def test_an_endpoint_without_a_label_meets_no_demand(serve, contain, caller):
    bare = serve()
    container = contain(completion=lane({"bare": at(bare)}))

    with pytest.raises(NoRoute) as caught:
        caller.run(container, asks_by_block(SECRET))

    assert caught.value.reasons == {"bare": "outside of the trust that is demanded (local): it is without a label"}
    assert SECRET not in str(caught.value)
    assert bare.seen == []


def test_one_of_several_labels_will_do(serve, contain, caller):
    eu, us = serve(), serve()
    container = contain(completion=lane({"us": at(us, trust="us"), "eu": at(eu, trust="eu")}))

    for demand in ("local,eu", ["eu", "local"]):
        caller.run(container, under(saying(SECRET), trust=demand))

    assert (len(us.seen), len(eu.seen)) == (0, 2)


def test_every_demand_holds_and_those_that_exclude_each_other_leave_nobody(serve, contain, caller):
    eu, us = serve(), serve()
    route = to("default", keywords="account", trust=["us", "eu"])
    container = contain(completion=lane({"us": at(us, trust="us"), "eu": at(eu, trust="eu")}, route))

    caller.run(container, under(under(saying(SECRET), trust="eu"), trust="eu,local"))
    with pytest.raises(NoRoute, match="exclude each other"):
        caller.run(container, under(saying(SECRET), trust="local"))

    assert (len(us.seen), len(eu.seen)) == (0, 1)


@pytest.mark.parametrize("blank", ["", " , "])
def test_a_header_that_demands_trust_but_names_no_label_opens_nothing(serve, contain, caller, blank):
    server = serve()
    container = contain(completion=lane({"vendor": at(server, trust="vendor")}))

    with pytest.raises(NoRoute):
        caller.run(container, saying(SECRET, extra_headers={"x-llmwire-trust": blank}))

    assert server.seen == []


def test_no_name_of_a_pool_leads_out_of_the_trust_of_a_route(serve, contain, caller):
    vendor, ours = serve(), serve()
    endpoints = {"vendor": at(vendor, "big", trust="vendor"), "ours": at(ours, trust="local")}
    container = contain(completion=lane(endpoints, to("default", pattern=IBAN_PATTERN, trust="local")))

    with pytest.raises(NoRoute):
        caller.run(
            container,
            lambda client: client.chat.completions.create(model="big", messages=[{"role": "user", "content": SECRET}]),
        )

    assert vendor.seen == ours.seen == []


def test_no_name_of_an_endpoint_leads_out_of_the_trust_of_a_caller(serve, contain, caller):
    vendor, ours = serve(), serve()
    container = contain(completion=lane({"vendor": at(vendor, trust="vendor"), "ours": at(ours, trust="local")}))
    ask = saying(SECRET, extra_headers={"x-llmwire-only": "vendor", "x-llmwire-trust": "local"})

    with pytest.raises(NoRoute, match="the completion endpoint vendor is vendor, not local"):
        caller.run(container, ask)

    assert vendor.seen == []


def test_a_larger_pool_without_the_trust_is_not_asked(serve, contain, caller):
    small, large = serve(too_long), serve()
    endpoints = {"small": at(small, trust="local"), "large": at(large, "large", trust="vendor")}
    container = contain(completion=lane(endpoints, to("default", on_context_length="large")))

    with pytest.raises(openai.BadRequestError):
        caller.run(container, asks_by_block(SECRET))

    assert (len(small.seen), large.seen) == (1, [])


def test_failover_stays_inside_of_the_pool(serve, contain, caller):
    down, standby, outside = serve(refuse(503)), serve(), serve()
    endpoints = {"outside": at(outside), "down": at(down, "pair"), "standby": at(standby, "pair")}
    container = contain(completion=lane(endpoints, to("pair", name="pairs", tags="pair")))
    ask = under(saying("hi"), tags="pair")

    assert where(caller, container, ask) == ("pair", "pairs", "standby")
    standby.stop()
    with pytest.raises(openai.OpenAIError):
        caller.run(container, ask)

    assert outside.seen == []


# How a refusal reaches those who asked.


@pytest.fixture
def refusing(serve, contain):
    server = serve()
    table = lane({"vendor": at(server, trust="vendor")})
    return contain(completion=table, embedding=table), server


def test_who_may_ask_nobody_hears_it_from_the_client_at_once(refusing, caller):
    container, server = refusing

    with pytest.raises(NoRoute) as caught:
        caller.run(container, asks_by_block(SECRET), retries=2)

    assert str(caught.value).startswith("no completion endpoint of the pool default may have this request: vendor is")
    assert server.seen == []


def test_the_services_raise_it_as_it_is(refusing):
    container, server = refusing

    async def asynchronous():
        with pytest.raises(NoRoute):
            await container.async_completion_service().complete(SECRET)
        with pytest.raises(NoRoute):
            await container.async_embedding_service().embed([SECRET])
        await container.aclose()

    with routed(trust="local"):
        with pytest.raises(NoRoute):
            container.completion_service().complete(SECRET)
        with pytest.raises(NoRoute):
            list(container.completion_service().stream(SECRET))
        with pytest.raises(NoRoute):
            container.embedding_service().embed([SECRET])
        asyncio.run(asynchronous())

    assert server.seen == []


# Where a block reaches.


def test_a_block_reaches_the_threads_that_embed_many(serve, contain):
    vendor, ours = serve(), serve()
    endpoints = {"vendor": at(vendor, trust="vendor"), "ours": at(ours, trust="local")}
    service = contain(embedding=lane(endpoints)).embedding_service()
    bulk = BulkSpec(batches=BatchSpec(max_inputs=2))

    with routed(trust="local"):
        blocks = list(service.embed_many([f"text {number}" for number in range(40)], bulk=bulk))

    assert sum(len(block.vectors) for block in blocks) == 40
    assert len(ours.seen) >= 20
    assert vendor.seen == []


def test_a_block_reaches_the_tasks_that_embed_many(serve, contain):
    vendor, ours = serve(), serve()
    endpoints = {"vendor": at(vendor, trust="vendor"), "ours": at(ours, trust="local")}
    container = contain(embedding=lane(endpoints))
    bulk = BulkSpec(batches=BatchSpec(max_inputs=2))

    async def main():
        service = container.async_embedding_service()
        with routed(trust="local"):
            async for _ in service.embed_many([f"text {number}" for number in range(40)], bulk=bulk):
                pass
        await container.aclose()

    asyncio.run(main())

    assert len(ours.seen) >= 20
    assert vendor.seen == []


def test_a_block_reaches_the_tasks_that_are_started_inside_and_no_others(serve, contain):
    vendor, ours = serve(), serve()
    endpoints = {"vendor": at(vendor, trust="vendor"), "ours": at(ours, trust="local")}
    container = contain(completion=lane(endpoints))

    async def main():
        client = container.async_completion_client()
        with routed(trust="local"):
            inside = [asyncio.create_task(saying("inside")(client)) for _ in range(5)]
        outside = [asyncio.create_task(saying("outside")(client)) for _ in range(5)]
        await asyncio.gather(*inside, *outside)

    asyncio.run(main())

    assert [seen.body["messages"][0]["content"] for seen in ours.seen] == ["inside"] * 5
    assert [seen.body["messages"][0]["content"] for seen in vendor.seen] == ["outside"] * 5


def test_a_stream_is_read_where_it_was_asked_for_also_after_its_block(serve, contain, caller):
    vendor, ours = serve(), serve()
    endpoints = {"vendor": at(vendor, trust="vendor"), "ours": at(ours, trust="local")}

    def ask(client):
        coming = under(saying("one two", stream=True), trust="local")(client)
        return read(coming) if is_async(client) else list(coming)

    async def read(coming):
        return [chunk async for chunk in await coming]

    chunks = caller.run(contain(completion=lane(endpoints)), ask)

    assert len(chunks) == 3
    assert (len(ours.seen), vendor.seen) == (1, [])


# The embedding that asks for a meaning.


def test_a_text_is_embedded_for_its_meaning_only_where_its_caller_trusts(serve, contain, caller):
    vendor, ours, answering = serve(), serve(), serve()
    container = contain(
        completion=lane(
            {"answering": at(answering, trust="local")},
            to("default", examples=["An example."], threshold=-1.0),
            routing_timeout_s=ROUTING_S,
        ),
        embedding=lane({"vendor": at(vendor, trust="vendor"), "ours": at(ours, trust="local")}),
    )

    caller.run(container, asks_by_block(SECRET))

    assert len(answering.seen) == 1
    assert any(IBAN.encode() in seen.content for seen in ours.seen)
    assert not any(IBAN.encode() in seen.content for seen in vendor.seen)


def test_where_no_embedding_endpoint_is_trusted_the_text_stays_and_the_completion_arrives(serve, contain, caller):
    vendor, answering = serve(), serve()
    container = contain(
        completion=lane(
            {"answering": at(answering, trust="local")},
            to("default", name="like", examples=["An example."], threshold=-1.0),
            routing_timeout_s=ROUTING_S,
        ),
        embedding=lane({"vendor": at(vendor, trust="vendor")}),
    )
    heard = Heard(container)

    answer = caller.run(container, asks_by_block(SECRET))

    assert text_of(answer) == SECRET
    assert heard.failed == [("like", "the embedding failed: NoRoute")]
    assert not any(IBAN.encode() in seen.content for seen in vendor.seen)


def test_a_route_that_demands_trust_before_keeps_a_text_from_being_embedded(serve, contain, caller):
    meaning, ours = serve(), serve()
    container = contain(
        completion=lane(
            {"ours": at(ours, trust="local")},
            to("default", pattern=IBAN_PATTERN, trust="local"),
            to("default", examples=["An example."], threshold=-1.0),
            routing_timeout_s=ROUTING_S,
        ),
        embedding=lane({"meaning": at(meaning)}),
    )

    caller.run(container, saying(SECRET))

    assert (len(ours.seen), meaning.seen) == (1, [])


def test_embeddings_obey_a_block_and_a_header_too(serve, contain, caller):
    vendor, ours = serve(), serve()
    container = contain(embedding=lane({"vendor": at(vendor, trust="vendor"), "ours": at(ours, trust="local")}))

    caller.run(container, under(embedding(SECRET), trust="local"), function="embedding")
    caller.run(container, embedding(SECRET, extra_headers={"x-llmwire-trust": "local"}), function="embedding")

    assert sum(IBAN.encode() in seen.content for seen in ours.seen) == 2
    assert vendor.seen == []
