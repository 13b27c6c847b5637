"""Whether an answer is one: looked at before the SDK sees it, which would take nearly anything for a success.

Pure: knows the shapes of the API; knows nothing of endpoints.
"""

from __future__ import annotations

import binascii
import math
from typing import Any, Final

import msgspec

from ..errors import InvalidReply
from .call import UNREADABLE, Call, Kind

MAX_BODY_BYTES: Final = 32 * 2**20  #: of any answer but embeddings: no completion comes near it
MAX_EMBEDDINGS_BYTES: Final = 256 * 2**20  #: 2,048 vectors of 3,072 numbers, written out, are 75 MB
MAX_MODELS: Final = 1000  #: a caller who makes up names fills no memory


class WebPage(InvalidReply):
    """A page in the place of an answer: the URL is another server's, or a proxy's."""


class WrongDimensions(InvalidReply):
    """Vectors of another width than this pool's: another model's."""


class _Message(msgspec.Struct):
    role: Any = None
    content: Any = None


class _ChatChoice(msgspec.Struct):
    message: _Message


class _Chat(msgspec.Struct):
    choices: list[_ChatChoice]
    error: Any = None


class _TextChoice(msgspec.Struct):
    text: str


class _Completion(msgspec.Struct):
    choices: list[_TextChoice]
    error: Any = None


class _Response(msgspec.Struct):
    output: list[msgspec.Raw]
    error: Any = None


class _Vector(msgspec.Struct):
    embedding: str | list[float]
    index: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    error: Any = None


class _Rows(msgspec.Struct):
    data: list[msgspec.Raw]


_DECODERS: Final[dict[Kind, msgspec.json.Decoder[Any]]] = {
    Kind.CHAT: msgspec.json.Decoder(_Chat),
    Kind.COMPLETION: msgspec.json.Decoder(_Completion),
    Kind.RESPONSE: msgspec.json.Decoder(_Response),
    Kind.EMBEDDING: msgspec.json.Decoder(_Vectors),
    Kind.JSON: msgspec.json.Decoder(dict[str, msgspec.Raw]),
}
_SERVERS_FAILURES: Final = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"})
_WHAT: Final = {
    Kind.CHAT: "no chat completion",
    Kind.COMPLETION: "no completion",
    Kind.RESPONSE: "no response",
    Kind.EMBEDDING: "no embeddings",
    Kind.JSON: "no JSON object",
}


def most_bytes(call: Call) -> int:
    """How large the call's answer may be."""
    return MAX_EMBEDDINGS_BYTES if call.kind is Kind.EMBEDDING else MAX_BODY_BYTES


class Widths:
    """How many numbers the vectors of a pool have: as a request asks for, or else as the first answer had them."""

    def __init__(self) -> None:
        self._learnt: dict[str | None, int] = {}  # by the model that is asked for

    def expected(self, call: Call) -> int | None:
        """What the call's vectors must have, or None: nobody knows yet."""
        return call.dimensions or self._learnt.get(call.model)

    def learn(self, call: Call, width: int) -> None:
        """Take the width of a good answer as the one to come."""
        if call.dimensions is None and len(self._learnt) < MAX_MODELS:
            self._learnt.setdefault(call.model, width)


def checked(call: Call, content: bytes, widths: Widths | None = None) -> bytes:
    """The answer's body, decompressed, as it may be handed on: embeddings in the order of their inputs.

    Raises:
        InvalidReply: it is not what was asked for.
        WrongDimensions: its vectors are not of this pool's space.
    """
    decoder = _DECODERS.get(call.kind)
    if decoder is None:
        return content
    try:
        reply = decoder.decode(content)
    except UNREADABLE as error:
        # An error of the decoding of text keeps all of it.
        raise _refused(call, content, error) from None if isinstance(error, UnicodeDecodeError) else error
    if call.kind is Kind.JSON:
        return content
    if reply.error is not None and not (call.kind is Kind.RESPONSE and is_callers_failure(reply.error)):
        raise InvalidReply("its answer is an error with the status of a success")
    if call.is_streamed and call.kind is not Kind.EMBEDDING:
        raise InvalidReply("its answer is no stream, which was asked for")
    if call.kind is Kind.EMBEDDING:
        return _checked_vectors(call, content, reply, widths or Widths())
    if call.kind is not Kind.RESPONSE and not reply.choices:
        raise InvalidReply("its answer has no choices")
    return content


def is_callers_failure(error: Any) -> bool:
    """Whether a response failed for what it was asked, as an invalid prompt: another server would say the same."""
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, str) and code not in _SERVERS_FAILURES


def _refused(call: Call, content: bytes, error: Exception) -> InvalidReply:
    """What is wrong with it, in words that hold nothing of what the server wrote."""
    if content.lstrip()[:1] == b"<":
        return WebPage(f"its answer is a web page, {_WHAT[call.kind]}")
    if isinstance(error, msgspec.ValidationError):
        return InvalidReply(f"its answer is {_WHAT[call.kind]}: {error}")
    return InvalidReply(f"its answer is no JSON, and {_WHAT[call.kind]}")


def _checked_vectors(call: Call, content: bytes, reply: _Vectors, widths: Widths) -> bytes:
    if len(reply.data) != call.inputs:
        raise InvalidReply(f"it gave {len(reply.data)} vectors for {call.inputs} inputs")
    expected = widths.expected(call)
    width = expected
    for row in reply.data:
        its = _width(row.embedding)
        width = width or its
        if its != width:
            # What the caller alone asks for says nothing of the pool: a server may not know how to shorten vectors.
            kind = WrongDimensions if width == expected != call.dimensions else InvalidReply
            raise kind(f"a vector has {its} dimensions where {width} were expected")
    in_order = _in_order(content, [row.index for row in reply.data])
    if width:
        widths.learn(call, width)
    return in_order


def _width(vector: str | list[float]) -> int:
    """How many numbers there are. Raises InvalidReply unless all are finite and some are not zero."""
    if isinstance(vector, str):
        return _width_of_base64(vector)
    if not vector:
        raise InvalidReply("a vector is empty")
    if not math.isfinite(sum(vector)) and not all(map(math.isfinite, vector)):
        raise InvalidReply("a vector has something in it that is no finite number")
    if not any(vector):
        raise InvalidReply("a vector is all zeros")
    return len(vector)


def _width_of_base64(text: str) -> int:
    import numpy as np

    try:
        raw = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidReply("a vector is no base64") from error
    if not raw or len(raw) % 4:
        raise InvalidReply("a vector is no list of float32")
    numbers = np.frombuffer(raw, dtype="<f4")
    if not np.isfinite(numbers).all():
        raise InvalidReply("a vector has something in it that is no finite number")
    if not numbers.any():
        raise InvalidReply("a vector is all zeros")
    return len(numbers)


def _in_order(content: bytes, places: list[int | None]) -> bytes:
    """The body with its rows in the order of their `index`; without any index they stay as they came."""
    wanted = list(range(len(places)))
    if places == wanted or all(place is None for place in places):
        return content
    known = [place for place in places if place is not None]
    if sorted(known) != wanted:
        raise InvalidReply("its vectors are not numbered as the inputs")
    fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    rows = msgspec.json.decode(content, type=_Rows).data
    in_order = [row for _, row in sorted(zip(known, rows, strict=True), key=lambda pair: pair[0])]
    fields["data"] = msgspec.Raw(msgspec.json.encode(in_order))
    return msgspec.json.encode(fields)
