"""What a server of the OpenAI API sends: status, headers, JSON bodies and streams of events.

Knows the shapes of chat, completions, embeddings and models (`responses.py` has the shape of the Responses API);
knows nothing of where a text comes from, or of how a reply is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import responses
from .failures import Failure
from .reading import TextRequest, VectorRequest
from .spoken import Choice, Stamp, ToolCall, pieces
from .vectors import to_base64

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"

_DONE = b"data: [DONE]\n\n"

Body = dict[str, object]
Event = tuple[str | None, Mapping[str, object]]  # its name, if its API names events; its JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An HTTP answer: a whole body, or the pieces of a stream, each of them one event."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": JSON})
    content: bytes | Iterator[bytes]


def json_reply(body: Mapping[str, object]) -> Reply:
    return Reply(content=_json(body))


def failure_reply(failure: Failure, marks: Mapping[str, object]) -> Reply:
    headers = {"content-type": JSON, **failure.headers}
    return Reply(status=failure.status, headers=headers, content=_json({**failure.body(), **marks}))


def text_reply(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Reply:
    """The answer to a request for text, whole or as a stream, as the request wants it.

    Args:
        choices: for each conversation of the request as many as it asks for.
    """
    whole, streamed = _SHAPES[request.operation]
    if not request.is_streamed:
        return json_reply(whole(request, choices, stamp))
    return Reply(
        headers={"content-type": EVENTS, "cache-control": "no-cache"},
        content=_frames(streamed(request, choices, stamp), is_closed=request.operation != "responses"),
    )


def vector_reply(request: VectorRequest, vectors: Sequence[Sequence[float]], marks: Mapping[str, object]) -> Reply:
    """The answer to a request for embeddings: one vector for each input, in order."""
    data = [
        {"object": "embedding", "index": index, "embedding": to_base64(vector) if request.is_base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": request.tokens, "total_tokens": request.tokens}
    return json_reply({"object": "list", "data": data, "model": request.model, "usage": usage, **marks})


def models_body(names: Sequence[str], marks: Mapping[str, object]) -> Body:
    return {"object": "list", "data": [model_body(name, {}) for name in names], **marks}


def model_body(name: str, marks: Mapping[str, object]) -> Body:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llmwire", **marks}


def chat_body(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Body:
    given = [
        {"index": index, "message": _message(choice, stamp), "logprobs": None, "finish_reason": choice.finish}
        for index, choice in enumerate(choices)
    ]
    return {**_head("chatcmpl", "chat.completion", request, stamp), "choices": given, "usage": _usage(request, choices)}


def chat_events(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Iterator[Event]:
    """For each choice its role, its pieces and why it ends; at last the usage, where it is wanted."""
    head = _head("chatcmpl", "chat.completion.chunk", request, stamp)
    if request.wants_usage:
        head["usage"] = None
    for index, choice in enumerate(choices):
        for delta in _deltas(choice, stamp):
            yield None, {**head, "choices": [_chunk(index, delta)]}
        yield None, {**head, "choices": [_chunk(index, {}, finish=choice.finish)]}
    if request.wants_usage:
        yield None, {**head, "choices": [], "usage": _usage(request, choices)}


def completion_body(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Body:
    given = [_text_choice(index, choice.text or "", choice.finish) for index, choice in enumerate(choices)]
    return {**_head("cmpl", "text_completion", request, stamp), "choices": given, "usage": _usage(request, choices)}


def completion_events(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Iterator[Event]:
    head = _head("cmpl", "text_completion", request, stamp)
    for index, choice in enumerate(choices):
        for piece in pieces(choice.text or ""):
            yield None, {**head, "choices": [_text_choice(index, piece, None)]}
        yield None, {**head, "choices": [_text_choice(index, "", choice.finish)]}
    if request.wants_usage:
        yield None, {**head, "choices": [], "usage": _usage(request, choices)}


def _head(prefix: str, kind: str, request: TextRequest, stamp: Stamp) -> Body:
    identity = {"id": f"{prefix}-{stamp.serial}", "object": kind, "created": stamp.created_s, "model": request.model}
    return {**identity, **stamp.marks}


def _usage(request: TextRequest, choices: Sequence[Choice]) -> dict[str, int]:
    prompt, completion = request.tokens, sum(choice.tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _message(choice: Choice, stamp: Stamp) -> Body:
    message: Body = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.calls:
        message["tool_calls"] = [_call(call, stamp.call_id(number)) for number, call in enumerate(choice.calls)]
    return message


def _call(call: ToolCall, call_id: str) -> Body:
    return {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _deltas(choice: Choice, stamp: Stamp) -> Iterator[Body]:
    yield {"role": "assistant", "content": None if choice.text is None else "", "refusal": None}
    for piece in pieces(choice.text or ""):
        yield {"content": piece}
    for number, call in enumerate(choice.calls):
        start = _call(ToolCall(name=call.name, arguments=""), stamp.call_id(number))
        yield {"tool_calls": [{"index": number, **start}]}
        for piece in pieces(call.arguments):
            yield {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}


def _chunk(index: int, delta: Body, *, finish: str | None = None) -> Body:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def _text_choice(index: int, text: str, finish: str | None) -> Body:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _frames(events: Iterator[Event], *, is_closed: bool) -> Iterator[bytes]:
    """As server-sent events; `[DONE]` closes the streams of the APIs that do not name their events."""
    for name, data in events:
        title = f"event: {name}\n".encode() if name else b""
        yield title + b"data: " + _json(data) + b"\n\n"
    if is_closed:
        yield _DONE


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


_Whole = Callable[[TextRequest, Sequence[Choice], Stamp], Body]
_Streamed = Callable[[TextRequest, Sequence[Choice], Stamp], Iterator[Event]]

_SHAPES: dict[str, tuple[_Whole, _Streamed]] = {
    "chat/completions": (chat_body, chat_events),
    "completions": (completion_body, completion_events),
    "responses": (responses.body, responses.events),
}
