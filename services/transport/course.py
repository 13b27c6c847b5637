"""How an answer goes on whose first content was handed on: to its end, or not. Pure: the same for sync and async.

Settles the lease, once, and tells of it.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

import httpcore2
import httpx2

from ..errors import InvalidReply
from ..routing.outcome import CANCELLED, Blame, Outcome
from .body import Interrupted, Stalled, Truncated
from .stream import EndedEarly, StreamProgress

if TYPE_CHECKING:
    from .facade import Sending

#: what may go wrong while a body comes
BROKEN: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError, InvalidReply)


class Course:
    """One answer on its way to the caller.

    Args:
        sending: of its request.
        progress: None where the answer is no stream of this API's events, and only its bytes are handed on.
    """

    __slots__ = ("_first_content_at_s", "_is_over", "_progress", "_received_bytes", "_sending")

    def __init__(self, sending: Sending, progress: StreamProgress | None) -> None:
        self._sending, self._progress = sending, progress
        self._first_content_at_s = time.monotonic()
        self._received_bytes = 0
        self._is_over = False

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for is there, though the body may go on."""
        return self._progress is not None and self._progress.is_complete

    def take(self, part: bytes) -> bytes:
        """What of a part may be handed on now. Raises InvalidReply where it is an error."""
        self._received_bytes += len(part)
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

    def completes(self) -> bool:
        """Whether all that was asked for is there. Then it has served, whatever its body says; `closed` tells of it."""
        if self._is_over or not self.is_complete:
            return False
        self._end(self._served())
        return True

    def closed(self, rest: bytes) -> None:
        """What came after the answer was complete, before its body was closed: mostly how many tokens it has cost."""
        if self._progress is not None and rest:
            with contextlib.suppress(InvalidReply):
                self.take(rest)
        self._tell(self._served())

    def lost(self) -> None:
        """Whoever read it is gone, and this is told while garbage is collected. The lease settles itself."""
        if not self._is_over:
            self._is_over = True
            self._tell(self._served() if self.is_complete else CANCELLED, is_garbage=True)

    def _truncated(self, progress: StreamProgress) -> Truncated:
        self._settle(_lost("StreamTruncated"))
        return Truncated(f"{self._where()} ended before the model was done", received=progress.received)

    def _where(self) -> str:
        endpoint = self._sending.endpoint
        return f"{endpoint.function} endpoint {endpoint.server}: the answer"

    def _served(self) -> Outcome:
        return _lost("response.failed") if self._progress is not None and self._progress.has_failed else Outcome()

    def _settle(self, outcome: Outcome) -> None:
        if self._is_over:
            return
        self._end(outcome)
        self._tell(outcome)

    def _end(self, outcome: Outcome) -> None:
        self._is_over = True
        self._sending.lease.settle(outcome, self._first_content_at_s - self._sending.started_at_s)

    def _tell(self, outcome: Outcome, *, is_garbage: bool = False) -> None:
        progress = self._progress
        self._sending.teller.stream(
            self._sending,
            outcome,
            first_content_at_s=self._first_content_at_s,
            usage=None if progress is None else progress.usage,
            reply_model=None if progress is None else progress.model,
            received_bytes=self._received_bytes,
            is_garbage=is_garbage,
        )


def _lost(label: str) -> Outcome:
    return Outcome(blame=Blame.ENDPOINT, label=label, is_failure=True)
