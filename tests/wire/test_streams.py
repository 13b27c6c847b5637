"""A stream gives its connection back however it ends."""

from __future__ import annotations

import asyncio
import gc

import openai
import pytest

from llmwire.services.errors import StreamInterrupted, StreamTruncated

from .callers import ASYNC, SYNC, saying, served_by, text_of
from .servers import delta, speak

#: how a stream ends, and how many of them
ENDINGS = [("break", 200), ("close", 40), ("with", 40), ("exception", 40), ("forgotten", 40), ("read to its end", 40)]


def endless(exchange) -> None:
    """A stream that does not end by itself."""
    exchange.start_stream()
    while not exchange.is_over(wait_s=0.002):
        exchange.event(delta("word "))
    exchange.hang_up()


def answer(exchange) -> None:
    """Without end where the prompt asks for it."""
    is_endless = exchange.seen.body["messages"][-1]["content"] == "endless"
    (endless if is_endless else speak)(exchange)


def take_one(client, ending) -> str:
    text = "one two" if ending == "read to its end" else "endless"
    stream = saying(text, stream=True)(client)
    if ending == "with":
        with stream:
            return next(stream).choices[0].delta.content
    if ending == "read to its end":
        return text_of_all(stream)
    if ending == "exception":
        with pytest.raises(LookupError), stream:
            raise LookupError(next(stream))
        return "word "
    for chunk in stream:
        word = chunk.choices[0].delta.content
        break
    if ending in ("close", "break"):
        stream.close()
    return word


async def take_one_async(client, ending) -> str:
    text = "one two" if ending == "read to its end" else "endless"
    stream = await saying(text, stream=True)(client)
    if ending == "with":
        async with stream:
            return (await anext(stream)).choices[0].delta.content
    if ending == "read to its end":
        return text_of_all([chunk async for chunk in stream])
    if ending == "exception":
        with pytest.raises(LookupError):
            async with stream:
                raise LookupError(await anext(stream))
        return "word "
    async for chunk in stream:
        word = chunk.choices[0].delta.content
        break
    if ending == "close":
        await stream.close()
    if ending == "break":
        await stream.response.aclose()
    return word


def text_of_all(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.parametrize(("ending", "count"), ENDINGS)
def test_many_streams_that_end_early_cost_no_connection(serve, contain, ending, count):
    server = serve(answer)
    client = contain(completion=served_by(server)).completion_client().with_options(max_retries=0)

    words = {take_one(client, ending) for _ in range(count)}
    gc.collect()  # what was forgotten in a cycle
    answers = [text_of(saying(f"{number}")(client)) for number in range(50)]

    assert len(words) == 1
    assert answers == [f"{number}" for number in range(50)]
    server.wait_for_connections(1)


@pytest.mark.parametrize(("ending", "count"), ENDINGS)
def test_many_asynchronous_streams_that_end_early_cost_no_connection(serve, contain, ending, count):
    server = serve(answer)
    client = contain(completion=served_by(server)).async_completion_client().with_options(max_retries=0)

    async def main():
        words = {await take_one_async(client, ending) for _ in range(count)}
        for _ in range(5):  # the loop closes a generator that was collected, which frees the next one
            gc.collect()
            await asyncio.sleep(0)
        answers = [text_of(await saying(f"{number}")(client)) for number in range(50)]
        assert len(words) == 1
        assert answers == [f"{number}" for number in range(50)]
        await asyncio.to_thread(server.wait_for_connections, 1)

    asyncio.run(main())


def cut(exchange) -> None:
    exchange.start_stream()
    exchange.event(delta("one "))
    exchange.hang_up()


def cut_in_mid_event(exchange) -> None:
    exchange.start_stream()
    exchange.event(delta("one "))
    exchange.raw(b'100\r\ndata: {"id": "1", "obj')
    exchange.hang_up()


@pytest.mark.parametrize("trouble", [cut, cut_in_mid_event], ids=lambda trouble: trouble.__name__)
def test_a_stream_that_the_server_cuts_is_an_error_of_the_sdk(serve, contain, trouble):
    server = serve(trouble)
    container = contain(completion=served_by(server))

    async def read_async():
        async for chunk in await saying("hi", stream=True)(container.async_completion_client()):
            received.append(chunk.choices[0].delta.content)  # noqa: PERF401  # what came before the error counts

    def read():
        for chunk in saying("hi", stream=True)(container.completion_client()):
            received.append(chunk.choices[0].delta.content)  # noqa: PERF401  # as above

    for run in (read, lambda: asyncio.run(read_async())):
        received: list[str] = []
        with pytest.raises(openai.APIConnectionError) as caught:
            run()

        assert received == ["one "]
        assert isinstance(caught.value.__cause__, StreamInterrupted)
        assert caught.value.__cause__.received == "one "
        assert server.url in str(caught.value.__cause__)


@pytest.mark.parametrize("caller", [SYNC, ASYNC], ids=["sync", "async"])
def test_responses_are_streamed_too(serve, contain, caller):
    server = serve()

    *words, last = caller.run(contain(completion=served_by(server)), respond_in_events)

    assert [event.delta for event in words] == ["one ", "two "]
    assert last.response.output_text == "one two"
    assert server.seen[0].target == "/v1/responses"


@pytest.mark.parametrize("caller", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_response_that_ends_without_its_last_event_is_an_error_of_the_sdk(serve, contain, caller):
    def without_last(exchange):
        exchange.start_stream()
        exchange.named_event({"type": "response.output_text.delta", "delta": "one "})
        exchange.chunk(b"")

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(contain(completion=served_by(serve(without_last))), respond_in_events)

    assert isinstance(caught.value.__cause__, StreamTruncated)
    assert caught.value.__cause__.received == "one "


def respond_in_events(client):
    stream = client.responses.create(model="a-model", input="one two", stream=True)

    async def read_async():
        return [event async for event in await stream]

    return read_async() if asyncio.iscoroutine(stream) else list(stream)


@pytest.mark.parametrize("caller", [SYNC, ASYNC], ids=["sync", "async"])
def test_streams_that_are_read_to_their_end_share_one_connection(serve, contain, caller):
    # Their last chunk comes on its own, after all that the SDK reads.
    server = serve()

    def ask(client):
        if isinstance(client, openai.AsyncOpenAI):
            return ask_async(client)
        return [text_of_all(saying("one two", stream=True)(client)) for _ in range(20)]

    async def ask_async(client):
        return [text_of_all([chunk async for chunk in await saying("one two", stream=True)(client)]) for _ in range(20)]

    assert caller.run(contain(completion=served_by(server)), ask) == ["one two "] * 20
    assert server.accepted == 1
