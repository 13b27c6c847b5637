"""A call that ends when it must, also against a server that sends one byte now and then; and how far it came.

A timeout alone bounds each wait, not their sum. Knows sockets and a clock; knows nothing of requests.
"""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar
from enum import IntEnum
from typing import Protocol

import httpcore2


class Phase(IntEnum):
    """How far an attempt came."""

    LOCAL = 0  #: nothing has left this process
    CONNECT = 1  #: a connection is being made
    SENT = 2  #: the server may have the request, or a part of it
    HEADERS = 3  #: the first bytes of an answer are there
    BODY = 4  #: the answer's head is there


class NoLongerWanted(Exception):  # noqa: N818  # no error: another endpoint has answered
    """An attempt was cut. Nobody's outcome: it passes through all who judge one."""


class _Endable(Protocol):
    def end(self) -> None:
        """End it for both sides, and wake the thread that uses it."""


class Cut:
    """Ends what a blocking attempt waits for, from another thread; never what a later attempt waits for.

    An attempt that connects, or asks for a token, is stopped when it has the connection.
    """

    __slots__ = ("_connection", "_lock", "is_made")

    def __init__(self) -> None:
        self._lock = threading.RLock()  # an answer that is collected under it lets its connection go
        self._connection: _Endable | None = None
        self.is_made = False

    def check(self) -> None:
        """Raises NoLongerWanted where the cut is made."""
        if self.is_made:
            raise NoLongerWanted

    def takes(self, connection: _Endable) -> None:
        """The attempt uses this connection from now on. Raises NoLongerWanted where the cut is made."""
        with self._lock:
            self.check()
            self._connection = connection

    def leaves(self) -> None:
        """The attempt uses it no longer."""
        with self._lock:
            self._connection = None

    def make(self) -> None:
        """End the attempt, and let no other begin."""
        with self._lock:
            self.is_made = True
            if self._connection is not None:
                self._connection.end()


class Watch:
    """Accompanies one attempt through the layers below.

    Attributes:
        ends_at_s: on the monotonic clock; every wait is cut to it. None: no end.
        is_fresh: a connection was made for this attempt.
        is_queued: it waits for one of the connections that are all in use.
        chunk_s: how long each part of the body may take, once its head is there; None: no limit of its own.
        cut: what may end it from another thread; None, as nearly always: nothing does.
    """

    __slots__ = ("chunk_s", "cut", "ends_at_s", "is_fresh", "is_queued", "phase")

    def __init__(self, ends_at_s: float | None) -> None:
        self.ends_at_s = ends_at_s
        self.phase = Phase.LOCAL
        self.is_fresh = self.is_queued = False
        self.chunk_s: float | None = None
        self.cut: Cut | None = None

    def remaining_s(self, timeout: float | None) -> float | None:
        """The timeout, cut to what remains. Raises httpcore2.ReadTimeout where nothing does."""
        if self.ends_at_s is None:
            return timeout
        left = self.ends_at_s - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the deadline has passed")
        return left if timeout is None or left < timeout else timeout

    def connects(self) -> None:
        """A connection is being made for it."""
        self.is_fresh = True
        if self.phase < Phase.CONNECT:
            self.phase = Phase.CONNECT

    def writes(self) -> None:
        """Bytes of the request leave."""
        if self.phase < Phase.SENT:
            self.phase = Phase.SENT

    def has_not_written(self) -> None:
        """The connection had been ended by this side before the first byte."""
        if self.phase == Phase.SENT:
            self.phase = Phase.CONNECT

    def reads(self) -> None:
        """Bytes of an answer are there."""
        if self.phase == Phase.SENT:
            self.phase = Phase.HEADERS


_UNWATCHED = Watch(None)
_watch: ContextVar[Watch] = ContextVar("llmwire_watch", default=_UNWATCHED)


class watched:  # noqa: N801  # reads as what it is: `with watched(watch):`
    """Have the watch see what the network does inside the block, and cut its waits."""

    __slots__ = ("_token", "_watch")

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __enter__(self) -> None:
        self._token = _watch.set(self._watch)

    def __exit__(self, *_: object) -> None:
        _watch.reset(self._token)


def remaining_s(timeout: float | None) -> float | None:
    """The timeout, cut to what remains. Raises httpcore2.ReadTimeout where nothing does."""
    return _watch.get().remaining_s(timeout)
