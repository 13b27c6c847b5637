"""A call ends when it must, whatever the server does, and leaves the client as good as new."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2
import openai
import pytest

from .callers import saying, served_by, text_of
from .servers import (
    PATIENCE_S,
    chat,
    delta,
    hang,
    in_turn,
    speak,
    trickle,
    trickle_body,
    trickle_head,
)

DEADLINE_S = 0.4
LONG_BEFORE_THE_SERVER_S = 8.0  #: the servers below take half a minute and more


@pytest.fixture
def soon():
    """Fails a test that did not end by itself long before its server would have."""
    started_at = time.monotonic()
    yield
    assert time.monotonic() - started_at < LONG_BEFORE_THE_SERVER_S


def trickled_answer(exchange) -> None:
    """A right answer, if only one could wait for it."""
    body = str(chat("hi")).encode().ljust(1000)
    trickle(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n" + body)(exchange)


def trickled_error(exchange) -> None:
    exchange.head(status=400, headers={"content-type": "application/json", "content-length": "1000"})
    trickle(b" " * 1000)(exchange)


def comments_before_the_first_event(exchange) -> None:
    """A stream that says nothing for a while, and then not even that."""
    exchange.start_stream()
    hang(exchange)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    "slow", [hang, trickle_head, trickle_body, trickled_answer, trickled_error], ids=lambda slow: slow.__name__
)
def test_a_plain_answer_is_there_at_the_deadline_or_the_call_ends(serve, contain, caller, slow):
    server = serve(in_turn(slow, speak))
    container = contain(completion=served_by(server, deadline_s=DEADLINE_S))

    with pytest.raises(openai.APITimeoutError) as caught:
        caller.run(container, saying("first"))
    answer = caller.run(container, saying("second"))

    assert server.url in str(caught.value.__cause__)
    assert "completion.deadline_s" in str(caught.value.__cause__)
    assert text_of(answer) == "second"


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("slow", [hang, trickle_head, comments_before_the_first_event], ids=lambda slow: slow.__name__)
def test_a_stream_has_begun_at_the_deadline_or_the_call_ends(serve, contain, caller, slow):
    server = serve(in_turn(slow, speak))
    container = contain(completion=served_by(server, deadline_s=DEADLINE_S))

    with pytest.raises(openai.APITimeoutError, check=lambda error: "deadline_s" in str(error.__cause__)):
        caller.run(container, reading("first"))

    assert caller.run(container, reading("second")) == "second "


@pytest.mark.usefixtures("soon")
def test_a_stream_that_has_begun_may_outlive_the_deadline(serve, contain, caller):
    def slowly(exchange):
        exchange.start_stream()
        for word in ("one", "two", "three", "four", "five"):
            exchange.event(delta(word + " "))
            exchange.is_over(wait_s=DEADLINE_S / 2)
        exchange.event(delta(None, finish="stop"))
        exchange.chunk(b"")

    container = contain(completion=served_by(serve(slowly), deadline_s=DEADLINE_S))

    assert caller.run(container, reading("hi")) == "one two three four five "


@pytest.mark.usefixtures("soon")
def test_a_stream_that_stands_still_ends(serve, contain, caller):
    def one_word(exchange):
        exchange.start_stream()
        exchange.event(delta("one "))
        hang(exchange)

    container = contain(completion=served_by(serve(one_word), deadline_s=DEADLINE_S))

    with pytest.raises(openai.APITimeoutError) as caught:
        caller.run(container, reading("hi"))

    assert "stood still" in str(caught.value.__cause__)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("slow", [hang, trickled_answer], ids=lambda slow: slow.__name__)
def test_with_streaming_response_a_plain_answer_is_under_the_deadline_too(serve, contain, slow):
    container = contain(completion=served_by(serve(slow), deadline_s=DEADLINE_S))
    raw = container.completion_client().with_options(max_retries=0).chat.completions.with_streaming_response

    def read():
        with raw.create(model="m", messages=[{"role": "user", "content": "hi"}]) as response:
            response.read()

    with pytest.raises((openai.APITimeoutError, httpx2.TimeoutException), match=r"timed out|deadline_s"):
        read()


@pytest.mark.usefixtures("soon")
def test_a_server_that_takes_a_large_request_slowly_is_under_the_deadline(contain, caller, slow_reader):
    container = contain(completion={"base_url": slow_reader, "deadline_s": DEADLINE_S})

    with pytest.raises(openai.APITimeoutError):
        caller.run(container, saying("x" * 60_000_000))


@pytest.mark.usefixtures("soon")
def test_a_shorter_timeout_of_one_call_is_kept(serve, contain, caller):
    container = contain(completion=served_by(serve(in_turn(hang, speak)), deadline_s=100))

    with pytest.raises(openai.APITimeoutError) as caught:
        caller.run(container, saying("first", timeout=0.3))

    assert "deadline_s" not in str(caught.value.__cause__)
    assert text_of(caller.run(container, saying("second"))) == "second"


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("timeout", [None, 1000.0], ids=["none", "longer"])
def test_a_longer_timeout_of_one_call_ends_at_the_deadline(serve, contain, caller, timeout):
    container = contain(completion=served_by(serve(hang), deadline_s=DEADLINE_S))

    with pytest.raises(openai.APITimeoutError, check=lambda error: "deadline_s" in str(error.__cause__)):
        caller.run(container, saying("hi", timeout=timeout))


@pytest.mark.usefixtures("soon")
def test_a_server_that_accepts_nobody_is_told_of_soon(contain, caller, deaf_server):
    container = contain(completion={"base_url": deaf_server, "deadline_s": DEADLINE_S})

    with pytest.raises(openai.APITimeoutError) as caught:
        caller.run(container, saying("hi"))

    assert deaf_server in str(caught.value.__cause__)


@pytest.mark.usefixtures("soon")
def test_many_overdue_calls_leave_the_connections_usable(serve, contain):
    server = serve(trickle_body)
    client = contain(completion=served_by(server, deadline_s=DEADLINE_S)).completion_client()
    quick = client.with_options(max_retries=0)

    def is_overdue(_):
        with pytest.raises(openai.APITimeoutError):
            saying("hi")(quick)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(is_overdue, range(60)))
    server.wait_for_connections(0)
    server.answer = speak

    assert [text_of(saying(f"{number}")(quick)) for number in range(10)] == [f"{number}" for number in range(10)]
    assert server.open_connections == 1


# Cancelled tasks.


def test_a_cancelled_call_stays_cancelled_and_leaves_the_client_usable(serve, contain):
    server = serve(in_turn(hang, trickle_head, trickle_body, speak))
    client = contain(completion=served_by(server)).async_completion_client()

    async def main():
        for count in (1, 2, 3):
            task = asyncio.create_task(saying("hi")(client))
            await asyncio.to_thread(server.wait_for_requests, count)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(server.wait_for_connections, 0)
        return await saying("after")(client)

    assert text_of(asyncio.run(main())) == "after"


def test_a_call_that_its_caller_times_out_is_the_caller_s_timeout(serve, contain):
    client = contain(completion=served_by(serve(in_turn(hang, speak)))).async_completion_client()

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await saying("hi")(client)
        return await saying("after")(client)

    assert text_of(asyncio.run(main())) == "after"


def test_a_stream_that_is_cancelled_between_two_words_gives_its_connection_back(serve, contain):
    def one_word(exchange):
        exchange.start_stream()
        exchange.event(delta("one "))
        hang(exchange)

    server = serve(one_word)
    client = contain(completion=served_by(server)).async_completion_client()

    async def main():
        has_begun = asyncio.Event()

        async def read():
            async for _ in await saying("hi", stream=True)(client):
                has_begun.set()

        task = asyncio.create_task(read())
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(server.wait_for_connections, 0)
        server.answer = speak
        return await saying("after")(client)

    assert text_of(asyncio.run(main())) == "after"


def test_two_hundred_cancellations_at_any_moment_leave_the_client_usable(serve, contain):
    server = serve()
    client = contain(completion=served_by(server)).async_completion_client().with_options(max_retries=0)

    async def one(number):
        task = asyncio.create_task(saying(f"{number}")(client))
        for _ in range(number % 40):  # so many steps of the loop further
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        return isinstance(outcome, asyncio.CancelledError) or text_of(outcome) == f"{number}"

    async def main():
        for start in range(0, 200, 20):
            assert all(await asyncio.gather(*(one(number) for number in range(start, start + 20))))
        answers = await asyncio.gather(*(saying(f"after {number}")(client) for number in range(50)))
        assert [text_of(answer) for answer in answers] == [f"after {number}" for number in range(50)]

    asyncio.run(main())
    server.wait_for_connections(0)


# Closing.


@pytest.mark.usefixtures("soon")
def test_closing_the_container_ends_its_calls_in_flight(serve, contain):
    server = serve(hang)
    container = contain(completion=served_by(server))
    client = container.completion_client().with_options(max_retries=0)

    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(saying("hi"), client)
        server.wait_for_requests(1)
        container.shutdown_resources()
        error = call.exception(PATIENCE_S)

    assert isinstance(error, openai.APIConnectionError)


@pytest.mark.usefixtures("soon")
def test_closing_the_container_ends_its_asynchronous_calls_in_flight(serve, contain):
    server = serve(hang)
    container = contain(completion=served_by(server))
    client = container.async_completion_client().with_options(max_retries=0)

    async def main():
        task = asyncio.create_task(saying("hi")(client))
        await asyncio.to_thread(server.wait_for_requests, 1)
        await container.aclose()
        with pytest.raises(openai.APIConnectionError):
            await task

    asyncio.run(main())


def reading(text):
    """Asks for a stream and reads it: the text."""

    def ask(client):
        if isinstance(client, openai.OpenAI):
            return "".join(chunk.choices[0].delta.content or "" for chunk in saying(text, stream=True)(client))
        return read(client)

    async def read(client):
        stream = await saying(text, stream=True)(client)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    return ask


@pytest.fixture
def slow_reader():
    """A server that takes some bytes of a request now and then: never nothing for long, never all of them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        is_done = threading.Event()

        def read_slowly():
            while not is_done.is_set():
                connection, _ = listener.accept()
                with connection:
                    while not is_done.wait(0.01) and connection.recv(60_000):
                        pass

        thread = threading.Thread(target=read_slowly, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        is_done.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join(PATIENCE_S)


@pytest.fixture
def deaf_server():
    """A server whose queue is full: the handshake never ends."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
