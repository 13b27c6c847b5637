"""Several endpoints behind one client: who is asked, with what, and that nothing else in the application changes."""

from __future__ import annotations

import socket
import threading

import openai
import pytest

from llmwire.container import LLMContainer, NoRoute

from .callers import SYNC, embedding, saying, text_of, vectors_of
from .servers import PATIENCE_S, chat, in_turn, numbers_of, refuse, speak


def a_pool(*servers, **function):
    """The settings of a function with these servers as a, b, c, each with a key of its own, asked in this order."""
    endpoints = {
        name: {"base_url": server.url, "api_key": f"key-of-{name}"}
        for name, server in zip("abcdef", servers, strict=False)
    }
    return {"strategy": "in-order", "endpoints": endpoints, **function}


def test_endpoints_of_the_environment_stand_for_each_other(serve, caller, monkeypatch):
    primary, backup = serve(refuse(503)), serve()
    monkeypatch.setenv("COMPLETION_ENDPOINTS", "primary,backup")
    monkeypatch.setenv("COMPLETION_STRATEGY", "in-order")
    monkeypatch.setenv("COMPLETION_PRIMARY_BASE_URL", primary.url)
    monkeypatch.setenv("COMPLETION_PRIMARY_API_KEY", "primary-key")
    monkeypatch.setenv("COMPLETION_BACKUP_BASE_URL", backup.url)
    monkeypatch.setenv("COMPLETION_BACKUP_API_KEY", "backup-key")
    monkeypatch.setenv("COMPLETION_BACKUP_MODEL", "llama-3-70b")
    container = LLMContainer()

    assert text_of(caller.run(container, saying("hi"))) == "hi"
    container.shutdown_resources()

    assert [seen.header("authorization") for seen in primary.seen] == ["Bearer primary-key"]
    assert [seen.header("authorization") for seen in backup.seen] == ["Bearer backup-key"]
    assert [seen.body["model"] for seen in (*primary.seen, *backup.seen)] == ["a-model", "llama-3-70b"]


def test_azure_and_another_vendor_stand_in_one_pool(serve, contain, caller):
    azure, vendor = serve(refuse(503)), serve()
    settings = a_pool(azure, vendor)
    settings["endpoints"]["a"] = {"azure": {"endpoint": azure.url, "api_key": "azure-key", "deployment": "our-gpt"}}

    assert text_of(caller.run(contain(completion=settings), saying("hi"))) == "hi"

    [at_azure], [at_vendor] = azure.seen, vendor.seen
    assert at_azure.target.startswith("/openai/deployments/our-gpt/chat/completions?api-version=")
    assert (at_azure.header("api-key"), at_azure.header("authorization")) == ("azure-key", None)
    assert at_vendor.target == "/v1/chat/completions"
    assert (at_vendor.header("api-key"), at_vendor.header("authorization")) == (None, "Bearer key-of-b")


def test_a_higher_tier_is_asked_when_no_endpoint_of_the_first_can_answer(serve, contain, caller):
    first, standby = serve(), serve()
    settings = a_pool(standby, first)
    settings["endpoints"]["a"]["tier"] = 1
    container = contain(completion=settings)

    caller.run(container, saying("hi"))
    first.stop()
    raw = caller.run(
        container,
        lambda client: client.chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        ),
    )

    assert len(standby.seen) == len(first.seen) == 1
    assert raw.headers["x-llmwire-endpoint"] == "completion/a"
    assert (raw.headers["x-llmwire-attempts"], raw.headers["x-llmwire-degraded"]) == ("2", "true")


def test_embeddings_of_a_pool_are_those_of_its_one_space(serve, contain, caller):
    dead, alive = serve(), serve()
    dead.stop()

    answer = caller.run(contain(embedding=a_pool(dead, alive)), embedding("one", "two"), function="embedding")

    assert vectors_of(answer) == [numbers_of("one"), numbers_of("two")]


def test_the_state_of_a_pool_is_one_for_both_clients(serve, contain, caller):
    good, bad = serve(), serve(refuse(401))
    container = contain(completion=a_pool(bad, good))

    caller.run(container, saying("hi"))

    states = {state.name: state for state in container.completion.pool().snapshot()}
    assert (states["a"].health, states["a"].reason, states["a"].failed) == ("disabled", "401", 1)
    assert (states["b"].health, states["b"].served, states["b"].in_flight) == ("ok", 1, 0)


# One endpoint of a pool, on purpose.


def test_a_request_may_name_the_one_endpoint_that_it_is_for(serve, contain, caller):
    first, second = serve(), serve()

    caller.run(contain(completion=a_pool(first, second)), saying("hi", extra_headers={"x-llmwire-only": "b"}))

    [seen] = second.seen
    assert first.seen == []
    assert seen.header("x-llmwire-only") is None


def test_a_request_for_one_endpoint_goes_nowhere_else_and_is_made_once(serve, contain, caller):
    first, second = serve(), serve(refuse(503))
    container = contain(completion=a_pool(first, second))

    with pytest.raises(openai.InternalServerError):
        caller.run(container, saying("hi", extra_headers={"x-llmwire-only": "b"}))

    assert (len(first.seen), len(second.seen)) == (0, 1)


def test_an_endpoint_that_does_not_exist_is_an_error_that_names_those_that_do(serve, contain, caller):
    container = contain(completion=a_pool(serve(), serve()))

    with pytest.raises(NoRoute, match="no completion endpoint 'z': there are a, b"):
        caller.run(container, saying("hi", extra_headers={"x-llmwire-only": "z"}))


# A connection that was kept alive and had died.


def dropped(exchange):
    """Read the request, and close the connection without a byte."""
    exchange.hang_up()


def twice(caller, container):
    """Two calls on one connection, in one event loop."""

    def ask(client):
        if isinstance(client, openai.OpenAI):
            return [saying(text)(client) for text in ("one", "two")]
        return both(client)

    async def both(client):
        return [await saying(text)(client) for text in ("one", "two")]

    return [text_of(answer) for answer in caller.run(container, ask)]


def test_a_request_that_meets_a_dead_connection_is_sent_once_more_on_a_new_one(serve, contain, caller):
    server = serve(in_turn(speak, dropped, speak))
    container = contain(completion={"base_url": server.url, "api_key": "k"})

    assert twice(caller, container) == ["one", "two"]

    [state] = container.completion.pool().snapshot()
    assert (len(server.seen), server.accepted) == (3, 2)
    assert (state.served, state.failed) == (2, 0)


def test_where_nothing_may_be_sent_twice_that_holds_for_dead_connections_too(serve, contain, caller):
    server = serve(in_turn(speak, dropped, speak))
    container = contain(completion={"base_url": server.url, "api_key": "k", "failover_after_send": "never"})

    with pytest.raises(openai.APIConnectionError):
        twice(caller, container)

    assert len(server.seen) == 2


# What a stranger found.


def test_a_plain_answer_where_a_stream_was_asked_for_is_none(serve, contain, caller):
    def ignoring(exchange):
        exchange.json(chat("all at once"))

    async def gathered(chunks):
        return "".join([chunk.choices[0].delta.content or "" async for chunk in await chunks])

    def ask(client):
        chunks = saying("hi you", stream=True)(client)
        if isinstance(client, openai.OpenAI):
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        return gathered(chunks)

    assert caller.run(contain(completion=a_pool(serve(ignoring), serve())), ask) == "hi you "


@pytest.mark.parametrize("header", [{"Content-Length": "10"}, {"Transfer-Encoding": "chunked"}])
def test_no_header_of_a_caller_makes_two_requests_of_one(serve, contain, caller, header):
    server = serve()

    answer = caller.run(
        contain(completion={"base_url": server.url, "api_key": "k"}), saying("hi", extra_headers=header)
    )

    [seen] = server.seen
    assert text_of(answer) == "hi"
    assert seen.header("content-length") == str(len(seen.content))
    assert seen.header("transfer-encoding") is None


def test_a_response_that_failed_for_its_prompt_is_handed_on_and_asked_once(serve, contain, caller):
    failed = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [], "status": "failed"}
    failed["error"] = {"code": "invalid_prompt", "message": "no"}
    first, second = serve(lambda exchange: exchange.json(failed)), serve()
    container = contain(completion=a_pool(first, second))

    answer = caller.run(container, lambda client: client.responses.create(model="m", input="hi"))

    assert answer.error.code == "invalid_prompt"
    assert (len(first.seen), len(second.seen)) == (1, 0)
    assert {state.failed for state in container.completion.pool().snapshot()} == {0}


def test_pictures_and_texts_are_counted_as_inputs(serve, contain, caller):
    inputs = [{"text": "one"}, {"image": "two"}]
    row = {"object": "embedding", "embedding": [1.0, 2.0]}
    reply = {"object": "list", "model": "m", "data": [row | {"index": index} for index in range(2)]}
    server = serve(lambda exchange: exchange.json(reply))

    answer = caller.run(
        contain(embedding={"base_url": server.url, "api_key": "k"}),
        lambda client: client.embeddings.create(model="m", input=inputs),
        function="embedding",
    )

    assert len(answer.data) == 2


def test_a_slow_resolver_does_not_outlast_the_deadline(contain, monkeypatch):
    resolving, may_end = socket.getaddrinfo, threading.Event()

    def slow(host, *rest, **options):
        may_end.wait(PATIENCE_S)
        return resolving(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    container = contain(completion={"base_url": "http://localhost:9", "api_key": "k", "deadline_s": 0.3})

    with pytest.raises(openai.APITimeoutError):
        SYNC.run(container, saying("hi"))
    assert not may_end.is_set()
    may_end.set()


def test_an_address_that_cannot_be_used_here_is_not_what_is_wrong(serve, contain, monkeypatch):
    # Without IPv6 `localhost` is refused at its first address, and has no second one.
    alive = serve()
    nowhere = socket.socket()
    nowhere.bind(("127.0.0.1", 0))
    unusable = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("240.0.0.1", 0))
    resolving = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **options: resolving(host, *rest, **options) + [unusable] * (host == "localhost"),
    )
    settings = a_pool(alive, alive)
    settings["endpoints"]["a"]["base_url"] = f"http://localhost:{nowhere.getsockname()[1]}"
    container = contain(completion=settings)

    assert text_of(SYNC.run(container, saying("hi"))) == "hi"
    nowhere.close()
