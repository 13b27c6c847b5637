"""How far a streamed answer has come: nothing yet, its first content, its end. Pure: knows events, not sockets.

Bytes go in as they come and come out as whole events: until the first content none, so that another endpoint may
still answer; after it all of them.
"""

from __future__ import annotations

import re
from typing import Any, Final, Self

import msgspec

from ..errors import InvalidReply
from ..usage import Usage
from .call import UNREADABLE, Call, Kind
from .reply import is_callers_failure, name_of, usage_of

MAX_EVENT_BYTES: Final = 2**20  #: an event is a few words; a server that never ends one must not fill the memory
MAX_RESPONSE_EVENT_BYTES: Final = 32 * 2**20  #: the last event of a response repeats all of it, with its images
MAX_PRELUDE_BYTES: Final = 4 * 2**20  #: of comments and roles before any content

_BOUNDARY: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LONGEST_BOUNDARY: Final = 4
_decode = msgspec.json.Decoder().decode
#: events of the Responses API that end it
_LAST: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


_AZURES: Final = "prompt_filter_results"  #: in an event without choices that comes unasked


class EndedEarly(InvalidReply):
    """The server says `[DONE]`, which has the SDK stop reading, before the answer is complete."""


class StreamProgress:
    """Reads one streamed answer.

    Attributes:
        has_content: something that a caller can use has come, or the whole answer, if it is empty.
        is_complete: every choice has said why it ended.
        has_failed: the server said in the stream that it failed, but in the API's own words, which are handed on.
        usage: what it cost in tokens; None until the server says so.
        model: what the answer says that it is of.

    Args:
        hides_usage: the event that tells the usage alone is not handed on: the caller did not ask for it.
    """

    def __init__(self, call: Call, *, hides_usage: bool = False) -> None:
        self._is_response = call.kind is Kind.RESPONSE
        self._wanted = call.choices
        self._buffer = bytearray()
        self._held = bytearray()
        self._finished: set[int] = set()
        self._seen: set[int] = set()
        self._texts: list[str] = []
        self._is_deaf = False
        self._hides_usage = hides_usage
        self.usage: Usage | None = None
        self.model: str | None = None
        self.has_content = self.is_complete = self.has_failed = False

    @classmethod
    def of(cls, call: Call, *, hides_usage: bool = False) -> Self | None:
        """For an answer to the call; None where its bytes are not looked at."""
        return None if call.kind is Kind.OTHER else cls(call, hides_usage=hides_usage)

    @property
    def received(self) -> str:
        """The text so far, of the first choice."""
        return "".join(self._texts)

    def feed(self, part: bytes) -> bytes:
        """Take what came; give what may be handed on: whole events, and none before the first content.

        Raises:
            InvalidReply: an event is an error, or none of this API. After the end of the answer it is dropped instead.
        """
        if self._is_deaf:
            return b""
        whole = self._whole_events(part)
        if self.has_content and not self._held:
            return whole
        self._held += whole
        if not self.has_content:
            if len(self._held) > MAX_PRELUDE_BYTES:
                raise InvalidReply("its stream has no content for too long")
            return b""
        whole = bytes(self._held)
        self._held.clear()
        return whole

    def _whole_events(self, part: bytes) -> bytes:
        """The events that have come to their end with this part; the rest waits for the next one."""
        buffer = self._buffer
        searched = max(len(buffer) - _LONGEST_BOUNDARY + 1, 0)  # not again from its beginning: it may come byte by byte
        buffer += part
        end = 0
        hidden: list[tuple[int, int]] = []
        try:
            for boundary in _BOUNDARY.finditer(buffer, searched):
                self._check_size(boundary.end() - end)
                if not self._read(bytes(buffer[end : boundary.start()])):
                    hidden.append((end, boundary.end()))
                end = boundary.end()
            self._check_size(len(buffer) - end)
        except InvalidReply:
            if not self.is_complete:
                raise
            self._is_deaf = True  # the caller gets the whole answer, whatever came after it
        whole = bytes(buffer[:end])
        del buffer[:end]
        for start, stop in reversed(hidden):
            whole = whole[:start] + whole[stop:]
        return whole

    def _read(self, event: bytes) -> bool:
        """Take one event. Whether it is the caller's too."""
        name, data = _fields(event)
        if data.startswith(b"[DONE]"):  # as the SDK reads it
            self._settle_choices()
            if not self.is_complete:
                raise EndedEarly("its stream is done before its answer is")
            return True
        if not data:
            return True
        try:
            body = _decode(data)
        except UNREADABLE as error:
            # An error of the decoding of text keeps all of it.
            problem = InvalidReply("an event of its stream is no JSON")
            raise problem from None if isinstance(error, UnicodeDecodeError) else error
        if not isinstance(body, dict):
            raise InvalidReply("an event of its stream is no JSON object")
        kind = body.get("type") if self._is_response else None
        if body.get("error") and kind not in _LAST:
            raise InvalidReply("its stream tells of an error")
        if name == b"error" or kind == "error":
            raise InvalidReply("its stream tells of an error")
        if self._is_response:
            self._read_response(str(kind), body)
            return True
        if self.model is None:
            self.model = name_of(body.get("model"))
        choices, usage = body.get("choices"), body.get("usage")
        self._read_choices(choices)
        if usage is None:
            return True
        self.usage = usage_of(usage) or self.usage
        # An event without choices is there as it was asked for; whoever did not ask may take the first of none.
        is_of_usage = not choices and _AZURES not in body
        return not (is_of_usage and self._hides_usage)

    def _read_choices(self, choices: Any) -> None:
        if not isinstance(choices, list):
            return
        for choice in choices:
            if not isinstance(choice, dict) or not isinstance(place := choice.get("index") or 0, int):
                raise InvalidReply("an event of its stream has a choice that is none")
            self._seen.add(place)
            delta = choice.get("delta")
            text = choice.get("text") if delta is None else None
            if isinstance(delta, dict):
                text = delta.get("content")
                if any(value for name, value in delta.items() if name != "role"):
                    self.has_content = True
            if text:
                self.has_content = True
                if place == 0 and isinstance(text, str):
                    self._texts.append(text)
            if choice.get("finish_reason"):  # some servers write an empty one in every event
                self._finished.add(place)
        self.is_complete = len(self._finished) >= max(self._wanted, len(self._seen))
        self.has_content = self.has_content or self.is_complete

    def _settle_choices(self) -> None:
        """At the end only those choices count that came: a server may not know that several were asked for."""
        if self._seen and self._finished >= self._seen:
            self.has_content = self.is_complete = True

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > (MAX_RESPONSE_EVENT_BYTES if self._is_response else MAX_EVENT_BYTES):
            raise InvalidReply("an event of its stream is too large")

    def _read_response(self, kind: str, body: dict[str, Any]) -> None:
        if kind == "response.failed" and not (self.has_content or is_callers_failure(_error_of(body))):
            raise InvalidReply("its stream tells of a failure")
        if kind == "response.output_text.delta" and isinstance(body.get("delta"), str):
            self._texts.append(body["delta"])
        if kind.endswith(".delta"):
            self.has_content = True
        if kind in _LAST:
            self._read_end(body.get("response"))
            self.has_content = self.is_complete = True
            self.has_failed = kind == "response.failed" and not is_callers_failure(_error_of(body))

    def _read_end(self, response: Any) -> None:
        if isinstance(response, dict):
            self.usage, self.model = usage_of(response.get("usage")), name_of(response.get("model"))


def _error_of(body: dict[str, Any]) -> Any:
    response = body.get("response")
    return response.get("error") if isinstance(response, dict) else None


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """The name and the data of one server-sent event; a comment has neither."""
    name, data = b"", []
    for line in event.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip()
    return name, b"\n".join(data)
