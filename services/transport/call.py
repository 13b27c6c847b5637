"""What the SDK asks for: one request, read once. Pure: knows the API's operations, and no endpoint."""

from __future__ import annotations

import copy
from enum import Enum
from hashlib import sha256
from typing import Any, Final

import httpx2
import msgspec

from ..space import CANARY
from .written import Headers

#: what a decoder raises where it is given anything but JSON, also such as is nested without end
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Kind(Enum):
    """Which answers a request may get, as far as they are looked at before the SDK sees them."""

    CHAT = "chat/completions"
    COMPLETION = "completions"
    RESPONSE = "responses"
    EMBEDDING = "embeddings"
    JSON = "json"  #: any object
    OTHER = "other"  #: a file, a sound: handed on as it comes


_TELL_USAGE: Final = frozenset({Kind.CHAT, Kind.COMPLETION})  #: where asked: a response's stream always does
_POSTED: Final = {kind.value: kind for kind in (Kind.CHAT, Kind.COMPLETION, Kind.RESPONSE, Kind.EMBEDDING)}
#: fields of requests for embeddings, of OpenAI's API and of those that extend it, that decide what a vector is of;
#: any other, as a trace's id, would make a kind of its own of each request, and a reference for each
_DECIDING: Final = (
    *("embedding_type", "input_type", "instruction", "normalize", "normalized", "output_dimension", "output_dtype"),
    *("pooling", "prompt_name", "task", "task_type", "truncate_dim"),
)
_OF_SPACE: Final = frozenset({"model", "dimensions", *_DECIDING})
_NOT_OF_SPACE: Final = frozenset({"input", "encoding_format", "user"})
LONG_BYTES: Final = 1000  #: of what decides: an instruction may be long
_UNSAID: Final = msgspec.Raw()
_NULL: Final = msgspec.Raw(b"null")
ASKING: Final = b"x-llmwire-"  #: how the headers begin that are for llmwire, and never sent
_PREFIX_BYTES: Final = len(ASKING)
#: what else may be asked of any server: it keeps nothing
_STATELESS: Final = frozenset(
    {
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
        "images/edits",
        "images/generations",
        "images/variations",
        "models",
        "moderations",
    }
)


class _Body(msgspec.Struct):
    """The fields of a body that decide something. Of any type: that is the server's to refuse."""

    model: Any = None
    stream: Any = None
    stream_options: Any = None
    n: Any = None
    input: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    dimensions: Any = None
    embedding_type: msgspec.Raw = msgspec.Raw()
    input_type: msgspec.Raw = msgspec.Raw()
    instruction: msgspec.Raw = msgspec.Raw()
    normalize: msgspec.Raw = msgspec.Raw()
    normalized: msgspec.Raw = msgspec.Raw()
    output_dimension: msgspec.Raw = msgspec.Raw()
    output_dtype: msgspec.Raw = msgspec.Raw()
    pooling: msgspec.Raw = msgspec.Raw()
    prompt_name: msgspec.Raw = msgspec.Raw()
    task: msgspec.Raw = msgspec.Raw()
    task_type: msgspec.Raw = msgspec.Raw()
    truncate_dim: msgspec.Raw = msgspec.Raw()
    encoding_format: Any = None
    store: Any = None
    background: Any = None
    previous_response_id: Any = None
    conversation: Any = None


_decode = msgspec.json.Decoder(_Body).decode
_decode_inputs = msgspec.json.Decoder(list[msgspec.Raw]).decode
_DIGITS: Final = frozenset(bytes([each]) for each in b"-0123456789")
_NOTHING: Final = _Body()


class Call:
    """One request of the SDK.

    Attributes:
        operation: the path below the base URL, as in `chat/completions`.
        headers: as the SDK wrote them, raw, without those that are for llmwire.
        asks: those: what follows `x-llmwire-` in the name, as in `tags`, and the value.
        content: the body, or None where it is an upload that is read as it is sent.
        stream: the body to send where it has no content of its own.
        model: the name that the body asks for.
        choices: how many are wanted: of a legacy completion, for all of its prompts.
        inputs: how many texts are to be embedded.
        dimensions: that embeddings are asked for, or None.
        wants_numbers: of embeddings: as lists, and not packed.
        space: what of a request for embeddings decides the space of its vectors; None where it asks for none.
        may_ask_usage: it asks for a stream that could tell its usage at the end, and does not ask for that itself.
        is_for_all: no endpoint was singled out by the caller.
        is_stateful: one server keeps, or has, what the request is about.
    """

    __slots__ = (
        "asks",
        "choices",
        "content",
        "dimensions",
        "headers",
        "inputs",
        "is_for_all",
        "is_stateful",
        "is_streamed",
        "kind",
        "may_ask_usage",
        "method",
        "model",
        "operation",
        "request",
        "space",
        "stream",
        "wants_numbers",
    )

    def __init__(self, request: httpx2.Request, operation: str) -> None:
        self.request, self.operation, self.method = request, operation, request.method
        self.headers, self.asks = _parted(request.headers.raw)
        self.stream: Any = request.stream
        self.content = request.read() if isinstance(request.stream, httpx2.ByteStream) else None
        self.kind = _kind(self.method, operation)
        body = _read(self.content) if self.kind is not Kind.OTHER or self.method == "POST" else _NOTHING
        self.model: str | None = body.model if isinstance(body.model, str) else self._model_of_form()
        self.is_streamed = body.stream is True
        self.may_ask_usage = self.is_streamed and self.kind in _TELL_USAGE and _asks_no_usage(body.stream_options)
        self.choices = body.n if isinstance(body.n, int) and body.n > 0 else 1
        if self.kind is Kind.COMPLETION:
            self.choices *= _count(body.prompt)
        self.inputs = _count(body.input) if self.kind is Kind.EMBEDDING else 0
        self.wants_numbers = body.encoding_format == "float"
        self.dimensions: int | None = body.dimensions if isinstance(body.dimensions, int) else None
        self.space = _space(self.model, body) if self.kind is Kind.EMBEDDING else None
        self.is_for_all = True
        self.is_stateful = _is_stateful(self.kind, self.method, operation, body)

    def canary(self, content: bytes | None = None) -> Call:
        """The same request for one text, the same for all endpoints, with those fields only that decide a space.

        Args:
            content: of the canary of another request.
        """
        canary = copy.copy(self)
        canary.inputs = 1
        if content is None:
            kept = _OF_SPACE | {"encoding_format"}
            fields = {name: value for name, value in self._fields().items() if name in kept}
            fields["input"] = msgspec.Raw(msgspec.json.encode([CANARY]))
            canary.content = msgspec.json.encode(fields)
        else:
            body = _decode(content)
            canary.content, canary.model = content, body.model
            canary.dimensions, canary.space = body.dimensions, _space(canary.model, body)
        return canary

    @property
    def has_fields_of_its_own(self) -> bool:
        """Whether it has fields of which nobody here knows what they do to a vector."""
        return bool(self._fields().keys() - _OF_SPACE - _NOT_OF_SPACE)

    def _fields(self) -> dict[str, msgspec.Raw]:
        try:
            return msgspec.json.decode(self.content or b"{}", type=dict[str, msgspec.Raw])
        except UNREADABLE:
            return {}

    def content_for(self, model: str | None, *, asks_usage: bool = False) -> bytes | None:
        """The body, asking for another model where one is given. Every other byte of a value stays as it is.

        Args:
            asks_usage: also for the usage of its stream.
        """
        has_model = model is None or model == self.model or self.model is None
        if self.content is None or (has_model and not asks_usage):
            return self.content
        try:
            fields = msgspec.json.decode(self.content, type=dict[str, msgspec.Raw])
            options = msgspec.json.decode(fields.get("stream_options", _NULL), type=dict[str, msgspec.Raw] | None)
        except UNREADABLE:  # the name of a field is no text: what the server has to refuse
            return self.content
        if not has_model:
            fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        if asks_usage:
            fields["stream_options"] = msgspec.Raw(msgspec.json.encode({**(options or {}), "include_usage": True}))
        return msgspec.json.encode(fields)

    def asking_for(self, model: str) -> Call:
        """The same request with another model; itself where it names none that could be replaced."""
        if self.content is None or self.model is None:
            return self
        other = copy.copy(self)
        other.content, other.model = self.content_for(model), model
        if self.space is not None:
            other.space = _space(model, _read(other.content))
        return other

    def _model_of_form(self) -> str | None:
        """Of a form beside its files."""
        if self.content is not None:
            return None
        fields = {field.name: getattr(field, "value", None) for field in getattr(self.stream, "fields", ())}
        model = fields.get("model")
        return model if isinstance(model, str) else None


def _parted(raw: Headers) -> tuple[Headers, tuple[tuple[str, str], ...]]:
    """The headers that go to a server, and what the others ask of llmwire."""
    asked = [pair for pair in raw if pair[0][:_PREFIX_BYTES].lower() == ASKING]
    if not asked:
        return raw, ()
    asks = tuple((name.decode("latin-1").lower()[_PREFIX_BYTES:], value.decode("latin-1")) for name, value in asked)
    return [pair for pair in raw if pair not in asked], asks


def _asks_no_usage(options: Any) -> bool:
    """Whether usage may be asked for: what is no table of options is the server's to refuse."""
    return options is None or (isinstance(options, dict) and options.get("include_usage") is not True)


def _space(model: str | None, body: _Body) -> str | None:
    if model is None:
        return None
    said = [(name, bytes(value).decode()) for name in _DECIDING if (value := getattr(body, name)) != _UNSAID]
    decided = msgspec.json.encode([model, body.dimensions, *said])
    return decided.decode() if len(decided) < LONG_BYTES else sha256(decided).hexdigest()


def _kind(method: str, operation: str) -> Kind:
    if method == "POST":
        return _POSTED.get(operation, Kind.OTHER)
    return Kind.JSON if method == "GET" and operation == "models" else Kind.OTHER


def _read(content: bytes | None) -> _Body:
    if not content:
        return _NOTHING
    try:
        return _decode(content)
    except UNREADABLE:  # a form; or what the server has to refuse
        return _NOTHING


def _count(raw: msgspec.Raw) -> int:
    """Inputs, or prompts, of a request: one text, one list of tokens, or a list of either, or of pictures."""
    text = bytes(raw)
    if not text.startswith(b"["):
        return 1
    items = _decode_inputs(text)
    are_tokens = not items or bytes(items[0])[:1] in _DIGITS
    return 1 if are_tokens else len(items)


def _is_stateful(kind: Kind, method: str, operation: str, body: _Body) -> bool:
    if kind is Kind.RESPONSE:
        named = (body.previous_response_id, body.conversation)
        return body.store is True or body.background is True or any(one is not None for one in named)
    is_about_models = method in ("GET", "HEAD") and operation.startswith("models/")
    return kind is Kind.OTHER and operation not in _STATELESS and not is_about_models
