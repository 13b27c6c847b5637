"""What an exception means for the request that met it. Knows classes and statuses; imports no client.

Reads types, statuses, headers and codes; never the text of a message.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from ..errors import AllEndpointsFailed, BudgetExceeded, InvalidInput, InvalidReply
from ..transport.retry_after import retry_after_s

SOON_S: Final = 60.0  #: a budget of a minute is waited for, as a busy server is; one of an hour ends the run
_REASON_CHARS: Final = 300  #: of what a server says about a text, which it may repeat in full

#: the connection errors of clients that are imported, if they are
_FOREIGN: Final = (("openai", "APIConnectionError"), ("httpx2", "TransportError"), ("httpx", "TransportError"))

_FATAL: Final = frozenset({401, 402, 403, 404, 405})  #: the key, the account, the model or the URL: no text's fault
_LATER: Final = frozenset({408, 409, 425})  #: of a moment, not of a text
_POLICY: Final = frozenset({"content_policy_violation", "content_filter", "policy_violation"})


class Kind(StrEnum):
    """What a bulk run does about it."""

    BUSY = "busy"  #: slow down, send the same again
    DOWN = "down"  #: send the same again; if only this fails, it is the texts
    REFUSED = "refused"  #: it is the texts: find out which
    FATAL = "fatal"  #: stop: more requests would fare no better


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a request brought nothing. `retry_after_s` is the server's wish, where it said one."""

    kind: Kind
    error: BaseException
    retry_after_s: float | None = None

    @property
    def words(self) -> str:
        """What the error says, on one line and not at any length."""
        words = " ".join((str(self.error) or type(self.error).__name__).split())
        return words if len(words) <= _REASON_CHARS else f"{words[:_REASON_CHARS]}..."


def trouble_of(error: BaseException) -> Trouble:
    """What an exception means: of the SDK, of ours, or of Python."""
    if isinstance(error, AllEndpointsFailed):
        return Trouble(kind=_of_all(error), error=error, retry_after_s=error.retry_after_s)
    if isinstance(error, BudgetExceeded):
        is_soon_over = error.retry_after_s is not None and error.retry_after_s <= SOON_S
        return Trouble(kind=Kind.BUSY if is_soon_over else Kind.FATAL, error=error, retry_after_s=error.retry_after_s)
    if isinstance(error, InvalidInput):
        return Trouble(kind=Kind.REFUSED, error=error)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return Trouble(kind=_of_status(status, _words_of(error)), error=error, retry_after_s=_wish_s(error))
    if isinstance(error, InvalidReply | OSError) or _is_foreign(error):
        return Trouble(kind=Kind.DOWN, error=error)
    return Trouble(kind=Kind.FATAL, error=error)


def _of_all(error: AllEndpointsFailed) -> Kind:
    """Where all were left alone nothing was sent, so that it cannot be the texts either."""
    if not error.attempts:
        was_left_alone = bool(error.reasons) or error.retry_after_s is not None
        return Kind.BUSY if was_left_alone else Kind.DOWN
    is_busy = all(attempt.blame == "load" or attempt.status == 429 for attempt in error.attempts)
    return Kind.BUSY if is_busy else Kind.DOWN


def _of_status(status: int, words: set[str]) -> Kind:
    if status == 429:
        return Kind.FATAL if "insufficient_quota" in words else Kind.BUSY  # no money: waiting does not help
    if status >= 500:
        return Kind.BUSY if "no_endpoint_available" in words else Kind.DOWN  # our own: nobody was asked
    if status < 300 or status in _LATER:  # below 300: the SDK could not read the answer
        return Kind.DOWN
    if status < 400 or (status in _FATAL and not (status == 403 and words & _POLICY)):
        return Kind.FATAL
    return Kind.REFUSED


def _words_of(error: BaseException) -> set[str]:
    return {str(word).lower() for name in ("code", "type") if (word := getattr(error, name, None)) is not None}


def _wish_s(error: BaseException) -> float | None:
    headers: Any = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping):
        return None
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    return retry_after_s(lower, now_s=time.time())


def _is_foreign(error: BaseException) -> bool:
    for module, name in _FOREIGN:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and isinstance(error, kind):
            return True
    return False
