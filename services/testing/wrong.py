"""What is wrong with the content of a reply: its body, its events, its vectors.

Knows replies and events; knows nothing of connections, or of which request meets which fault.
"""

from __future__ import annotations

import base64
import json
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal

from .failures import Failure
from .replies import JSON, Reply, json_reply
from .vectors import to_base64

WrongBody = Literal["garbage", "html", "error", "no_choices", "empty_choices"]
WrongStream = Literal["error", "garbage", "no_finish", "no_done", "comments"]
WrongVectors = Literal[
    "fewer",
    "more",
    "dimensions",
    "nan",
    "infinite",
    "zero",
    "duplicate_index",
    "shuffled_index",
    "broken_base64",
    "ragged_base64",
    "other_form",
]

Json = dict[str, Any]


def with_text(reply: Reply, text: str) -> Reply:
    """The reply with another body: HTML where it begins with `<`, or else said to be JSON."""
    kind = "text/html; charset=utf-8" if text.startswith("<") else JSON
    return Reply(status=reply.status, headers={**reply.headers, "content-type": kind}, content=text.encode())


def edited(edit: Callable[[Json], Json]) -> Callable[[Reply], Reply]:
    """Changes the JSON of a good reply, or of each event of a stream."""

    def change(reply: Reply) -> Reply:
        if reply.status != 200:
            return reply
        if isinstance(reply.content, bytes):
            return replace(reply, content=_edited_json(reply.content, edit))
        return replace(reply, content=(edited_event(event, edit) for event in reply.content))

    return change


def edited_event(event: bytes, edit: Callable[[Json], Json]) -> bytes:
    """One event of a stream with its JSON changed; `[DONE]` stays as it is."""
    title, mark, data = event.partition(b"data: ")
    return title + mark + _edited_json(data, edit) + b"\n\n" if data.startswith(b"{") else event


def restreamed(change: Callable[[Iterator[bytes]], Iterator[bytes]]) -> Callable[[Reply], Reply]:
    """Changes the events of a stream; other replies stay as they are."""
    return lambda reply: reply if isinstance(reply.content, bytes) else replace(reply, content=change(reply.content))


def padded(size_bytes: int) -> Callable[[Reply], Reply]:
    """Puts blanks before a body, or a comment before the events of a stream."""

    def change(reply: Reply) -> Reply:
        if isinstance(reply.content, bytes):
            return replace(reply, content=b" " * size_bytes + reply.content)
        return replace(reply, content=chain([b":" + b" " * size_bytes + b"\n\n"], reply.content))

    return change


def _edited_json(content: bytes, edit: Callable[[Json], Json]) -> bytes:
    return json.dumps(edit(json.loads(content)), separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Vectors:
    """Changes the vectors of an embeddings reply, in whichever form the request wanted them.

    Attributes:
        items: changes the list that carries them.
        numbers: changes each vector.
    """

    items: Callable[[list[Json]], list[Json]] = field(default=list)
    numbers: Callable[[list[float]], list[float]] | None = None

    def __call__(self, body: Json) -> Json:
        data = body.get("data")
        if not isinstance(data, list) or not data or "embedding" not in data[0]:
            return body
        return {**body, "data": self.items([self._renumbered(item) for item in data])}

    def _renumbered(self, item: Json) -> Json:
        return item if self.numbers is None else {**item, "embedding": _renumbered(item["embedding"], self.numbers)}


def _renumbered(vector: str | list[float], change: Callable[[list[float]], list[float]]) -> str | list[float]:
    return to_base64(change(_numbers(vector))) if isinstance(vector, str) else change(vector)


def _numbers(vector: str | list[float]) -> list[float]:
    if not isinstance(vector, str):
        return vector
    numbers = array("f", base64.b64decode(vector))
    if sys.byteorder == "big":
        numbers.byteswap()
    return list(numbers)


def _ragged(vector: str | list[float]) -> str:
    """As base64 without its last byte: good base64, of bytes that are no whole number of float32."""
    return base64.b64encode(base64.b64decode(to_base64(_numbers(vector)))[:-1]).decode("ascii")


def _with_embeddings(change: Callable[[str | list[float]], str | list[float]]) -> Vectors:
    """Changes what each vector is written as."""
    return Vectors(items=lambda items: [{**item, "embedding": change(item["embedding"])} for item in items])


#: what can be wrong with vectors, by its name in the vocabulary
VECTORS: Mapping[str, Vectors] = {
    "fewer": Vectors(items=lambda items: items[:-1]),
    "more": Vectors(items=lambda items: [*items, {**items[-1], "index": len(items)}]),
    "dimensions": Vectors(numbers=lambda numbers: [*numbers, 0.5]),
    "nan": Vectors(numbers=lambda numbers: [float("nan"), *numbers[1:]]),
    "infinite": Vectors(numbers=lambda numbers: [float("inf"), *numbers[1:]]),
    "zero": Vectors(numbers=lambda numbers: [0.0] * len(numbers)),
    "duplicate_index": Vectors(items=lambda items: [{**item, "index": 0} for item in items]),
    "shuffled_index": Vectors(items=lambda items: items[::-1]),
    # Its length fits no bytes, and its bytes would fit no number.
    "broken_base64": _with_embeddings(lambda _: "AAAAAAA"),
    "ragged_base64": _with_embeddings(_ragged),
    "other_form": _with_embeddings(lambda vector: _numbers(vector) if isinstance(vector, str) else to_base64(vector)),
}


_ERROR = Failure(status=500, message="The server had an error.", type="server_error", code="scripted_fault").body()
_PAGE = "<!DOCTYPE html><html><body><h1>Welcome to the wrong server</h1></body></html>"
_ANSWERS = ("choices", "data", "output")  #: where an answer stands in its body

BODIES: Mapping[WrongBody, Callable[[Reply], Reply]] = {
    "garbage": lambda reply: with_text(Reply(status=reply.status, content=b""), '{"id": "1", "object": "chat.comp'),
    "html": lambda reply: with_text(Reply(status=reply.status, content=b""), _PAGE),
    "error": lambda reply: replace(json_reply(_ERROR), status=reply.status),
    "no_choices": edited(lambda body: {name: value for name, value in body.items() if name not in _ANSWERS}),
    "empty_choices": edited(lambda body: {name: [] if name in _ANSWERS else body[name] for name in body}),
}


def _with_error(events: Iterator[bytes], after_events: int) -> Iterator[bytes]:
    yield from islice(events, after_events)
    yield b"data: " + json.dumps(_ERROR).encode() + b"\n\n"


def _with_garbage(events: Iterator[bytes], after_events: int) -> Iterator[bytes]:
    for number, event in enumerate(events):
        if number == after_events:
            yield b'data: {"id": "1", "obj\n\n'
        yield event


def _without_finish(events: Iterator[bytes], _: int) -> Iterator[bytes]:
    for event in events:
        if not event.startswith((b"event: response.completed", b"event: response.incomplete")):
            yield edited_event(event, _unfinished)


def _unfinished(chunk: Json) -> Json:
    if "choices" not in chunk:
        return chunk
    return {**chunk, "choices": [{**choice, "finish_reason": None} for choice in chunk["choices"]]}


def _commented(events: Iterator[bytes], _: int) -> Iterator[bytes]:
    for event in events:
        yield b": keep-alive\n\n"
        yield event


STREAMS: Mapping[WrongStream, Callable[[Iterator[bytes], int], Iterator[bytes]]] = {
    "error": _with_error,
    "garbage": _with_garbage,
    "no_finish": _without_finish,
    "no_done": lambda events, _: (event for event in events if not event.startswith(b"data: [DONE]")),
    "comments": _commented,
}
