"""What a request says chooses its pool, below a plain client of the SDK: each lands where the rules send it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import openai
import pytest

from app_example.routing import CASES, served
from llmwire.container import NoRoute
from llmwire.services import recorded, routed
from llmwire.services.events import CallEnded
from llmwire.services.routing.hedging import MIN_SAMPLES
from llmwire.services.testing import FaultServer

from .callers import embedding, saying, text_of, vectors_of
from .pools import MODEL, TEXTS, is_async, repeated
from .routes import Heard, after, at, lane, to, too_long, under, where
from .servers import numbers_of, refuse, speak

LONG = "word " * 2_000  #: about 2,500 tokens by the estimate


# The twelve requests of the example, in each way in which they may be made.


@pytest.fixture(scope="module")
def site():
    with served() as site:
        yield site


def chatting(case):
    return lambda client: client.chat.completions.create(**case.request)


def streaming(case):
    def ask(client):
        coming = client.chat.completions.create(stream=True, **case.request)
        return read(coming) if is_async(client) else list(coming)

    async def read(coming):
        return [chunk async for chunk in await coming]

    return ask


def responding(case):
    """The same request to the other API."""
    [message] = case.request["messages"]
    asked = {"model": case.request["model"], "input": [{"role": "user", "content": parts_of(message["content"])}]}
    if form := case.request.get("response_format"):
        asked["text"] = {"format": {"type": "json_schema", **form["json_schema"]}}
    return lambda client: client.responses.create(**asked)


def parts_of(content):
    if isinstance(content, str):
        return content
    text, picture = content
    return [
        {"type": "input_text", "text": text["text"]},
        {"type": "input_image", "image_url": picture["image_url"]["url"]},
    ]


@pytest.mark.parametrize("form", [chatting, streaming, responding])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about)
def test_each_request_lands_where_the_rules_say(site, caller, case, form):
    before = site.received()

    landed = where(caller, site.container, under(form(case), tags=case.tags, trust=case.trust))

    asked = {name for name, count in site.received().items() if count > before[name]}
    assert landed == (case.pool, case.route, case.endpoint)
    assert case.endpoint in asked
    assert asked <= {case.endpoint, "short"}
    assert asked == {case.endpoint} or case.about == "more tokens than estimated"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about)
def test_the_router_explains_what_then_happens(site, case):
    explained = site.container.completion.router().explain(case.request, tags=case.tags, trust=case.trust)

    assert explained.pool == ("default" if case.about == "more tokens than estimated" else case.pool)
    assert set(explained.candidates) >= {case.endpoint} or explained.larger == case.pool


def test_the_answer_says_its_pool_and_its_route(site, caller):
    [case] = [case for case in CASES if case.about == "a picture"]

    raw = caller.run(site.container, lambda client: client.chat.completions.with_raw_response.create(**case.request))

    named = {name: value for name, value in raw.headers.items() if name.startswith("x-llmwire-")}
    assert named == {
        "x-llmwire-endpoint": "completion/vision",
        "x-llmwire-attempts": "1",
        "x-llmwire-degraded": "false",
        "x-llmwire-pool": "completion/vision",
        "x-llmwire-route": "pictures",
    }


def test_requests_of_many_threads_land_right():
    def ask_all(client):
        landed = []
        for number in range(50):
            case = CASES[number % len(CASES)]
            with routed(tags=case.tags, trust=case.trust), recorded() as calls:
                client.chat.completions.create(**case.request)
            landed.append((case.endpoint, calls[-1].endpoint))
        return landed

    with served() as site:
        client = site.container.completion_client()
        with ThreadPoolExecutor(8) as pool:
            landed = [pair for pairs in pool.map(lambda _: ask_all(client), range(8)) for pair in pairs]

    assert len(landed) == 400
    assert [pair for pair in landed if pair[0] != pair[1]] == []


def test_requests_of_many_tasks_land_right(site):
    async def ask(client, case):
        with routed(tags=case.tags, trust=case.trust), recorded() as calls:
            await client.chat.completions.create(**case.request)
        return case.endpoint, calls[-1].endpoint

    async def main():
        client = site.container.async_completion_client()
        return await asyncio.gather(*(ask(client, CASES[number % len(CASES)]) for number in range(60)))

    assert [pair for pair in asyncio.run(main()) if pair[0] != pair[1]] == []


# Embeddings.


@pytest.fixture
def embedding_lane(serve, contain):
    """A container with four pools for embeddings; gives it and their servers by name."""

    def embedding_lane(**function):
        names = ("plain", "many", "long", "german", "tagged")
        servers = {name: serve() for name in names}
        endpoints = {name: at(server, *([] if name == "plain" else [name])) for name, server in servers.items()}
        routes = [
            to("tagged", tags="tagged"),
            to("many", min_inputs=3),
            to("long", min_input_tokens=100),
            to("german", language="de"),
        ]
        return contain(embedding=lane(endpoints, *routes, **function)), servers

    return embedding_lane


@pytest.mark.parametrize(
    ("texts", "tags", "pool"),
    [
        (["one"], "", "default"),
        (["one", "two", "three"], "", "many"),
        (["one", "word " * 120], "", "long"),
        (["Die Katze schläft heute den ganzen Tag auf dem warmen Ofen."], "", "german"),
        (["one", "two", "three"], "tagged", "tagged"),
    ],
    ids=["plain", "many", "long", "german", "tagged"],
)
def test_texts_are_embedded_by_the_pool_that_their_rules_name(embedding_lane, caller, texts, tags, pool):
    container, servers = embedding_lane()

    with recorded() as calls:
        answer = caller.run(container, under(embedding(*texts), tags=tags), function="embedding")

    asked = {name for name, server in servers.items() if server.seen}
    assert vectors_of(answer) == [numbers_of(text) for text in texts]
    assert [call.pool for call in calls] == [pool]
    assert asked == {"plain" if pool == "default" else pool}


def test_a_slow_endpoint_is_hedged_by_one_of_its_own_pool_only(trio, contain, caller):
    a, b, c = trio.servers
    endpoints = {"other": at(c), "slow": at(a, "pair"), "quick": at(b, "pair")}
    container = contain(embedding=lane(endpoints, to("pair", tags="pair"), hedge=0.5))
    ask = under(lambda client: client.embeddings.create(model=MODEL, input=TEXTS), tags="pair")
    caller.run(container, repeated(ask, MIN_SAMPLES), function="embedding")
    trio.script(["hang"])
    count = trio.counted()

    with recorded() as calls:
        caller.run(container, ask, function="embedding")

    assert [(call.endpoint, call.is_hedged, call.pool) for call in calls] == [("quick", True, "pair")]
    assert count()["c"] == 0


def test_an_endpoint_that_is_alone_in_its_pool_is_never_hedged(trio, contain, caller):
    a, b, c = trio.servers
    endpoints = {"slow": at(a, "alone"), "quick": at(b), "other": at(c)}
    container = contain(embedding=lane(endpoints, to("alone", tags="alone"), hedge=0.5))
    ask = under(lambda client: client.embeddings.create(model=MODEL, input=TEXTS), tags="alone")
    caller.run(container, repeated(ask, MIN_SAMPLES), function="embedding")
    trio.script(["slow:0.3"])
    count = trio.counted()

    with recorded() as calls:
        caller.run(container, ask, function="embedding")

    assert [(call.endpoint, call.is_hedged) for call in calls] == [("slow", False)]
    assert count() == {"a": 1, "b": 0, "c": 0}


def test_a_canary_goes_only_to_an_endpoint_that_may_have_the_request(serve, contain, caller):
    ours, theirs = serve(), serve()
    endpoints = {"theirs": at(theirs, model="m2"), "ours": at(ours, "inside", model="m1", trust="ours")}
    container = contain(embedding=lane(endpoints, to("inside", tags="inside"), space="s"))

    for block in ({"tags": "inside"}, {"tags": "inside", "trust": "ours"}):
        caller.run(container, under(embedding("a secret"), **block), function="embedding")

    assert len(ours.seen) > 2  # with canaries
    assert theirs.seen == []


# Headers of ours.


ASKING = {"x-llmwire-tags": "cheap,eu", "X-LLMWire-Trust": "ours"}


@pytest.mark.parametrize(
    ("function", "ask"),
    [
        ("completion", lambda client, headers: saying("hi", extra_headers=headers)(client)),
        ("completion", lambda client, headers: client.responses.create(model="m", input="hi", extra_headers=headers)),
        (
            "completion",
            lambda client, headers: client.completions.create(model="m", prompt="hi", extra_headers=headers),
        ),
        ("completion", lambda client, headers: client.with_options(default_headers=headers).models.list()),
        ("embedding", lambda client, headers: embedding("one", "two", extra_headers=headers)(client)),
        ("embedding", lambda client, headers: embedding("one")(client.with_options(default_headers=headers))),
    ],
    ids=["chat", "responses", "completions", "models", "embeddings", "embeddings by default"],
)
def test_what_is_asked_of_llmwire_reaches_no_server(serve, contain, caller, function, ask):
    failing, serving = serve(refuse(503)), serve()
    endpoints = {"a": at(failing, trust="ours"), "b": at(serving, trust="ours")}
    container = contain(**{function: lane(endpoints, to("default", tags=["cheap", "eu"]))})

    caller.run(container, lambda client: ask(client, ASKING), function=function)

    seen = [*failing.seen, *serving.seen]
    assert failing.seen
    assert serving.seen
    assert [name for each in seen for name in each.headers if name.startswith("x-llmwire")] == []
    assert not any(b"cheap" in each.content for each in seen)


def test_tags_of_a_header_count_as_those_of_a_block_do(serve, contain, caller):
    plain, cheap = serve(), serve()
    container = contain(
        completion=lane({"plain": at(plain), "cheap": at(cheap, "cheap")}, to("cheap", tags=["cheap", "eu"]))
    )
    half = saying("hi", extra_headers={"x-llmwire-tags": "eu"})

    assert where(caller, container, half)[2] == "plain"
    assert where(caller, container, under(half, tags="cheap"))[2] == "cheap"


# A pool in the place of a model.


def test_a_pool_that_is_named_in_the_place_of_a_model_gets_its_own_model(serve, contain, caller):
    plain, big, bare = serve(), serve(), serve()
    endpoints = {"plain": at(plain), "big": at(big, "big", model="llama-70b"), "bare": at(bare, "bare")}
    container = contain(completion=lane(endpoints))

    for name in ("big", "bare", "gpt-4"):
        caller.run(container, lambda client, name=name: client.chat.completions.create(model=name, messages=said("hi")))

    models = [[seen.body["model"] for seen in server.seen] for server in (plain, big, bare)]
    assert models == [["gpt-4"], ["llama-70b"], ["the-model"]]


def said(text):
    return [{"role": "user", "content": text}]


def test_a_pool_may_be_named_for_responses_and_embeddings_too(serve, contain, caller):
    plain, big = serve(), serve()
    endpoints = {"plain": at(plain), "big": at(big, "big", model="its-own")}
    container = contain(completion=lane(endpoints), embedding=lane(endpoints, space="s"))

    caller.run(container, lambda client: client.responses.create(model="big", input="hi"))
    answer = caller.run(
        container, lambda client: client.embeddings.create(model="big", input=["one"]), function="embedding"
    )

    assert vectors_of(answer) == [numbers_of("one")]
    assert plain.seen == []
    assert {seen.body["model"] for seen in big.seen} == {"its-own"}


@pytest.mark.parametrize(
    ("settings", "deployment"),
    [({"deployment": "our-gpt"}, "our-gpt"), ({}, "the-model")],
    ids=["its deployment", "the function's model"],
)
def test_azure_is_asked_for_a_deployment_and_never_for_the_pool(serve, contain, caller, settings, deployment):
    azure, plain = serve(), serve()
    its = {"endpoint": azure.url, "api_key": "azure-key", "api_version": "2024-10-21", **settings}
    endpoints = {"plain": at(plain), "deployed": {"azure": its, "pools": ["eu"]}}
    container = contain(completion=lane(endpoints))

    caller.run(container, lambda client: client.chat.completions.create(model="eu", messages=said("hi")))

    [seen] = azure.seen
    assert seen.target == f"/openai/deployments/{deployment}/chat/completions?api-version=2024-10-21"
    assert plain.seen == []


# Requests that are too long.


@pytest.fixture
def faulty():
    """Starts servers with faults: `faulty("429")`."""
    with ExitStack() as stack:
        yield lambda *script: stack.enter_context(FaultServer(*script))


TOO_LONG = "400:code=context_length_exceeded"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_what_a_server_finds_too_long_goes_to_the_larger_pool_once(faulty, contain, caller, stream):
    small, large, larger = faulty(TOO_LONG), faulty(), faulty()
    endpoints = {"small": at(small), "large": at(large, "large"), "larger": at(larger, "large")}
    container = contain(completion=lane(endpoints, to("default", name="all", on_context_length="large")))

    landed = where(caller, container, whole(saying("hi", stream=stream)))

    assert landed == ("large", "all", "large")
    assert [len(server.requests) for server in (small, large, larger)] == [1, 1, 0]


@pytest.mark.parametrize("hedge", [0.0, 0.5])
def test_texts_that_are_too_long_for_one_embedding_model_go_to_the_larger_pool(faulty, contain, caller, hedge):
    small, large = faulty(TOO_LONG), faulty()
    endpoints = {"small": at(small), "large": at(large, "large")}
    route = to("default", name="all", on_context_length="large")
    container = contain(embedding=lane(endpoints, route, hedge=hedge, canary=False))

    assert where(caller, container, embedding("one", "two"), function="embedding") == ("large", "all", "large")
    assert [len(server.requests) for server in (small, large)] == [1, 1]


def whole(ask):
    """The same, and a stream is read to its end."""

    def asked(client):
        coming = ask(client)
        if is_async(client):
            return read(coming)
        return list(coming) if hasattr(coming, "__stream__") else coming

    async def read(coming):
        answer = await coming
        return [chunk async for chunk in answer] if hasattr(answer, "__aiter__") else answer

    return asked


def test_where_the_larger_pool_finds_it_too_long_too_the_caller_is_told(faulty, contain, caller):
    small, large, larger = faulty(TOO_LONG), faulty(TOO_LONG), faulty(TOO_LONG)
    endpoints = {"small": at(small), "large": at(large, "large"), "larger": at(larger, "large")}
    container = contain(completion=lane(endpoints, to("default", on_context_length="large")))

    with pytest.raises(openai.BadRequestError) as caught:
        caller.run(container, saying("hi"))

    assert caught.value.code == "context_length_exceeded"
    assert [len(server.requests) for server in (small, large, larger)] == [1, 1, 0]
    assert {state.failed for state in container.completion.pool().snapshot()} == {0}


@pytest.mark.parametrize(
    ("fault", "route"),
    [("400:code=invalid_value", to("default", on_context_length="large")), (TOO_LONG, to("default"))],
    ids=["another fault of the request", "no larger pool"],
)
def test_nothing_else_moves_a_request(faulty, contain, caller, fault, route):
    small, large = faulty(fault), faulty()
    container = contain(completion=lane({"small": at(small), "large": at(large, "large")}, route))

    with pytest.raises(openai.BadRequestError):
        caller.run(container, saying("hi"))

    assert large.requests == []


def test_a_request_that_has_moved_has_the_time_of_its_larger_pool(faulty, contain, caller):
    small, large = faulty(TOO_LONG), faulty("slow:1.5")
    settings = lane(
        {"small": at(small), "large": at(large, "large")},
        to("default", on_context_length="large"),
        deadline_s=0.8,
        pools={"large": {"deadline_s": 20}},
    )

    assert where(caller, contain(completion=settings), saying("hi"))[2] == "large"


def test_a_pool_s_own_deadline_ends_its_calls_and_is_named(serve, contain, caller):
    slow = serve(after(20))
    settings = lane(
        {"plain": at(serve()), "slow": at(slow, "slow")},
        to("slow", tags="slow"),
        pools={"slow": {"deadline_s": 0.4}},
    )

    with pytest.raises(openai.APITimeoutError) as caught:
        caller.run(contain(completion=settings), under(saying("hi"), tags="slow"))

    assert "completion.pools.slow.deadline_s" in str(caught.value.__cause__)


def test_a_server_that_is_known_to_be_too_small_is_never_asked(serve, contain, caller):
    small, large = serve(), serve()
    settings = lane(
        {"small": at(small, context_length=1_000), "large": at(large, "large")},
        to("default", name="all", on_context_length="large"),
    )
    container = contain(completion=settings)

    assert where(caller, container, saying(LONG)) == ("large", "all", "large")
    assert where(caller, container, saying("hi", max_completion_tokens=2_000)) == ("large", "all", "large")
    assert small.seen == []
    assert where(caller, container, saying("hi")) == ("default", "all", "small")


def test_where_nobody_can_have_it_the_reasons_say_why(serve, contain, caller):
    small, blind = serve(), serve()
    settings = lane({"small": at(small, context_length=1_000), "blind": at(blind, modalities="text")})
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content = [{"type": "text", "text": LONG}, picture]
    heard = Heard(container := contain(completion=settings))

    with pytest.raises(NoRoute) as caught:
        caller.run(
            container,
            lambda client: client.chat.completions.create(model="m", messages=[{"role": "user", "content": content}]),
        )

    assert caught.value.reasons.keys() == {"small", "blind"}
    assert caught.value.reasons["small"].startswith("too small: it holds 1000 tokens")
    assert caught.value.reasons["blind"] == "unable to take an image"
    assert small.seen == blind.seen == []
    assert [(type(event), event.error, event.attempts) for event in heard.events] == [(CallEnded, "NoRoute", 0)]


def test_a_request_without_a_text_is_of_no_length(serve, contain, caller):
    server = serve()
    container = contain(completion=lane({"a": at(server, context_length=10)}, to("default", min_tokens=5)))

    listed = caller.run(container, lambda client: client.get("/models", cast_to=object))

    assert listed["data"]


def test_an_answer_is_that_of_the_server_of_its_pool(serve, contain, caller):
    container = contain(completion=lane({"plain": at(serve(too_long)), "other": at(serve(speak), "other")}))

    answer = caller.run(container, lambda client: client.chat.completions.create(model="other", messages=said("hello")))

    assert text_of(answer) == "hello"


def test_rules_that_are_switched_off_are_not_asked(serve, contain, caller):
    plain, other = serve(), serve()
    settings = lane({"plain": at(plain), "other": at(other, "other")}, to("other", keywords=["word"]))

    on, off = contain(completion=settings), contain(completion={**settings, "routing": "off"})

    assert where(caller, on, saying("a word"))[2] == "other"
    assert where(caller, off, saying("a word")) == ("default", None, "plain")
