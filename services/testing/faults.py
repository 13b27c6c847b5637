"""The vocabulary of faults: what a server can do wrong. Each has a spelling as plain text, for the command line.

    status(429, retry_after=2)           429:retry_after=2
    reset(after_bytes=40)                reset:after_bytes=40
    share(0.3, status(500)) + slow(0.1)  share:0.3:500+slow:0.1

Knows what there is to say. What a fault does is in `effects.py` and `wrong.py`, how it is written in `spelt.py`.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from email.utils import formatdate
from typing import Literal

from .effects import Cut, Effect, Ending, Event, Head, Trickle, Whole, at_once, delayed
from .failures import Failure
from .replies import Reply, failure_reply
from .spelt import Fault, Pick, parse, word, words
from .wrong import BODIES, STREAMS, VECTORS, WrongBody, WrongStream, WrongVectors, edited, padded, restreamed, with_text

__all__ = [
    "Fault",
    "body",
    "cut_stream",
    "flapping",
    "half_close",
    "hang",
    "ok",
    "oversize",
    "parse",
    "per_path",
    "redirect",
    "reset",
    "share",
    "slow",
    "status",
    "stream",
    "times",
    "trickle",
    "truncated",
    "vectors",
    "words",
]

When = Literal["accept", "request", "headers", "body"]
How = Literal["fin", "rst", "hang", "clean"]


@word
def ok() -> Fault:
    """The right answer, at once."""
    return _always(Effect())


@word
def status(
    status: int,
    *,
    code: str | None = None,
    type: str | None = None,  # noqa: A002  # OpenAI's name for it
    body: str | None = None,
    **headers: str | float,
) -> Fault:
    """An HTTP error in OpenAI's shape; `429` is enough, or `503:retry_after=2`.

    Args:
        code, type: of the error object.
        body: sent in place of the error object, as it is; HTML where it begins with `<`.
        headers: `retry_after`, `retry_after_ms`, and those that begin with `x_`: `x_ratelimit_reset_requests="1s"`.
            `date:2` is the HTTP date that is two seconds ahead when the answer is sent, rounded up.
    Raises:
        ValueError: the status is none of a failure, or a header is not known.
    """
    for name in headers:
        if name not in ("retry_after", "retry_after_ms") and not name.startswith("x_"):
            known = "code, type, body, retry_after, retry_after_ms, and headers as in x_ratelimit_reset_requests"
            raise ValueError(f"status has no option {name!r}: it has {known}")
    failure = Failure(status=status, code=code, type=type)

    def reply(_: Reply) -> Reply:
        sent = {name.replace("_", "-"): _header(str(value)) for name, value in headers.items()}
        refused = failure_reply(replace(failure, headers=sent), {})
        return refused if body is None else with_text(refused, body)

    return _always(Effect(reply=reply))


@word
def redirect(location: str, status: int = 307) -> Fault:
    """An answer that sends the client elsewhere."""
    return _always(Effect(reply=lambda _: Reply(status=status, headers={"location": location}, content=b"")))


@word
def reset(when: When | None = None, *, after_bytes: int | None = None, after_events: int | None = None) -> Fault:
    """A connection that is reset (RST) before its answer is complete.

    Args:
        when: `accept`, before the request is read, except for its first line; `request`, after it is read, with no
            byte of the answer; `headers`, after the answer's head; `body`, after the first byte of its body. Where
            nothing is said it is `request`.
        after_bytes, after_events: in the body, after so much of it. An answer that is shorter stays whole.
    """
    return _stopped(Ending.RESET, when, after_bytes, after_events)


@word
def half_close(when: When | None = None, *, after_bytes: int | None = None, after_events: int | None = None) -> Fault:
    """A connection that is ended (FIN) before its answer is complete. Arguments as of `reset`."""
    return _stopped(Ending.FIN, when, after_bytes, after_events)


@word
def hang(when: When | None = None, *, after_bytes: int | None = None, after_events: int | None = None) -> Fault:
    """A connection that falls silent before its answer is complete. Arguments as of `reset`."""
    return _stopped(Ending.HANG, when, after_bytes, after_events)


@word
def slow(delay_s: float) -> Fault:
    """The right answer, after a while."""
    return _always(Effect(wire=delayed(delay_s)))


@word
def trickle(every_s: float = 0.05, size_bytes: int = 1, when: Literal["headers", "body"] = "body") -> Fault:
    """The right answer, a few bytes at a time; from its head on, or its body only."""
    if size_bytes < 1:
        raise ValueError(f"size_bytes must be at least 1, not {size_bytes}")
    of = (Head, Whole, Event) if when == "headers" else (Whole, Event)
    return _always(Effect(wire=Trickle(of=of, size_bytes=size_bytes, every_s=every_s)))


@word
def truncated(after_bytes: int) -> Fault:
    """A body that ends before its content-length. Streams stay as they are."""
    return _always(Effect(wire=Cut(ending=Ending.FIN, of=(Whole,), after_bytes=after_bytes)))


@word
def body(what: WrongBody) -> Fault:
    """A wrong body under the right status. Without `choices`: in other APIs without `data` or `output`."""
    return _always(Effect(reply=BODIES[what]))


@word
def oversize(mib: int = 33) -> Fault:
    """The right answer behind so many MiB of blanks; in a stream they are a comment."""
    return _always(Effect(reply=padded(mib * 2**20)))


@word
def cut_stream(*, after_events: int | None = None, after_bytes: int | None = None, how: How = "fin") -> Fault:
    """A stream that ends before its end. Other answers stay as they are.

    Args:
        after_events, after_bytes: where nothing is said it is after one event, which names the role only.
        how: `clean` ends it as if it were complete; with after_events=0 it is an empty stream.
    """
    after_events = 1 if after_events is None and after_bytes is None else after_events
    ending = None if how == "clean" else Ending(how)
    return _always(Effect(wire=Cut(ending=ending, of=(Event,), after_events=after_events, after_bytes=after_bytes)))


@word
def stream(what: WrongStream, *, after_events: int = 1) -> Fault:
    """A stream with something wrong in it, or odd: `comments` are legal. Other answers stay as they are.

    Args:
        after_events: where the event of `error` stands, which ends the stream, or that of `garbage`, which does not.
    """
    return _always(Effect(reply=restreamed(lambda events: STREAMS[what](events, after_events))))


@word
def vectors(what: WrongVectors) -> Fault:
    """Embeddings with something wrong, or odd: `shuffled_index` is legal. Other answers stay as they are.

    `duplicate_index` and `shuffled_index` show with two inputs or more.
    """
    return _always(Effect(reply=edited(VECTORS[what])))


@word
def times(n: int, fault: Fault | str) -> Fault:
    """A fault for so many requests; then the next of the sequence, or right answers."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")

    def start() -> Pick:
        pick, left = parse(fault).start(), iter(range(n))
        return lambda path: Effect() if next(left, None) is None else pick(path)

    return Fault(turns=n, start=start)


@word
def share(p: float, fault: Fault | str, *, seed: int = 0) -> Fault:
    """A fault for a random share of the requests, from 0 to 1; with one seed the same in every run."""
    if not 0 <= p <= 1:
        raise ValueError(f"a share is from 0 to 1, not {p}")

    def start() -> Pick:
        pick, chance = parse(fault).start(), random.Random(seed)  # noqa: S311  # repeatable, not secret
        return lambda path: pick(path) if chance.random() < p else Effect()

    return Fault(start=start)


@word
def per_path(path: str, fault: Fault | str) -> Fault:
    """A fault for the requests whose path ends so, as in `embeddings`; for more paths, join more with `+`."""

    def start() -> Pick:
        pick = parse(fault).start()
        return lambda asked: pick(asked) if asked.endswith(path) else Effect()

    return Fault(start=start)


@word
def flapping(up_s: float, down_s: float, fault: Fault | str = "reset:accept") -> Fault:
    """Up for a while, then down for a while, and so on. Down is a reset, where no fault is named.

    It meets connections that were kept, too. A port that refuses connections is the server's `stop()`.
    """
    if min(up_s, down_s) < 0 or up_s + down_s == 0:
        raise ValueError(f"up_s and down_s must not be negative, nor both 0: {up_s}, {down_s}")

    def start() -> Pick:
        pick, started_s = parse(fault).start(), time.monotonic()
        return lambda path: Effect() if (time.monotonic() - started_s) % (up_s + down_s) < up_s else pick(path)

    return Fault(start=start)


def _always(effect: Effect) -> Fault:
    return Fault(start=lambda: lambda _: effect)


def _stopped(ending: Ending, when: When | None, after_bytes: int | None, after_events: int | None) -> Fault:
    is_counted = after_bytes is not None or after_events is not None
    if is_counted and when not in (None, "body"):
        raise ValueError(f"after_bytes and after_events are of the body, not of {when!r}: leave one out")
    if when in ("accept", "request") or (when is None and not is_counted):
        return _always(Effect(wire=at_once(ending), is_early=when == "accept"))
    if not is_counted:
        after_bytes = 0 if when == "headers" else 1
    return _always(Effect(wire=Cut(ending=ending, after_bytes=after_bytes, after_events=after_events)))


def _header(value: str) -> str:
    ahead_s = value.removeprefix("date:")
    return value if ahead_s == value else formatdate(math.ceil(time.time() + float(ahead_s)), usegmt=True)
