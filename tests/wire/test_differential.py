"""With one healthy endpoint nobody can tell a client of ours from a bare one: not its server, not its caller."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx2
import openai
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmwire.container import LLMContainer

from .servers import Exchange, Seen, Server, chat, completion, delta, hang, response

KEY = "its-key"
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
BOUNDARY = re.compile(rb"boundary=([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One call of a method of the SDK.

    Attributes:
        method: as in `chat.completions.create`.
        view: `plain`, `raw`, or `streaming`: how the SDK is to give its answer.
        options: of a copy of the client that makes the call, or None.
        status, body: of the server's answer; status 200 is the right one for the method.
    """

    method: str
    arguments: dict[str, Any]
    view: str = "plain"
    options: dict[str, Any] | None = None
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Upstream:
    """Answers the call that is being compared."""

    def __init__(self) -> None:
        self.asked = Asked("", {})
        self.server = Server(self._answer)

    def _answer(self, exchange: Exchange) -> None:
        asked = self.asked
        headers = {"x-request-id": "req-7", "openai-processing-ms": "5", **asked.headers}
        if asked.status != 200:
            exchange.send(asked.body, status=asked.status, headers=headers)
            return
        path = exchange.seen.target.partition("?")[0].removeprefix("/v1/")
        if not path.startswith("files") and b'"stream":true' in exchange.seen.content:
            self._stream(exchange, path, headers)
        elif path == "audio/speech" or path.endswith("/content"):
            exchange.send(bytes(range(256)) * 9, headers={"content-type": "audio/mpeg", **headers})
        else:
            exchange.json(_right(path, exchange.seen), headers=headers)

    @staticmethod
    def _stream(exchange: Exchange, path: str, headers: dict[str, str]) -> None:
        exchange.head(headers={"content-type": "text/event-stream", "transfer-encoding": "chunked", **headers})
        if path == "responses":
            exchange.named_event({"type": "response.output_text.delta", "delta": "Hel", "sequence_number": 1})
            exchange.named_event({"type": "response.completed", "response": response("Hel"), "sequence_number": 2})
        else:
            choices = [{"role": "assistant", "content": ""}, {"content": "w\u00f6r"}, {"content": "ld\u2028"}]
            for one in choices:
                event = delta(None)
                event["choices"][0].update({"text": one["content"]} if path == "completions" else {"delta": one})
                exchange.event(event)
            exchange.raw(b"")
            wanted = exchange.seen.body.get("n") or 1
            for index in range(wanted):
                event = delta(None, finish="stop")
                event["choices"][0].update({"index": index, "text": ""})
                exchange.event(event)
            if (exchange.seen.body.get("stream_options") or {}).get("include_usage"):
                exchange.event({**delta(None), "choices": [], "usage": USAGE})
            exchange.event("[DONE]")
        exchange.chunk(b"")


def _right(path: str, seen: Seen) -> dict[str, Any]:
    if path == "embeddings":
        return _embeddings(seen.body)
    if path == "moderations":
        return {"id": "m", "model": "x", "results": [{"flagged": False, "categories": {}, "category_scores": {}}]}
    if path == "models":
        return {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "us"}]}
    if path.startswith("models/"):
        return {"id": path, "object": "model", "created": 1, "owned_by": "us"}
    if path.startswith("files"):
        name = {"id": "f", "object": "file", "bytes": 3, "created_at": 1, "filename": "a", "purpose": "batch"}
        return {**name, "status": "processed"}
    return {"completions": completion, "responses": response}.get(path, chat)("It is \u6d77.")


def _embeddings(body: dict[str, Any]) -> dict[str, Any]:
    inputs = body["input"]
    count = len(inputs) if isinstance(inputs, list) and not isinstance(inputs[0], int) else 1
    numbers = [[number + 0.5] * (body.get("dimensions") or 3) for number in range(count)]
    is_base64 = body.get("encoding_format") == "base64"
    shown = [base64.b64encode(struct.pack(f"<{len(one)}f", *one)).decode() if is_base64 else one for one in numbers]
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(shown)]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}}


# What is asked.

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
HEADER_NAMES = st.sampled_from(["X-One", "x-two", "Accept-Language", "User-Agent", "Idempotency-Key", "OpenAI-Beta"])
HEADERS = st.dictionaries(HEADER_NAMES, st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True), max_size=3)
OWN_FIELDS = {"model", "stream", "n", "input", "messages", "prompt", "dimensions", "store", "background", "error"}
BODIES = st.dictionaries(TEXT.filter(lambda name: name not in OWN_FIELDS), JSON, max_size=3)
COMMON = st.fixed_dictionaries(
    {},
    optional={
        "extra_headers": HEADERS,
        "extra_query": st.dictionaries(TEXT, TEXT, max_size=2),
        "timeout": st.floats(20, 90) | st.just(httpx2.Timeout(30, connect=1.5)),
    },
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user"]), "content": TEXT | st.just([{"type": "text", "text": "hi"}])}
    ),
    min_size=1,
    max_size=3,
)
SAMPLING = {
    "temperature": st.floats(0, 2),
    "max_tokens": st.integers(1, 99),
    "seed": st.integers(0, 2**40),
    "stop": TEXT | st.lists(TEXT, min_size=1, max_size=2),
    "user": TEXT,
    "stream": st.booleans(),
    "extra_body": BODIES,
}
CHATS = st.fixed_dictionaries(
    {"model": TEXT, "messages": MESSAGES},
    optional={
        **SAMPLING,
        "logit_bias": st.dictionaries(st.sampled_from(["50", "60"]), st.integers(-9, 9), max_size=2),
        "response_format": st.just({"type": "json_object"}),
        "tools": st.just([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]),
    },
)
COMPLETIONS = st.fixed_dictionaries({"model": TEXT, "prompt": TEXT}, optional=SAMPLING)
RESPONSES = st.fixed_dictionaries(
    {"model": TEXT, "input": TEXT},
    optional={
        "instructions": TEXT,
        "temperature": st.floats(0, 2),
        "stream": st.booleans(),
        "store": st.booleans(),
        "previous_response_id": TEXT,
        "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
        "extra_body": BODIES,
    },
)
EMBEDDINGS = st.fixed_dictionaries(
    {
        "model": TEXT,
        "input": TEXT | st.lists(TEXT, min_size=1, max_size=4) | st.lists(st.integers(1, 99), min_size=1, max_size=4),
        # One model of one width: an endpoint alone has nobody to differ from, but its own first answer.
        "dimensions": st.integers(1, 9),
    },
    optional={"encoding_format": st.sampled_from(["float", "base64"]), "user": TEXT, "extra_body": BODIES},
)
FILES = st.binary(min_size=0, max_size=200).flatmap(
    lambda content: st.sampled_from([content, ("a b\u00e9.jsonl", content), ("x", content, "text/plain")])
)
METHODS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "chat.completions.create": CHATS,
    "completions.create": COMPLETIONS,
    "responses.create": RESPONSES,
    "embeddings.create": EMBEDDINGS,
    "moderations.create": st.fixed_dictionaries({"input": TEXT}, optional={"model": TEXT, "extra_body": BODIES}),
    "models.list": st.just({}),
    "models.retrieve": st.fixed_dictionaries(
        {"model": st.from_regex(r"[a-z][a-z0-9/ %?#:.-]{0,9}[a-z]", fullmatch=True)}
    ),
    "files.create": st.fixed_dictionaries({"file": FILES, "purpose": st.just("batch")}),
    "files.content": st.just({"file_id": "f-1"}),
    "audio.speech.create": st.fixed_dictionaries({"input": TEXT, "model": TEXT, "voice": st.just("alloy")}),
}
OPTIONS = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "timeout": st.floats(20, 90),
        "default_headers": HEADERS,
        "default_query": st.dictionaries(TEXT, TEXT, max_size=1),
        "max_retries": st.just(0),
    },
)
ERRORS = [
    b'{"error": {"message": "no", "type": "invalid_request_error", "param": "x", "code": "bad"}}',
    b'{"error": "no"}',
    b'{"detail": [{"loc": ["body"], "msg": "no"}]}',
    b"[1, 2]",
    b"<html>no</html>",
    b"no \xff\xfe",
    b"",
]


def calls() -> st.SearchStrategy[Asked]:
    return st.sampled_from(sorted(METHODS)).flatmap(
        lambda method: st.builds(
            lambda own, common, view, options: Asked(method, own | common, view, options),
            METHODS[method],
            COMMON,
            st.sampled_from(["plain", "plain", "raw", "streaming"]),
            OPTIONS,
        )
    )


REFUSED = st.sampled_from([301, 307, 400, 401, 402, 403, 404, 405, 413, 415, 422, 451, 500, 501, 502, 504])
FAILURES = st.builds(
    lambda asked, status, body, kind: Asked(
        asked.method, asked.arguments, asked.view, asked.options, status, body, {"content-type": kind}
    ),
    calls(),
    REFUSED,
    st.sampled_from(ERRORS),
    st.sampled_from(["application/json", "text/html; charset=utf-8", "application/octet-stream"]),
)


# How it is compared.


@dataclass(frozen=True, slots=True)
class Both:
    """A bare client and ours over the same server, and the loop of the asynchronous ones."""

    upstream: Upstream
    clients: tuple[Any, Any]
    async_clients: tuple[Any, Any]
    runner: asyncio.Runner


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    upstream = Upstream()
    url = upstream.server.url
    own = {"base_url": url, "api_key": KEY, "max_attempts": 1}
    container = LLMContainer(config={"completion": own, "embedding": own}, env={})
    bare = {"base_url": f"{url}/v1", "api_key": KEY, "max_retries": 0, "timeout": 120.0}
    plain = {"trust_env": False, "follow_redirects": False}
    with upstream.server, asyncio.Runner() as runner, httpx2.Client(**plain) as http_client:
        async_http_client = httpx2.AsyncClient(**plain)
        both = Both(
            upstream,
            (openai.OpenAI(http_client=http_client, **bare), container.completion_client()),
            (openai.AsyncOpenAI(http_client=async_http_client, **bare), container.async_completion_client()),
            runner,
        )
        # From its first stream on it is known that the server takes the question for usage; until then a refusal may
        # be one of that, and is asked for once more.
        compare(both, "sync", Asked("chat.completions.create", {"model": "m", "messages": [], "stream": True}))
        compare(both, "sync", Asked("completions.create", {"model": "m", "prompt": "hi", "stream": True}))
        yield both
        runner.run(async_http_client.aclose())
        runner.run(container.aclose())


def method_of(client: Any, asked: Asked) -> Any:
    if asked.options is not None:
        client = client.with_options(**asked.options)
    *path, name = asked.method.split(".")
    for part in path:
        client = getattr(client, part)
    views = {"raw": "with_raw_response", "streaming": "with_streaming_response"}
    return getattr(getattr(client, views[asked.view]) if asked.view in views else client, name)


def answered(client: Any, asked: Asked) -> object:
    method = method_of(client, asked)
    try:
        if asked.view == "streaming":
            with method(**asked.arguments) as streamed:
                return head_of(streamed), b"".join(streamed.iter_bytes(7))
        answer = method(**asked.arguments)
        if asked.view == "raw":
            parsed = answer.parse()
            return head_of(answer), whole(parsed) if hasattr(parsed, "__stream__") else told(parsed)
        return whole(answer) if hasattr(answer, "__stream__") else told(answer)
    except openai.OpenAIError as error:
        return told_of(error)


async def answered_async(client: Any, asked: Asked) -> object:
    method = method_of(client, asked)
    try:
        if asked.view == "streaming":
            async with method(**asked.arguments) as streamed:
                return head_of(streamed), b"".join([part async for part in streamed.iter_bytes(7)])
        answer = await method(**asked.arguments)
        if asked.view == "raw":
            parsed = answer.parse()
            return head_of(answer), await whole_async(parsed) if hasattr(parsed, "__stream__") else told(parsed)
        return await whole_async(answer) if hasattr(answer, "__stream__") else told(answer)
    except openai.OpenAIError as error:
        return told_of(error)


def whole(stream: Any) -> object:
    return head_of(stream.response), [told(chunk) for chunk in stream]


async def whole_async(stream: Any) -> object:
    return head_of(stream.response), [told(chunk) async for chunk in stream]


def head_of(answer: Any) -> object:
    """Status and headers, in which only ours may differ, and that there are two clocks."""
    headers = getattr(answer, "headers", {})
    kept = Counter((name, value) for name, value in headers.multi_items() if not name.startswith("x-llmwire-"))
    return answer.status_code, {pair: count for pair, count in kept.items() if pair[0] != "date"}


def told(answer: Any) -> object:
    if isinstance(answer, pydantic.BaseModel):
        return type(answer), answer.model_dump(warnings=False), getattr(answer, "_request_id", None)
    return type(answer), getattr(answer, "content", answer)


def told_of(error: Any) -> object:
    names = ("status_code", "body", "code", "param", "type", "message", "request_id")
    response = getattr(error, "response", None)
    request = getattr(error, "request", None)
    fields = {name: getattr(error, name, None) for name in names}
    shown = (head_of(response), response.content, response.reason_phrase) if response is not None else None
    return type(error), str(error), fields, shown, request and (request.method, str(request.url))


ASKS_USAGE = b',"stream_options":{"include_usage":true}}'


def sent(seen: Seen, *, is_ours: bool = False) -> object:
    """What the server got, with the boundary of a form, which is drawn at random, made equal.

    Of ours without the one thing that it adds: a stream is asked for its usage, which its caller never sees.
    """
    kind = (seen.header("content-type") or "").encode()
    drawn = BOUNDARY.search(kind)
    content = seen.content.replace(drawn[1], b"boundary") if drawn else seen.content
    headers = Counter((name, value) for name, values in seen.headers.items() for value in values)
    if is_ours and content.endswith(ASKS_USAGE):
        del headers["content-length", str(len(content))]
        content = content.removesuffix(ASKS_USAGE) + b"}"
        headers["content-length", str(len(content))] = 1
    if drawn:
        del headers["content-type", kind.decode()]
    return seen.method, seen.target, headers, content


def compare(both: Both, mode: str, asked: Asked) -> None:
    both.upstream.asked = asked
    seen = both.upstream.server.seen
    seen.clear()
    if mode == "sync":
        theirs, ours = (answered(client, asked) for client in both.clients)
    else:
        theirs, ours = (both.runner.run(answered_async(client, asked)) for client in both.async_clients)

    assert len(seen) == 2
    assert sent(seen[1], is_ours=True) == sent(seen[0])
    assert ours == theirs


EACH_MODE = pytest.mark.parametrize("mode", ["sync", "async"])
THOROUGH = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])


@EACH_MODE
@THOROUGH
@given(asked=calls())
def test_a_call_cannot_be_told_from_that_of_a_bare_client(both, mode, asked):
    compare(both, mode, asked)


@EACH_MODE
@THOROUGH
@given(asked=FAILURES)
def test_a_refusal_cannot_be_told_from_that_of_a_bare_client(both, mode, asked):
    compare(both, mode, asked)


@EACH_MODE
@pytest.mark.parametrize("method", sorted(METHODS))
def test_each_method_is_compared_with_arguments_that_are_plain(both, mode, method):
    plain = {
        "chat.completions.create": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
        "completions.create": {"model": "m", "prompt": "hi"},
        "responses.create": {"model": "m", "input": "hi"},
        "embeddings.create": {"model": "m", "input": ["one", "two"], "dimensions": 4},
        "moderations.create": {"input": "hi"},
        "models.list": {},
        "models.retrieve": {"model": "m"},
        "files.create": {"file": ("a.jsonl", b"{}"), "purpose": "batch"},
        "files.content": {"file_id": "f"},
        "audio.speech.create": {"input": "hi", "model": "m", "voice": "alloy"},
    }[method]

    for view in ("plain", "raw", "streaming"):
        compare(both, mode, Asked(method, plain, view))


@EACH_MODE
def test_a_body_of_the_callers_own_cannot_be_told_either(both, mode):
    both.upstream.asked = Asked("", {})
    seen = both.upstream.server.seen
    seen.clear()
    body = {"model": "m", "messages": [{"role": "user", "content": "\u6d77"}], "odd": [1.5, None, {"a": "b"}]}

    async def post(client):
        return await client.post("/chat/completions", body=body, cast_to=object, options={"params": {"a": "b c"}})

    if mode == "sync":
        theirs, ours = (
            client.post("/chat/completions", body=body, cast_to=object, options={"params": {"a": "b c"}})
            for client in both.clients
        )
    else:
        theirs, ours = (both.runner.run(post(client)) for client in both.async_clients)

    assert sent(seen[1]) == sent(seen[0])
    assert json.dumps(ours) == json.dumps(theirs)


@EACH_MODE
@pytest.mark.parametrize("what", ["hangs up", "says nothing"])
def test_a_server_that_cannot_be_reached_is_the_same_error(both, mode, what, monkeypatch):
    def answer(exchange):
        if what == "says nothing":
            hang(exchange)
        exchange.hang_up()

    monkeypatch.setattr(both.upstream.server, "answer", answer)
    arguments = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "timeout": 0.2}
    asked = Asked("chat.completions.create", arguments)
    if mode == "sync":
        theirs, ours = (answered(client, asked) for client in both.clients)
    else:
        theirs, ours = (both.runner.run(answered_async(client, asked)) for client in both.async_clients)

    assert ours == theirs


@EACH_MODE
@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("header", ["retry-after-ms: 60000", "retry-after: 60", "x-ratelimit-reset-tokens: 1m", "x: y"])
def test_a_busy_server_s_own_words_reach_the_caller(both, mode, status, header):
    name, value = header.split(": ")
    own = {"base_url": both.upstream.server.url, "api_key": KEY, "max_attempts": 1}
    container = LLMContainer(config={"completion": own}, env={})
    clients = (both.clients[0], container.completion_client())
    async_clients = (both.async_clients[0], container.async_completion_client())
    renewed = replace(both, clients=clients, async_clients=async_clients)
    arguments = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    kind = {"content-type": "application/json", name: value}

    compare(renewed, mode, Asked("chat.completions.create", arguments, "plain", None, status, ERRORS[0], kind))

    both.runner.run(container.aclose())
