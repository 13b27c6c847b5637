"""A listener hears of each attempt once, and can harm none."""

from __future__ import annotations

import asyncio

import openai
import pytest
from dependency_injector import providers

from llmwire.services.events import AttemptEnded, CallEnded, EndpointPaused, StreamEnded

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


def attempts_of(heard):
    return [event for event in heard if isinstance(event, AttemptEnded)]


def calls_of(heard):
    return [event for event in heard if isinstance(event, CallEnded)]


def test_an_answered_call_is_told_once_with_all_that_happened(serve, listened, heard, caller):
    server = serve()

    caller.run(listened(completion=served_by(server)), saying("hi"))

    attempt, ended = heard
    assert attempt == AttemptEnded(
        function="completion",
        endpoint="default",
        server=server.url,
        operation="chat/completions",
        status=200,
        error=None,
        took_s=attempt.took_s,
        blame=None,
        call=attempt.call,
        model="a-model",
        reply_model="a-model",
        began_s=attempt.began_s,
        sent_bytes=len(server.seen[0].content),
        received_bytes=attempt.received_bytes,
    )
    assert 0 <= attempt.began_s <= attempt.began_s + attempt.took_s <= ended.took_s < 60
    assert ended == CallEnded(
        function="completion",
        call=attempt.call,
        operation="chat/completions",
        pool="default",
        route=None,
        endpoint="default",
        server=server.url,
        model="a-model",
        reply_model="a-model",
        error=None,
        took_s=ended.took_s,
        first_content_s=None,
        attempts=1,
        usage=None,
        cost=None,
    )


def test_each_function_is_told_of_under_its_own_name(serve, listened, heard, caller):
    text, vectors = serve(), serve()
    container = listened(completion=served_by(text), embedding=served_by(vectors))

    caller.run(container, saying("hi"))
    caller.run(container, embedding("hi"), function="embedding")

    assert [(event.function, event.server, event.operation) for event in attempts_of(heard)] == [
        ("completion", text.url, "chat/completions"),
        ("embedding", vectors.url, "embeddings"),
    ]


@pytest.mark.parametrize(
    ("status", "blame", "attempts"),
    [
        (307, "endpoint", 1),
        (400, "caller", 1),
        (401, "key", 1),
        (404, "endpoint", 1),
        (429, "load", 3),
        (500, "endpoint", 2),
        (503, "endpoint", 3),
    ],
)
def test_an_error_of_the_server_is_told_by_its_status(serve, listened, heard, caller, status, blame, attempts):
    server = serve(refuse(status, headers={"retry-after-ms": "1"}))

    with pytest.raises(openai.APIStatusError):
        caller.run(listened(completion=served_by(server)), saying("hi"))

    assert [(event.status, event.error, event.blame) for event in attempts_of(heard)] == [
        (status, None, blame)
    ] * attempts


@pytest.mark.parametrize(
    ("trouble", "error", "attempts"),
    [
        (hang, "ReadTimeout", 1),
        (lambda exchange: exchange.hang_up(), "RemoteProtocolError", 2),
        (lambda exchange: exchange.json({}), "InvalidReply", 3),
    ],
    ids=["hangs", "hangs up", "nonsense"],
)
def test_a_failure_is_told_by_its_class(serve, listened, heard, caller, trouble, error, attempts):
    deadline_s = 0.3 if trouble is hang else 20.0

    with pytest.raises(openai.APIConnectionError):
        caller.run(listened(completion=served_by(serve(trouble), deadline_s=deadline_s)), saying("hi"))

    assert [(event.status, event.error, event.blame) for event in attempts_of(heard)] == [
        (None, error, "endpoint")
    ] * attempts


def test_a_server_that_is_down_is_told(serve, listened, heard, caller):
    server = serve()
    server.stop()

    with pytest.raises(openai.APIConnectionError):
        caller.run(listened(completion=served_by(server)), saying("hi"))

    told = [(event.error, event.server, event.was_sent) for event in attempts_of(heard)]
    assert told == [("ConnectError", server.url, False)] * 3
    assert [(event.error, event.endpoint, event.attempts) for event in calls_of(heard)] == [
        ("ConnectError", "default", 3)
    ]


def test_each_attempt_of_a_call_is_told(serve, listened, heard, caller):
    def busy(exchange):
        refuse(503, headers={"retry-after-ms": "1", "connection": "close"})(exchange)
        exchange.hang_up()

    server = serve(in_turn(busy, lambda exchange: exchange.hang_up(), speak))

    caller.run(listened(completion=served_by(server)), saying("hi"))

    assert [(event.status, event.error, event.blame) for event in attempts_of(heard)] == [
        (503, None, "endpoint"),
        (None, "RemoteProtocolError", "endpoint"),
        (200, None, None),
    ]


def test_a_kept_connection_that_turns_out_dead_is_told_as_repeated(serve, listened, heard):
    server = serve(in_turn(speak, lambda exchange: exchange.hang_up(), speak))
    client = listened(completion=served_by(server)).completion_client()

    for _ in range(2):
        saying("hi")(client)

    assert [(event.status, event.is_repeated) for event in attempts_of(heard)] == [
        (200, False),
        (None, True),
        (200, False),
    ]
    assert [event.error for event in calls_of(heard)] == [None, None]
    assert (len(server.seen), server.accepted) == (3, 2)


@pytest.mark.parametrize("status", [429, 503])
def test_an_endpoint_that_asks_to_be_left_alone_is_told_as_paused(serve, listened, heard, caller, status):
    server = serve(refuse(status, headers={"retry-after": "60"}))

    with pytest.raises(openai.APIStatusError):
        caller.run(listened(completion=served_by(server)), saying("hi"))

    assert [event for event in heard if not isinstance(event, AttemptEnded | CallEnded)] == [
        EndpointPaused(function="completion", endpoint="default", for_s=60.0)
    ]


def test_a_body_that_comes_too_slowly_is_told_as_an_attempt_without_an_answer(serve, listened, heard, caller):
    with pytest.raises(openai.APITimeoutError):
        caller.run(listened(completion=served_by(serve(trickle_body), deadline_s=0.3)), saying("hi"))

    [event] = attempts_of(heard)
    assert (event.status, event.error, event.blame) == (None, "ReadTimeout", "endpoint")
    assert 0.2 < event.took_s < 20


def test_a_time_that_the_caller_gave_is_not_the_endpoint_s_fault(serve, listened, heard, caller):
    with pytest.raises(openai.APITimeoutError):
        caller.run(listened(completion=served_by(serve(hang))), saying("hi", timeout=0.3))

    told = [(event.status, event.error, event.blame) for event in attempts_of(heard)]
    assert told == [(None, "timeout", "cancelled")]
    assert [event.error for event in calls_of(heard)] == ["timeout"]


def one_word(exchange):
    exchange.start_stream()
    exchange.event(delta("one "))
    hang(exchange)


def test_a_stream_is_told_when_its_first_content_came_and_when_it_ended(serve, listened, heard):
    client = listened(completion=served_by(serve())).completion_client()

    with saying("one two", stream=True)(client) as stream:
        next(stream)
        assert [(type(event), event.status) for event in heard] == [(AttemptEnded, 200)]
        list(stream)

    attempt, ended, call = heard
    assert attempt.is_open
    assert (type(ended), ended.endpoint, ended.error, ended.call) == (StreamEnded, "default", None, attempt.call)
    assert (type(call), call.error, call.attempts) == (CallEnded, None, 1)
    assert attempt.took_s <= ended.took_s <= call.took_s < 60
    assert 0 < call.first_content_s <= call.took_s


def test_an_asynchronous_stream_is_told_in_the_same_way(serve, listened, heard):
    container = listened(completion=served_by(serve()))

    async def main():
        async with await saying("one two", stream=True)(container.async_completion_client()) as stream:
            await anext(stream)
            assert [type(event) for event in heard] == [AttemptEnded]
            async for _ in stream:
                pass

    asyncio.run(main())

    assert [event.error for event in heard] == [None, None, None]
    assert [type(event) for event in heard] == [AttemptEnded, StreamEnded, CallEnded]


def cut(exchange):
    exchange.start_stream()
    exchange.event(delta("one "))
    exchange.hang_up()


def ends_early(exchange):
    exchange.start_stream()
    exchange.event(delta("one "))
    exchange.chunk(b"")


@pytest.mark.parametrize(
    ("answer", "error"),
    [(one_word, "cancelled"), (cut, "StreamInterrupted"), (ends_early, "StreamTruncated")],
    ids=["given up", "cut", "ended early"],
)
def test_a_stream_that_did_not_come_to_its_end_is_told_once_with_the_reason(serve, listened, heard, answer, error):
    client = listened(completion=served_by(serve(answer))).completion_client()

    with saying("hi", stream=True)(client) as stream:
        next(stream)
        if error != "cancelled":
            with pytest.raises(openai.APIConnectionError):
                list(stream)

    attempt, ended, call = heard
    assert (attempt.status, attempt.error) == (200, None)
    assert (type(ended), ended.error) == (StreamEnded, error)
    assert (type(call), call.error) == (CallEnded, error)


def test_a_cancelled_call_is_told_as_cancelled(serve, listened, heard):
    server = serve(hang)
    client = listened(completion=served_by(server)).async_completion_client()

    async def main():
        task = asyncio.create_task(saying("hi")(client))
        await asyncio.to_thread(server.wait_for_requests, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())

    assert [(event.status, event.error, event.blame) for event in attempts_of(heard)] == [
        (None, "cancelled", "cancelled")
    ]
    assert [event.error for event in calls_of(heard)] == ["cancelled"]


def test_a_refused_url_is_no_call(serve, listened, heard, caller):
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


def test_a_call_that_nobody_could_be_asked_for_is_told_with_the_status_that_its_caller_got(
    serve, listened, heard, caller
):
    server = serve(refuse(429, headers={"retry-after": "60"}))
    container = listened(completion=served_by(server))

    for _ in range(3):
        with pytest.raises(openai.RateLimitError):
            caller.run(container, saying("hi"))

    assert [(event.error, event.endpoint, event.attempts) for event in calls_of(heard)] == [
        ("429", "default", 1),
        ("429", None, 0),
        ("429", None, 0),
    ]


def test_a_repeat_that_is_cancelled_is_told_as_cancelled(serve, listened, heard):
    server = serve(in_turn(speak, lambda exchange: exchange.hang_up(), hang))
    client = listened(completion=served_by(server)).async_completion_client()

    async def main():
        await saying("hi")(client)
        task = asyncio.create_task(saying("hi")(client))
        await asyncio.to_thread(server.wait_for_requests, 3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())

    assert [(event.blame, event.is_repeated) for event in attempts_of(heard)] == [
        (None, False),
        ("endpoint", True),
        ("cancelled", False),
    ]
