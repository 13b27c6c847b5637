"""Whether an answer is one: looked at before the SDK sees it, which would take nearly anything for a success.

Pure: knows the shapes of the API; knows nothing of endpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ..errors import InvalidReply
from ..usage import Usage
from .call import UNREADABLE, Call, Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

MAX_BODY_BYTES: Final = 32 * 2**20  #: of any answer but embeddings: no completion comes near it
MAX_EMBEDDINGS_BYTES: Final = 256 * 2**20  #: 2,048 vectors of 3,072 numbers, written out, are 75 MB
MAX_MODELS: Final = 1000  #: a caller who makes up names fills no memory
MAX_COUNT: Final = 10**12  #: tokens of one answer: what is more was not counted, and would spoil every sum
MAX_NAME: Final = 200  #: characters of a model's


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
    usage: Any = None
    model: Any = None


class _TextChoice(msgspec.Struct):
    text: str


class _Completion(msgspec.Struct):
    choices: list[_TextChoice]
    error: Any = None
    usage: Any = None
    model: Any = None


class _Response(msgspec.Struct):
    output: list[msgspec.Raw]
    error: Any = None
    usage: Any = None
    model: Any = None


class _Row(msgspec.Struct):
    embedding: msgspec.Raw
    index: int | None = None


class _Embeddings(msgspec.Struct):
    data: list[_Row]
    error: Any = None
    usage: Any = None
    model: Any = None


class _PackedRow(msgspec.Struct):
    embedding: bytes  # decoded with the rest, in one pass
    index: int | None = None


class _PackedEmbeddings(msgspec.Struct):
    data: list[_PackedRow]
    error: Any = None
    usage: Any = None
    model: Any = None


class _Rows(msgspec.Struct):
    data: list[msgspec.Raw]


_DECODERS: Final[dict[Kind, msgspec.json.Decoder[Any]]] = {
    Kind.CHAT: msgspec.json.Decoder(_Chat),
    Kind.COMPLETION: msgspec.json.Decoder(_Completion),
    Kind.RESPONSE: msgspec.json.Decoder(_Response),
    Kind.EMBEDDING: msgspec.json.Decoder(_Embeddings),
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vectors:
    """The vectors of one answer.

    Attributes:
        matrix: float32, (inputs, dimensions), in the order of the inputs; every row finite, and none all zero.
        tokens: of the inputs, as the server counted them; 0 where it did not.
    """

    matrix: Matrix
    tokens: int


class Widths:
    """How many numbers the vectors of a pool have: as a request asks for, or else as the first answer had them."""

    def __init__(self) -> None:
        self._learnt: dict[str | None, int] = {}  # by what decides the space of a request

    def expected(self, call: Call) -> int | None:
        """What the call's vectors must have, or None: nobody knows yet."""
        return call.dimensions or self._learnt.get(call.space)

    def learn(self, call: Call, width: int) -> None:
        """Take the width of a good answer as the one to come."""
        if call.space in self._learnt or call.dimensions is not None or not call.is_for_all:
            return
        if len(self._learnt) < MAX_MODELS and not call.has_fields_of_its_own:  # which may have made it longer
            self._learnt[call.space] = width


class Checked(NamedTuple):
    """An answer that is one.

    Attributes:
        content: its body as it may be handed on; embeddings are in the order of their inputs.
        vectors: of embeddings.
        usage: what it cost in tokens; None where its server did not say.
        model: what it says that it is of.
    """

    content: bytes
    vectors: Vectors | None = None
    usage: Usage | None = None
    model: str | None = None


def checked(call: Call, content: bytes, widths: Widths | None = None) -> Checked:
    """What an answer's body, decompressed, brings.

    Raises:
        InvalidReply: it is not what was asked for.
        WrongDimensions: its vectors are not of this pool's space.
    """
    decoder = _DECODERS.get(call.kind)
    if decoder is None:
        return Checked(content)
    reply: Any = _embeddings(content) if call.kind is Kind.EMBEDDING else _decoded(decoder, call.kind, content)
    if call.kind is Kind.JSON:
        return Checked(content)
    if reply.error is not None and not (call.kind is Kind.RESPONSE and is_callers_failure(reply.error)):
        raise InvalidReply("its answer is an error with the status of a success")
    if call.kind is Kind.EMBEDDING:
        fit, vectors = _checked_vectors(call, content, reply, widths or Widths())
        return Checked(fit, vectors, usage_of_embeddings(reply.usage), name_of(reply.model))
    if call.is_streamed:
        raise InvalidReply("its answer is no stream, which was asked for")
    if call.kind is not Kind.RESPONSE and not reply.choices:
        raise InvalidReply("its answer has no choices")
    return Checked(content, None, usage_of(reply.usage), name_of(reply.model))


def usage_of(raw: Any) -> Usage | None:
    """The usage of a chat, a completion or a response; None where the server did not say, or counts nothing.

    Args:
        raw: whatever stands in that field.
    """
    if not isinstance(raw, dict):
        return None
    taken = _first(raw, "prompt_tokens", "input_tokens")
    given = _first(raw, "completion_tokens", "output_tokens")
    if not taken and not given:
        return None
    of_taken = raw.get("prompt_tokens_details") or raw.get("input_tokens_details")
    of_given = raw.get("completion_tokens_details") or raw.get("output_tokens_details")
    return Usage(
        input=taken or None,  # there is no request without a token: it was not counted
        output=given,
        cached=_first(of_taken, "cached_tokens") if isinstance(of_taken, dict) else None,
        reasoning=_first(of_given, "reasoning_tokens") if isinstance(of_given, dict) else None,
    )


def usage_of_embeddings(raw: Any) -> Usage | None:
    """The same of embeddings, which are no tokens themselves."""
    tokens = _tokens(raw)
    return Usage(input=tokens, output=0) if tokens else None


def name_of(raw: Any) -> str | None:
    """The name that an answer gives to its model."""
    return raw if isinstance(raw, str) and 0 < len(raw) <= MAX_NAME else None


def _first(counts: dict[str, Any], *names: str) -> int | None:
    """The first that is a count."""
    for name in names:
        count = counts.get(name)
        if type(count) is int and 0 <= count <= MAX_COUNT:
            return count
    return None


def vectors_in(content: bytes, *, inputs: int) -> Vectors:
    """The vectors of an answer that nobody has looked at yet. Raises InvalidReply where they do not fit the inputs."""
    reply = _embeddings(content)
    if reply.error is not None:
        raise InvalidReply("its answer is an error with the status of a success")
    return _vectors(reply, inputs)


def is_callers_failure(error: Any) -> bool:
    """Whether a response failed for what it was asked, as an invalid prompt: another server would say the same."""
    code = error.get("code") if isinstance(error, dict) else None
    return isinstance(code, str) and code not in _SERVERS_FAILURES


def _decoded(decoder: msgspec.json.Decoder[Any], kind: Kind, content: bytes) -> Any:
    try:
        return decoder.decode(content)
    except UNREADABLE as error:
        # An error of the decoding of text keeps all of it.
        raise _refused(kind, content, error) from None if isinstance(error, UnicodeDecodeError) else error


_decode_packed = msgspec.json.Decoder(_PackedEmbeddings).decode


def _embeddings(content: bytes) -> _Embeddings | _PackedEmbeddings:
    """An answer with vectors: mostly packed ones. Raises InvalidReply where it is none."""
    try:
        return _decode_packed(content)
    except UNREADABLE:  # not all of them are, or it is no answer
        reply: _Embeddings = _decoded(_DECODERS[Kind.EMBEDDING], Kind.EMBEDDING, content)
        return reply


def _refused(kind: Kind, content: bytes, error: Exception) -> InvalidReply:
    """What is wrong with it, in words that hold nothing of what the server wrote."""
    if content.lstrip()[:1] == b"<":
        return WebPage(f"its answer is a web page, {_WHAT[kind]}")
    if isinstance(error, msgspec.ValidationError):
        return InvalidReply(f"its answer is {_WHAT[kind]}: {error}")
    return InvalidReply(f"its answer is no JSON, and {_WHAT[kind]}")


def _checked_vectors(
    call: Call, content: bytes, reply: _Embeddings | _PackedEmbeddings, widths: Widths
) -> tuple[bytes, Vectors]:
    expected = widths.expected(call)
    try:
        vectors = _vectors(reply, call.inputs, expected)
    except _Width as error:
        # What the caller alone asks for says nothing of the pool: a server may not know how to shorten vectors.
        is_pools = error.wanted == expected != call.dimensions and not call.has_fields_of_its_own
        kind = WrongDimensions if is_pools else InvalidReply
        raise kind(str(error)) from None
    widths.learn(call, vectors.matrix.shape[1])
    if call.wants_numbers and any(_is_packed(row.embedding) for row in reply.data):
        content = _as_numbers(content, reply.data, vectors.matrix)
    return _in_order(content, [row.index for row in reply.data]), vectors


class _Width(InvalidReply):
    def __init__(self, its: int, wanted: int) -> None:
        self.wanted = wanted
        super().__init__(f"a vector has {its} dimensions where {wanted} were expected")


def _vectors(reply: _Embeddings | _PackedEmbeddings, inputs: int, width: int | None = None) -> Vectors:
    """All vectors as one matrix, each decoded once, to its place. Raises InvalidReply, or _Width of that."""
    import numpy as np

    rows: Sequence[_Row | _PackedRow] = reply.data
    if not rows or len(rows) != inputs:
        raise InvalidReply(f"it gave {len(rows)} vectors for {inputs} inputs")
    places = _places([row.index for row in rows])
    first = _numbers(rows[0].embedding)
    matrix = np.empty((inputs, width or len(first)), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large becomes infinite, and is refused below
        for place, row in zip(places, rows, strict=True):
            numbers = first if row is rows[0] else _numbers(row.embedding)
            if len(numbers) != matrix.shape[1]:
                raise _Width(len(numbers), matrix.shape[1])
            matrix[place] = numbers
    if not np.isfinite(matrix).all():
        raise InvalidReply("a vector has something in it that is no finite number")
    if not matrix.any(axis=1).all():
        raise InvalidReply("a vector is all zeros")
    return Vectors(matrix=matrix, tokens=_tokens(reply.usage))


_base64 = msgspec.json.Decoder(bytes).decode
_floats = msgspec.json.Decoder(list[float]).decode  #: of one vector at a time, so that no batch of them is ever a list


def _numbers(raw: msgspec.Raw | bytes) -> Matrix | list[float]:
    """One vector, from base64 of float32 or from a list. Raises InvalidReply where it is neither, or empty."""
    import numpy as np

    is_packed = _is_packed(raw)
    try:
        packed = raw if isinstance(raw, bytes) else _base64(raw) if is_packed else None
        numbers: Matrix | list[float] = _floats(raw) if packed is None else np.frombuffer(packed, dtype="<f4")
    except (*UNREADABLE, ValueError) as error:
        what = "no base64 of float32" if is_packed else "no list of finite numbers"
        raise InvalidReply(f"a vector is {what}") from error
    if not len(numbers):
        raise InvalidReply("a vector is empty")
    return numbers


def _is_packed(raw: msgspec.Raw | bytes) -> bool:
    return isinstance(raw, bytes) or bytes(memoryview(raw)[:1]) == b'"'


def _tokens(usage: Any) -> int:
    counts = [_first(usage, name) for name in ("prompt_tokens", "total_tokens")] if isinstance(usage, dict) else []
    return next((count for count in counts if count), 0)


def _places(indexes: list[int | None]) -> list[int]:
    """Where each row belongs; without any index they are in order. Raises InvalidReply unless each has one place."""
    if all(index is None for index in indexes):
        return list(range(len(indexes)))
    known = [index for index in indexes if index is not None]
    if sorted(known) != list(range(len(indexes))):
        raise InvalidReply("its vectors are not numbered as the inputs")
    return known


def _as_numbers(content: bytes, rows: Sequence[_Row | _PackedRow], matrix: Matrix) -> bytes:
    """The body with its vectors as lists: who asked for these would take a packed one for text."""
    fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    written = msgspec.json.decode(fields["data"], type=list[dict[str, msgspec.Raw]])
    for row, place in zip(written, _places([row.index for row in rows]), strict=True):
        row["embedding"] = msgspec.Raw(msgspec.json.encode(matrix[place].tolist()))
    fields["data"] = msgspec.Raw(msgspec.json.encode(written))
    return msgspec.json.encode(fields)


def _in_order(content: bytes, indexes: list[int | None]) -> bytes:
    """The body with its rows in the order of their `index`."""
    places = _places(indexes)
    if places == sorted(places):
        return content
    fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    rows = msgspec.json.decode(content, type=_Rows).data
    in_order = [row for _, row in sorted(zip(places, rows, strict=True), key=lambda pair: pair[0])]
    fields["data"] = msgspec.Raw(msgspec.json.encode(in_order))
    return msgspec.json.encode(fields)
