"""What a fault does to one answer: to the reply before it is sent, and to its bytes on their way.

Knows pieces, pauses and endings; knows nothing of sockets, of what is in a reply, or of which request meets a fault.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from .replies import Reply


class Head(bytes):
    """The status line and headers of a reply, or a part of them."""

    __slots__ = ()


class Whole(bytes):
    """A body that has a length, or a part of it."""

    __slots__ = ()


class Event(bytes):
    """One event of a stream, or a part of it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent for so long."""

    for_s: float


class Ending(Enum):
    """How an answer stops before its end."""

    RESET = "rst"
    FIN = "fin"
    HANG = "hang"


Piece = Head | Whole | Event
Step = Piece | Pause | Ending
Steps = Iterator[Step]


def _same_reply(reply: Reply) -> Reply:
    return reply


def _same_steps(steps: Steps) -> Steps:
    return steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What happens to one request. Without arguments: nothing.

    Attributes:
        reply: changes the reply.
        wire: changes what is sent of it, and when.
        is_early: it happens before the request is read; there is no reply then.
    """

    reply: Callable[[Reply], Reply] = _same_reply
    wire: Callable[[Steps], Steps] = _same_steps
    is_early: bool = False

    def __add__(self, other: Effect) -> Effect:
        """Both: of the replies the other changes what this one made; on the wire this one comes last."""
        return Effect(
            reply=lambda reply: other.reply(self.reply(reply)),
            wire=lambda steps: self.wire(other.wire(steps)),
            is_early=self.is_early or other.is_early,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Stops an answer.

    Attributes:
        ending: how; None ends a stream as if it were complete.
        of: what is counted and cut; an answer without it stays whole.
        after_bytes, after_events: of the body; whichever is reached first.
    """

    ending: Ending | None
    of: tuple[type[Piece], ...] = (Whole, Event)
    after_bytes: int | None = None
    after_events: int | None = None

    def __call__(self, steps: Steps) -> Steps:
        bytes_left = sys.maxsize if self.after_bytes is None else self.after_bytes
        events_left = sys.maxsize if self.after_events is None else self.after_events
        for step in steps:
            if not isinstance(step, self.of):
                yield step
                continue
            part = step[:bytes_left] if events_left else b""
            if part:
                yield type(step)(part)
            bytes_left, events_left = bytes_left - len(part), events_left - 1
            if bytes_left <= 0 or events_left <= 0:
                break
        else:
            return
        if self.ending is not None:
            yield self.ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle:
    """Sends a few bytes at a time, with a pause after each."""

    of: tuple[type[Piece], ...]
    size_bytes: int
    every_s: float

    def __call__(self, steps: Steps) -> Steps:
        for step in steps:
            if not isinstance(step, self.of):
                yield step
                continue
            for at in range(0, len(step), self.size_bytes):
                yield type(step)(step[at : at + self.size_bytes])
                yield Pause(self.every_s)


def at_once(ending: Ending) -> Callable[[Steps], Steps]:
    """Nothing is sent at all."""
    return lambda _: iter([ending])


def delayed(delay_s: float) -> Callable[[Steps], Steps]:
    """All is sent, after a pause."""

    def wire(steps: Steps) -> Steps:
        yield Pause(delay_s)
        yield from steps

    return wire
