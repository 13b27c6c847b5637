"""Two servers with one name for two models: not one vector of the second is used. Real sockets, sync and async."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from dependency_injector import providers

from llmwire.container import AllEndpointsFailed, LLMContainer, SpaceMismatch
from llmwire.services.events import AttemptEnded, EndpointDisabled
from llmwire.services.routing.member import Health
from llmwire.services.space import CANARY
from llmwire.services.testing.vectors import distinct

DIMENSIONS = 16
TEXTS = [f"text {number}" for number in range(3)]


def model(name="real", *, scale=1.0, dimensions=DIMENSIONS):
    """An answer of a server with this model: another name gives other directions for the same texts."""

    def answer(exchange):
        asked = exchange.seen.body
        rows = [[scale * n for n in distinct(f"{name}: {text}".encode(), dimensions)] for text in asked["input"]]
        data = [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)]
        exchange.json({"object": "list", "model": asked["model"], "data": data, "usage": {"prompt_tokens": 1}})

    return answer


def truth(texts=TEXTS, name="real"):
    return np.array([distinct(f"{name}: {text}".encode(), DIMENSIONS) for text in texts], dtype=np.float32)


def canaries(server):
    return sum(seen.body["input"] == [CANARY] for seen in server.seen)


@pytest.fixture
def pool(serve):
    """Makes a container over servers with these models, in their order."""
    made = []

    def pool(*answers, listener=None, **settings):
        servers = [serve(answer) for answer in answers]
        endpoints = {
            name: {"base_url": server.url, "api_key": f"key-of-{name}"}
            for name, server in zip("abc", servers, strict=False)
        }
        table = {"model": "m", "strategy": "round-robin", "endpoints": endpoints, **settings}
        listening = {} if listener is None else {"listener": providers.Object(listener)}
        made.append(LLMContainer(config={"embedding": table}, env={}, **listening))
        return made[-1], servers

    yield pool
    for container in made:
        container.shutdown_resources()


@pytest.fixture(params=["sync", "async"])
def embed_often(request):
    """The matrices of so many calls through the service, and through the bare client."""

    def sync(container, calls):
        service, client = container.embedding_service(), container.embedding_client()
        return [service.embed(TEXTS) for _ in range(calls)] + [
            _matrix(client.embeddings.create(model="m", input=TEXTS)) for _ in range(calls)
        ]

    def asynchronous(container, calls):
        async def main():
            service, client = container.async_embedding_service(), container.async_embedding_client()
            return [await service.embed(TEXTS) for _ in range(calls)] + [
                _matrix(await client.embeddings.create(model="m", input=TEXTS)) for _ in range(calls)
            ]

        return asyncio.run(main())

    return sync if request.param == "sync" else asynchronous


def _matrix(reply):
    return np.array([item.embedding for item in reply.data], dtype=np.float32)


def state(container, name):
    return next(state for state in container.embedding.pool().snapshot() if state.name == name)


@pytest.mark.parametrize(
    "foreign",
    [model("another"), model(scale=3.0), model(dimensions=8)],
    ids=["another model at the same width", "another scale", "another width"],
)
def test_not_one_vector_comes_from_a_server_with_another_model(pool, embed_often, foreign):
    container, servers = pool(model(), foreign, model())

    matrices = embed_often(container, 20)

    assert all(np.array_equal(matrix, truth()) for matrix in matrices)
    assert [seen.body["input"] for seen in servers[1].seen] == [[CANARY]]  # it was asked for nothing else
    assert state(container, "b").health is Health.DISABLED
    assert len(servers[2].seen) > 5


def test_without_canaries_its_vectors_are_used(pool, embed_often):  # or the test above would prove nothing
    container, servers = pool(model(), model("another"), canary=False)

    matrices = embed_often(container, 20)

    assert not all(np.array_equal(matrix, truth()) for matrix in matrices)
    assert canaries(servers[0]) == canaries(servers[1]) == 0


def test_each_endpoint_is_asked_once_before_its_first_use_with_its_own_key(pool, embed_often):
    container, servers = pool(model(), model())

    embed_often(container, 20)

    for name, server in zip("ab", servers, strict=True):
        assert canaries(server) == 1
        assert server.seen[0].body["input"] == [CANARY]
        assert {seen.header("authorization") for seen in server.seen} == {f"Bearer key-of-{name}"}


def test_a_single_server_is_asked_for_nothing_but_what_the_caller_wants(pool, embed_often):
    container, [server] = pool(model())

    embed_often(container, 3)

    assert canaries(server) == 0


def test_callers_at_once_ask_each_endpoint_once(pool):
    container, servers = pool(model(), model())
    service = container.embedding_service()

    with ThreadPoolExecutor(32) as threads:
        matrices = list(threads.map(lambda _: service.embed(TEXTS), range(100)))

    assert all(np.array_equal(matrix, truth()) for matrix in matrices)
    assert [canaries(server) for server in servers] == [1, 1]


def test_tasks_at_once_ask_each_endpoint_once(pool):
    container, servers = pool(model(), model())

    async def main():
        service = container.async_embedding_service()
        return await asyncio.gather(*(service.embed(TEXTS) for _ in range(100)))

    matrices = asyncio.run(main())

    assert all(np.array_equal(matrix, truth()) for matrix in matrices)
    assert [canaries(server) for server in servers] == [1, 1]


def test_each_kind_of_request_is_asked_for_apart(pool):
    container, servers = pool(model(), model(), strategy="in-order")
    client = container.embedding_client()

    for extra in ({"input_type": "query"}, {"input_type": "passage"}, {"input_type": "query"}):
        client.embeddings.create(model="m", input=TEXTS, user=str(extra), extra_body=extra)

    asked = [seen.body.get("input_type") for seen in servers[0].seen if seen.body["input"] == [CANARY]]
    assert asked == ["query", "passage"]


def test_a_field_that_decides_no_vector_makes_no_kind_and_is_not_in_the_canary(pool):
    container, servers = pool(model(), model("another"))
    client = container.embedding_client()

    for number in range(20):
        client.embeddings.create(model="m", input=TEXTS, extra_body={"trace_id": str(number), "input_type": "query"})

    asked = [seen.body for server in servers for seen in server.seen if seen.body["input"] == [CANARY]]
    assert len(asked) == 2
    assert all(body.keys() == {"model", "input", "encoding_format", "input_type"} for body in asked)
    assert len(servers[1].seen) == 1


def test_where_the_first_is_down_the_next_gives_the_reference_and_the_first_must_fit_it_later(pool, embed_often):
    down = lambda exchange: exchange.json({"error": {"message": "down"}}, status=502)  # noqa: E731
    container, servers = pool(down, model())

    assert all(np.array_equal(matrix, truth()) for matrix in embed_often(container, 3))
    servers[0].answer = model("another")
    assert all(np.array_equal(matrix, truth()) for matrix in embed_often(container, 20))

    assert state(container, "a").health is Health.DISABLED
    assert state(container, "a").reason == "WrongSpace"


def test_where_the_only_one_left_is_of_another_space_the_call_fails_and_says_so(pool):
    container, servers = pool(model(), model("another"), strategy="in-order")
    service = container.embedding_service()
    service.embed(TEXTS)
    servers[0].answer = lambda exchange: exchange.json({"error": {"message": "down"}}, status=502)

    with pytest.raises(AllEndpointsFailed, match="another space than those of a: the canary's cosine is"):
        service.embed(TEXTS)


def test_listeners_are_told_of_canaries_and_of_the_endpoint_that_is_disabled(pool):
    events = []
    container, _ = pool(model(), model("another"), listener=events.append)
    for _ in range(20):
        container.embedding_service().embed(TEXTS)

    ended = [event for event in events if isinstance(event, AttemptEnded)]

    assert [(event.endpoint, event.error) for event in ended if event.is_canary] == [("a", None), ("b", "WrongSpace")]
    assert {event.endpoint for event in ended if not event.is_canary} == {"a"}
    assert [event.reason for event in events if isinstance(event, EndpointDisabled)] == ["WrongSpace"]


def test_an_index_of_another_model_under_the_same_name_is_refused(pool):
    stamped = pool(model())[0].embedding_service().space()
    container, _ = pool(model("another"))

    pool(model())[0].embedding_service().require_space(stamped)
    with pytest.raises(SpaceMismatch, match="another model answers under the same name m"):
        container.embedding_service().require_space(stamped)
    with pytest.raises(SpaceMismatch):
        asyncio.run(container.async_embedding_service().require_space(stamped))
