"""Every fact that llmwire reports, and who is told. A listener can never change a decision.

Knows what happened; knows nothing of logs, metrics or HTTP. Times are in seconds.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigWarned:
    """A setting works, but probably not as meant. Reported once for each client that is built."""

    function: str
    key: str
    origin: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """One request to one endpoint came to its end: an answer's head arrived, or it failed.

    Attributes:
        function: `completion` or `embedding`.
        endpoint: the endpoint's name.
        server: scheme, host and port of the endpoint; no path, no query, no user.
        operation: the API path below the base URL, as in `chat/completions`.
        status: the HTTP status, or None where no answer arrived.
        error: the class name of what failed, or None.
        took_s: from the start of the attempt to the answer's head.
    """

    function: str
    endpoint: str
    server: str
    operation: str
    status: int | None
    error: str | None
    took_s: float


Event = ConfigWarned | AttemptEnded


class Listener(Protocol):
    """Is told of every event, on the thread where it happened. Must return at once; what it raises is dropped."""

    def __call__(self, event: Event, /) -> None: ...


def tell(listener: Listener, event: Event) -> None:
    """Tell a listener, without letting it harm the call that it hears of."""
    with contextlib.suppress(Exception):  # a broken listener must not break a call, and has no one to tell
        listener(event)
