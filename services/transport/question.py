"""What a request says, as rules look at it. Pure: knows the API's requests; whatever it cannot read is no fact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from ..routing.facts import Facts
from ..wanted import Wanted
from .call import UNREADABLE, Call, Kind

_NONE: Final = msgspec.Raw()
_SYSTEM: Final = ("system", "developer")  #: no set: a role may come as anything, also as what has no hash
_JSON: Final = frozenset({"json_object", "json_schema"})

T = TypeVar("T")


class _Part(msgspec.Struct):
    """Of a message. What is attached is neither copied nor read."""

    type: Any = None
    text: Any = None


class _Message(msgspec.Struct):
    """Of a chat, or an item of the input of a response."""

    type: Any = None
    role: Any = None
    content: msgspec.Raw = _NONE
    tool_calls: msgspec.Raw = _NONE
    arguments: msgspec.Raw = _NONE
    output: msgspec.Raw = _NONE


class _Format(msgspec.Struct):
    type: Any = None


class _Text(msgspec.Struct):
    format: msgspec.Raw = _NONE


class _Body(msgspec.Struct):
    """The fields of a request that rules may ask of, of any type."""

    messages: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    instructions: Any = None
    tools: msgspec.Raw = _NONE
    functions: msgspec.Raw = _NONE
    response_format: msgspec.Raw = _NONE
    text: msgspec.Raw = _NONE
    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_message = msgspec.json.Decoder(_Message).decode
_decode_parts = msgspec.json.Decoder(list[_Part]).decode
_decode_part = msgspec.json.Decoder(_Part).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_format = msgspec.json.Decoder(_Format).decode
_decode_text_format = msgspec.json.Decoder(_Text).decode
_decode_numbers = msgspec.json.Decoder(list[int]).decode
_IMAGES: Final = frozenset({"image_url", "input_image", "computer_screenshot"})
_AUDIO: Final = frozenset({"input_audio"})
_FILES: Final = frozenset({"file", "input_file"})


def facts_of(
    call: Call,
    *,
    function: str,
    wanted: Wanted,
    count_tokens: Callable[[str], int],
    detect_language: Callable[[str], str | None] | None,
) -> Facts:
    """What the request says. Never raises, whatever its body is."""
    said = _Said()
    body = _read(_decode_body, call.content) if call.content and call.kind in _READERS else None
    if body is not None:
        _READERS[call.kind](said, body)
        said.extra_bytes += _size_bytes(body.tools) + _size_bytes(body.functions)
    return Facts(
        function=function,
        operation=call.operation,
        model=call.model,
        system="\n".join(said.system),
        user=said.user,
        texts=said.texts,
        messages=said.messages,
        images=said.images,
        audio=said.audio,
        files=said.files,
        is_streamed=call.is_streamed,
        has_tools=body is not None and (_holds_something(body.tools) or _holds_something(body.functions)),
        wants_structured_output=body is not None and _is_structured(body),
        max_output_tokens=_most(body) if body is not None else 0,
        inputs=call.inputs,
        given_tokens=said.given_tokens,
        longest_given=said.longest_given,
        extra_bytes=said.extra_bytes,
        is_unread=said.given_tokens > 0 or (body is None and bool(call.content) and call.kind in _READERS),
        wanted=wanted,
        count_tokens=count_tokens,
        detect_language=detect_language,
        read_body=lambda: _whole(call.content),
    )


class _Said:
    """What was read so far."""

    __slots__ = (
        "audio",
        "extra_bytes",
        "files",
        "given_tokens",
        "images",
        "longest_given",
        "messages",
        "system",
        "texts",
        "user",
    )

    def __init__(self) -> None:
        self.system: list[str] = []
        self.texts: list[str] = []
        self.user = ""
        self.messages = self.images = self.audio = self.files = 0
        self.given_tokens = self.longest_given = self.extra_bytes = 0

    def message(self, message: _Message) -> None:
        """A message of a chat, or an item of an input: also what a tool answered."""
        self.messages += 1
        self.extra_bytes += _size_bytes(message.tool_calls) + _size_bytes(message.arguments)
        spoken = self._spoken(message.content)
        self.texts += spoken
        self.texts += self._spoken(message.output)
        if message.role == "user":
            self.user = "\n".join(spoken)
        elif message.role in _SYSTEM:
            self.system += spoken

    def tokens(self, count: int) -> None:
        """A text that comes as tokens."""
        self.given_tokens += count
        self.longest_given = max(self.longest_given, count)

    def _spoken(self, content: msgspec.Raw) -> list[str]:
        match _begin(content):
            case b'"':
                return _texts(_read(_decode_text, content))
            case b"[":
                parts = _read(_decode_parts, content)
                if parts is not None:
                    return [text for part in parts for text in self._part(part)]
                # One that is odd hides none of the others; some servers take plain texts as parts.
                items = [item for item in _read(_decode_items, content) or () if _begin(item) != b"["]
                return [text for item in items for text in self._spoken(item)]
            case b"{":
                part = _read(_decode_part, content)
                return [] if part is None else self._part(part)
        return []

    def _part(self, part: _Part) -> list[str]:
        kind = part.type if isinstance(part.type, str) else ""
        if kind in _IMAGES:
            self.images += 1
        elif kind in _AUDIO:
            self.audio += 1
        elif kind in _FILES:
            self.files += 1
        elif isinstance(part.text, str):
            return [part.text]
        return []


def _read_chat(said: _Said, body: _Body) -> None:
    for message in _messages(body.messages):
        said.message(message)


def _read_response(said: _Said, body: _Body) -> None:
    if isinstance(body.instructions, str):
        said.system.append(body.instructions)
        said.texts.append(body.instructions)
    if _begin(body.input) == b'"':
        said.message(_Message(role="user", content=body.input))
        return
    for item in _messages(body.input):
        said.message(item)


def _messages(raw: msgspec.Raw) -> list[_Message]:
    """Those that can be read: one that is odd hides none of the others."""
    messages = _read(_decode_messages, raw)
    if messages is None:
        read = (_read(_decode_message, item) for item in _read(_decode_items, raw) or ())
        messages = [message for message in read if message is not None]
    return messages


def _read_prompt(said: _Said, body: _Body) -> None:
    _read_inputs(said, body.prompt)


def _read_embedding(said: _Said, body: _Body) -> None:
    _read_inputs(said, body.input)


def _read_inputs(said: _Said, raw: msgspec.Raw) -> None:
    """One text, one list of tokens, or a list of either."""
    if not _read_input(said, raw):
        for item in _read(_decode_items, raw) or ():
            _read_input(said, item)
    said.user = "\n".join(said.texts)


def _read_input(said: _Said, raw: msgspec.Raw) -> bool:
    """Whether it is one text, or one list of tokens."""
    if _begin(raw) == b'"':
        said.texts += _texts(_read(_decode_text, raw))
    elif (numbers := _read(_decode_numbers, raw)) is not None:
        said.tokens(len(numbers))
    else:
        return False
    return True


_READERS: Final[Mapping[Kind, Callable[[_Said, _Body], None]]] = {
    Kind.CHAT: _read_chat,
    Kind.RESPONSE: _read_response,
    Kind.COMPLETION: _read_prompt,
    Kind.EMBEDDING: _read_embedding,
}


def _read(decode: Callable[[bytes], T], content: bytes | None) -> T | None:
    """Of a body, or of a part of it as it stands there: nothing is copied."""
    if not content:
        return None
    try:
        return decode(content)
    except UNREADABLE:
        return None


def _begin(raw: msgspec.Raw) -> bytes:
    return b"" if raw is _NONE else bytes(memoryview(raw)[:1])


def _size_bytes(raw: msgspec.Raw) -> int:
    return 0 if raw is _NONE else memoryview(raw).nbytes


def _texts(text: str | None) -> list[str]:
    return [] if text is None else [text]


def _holds_something(raw: msgspec.Raw) -> bool:
    return _begin(raw) == b"[" and bool(_read(_decode_items, raw))


def _is_structured(body: _Body) -> bool:
    asked = body.response_format
    if asked is _NONE and (text := _read(_decode_text_format, body.text)) is not None:
        asked = text.format
    found = _read(_decode_format, asked)
    return found is not None and isinstance(found.type, str) and found.type in _JSON


def _most(body: _Body) -> int:
    """Tokens that may be answered, as far as the request says."""
    for asked in (body.max_completion_tokens, body.max_output_tokens, body.max_tokens):
        if isinstance(asked, int) and not isinstance(asked, bool) and asked > 0:
            return asked
    return 0


def _whole(content: bytes | None) -> Mapping[str, Any]:
    try:
        body = msgspec.json.decode(content or b"{}")
    except UNREADABLE:
        return {}
    return body if isinstance(body, dict) else {}
