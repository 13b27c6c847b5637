"""How an answer goes on whose first content was handed on: to its end, or not. Pure: the same for sync and async.

Settles the lease, once, and tells of it.
"""

from __future__ import annotations

import time
from typing import Final

import httpcore2
import httpx2

from ..errors import InvalidReply
from ..events import Listener, StreamEnded, tell
from ..routing.outcome import CANCELLED, Blame, Outcome
from ..routing.pool import Lease
from .body import Interrupted, Stalled, Truncated
from .stream import EndedEarly, StreamProgress

#: what may go wrong while a body comes
BROKEN: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError, InvalidReply)


class Course:
    """One answer on its way to the caller.

    Args:
        progress: None where the answer is no stream of this API's events, and only its bytes are handed on.
        took_s: until now, when its first content is there.
    """

    __slots__ = ("_is_over", "_lease", "_listener", "_progress", "_started_at_s", "_took_s")

    def __init__(
        self, lease: Lease, listener: Listener, progress: StreamProgress | None, *, started_at_s: float
    ) -> None:
        self._lease, self._listener, self._progress = lease, listener, progress
        self._started_at_s, self._took_s = started_at_s, time.monotonic() - started_at_s
        self._is_over = False

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there, though the body may go on."""
        return self._progress is not None and self._progress.is_complete

    def take(self, part: bytes) -> bytes:
        """What of a part may be handed on now. Raises InvalidReply where it is an error."""
        return self._progress.feed(part) if self._progress is not None else part

    def ended(self) -> None:
        """The body is at its end. Raises Truncated where the answer is not."""
        progress = self._progress
        if progress is None or progress.is_complete:
            self._settle(self._served())
            return
        raise self._truncated(progress)

    def broke(self, error: Exception) -> Exception | None:
        """The error for the caller; None where all that he asked for is there."""
        progress = self._progress
        if self.is_complete:
            self._settle(self._served())
            return None
        if progress is not None and isinstance(error, EndedEarly):
            return self._truncated(progress)
        self._settle(_lost("StreamInterrupted"))
        is_timeout = isinstance(error, httpcore2.TimeoutException)
        what = str(error) or type(error).__name__
        if progress is None:
            kind: type[httpx2.TransportError] = httpx2.ReadTimeout if is_timeout else httpx2.ReadError
            return kind(f"{self._where()} broke off: {what}")
        why = "stood still for too long" if is_timeout else f"broke off: {what}"
        return (Stalled if is_timeout else Interrupted)(f"{self._where()} {why}", received=progress.received)

    def given_up(self) -> None:
        """Nobody reads on. After the end of the answer that is its end too."""
        self._settle(self._served() if self.is_complete else CANCELLED)

    def _truncated(self, progress: StreamProgress) -> Truncated:
        self._settle(_lost("StreamTruncated"))
        return Truncated(f"{self._where()} ended before the model was done", received=progress.received)

    def _where(self) -> str:
        endpoint = self._lease.endpoint
        return f"{endpoint.function} endpoint {endpoint.server}: the answer"

    def _served(self) -> Outcome:
        return _lost("response.failed") if self._progress is not None and self._progress.has_failed else Outcome()

    def _settle(self, outcome: Outcome) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._lease.settle(outcome, self._took_s)
        endpoint = self._lease.endpoint
        event = StreamEnded(
            function=endpoint.function,
            endpoint=endpoint.name,
            error=None if outcome.has_served else outcome.label,
            took_s=time.monotonic() - self._started_at_s,
        )
        tell(self._listener, event)


def _lost(label: str) -> Outcome:
    return Outcome(blame=Blame.ENDPOINT, label=label, is_failure=True)
