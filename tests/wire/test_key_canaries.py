"""A key is seen by its own server and by nobody else, whatever goes wrong: one canary for each place that has one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import traceback
from typing import Any

import pytest
from dependency_injector import providers

from llmwire.services import recorded
from llmwire.services.testing import faults
from llmwire.services.testing.faults import Fault

from .pools import BASE64, CHAT, CHAT_STREAM, RESPONSE_STREAM, Operation, repeated
from .servers import Exchange, delta, speak
from .test_broken_replies import (
    AFTER_A_PRELUDE,
    BODIES,
    BROKEN_STREAMS,
    CONNECTIONS,
    STATUSES,
    WITHOUT_CHOICES,
    WRONG_VECTORS,
    named,
)

KEYS = {name: f"canary-of-{name}-4f1d" for name in "abc"}
AMBIENT = {
    "OPENAI_API_KEY": "canary-openai-key",
    "OPENAI_ADMIN_KEY": "canary-admin-key",
    "OPENAI_ORG_ID": "canary-organization",
    "OPENAI_PROJECT_ID": "canary-project",
    "OPENAI_WEBHOOK_SECRET": "canary-webhook",
    "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer canary-custom\nX-Tenant: canary-tenant\nCookie: canary-cookie",
    "AZURE_OPENAI_API_KEY": "canary-azure-key",
    "AZURE_OPENAI_AD_TOKEN": "canary-azure-token",
}


@pytest.fixture
def wired(monkeypatch, contain):
    """Makes a container from the environment, over servers by their names; gives it and what its listener is told."""

    def wired(urls: dict[str, str], function: str = "completion", **settings: str) -> tuple[Any, list[object]]:
        prefix = function.upper()
        for name, value in AMBIENT.items():
            monkeypatch.setenv(name, value)
        for name, url in urls.items():
            monkeypatch.setenv(f"{prefix}_{name.upper()}_BASE_URL", url)
            monkeypatch.setenv(f"{prefix}_{name.upper()}_API_KEY", KEYS[name])
        monkeypatch.setenv(f"{prefix}_ENDPOINTS", ",".join(urls))
        monkeypatch.setenv(f"{prefix}_STRATEGY", "in-order")
        for name, value in settings.items():
            monkeypatch.setenv(f"{prefix}_{name.upper()}", value)
        told: list[object] = []
        container = contain()
        listener = container.listener()
        container.listener.override(providers.Object(lambda event: (told.append(event), listener(event))))
        return container, told

    return wired


def shown(container: Any, function: str, answers: list[Any], told: list[object], calls: list[Any]) -> str:
    """All that can be seen of calls and of those who made them."""
    pool = getattr(container, function).pool()
    clients = [getattr(container, f"{kind}{function}_client")() for kind in ("", "async_")]
    ours: list[object] = [pool, pool.snapshot(), pool.endpoints, told, calls, container]
    for client in clients:
        transport = client._client._transport
        ours += [transport, transport._traffic, *transport._servers]
    # The SDK keeps what the environment holds for it in fields of its clients: those are its own.
    texts = [f"{one!r} {one}" for one in (*ours, *clients, *(client._client for client in clients))]
    texts += [repr(vars(one)) for one in ours if hasattr(one, "__dict__")]
    # It tells an organisation and a project: names, and no secrets.
    texts += [str(container.explain()).replace("canary-organization", "").replace("canary-project", "")]
    texts += [text for answer in answers if isinstance(answer, BaseException) for text in of_error(answer)]
    return "\n".join(texts)


def of_error(error: BaseException) -> list[str]:
    """Its traceback with all variables, its fields, its pickle; and those of what it came from."""
    shown = ["".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())]
    waiting, known = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in known:
            continue
        known.add(id(one))
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
        shown += [repr(one), str(one), repr(vars(one)), repr(getattr(one, "__notes__", ""))]
        if (response := getattr(one, "response", None)) is not None:
            shown += [repr(response.headers), response.text, repr(response.extensions), response.reason_phrase]
        with contextlib.suppress(Exception):  # some errors of the SDK cannot be pickled
            shown.append(pickle.dumps(one).decode("latin-1"))
    return shown


def check(text: str, *, allowed: str | None = None) -> None:
    """Fails where a canary is in the text; one of a server's own may be."""
    found = [at for at in range(len(text)) if text.startswith("canary-", at)]
    seen = {text[at - 60 : at + 60] for at in found if allowed is None or not text.startswith(allowed, at)}
    assert not seen


def check_everywhere(container, function, answers, told, calls, caplog, capfd) -> None:
    check(shown(container, function, answers, told, calls))
    check(caplog.text + "".join(repr(vars(record)) for record in caplog.records))
    check("".join(capfd.readouterr()))


def is_for(operation: Operation, fault: str | Fault) -> bool:
    stem = str(fault).partition(":")[0]
    return stem not in ("vectors", "stream", "cut_stream") or (
        operation is BASE64 if stem == "vectors" else operation in (CHAT_STREAM, RESPONSE_STREAM)
    )


FAULTS = [*STATUSES, *CONNECTIONS, *BODIES, *BROKEN_STREAMS, *AFTER_A_PRELUDE, *WITHOUT_CHOICES, *WRONG_VECTORS]
ROTATION = (CHAT, CHAT_STREAM, BASE64, RESPONSE_STREAM)
CASES = [
    (next(one for one in (*ROTATION[number % 4 :], *ROTATION) if is_for(one, fault)), fault)
    for number, fault in enumerate(
        [*dict.fromkeys(case[0] for case in FAULTS), "stream:no_finish", "400", "422", "409"]
    )
]


@pytest.mark.parametrize(("operation", "fault"), CASES, ids=named)
def test_no_fault_shows_a_key_to_anyone(trio, wired, caller, caplog, capfd, operation, fault):
    caplog.set_level("DEBUG")
    # First they all fail, and an error is shown; then an answer is.
    trio.script([fault], *[[faults.times(1, fault), "ok"]] * 2)
    before = [len(server.seen) for server in trio.servers]
    urls = dict(zip("abc", (server.base_url for server in trio.servers), strict=True))
    container, told = wired(urls, operation.function, deadline_s="3")

    with recorded() as calls:
        answers = caller.run(container, repeated(operation, 2), function=operation.function)

    check_everywhere(container, operation.function, answers, told, calls, caplog, capfd)
    for (name, key), server, start in zip(KEYS.items(), trio.servers, before, strict=True):
        got = "".join(f"{seen!r} {seen.headers} {seen.content!r}" for seen in server.seen[start:])
        check(got, allowed=key)
        assert key in got or not server.seen[start:], f"{name} is asked without its key"


@pytest.mark.parametrize("fault", ["hang", "hang:headers", "trickle:0.02", "hang:after_bytes=40"])
def test_no_wait_shows_a_key_to_anyone(trio, wired, caller, caplog, capfd, fault):
    caplog.set_level("DEBUG")
    trio.script([fault], [fault], [fault])
    urls = dict(zip("abc", (server.base_url for server in trio.servers), strict=True))
    container, told = wired(urls, deadline_s="0.3", first_byte_timeout_s="0.1")

    with recorded() as calls:
        answers = caller.run(container, repeated(CHAT, 1))

    assert isinstance(answers[0], Exception)
    check_everywhere(container, "completion", answers, told, calls, caplog, capfd)


def test_servers_that_are_down_see_nothing_and_their_errors_show_no_key(trio, wired, caller, caplog, capfd):
    caplog.set_level("DEBUG")
    urls = dict(zip("abc", (server.base_url for server in trio.servers), strict=True))
    container, told = wired(urls)
    for server in trio.servers:
        server.stop()
    try:
        with recorded() as calls:
            answers = caller.run(container, repeated(CHAT, 2))
    finally:
        for server in trio.servers:
            server.start()

    assert all(isinstance(answer, Exception) for answer in answers)
    check_everywhere(container, "completion", answers, told, calls, caplog, capfd)


# Servers that repeat the key that they were sent.


def echo_of(exchange: Exchange) -> str:
    return str(exchange.seen.header("authorization"))


def in_error(status: int):
    def answer(exchange: Exchange) -> None:
        key = echo_of(exchange)
        exchange.json({"error": {"message": f"no: {key}", "code": key, "type": key}, "key": key}, status=status)

    return answer


def in_page(exchange: Exchange) -> None:
    exchange.send(f"<html>{echo_of(exchange)}".encode(), headers={"content-type": "text/html"})


def in_page_of_an_error(exchange: Exchange) -> None:
    exchange.send(f"<html>{echo_of(exchange)}".encode(), status=502, headers={"content-type": "text/html"})


def in_header_of_an_error(exchange: Exchange) -> None:
    exchange.json({"error": {"message": "no"}}, status=401, headers={"x-echo": echo_of(exchange)})


def in_header(exchange: Exchange) -> None:
    exchange.json({"choices": []}, headers={"x-echo": echo_of(exchange), "x-request-id": echo_of(exchange)})


def in_header_of_a_success(exchange: Exchange) -> None:
    key = echo_of(exchange)
    exchange._handler.send_header = _with_echo(exchange._handler.send_header, key)  # type: ignore[method-assign]
    speak(exchange)


def _with_echo(send_header, key):
    def send(name, value):
        send_header("x-echo", key)
        send_header(name, value)

    return send


def in_reason(exchange: Exchange) -> None:
    exchange.raw(f"HTTP/1.1 500 {echo_of(exchange)}\r\ncontent-length: 2\r\n\r\n{{}}".encode())


def in_location(exchange: Exchange) -> None:
    exchange.json({}, status=307, headers={"location": f"http://127.0.0.1:9/?key={echo_of(exchange)}"})


def in_error_of_a_success(exchange: Exchange) -> None:
    exchange.json({"error": {"message": echo_of(exchange)}})


def in_wrong_types(exchange: Exchange) -> None:
    key = echo_of(exchange)
    exchange.json({"choices": key, "data": key, "output": key, key: key})


def in_garbage(exchange: Exchange) -> None:
    exchange.send(b'{"choices": [' + echo_of(exchange).encode(), headers={"content-type": "application/json"})


def in_bytes_that_are_no_text(exchange: Exchange) -> None:
    exchange.send(b'{"id": "' + echo_of(exchange).encode() + b'\xff"', headers={"content-type": "application/json"})


def in_no_http(exchange: Exchange) -> None:
    exchange.raw(echo_of(exchange).encode() + b"\r\n\r\n")
    exchange.hang_up()


def in_broken_base64(exchange: Exchange) -> None:
    data = [{"index": index, "embedding": echo_of(exchange)} for index in range(3)]
    exchange.json({"data": data, "object": "list"})


def in_stream(*events: Any):
    def answer(exchange: Exchange) -> None:
        exchange.start_stream()
        for event in events:
            text = event if isinstance(event, str) else json.dumps(event)
            exchange.event(text.replace("KEY", echo_of(exchange)))
        exchange.chunk(b"")

    return answer


def in_cut_event(exchange: Exchange) -> None:
    exchange.start_stream()
    exchange.event(delta("one "))
    exchange.raw(b"100\r\ndata: " + echo_of(exchange).encode())
    exchange.hang_up()


ECHOES = {
    **{f"in the error of {status}": in_error(status) for status in (400, 401, 403, 404, 429, 500, 503)},
    "in a page": in_page,
    "in a page of an error": in_page_of_an_error,
    "in a header of an error": in_header_of_an_error,
    "in a header": in_header,
    "in the reason": in_reason,
    "in a location": in_location,
    "in an error of a success": in_error_of_a_success,
    "in wrong types": in_wrong_types,
    "in garbage": in_garbage,
    "in no text": in_bytes_that_are_no_text,
    "in no HTTP": in_no_http,
    "in broken base64": in_broken_base64,
    "in an error of a stream": in_stream({"error": {"message": "KEY"}}),
    "in an error after content": in_stream(delta("one "), {"error": {"message": "KEY"}}),
    "in garbage of a stream": in_stream("KEY"),
    "in garbage after content": in_stream(delta("one "), '{"KEY'),
    "in a named error": in_stream({"type": "error", "message": "KEY"}),
    "in a cut event": in_cut_event,
}


@pytest.mark.parametrize("operation", [CHAT, CHAT_STREAM, BASE64], ids=named)
@pytest.mark.parametrize("echo", ECHOES)
def test_a_server_that_repeats_its_key_shows_it_to_nobody(serve, wired, caller, caplog, capfd, operation, echo):
    caplog.set_level("DEBUG")
    server = serve(ECHOES[echo])
    container, told = wired({"a": server.url}, operation.function, max_attempts="1")

    with recorded() as calls:
        answers = caller.run(container, repeated(operation, 2), function=operation.function)

    assert KEYS["a"] in str(server.seen)
    assert all(isinstance(answer, Exception) for answer in answers)
    check_everywhere(container, operation.function, answers, told, calls, caplog, capfd)


@pytest.mark.parametrize("operation", [CHAT, CHAT_STREAM], ids=named)
def test_a_header_of_a_success_that_repeats_the_key_is_not_logged(serve, wired, caller, caplog, capfd, operation):
    caplog.set_level("DEBUG")
    server = serve(in_header_of_a_success)
    container, told = wired({"a": server.url}, operation.function)

    with recorded() as calls:
        answers = caller.run(container, repeated(operation, 1), function=operation.function)

    assert isinstance(answers[0], str)
    check_everywhere(container, operation.function, answers, told, calls, caplog, capfd)


# To another place.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_takes_no_key_and_no_prompt_to_another_host(serve, wired, caller, caplog, capfd, status):
    caplog.set_level("DEBUG")
    other = serve()
    server = serve(lambda exchange: exchange.json({}, status=status, headers={"location": f"{other.url}/v1/x"}))
    container, told = wired({"a": server.url})

    with recorded() as calls:
        answers = caller.run(container, repeated(CHAT, 2))

    assert other.accepted == 0
    check_everywhere(container, "completion", answers, told, calls, caplog, capfd)


@pytest.mark.parametrize(
    "url", ["{other}/v1/models", "http://127.0.0.1.evil.test:{port}/v1/models", "//localhost:{port}/v1/models"]
)
def test_an_absolute_url_takes_no_key_to_another_host(serve, wired, caller, caplog, capfd, url):
    caplog.set_level("DEBUG")
    other, server = serve(), serve()
    container, told = wired({"a": server.url})
    target = url.format(other=other.url, own=server.url, port=other.port)

    answers = caller.run(container, repeated(lambda client: client.get(target, cast_to=object), 1))

    assert isinstance(answers[0], Exception) or "//" in target
    assert other.accepted == 0
    check_everywhere(container, "completion", answers, told, [], caplog, capfd)


def test_each_function_has_a_key_of_its_own(serve, wired, monkeypatch):
    text, vectors = serve(), serve()
    monkeypatch.setenv("EMBEDDING_BASE_URL", vectors.url)
    monkeypatch.setenv("EMBEDDING_API_KEY", "canary-of-vectors")
    container, _ = wired({"a": text.url})

    CHAT(container.completion_client())
    container.embedding_client().embeddings.create(model="m", input="x")

    check(str(text.seen), allowed=KEYS["a"])
    check(str(vectors.seen), allowed="canary-of-vectors")


def test_a_call_that_is_cancelled_shows_no_key(trio, wired, caplog, capfd):
    caplog.set_level("DEBUG")
    trio.script(["hang"])
    container, told = wired({"a": trio.servers[0].base_url})

    async def main() -> BaseException:
        task = asyncio.ensure_future(CHAT(container.async_completion_client()))
        before = len(trio.servers[0].seen)
        await asyncio.to_thread(trio.servers[0].wait_until, lambda server: len(server.seen) > before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        return caught.value

    error = asyncio.run(main())

    check_everywhere(container, "completion", [error], told, [], caplog, capfd)
