"""The shape of OpenAI's Responses API: its body, and the sequence of its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from .reading import TextRequest
from .spoken import Choice, Stamp, ToolCall, pieces

Body = dict[str, Any]
Event = tuple[str, Body]

#: what a server repeats of the request, with what stands where the request is silent
_REPEATED: Body = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def body(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Body:
    """The finished response: `completed`, or `incomplete` where the answer was cut."""
    ending = _ending(choices)
    cut = {"reason": "max_output_tokens"} if ending == "incomplete" else None
    output = [item for choice in choices for item in _items(choice, stamp)]
    return {
        **_begun(request, stamp),
        "status": ending,
        "incomplete_details": cut,
        "output": output,
        "usage": _usage(request, choices),
    }


def events(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Iterator[Event]:
    """Created, in progress, each item with its pieces, completed: numbered, and named as their `type`."""
    numbers = count()
    for kind, fields in _told(request, choices, stamp):
        yield kind, {"type": kind, "sequence_number": next(numbers), **fields}


def _told(request: TextRequest, choices: Sequence[Choice], stamp: Stamp) -> Iterator[Event]:
    begun = _begun(request, stamp)
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    items = [item for choice in choices for item in _items(choice, stamp)]
    for index, item in enumerate(items):
        yield from _item_told(item, index)
    yield f"response.{_ending(choices)}", {"response": body(request, choices, stamp)}


def _item_told(item: Body, index: int) -> Iterator[Event]:
    is_call = item["type"] == "function_call"
    empty: Body = {"arguments": ""} if is_call else {"content": []}
    yield "response.output_item.added", {"output_index": index, "item": {**item, **empty, "status": "in_progress"}}
    yield from _call_told(item, index) if is_call else _text_told(item, index)
    yield "response.output_item.done", {"output_index": index, "item": item}


def _call_told(item: Body, index: int) -> Iterator[Event]:
    place: Body = {"item_id": item["id"], "output_index": index}
    for piece in pieces(item["arguments"]):
        yield "response.function_call_arguments.delta", {**place, "delta": piece}
    said: Body = {"name": item["name"], "arguments": item["arguments"]}
    yield "response.function_call_arguments.done", {**place, **said}


def _text_told(item: Body, index: int) -> Iterator[Event]:
    [part] = item["content"]
    text = part["text"]
    place: Body = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield "response.content_part.added", {**place, "part": {**part, "text": ""}}
    for piece in pieces(text):
        yield "response.output_text.delta", {**place, "delta": piece, "logprobs": []}
    yield "response.output_text.done", {**place, "text": text, "logprobs": []}
    yield "response.content_part.done", {**place, "part": part}


def _begun(request: TextRequest, stamp: Stamp) -> Body:
    repeated = {name: request.body.get(name, value) for name, value in _REPEATED.items()}
    return {
        "id": f"resp_{stamp.serial}",
        "object": "response",
        "created_at": stamp.created_s,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": request.model,
        "output": [],
        "usage": None,
        **repeated,
        **stamp.marks,
    }


def _items(choice: Choice, stamp: Stamp) -> list[Body]:
    calls = [_call_item(call, number, stamp) for number, call in enumerate(choice.calls)]
    if choice.text is None:
        return calls
    status = "incomplete" if choice.finish == "length" else "completed"
    part = {"type": "output_text", "text": choice.text, "annotations": [], "logprobs": []}
    message: Body = {
        "id": f"msg_{stamp.serial}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [part],
    }
    return [message, *calls]


def _call_item(call: ToolCall, number: int, stamp: Stamp) -> Body:
    return {
        "id": f"fc_{stamp.serial}_{number}",
        "type": "function_call",
        "status": "completed",
        "name": call.name,
        "arguments": call.arguments,
        "call_id": stamp.call_id(number),
    }


def _ending(choices: Sequence[Choice]) -> str:
    return "incomplete" if any(choice.finish == "length" for choice in choices) else "completed"


def _usage(request: TextRequest, choices: Sequence[Choice]) -> Body:
    sent, answered = request.tokens, sum(choice.tokens for choice in choices)
    return {
        "input_tokens": sent,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": sent + answered,
    }
