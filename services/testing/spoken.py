"""What is said in answer, before it has the shape of an API: texts, calls of functions, and how they stream."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .reading import tokens

#: a word with the blanks after it; a long run without blanks (Chinese, base64) is cut
_PIECE = re.compile(r"\s+|\S{1,16}\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of one of the request's functions; `arguments` are JSON."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One answer: a text, or calls of functions. `finish` is `stop`, `length` or `tool_calls`."""

    text: str | None = None
    calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"

    @property
    def tokens(self) -> int:
        """How long it is, estimated."""
        return tokens(self.text or "") + sum(tokens(call.arguments) for call in self.calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What every body of one reply carries: its serial, its time (seconds since 1970), and the marks of who answers."""

    serial: str
    created_s: int
    marks: Mapping[str, object]

    def call_id(self, number: int) -> str:
        return f"call_{self.serial}_{number}"


def called(name: str, arguments: str) -> Choice:
    """The answer that calls one function."""
    return Choice(calls=(ToolCall(name=name, arguments=arguments),), finish="tool_calls")


def pieces(text: str) -> Iterator[str]:
    """The text as a stream brings it, piece by piece; together they are the text."""
    return (match.group() for match in _PIECE.finditer(text))
