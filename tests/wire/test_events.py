"""A listener hears of each attempt once, and can harm none."""

from __future__ import annotations

import asyncio

import openai
import pytest
from dependency_injector import providers

from llmwire.services.events import AttemptEnded

from .callers import embedding, saying, served_by, text_of
from .servers import delta, hang, in_turn, refuse, speak, trickle_body


@pytest.fixture
def heard():
    """What a listener was told, in order."""
    return []


@pytest.fixture
def listened(contain, heard):
    """Makes a container whose listener writes down what it hears."""

    def listened(**tables):
        container = contain(**tables)
        container.listener.override(providers.Object(heard.append))
        return container

    return listened


def test_an_answered_call_is_told_once_with_all_that_happened(serve, listened, heard, caller):
    server = serve()

    caller.run(listened(completion=served_by(server)), saying("hi"))

    [event] = heard
    assert event == AttemptEnded(
        function="completion",
        endpoint="default",
        server=server.url,
        operation="chat/completions",
        status=200,
        error=None,
        took_s=event.took_s,
    )
    assert 0 < event.took_s < 60


def test_each_function_is_told_of_under_its_own_name(serve, listened, heard, caller):
    text, vectors = serve(), serve()
    container = listened(completion=served_by(text), embedding=served_by(vectors))

    caller.run(container, saying("hi"))
    caller.run(container, embedding("hi"), function="embedding")

    assert [(event.function, event.server, event.operation) for event in heard] == [
        ("completion", text.url, "chat/completions"),
        ("embedding", vectors.url, "embeddings"),
    ]


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_an_error_of_the_server_is_told_by_its_status(serve, listened, heard, caller, status):
    with pytest.raises(openai.APIStatusError):
        caller.run(listened(completion=served_by(serve(refuse(status)))), saying("hi"))

    assert [(event.status, event.error) for event in heard] == [(status, None)]


@pytest.mark.parametrize(
    ("trouble", "error"),
    [(hang, "ReadTimeout"), (lambda exchange: exchange.hang_up(), "RemoteProtocolError")],
    ids=["hangs", "hangs up"],
)
def test_a_failure_is_told_by_its_class(serve, listened, heard, caller, trouble, error):
    with pytest.raises(openai.APIConnectionError):
        caller.run(listened(completion=served_by(serve(trouble), deadline_s=0.3)), saying("hi"))

    assert [(event.status, event.error) for event in heard] == [(None, error)]


def test_a_server_that_is_down_is_told(serve, listened, heard, caller):
    server = serve()
    server.stop()

    with pytest.raises(openai.APIConnectionError):
        caller.run(listened(completion=served_by(server)), saying("hi"))

    assert [(event.status, event.error, event.server) for event in heard] == [(None, "ConnectError", server.url)]


def test_each_retry_of_the_sdk_is_an_attempt(serve, listened, heard, caller):
    busy = refuse(503, headers={"retry-after-ms": "1"})
    server = serve(in_turn(busy, lambda exchange: exchange.hang_up(), speak))

    caller.run(listened(completion=served_by(server)), saying("hi"), retries=2)

    assert [(event.status, event.error) for event in heard] == [
        (503, None),
        (None, "RemoteProtocolError"),
        (200, None),
    ]


def test_a_body_that_comes_too_slowly_was_told_when_its_head_came(serve, listened, heard, caller):
    with pytest.raises(openai.APITimeoutError):
        caller.run(listened(completion=served_by(serve(trickle_body), deadline_s=0.3)), saying("hi"))

    assert [event.status for event in heard] == [200]


def test_a_stream_is_told_once_when_its_head_came(serve, listened, heard):
    def one_word(exchange):
        exchange.start_stream()
        exchange.event(delta("one "))
        hang(exchange)

    client = listened(completion=served_by(serve(one_word))).completion_client()

    with saying("hi", stream=True)(client) as stream:
        next(stream)
        assert [event.status for event in heard] == [200]

    assert len(heard) == 1


def test_a_cancelled_call_is_told_as_cancelled(serve, listened, heard):
    server = serve(hang)
    client = listened(completion=served_by(server)).async_completion_client()

    async def main():
        task = asyncio.create_task(saying("hi")(client))
        await asyncio.to_thread(server.wait_for_requests, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())

    assert [(event.status, event.error) for event in heard] == [(None, "CancelledError")]


def test_a_refused_url_is_no_attempt(serve, listened, heard, caller):
    with pytest.raises(openai.APIConnectionError):
        caller.run(listened(completion=served_by(serve())), lambda client: client.get("/../admin", cast_to=object))

    assert heard == []


@pytest.mark.parametrize("answer", [speak, refuse(500)], ids=["answered", "failed"])
def test_a_listener_that_raises_changes_nothing(serve, contain, caller, answer):
    def broken(event):
        raise RuntimeError("the listener is broken")

    container = contain(completion=served_by(serve(in_turn(answer, speak))))
    container.listener.override(providers.Object(broken))

    completion = caller.run(container, saying("hi"), retries=1)

    assert text_of(completion) == "hi"


def test_no_event_shows_a_key_or_a_prompt(serve, listened, heard, caller):
    caller.run(listened(completion=served_by(serve())), saying("a secret prompt"))

    assert "its-key" not in repr(heard)
    assert "secret" not in repr(heard)
