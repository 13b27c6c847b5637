"""A stream that is cut, at whatever byte: the right text of another endpoint, or an error that says what had come."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import openai
import pytest
from dependency_injector import providers

from llmwire.services.errors import StreamInterrupted, StreamTruncated
from llmwire.services.events import StreamEnded
from llmwire.services.routing.member import Health

from .callers import saying
from .pools import chunk_text, in_flight, states
from .servers import PATIENCE_S, Exchange, delta, speak

#: of a and of b; nobody could mistake a mixture of them for either
TEXTS = {"a": ["Hel", "lo w\u00f6r", "ld"], "b": ["GOOD ", "DAY"]}
_RST = struct.pack("ii", 1, 0)


def _chat_events(pieces: list[str]) -> list[bytes]:
    deltas: list[dict[str, Any]] = [{"role": "assistant"}, *({"content": piece} for piece in pieces)]
    chunks = [{"choices": [{"index": 0, "delta": one}]} for one in deltas]
    return [*map(_event, chunks), _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}), _DONE]


def _completion_events(pieces: list[str]) -> list[bytes]:
    chunks = [_event({"choices": [{"index": 0, "text": piece}]}) for piece in pieces]
    return [*chunks, _event({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}), _DONE]


def _response_events(pieces: list[str]) -> list[bytes]:
    named = [{"type": "response.created"}]
    named += [{"type": "response.output_text.delta", "delta": piece} for piece in pieces]
    named += [{"type": "response.completed"}]
    return [f"event: {one['type']}\n".encode() + _event(one) for one in named]


def _event(data: object) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


_DONE = b"data: [DONE]\n\n"
EVENTS = {"chat/completions": _chat_events, "completions": _completion_events, "responses": _response_events}


def written(operation: str, server: str) -> bytes:
    """A whole streamed answer as it goes over the wire; one chunk holds the end of one event and most of the next."""
    body = b"".join(EVENTS[operation](TEXTS[server]))
    chunks = [body[at : at + 70] for at in range(0, len(body), 70)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n" + framed


def operation_of(exchange: Exchange) -> str:
    return exchange.seen.target.removeprefix("/v1/")


def cut(exchange: Exchange) -> None:
    """Send as many bytes as the prompt says, and end as it says."""
    body = exchange.seen.body
    size, how = (body.get("prompt") or body.get("input") or body["messages"][-1]["content"]).split()
    exchange.raw(written(operation_of(exchange), "a")[: int(size)])
    exchange.hang_up()
    if how == "rst":
        connection = exchange._handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        connection.close()


def stand_in(exchange: Exchange) -> None:
    exchange.raw(written(operation_of(exchange), "b"))


@dataclass(frozen=True, slots=True)
class Read:
    """What an application got of one stream."""

    pieces: list[str]
    error: Exception | None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def asked(client: Any, operation: str, prompt: str) -> Any:
    if operation == "chat/completions":
        return saying(prompt, stream=True)(client)
    if operation == "completions":
        return client.completions.create(model="a-model", prompt=prompt, stream=True)
    return client.responses.create(model="a-model", input=prompt, stream=True)


def read(container: Any, operation: str, prompt: str) -> Read:
    pieces: list[str] = []
    try:
        if operation == "service":
            pieces.extend(container.completion_service(model="a-model").stream(prompt))
        else:
            pieces.extend(map(chunk_text, asked(container.completion_client(), operation, prompt)))
    except Exception as error:  # looked at by the test
        return Read(pieces, error)
    return Read(pieces, None)


async def read_async(container: Any, operation: str, prompt: str) -> Read:
    pieces: list[str] = []
    try:
        if operation == "service":
            async for piece in container.async_completion_service(model="a-model").stream(prompt):
                pieces.append(piece)  # noqa: PERF401  # what came before an error counts
        else:
            async for chunk in await asked(container.async_completion_client(), operation, prompt):
                pieces.append(chunk_text(chunk))  # noqa: PERF401  # as above
    except Exception as error:  # as above
        return Read(pieces, error)
    return Read(pieces, None)


def check(got: Read, *, is_service: bool) -> str:
    """What became of it, in a word. Fails on silence, doubling and mixtures."""
    whole, other = ("".join(TEXTS[name]) for name in "ab")
    if got.error is None:
        assert got.text in (whole, other)
        return "served" if got.text == whole else "failed over"
    error = got.error
    if not is_service:
        assert isinstance(error, openai.APIConnectionError)
        error = error.__cause__
    assert type(error).__name__ in ("Interrupted", "Truncated", "StreamTruncated")
    assert isinstance(error, StreamInterrupted)
    assert error.received == got.text
    assert got.text
    assert whole.startswith(got.text)
    return "interrupted"


def renewed(pool: Any, number: int) -> None:
    """The same servers under new names: nothing is known of them."""
    pool.swap([replace(endpoint, name=f"{endpoint.name[0]}{number}") for endpoint in pool.endpoints])


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("operation", [*EVENTS, "service"])
def test_a_stream_that_is_cut_at_any_byte_is_right_or_an_error(serve, contain, operation, how, mode):
    endpoints = {name: {"base_url": serve(answer).url} for name, answer in (("a", cut), ("b", stand_in))}
    settings = {"strategy": "in-order", "failover_after_send": "always", "endpoints": endpoints}
    container = contain(completion=settings)
    pool = container.completion.pool()
    path = "chat/completions" if operation == "service" else operation
    # Of a chat each byte in each mode; of the others each in one of both.
    is_dense = (operation, how) == ("chat/completions", "fin")
    sizes = range(0 if is_dense else int(mode == "async"), len(written(path, "a")) + 1, 1 if is_dense else 2)
    became: Counter[str] = Counter()

    async def all_async():
        for size in sizes:
            renewed(pool, size)
            got = await read_async(container, operation, f"{size} {how}")
            became[check(got, is_service=operation == "service")] += 1

    if mode == "async":
        asyncio.run(all_async())
    else:
        for size in sizes:
            renewed(pool, size)
            became[check(read(container, operation, f"{size} {how}"), is_service=operation == "service")] += 1

    assert len(became) == 3  # each of them somewhere
    assert in_flight(container) == 0


def test_a_stream_that_ends_in_order_before_the_model_was_done_is_truncated(serve, contain, caller):
    def unfinished(exchange):
        exchange.start_stream()
        exchange.event(delta("one "))
        exchange.chunk(b"")

    def ask(client):
        return drained_async(client) if asyncio.iscoroutinefunction(client.post) else drained(client)

    def drained(client):
        with pytest.raises(openai.APIConnectionError) as caught:
            list(saying("hi", stream=True)(client))
        return caught.value.__cause__

    async def drained_async(client):
        with pytest.raises(openai.APIConnectionError) as caught:
            [chunk async for chunk in await saying("hi", stream=True)(client)]
        return caught.value.__cause__

    container = contain(completion=two(serve, unfinished))

    error = caller.run(container, ask)

    assert isinstance(error, StreamTruncated)
    assert error.received == "one "
    assert states(container)["a"].failed == 1


# Its reader has enough.


def two(serve, answer) -> dict[str, object]:
    """The settings of two servers, of which the first answers so."""
    endpoints = {"a": {"base_url": serve(answer).url}, "b": {"base_url": serve().url}}
    return {"strategy": "in-order", "endpoints": endpoints}


def endless(exchange: Exchange) -> None:
    exchange.start_stream()
    while not exchange.is_over(wait_s=0.002):
        exchange.event(delta("word "))
    exchange.hang_up()


STREAMS = 25


def give_up(container, ending: str) -> None:
    client, service = container.completion_client(), container.completion_service(model="a-model")
    if ending.startswith("service"):
        pieces = service.stream("endless")
        next(pieces)
        if ending == "service closed":
            pieces.close()
        return
    stream = saying("endless", stream=True)(client)
    next(stream)
    match ending:
        case "closed":
            stream.close()
        case "closed twice":
            stream.close()
            stream.close()
        case "left by an error":
            with pytest.raises(LookupError), stream:
                raise LookupError
        case "broken out of":
            with stream:
                for _ in stream:
                    break


async def give_up_async(container, ending: str) -> None:
    client, service = container.async_completion_client(), container.async_completion_service(model="a-model")
    if ending.startswith("service"):
        pieces = service.stream("endless")
        await anext(pieces)
        if ending == "service closed":
            await pieces.aclose()
        return
    if ending == "cancelled":
        await cancelled(client)
        return
    stream = await saying("endless", stream=True)(client)
    await anext(stream)
    match ending:
        case "closed":
            await stream.close()
        case "closed twice":
            await stream.close()
            await stream.close()
        case "left by an error":
            with pytest.raises(LookupError):
                async with stream:
                    raise LookupError
        case "broken out of":
            async with stream:
                async for _ in stream:
                    break


async def cancelled(client) -> None:
    has_begun = asyncio.Event()

    async def reading():
        async for _ in await saying("endless", stream=True)(client):
            has_begun.set()

    task = asyncio.create_task(reading())
    await has_begun.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def heard(contain, serve):
    """A container over an endless server and another, and what its listener was told."""
    told: list[object] = []
    server = serve(lambda exchange: (endless if "endless" in str(exchange.seen.content) else speak)(exchange))
    endpoints = {"a": {"base_url": server.url}, "b": {"base_url": serve().url}}
    container = contain(completion={"strategy": "in-order", "endpoints": endpoints})
    container.listener.override(providers.Object(told.append))
    return container, server, told


ENDINGS = ["closed", "closed twice", "left by an error", "broken out of", "forgotten", "service closed"]


@pytest.mark.parametrize("ending", [*ENDINGS, "service forgotten"])
def test_a_stream_that_is_given_up_gives_its_lease_and_connection_back_once(heard, ending):
    container, server, told = heard

    for _ in range(STREAMS):
        give_up(container, ending)
    gc.collect()
    server.wait_for_connections(0)

    check_given_up(container, told, ending)


@pytest.mark.parametrize("ending", [*ENDINGS, "service forgotten", "cancelled"])
def test_an_asynchronous_stream_that_is_given_up_gives_its_lease_and_connection_back_once(heard, ending):
    container, server, told = heard

    async def main():
        for _ in range(STREAMS):
            await give_up_async(container, ending)
        for _ in range(5):  # the loop closes a generator that was collected, which frees the next one
            gc.collect()
            await asyncio.sleep(0)
        await asyncio.to_thread(server.wait_for_connections, 0)

    asyncio.run(main())

    check_given_up(container, told, ending)


def check_given_up(container, told, ending) -> None:
    state = states(container)["a"]
    assert (state.in_flight, state.failed, state.health) == (0, 0, Health.OK)
    ended = [event.error for event in told if isinstance(event, StreamEnded)]
    if "forgotten" in ending:  # where garbage is collected nobody may be left to tell of it
        assert len(ended) <= STREAMS
    else:
        assert ended == ["cancelled"] * STREAMS


def connections_of(container):
    endpoint = container.completion.pool().endpoints[0]
    return container.completion_client()._client._transport._servers.of(endpoint)._pool


LOCKS = {
    "of the pool": lambda container: container.completion.pool()._lock,
    "of the connections": lambda container: connections_of(container)._lock,
    "of the places": lambda container: connections_of(container)._free._cond,
}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_stream_that_is_collected_under_a_lock_does_not_stop_the_program(heard, lock):
    container, server, _ = heard

    def forget() -> None:
        stream = saying("endless", stream=True)(container.completion_client())
        next(stream)
        stream.itself = stream

    def collect() -> None:
        with LOCKS[lock](container):
            gc.collect()

    gc.disable()  # it is collected then, and not before
    try:
        forget()
        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        thread.join(PATIENCE_S / 4)
        is_stuck = thread.is_alive()
    finally:
        gc.enable()

    assert not is_stuck
    assert in_flight(container) == 0
    server.wait_for_connections(0)


def test_the_loop_that_ends_takes_its_streams_with_it(heard):
    container, server, _ = heard

    async def main():
        stream = await saying("endless", stream=True)(container.async_completion_client())
        await anext(stream)
        return stream

    stream = asyncio.run(main())

    server.wait_for_connections(0)
    del stream
    gc.collect()
    assert in_flight(container) == 0
