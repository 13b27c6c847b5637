"""Every fact that llmwire reports, and who is told. A listener can never change a decision.

Knows what happened; knows nothing of logs, metrics or HTTP. Times are in seconds.
"""

from __future__ import annotations

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
        error: what failed where no usable answer arrived, in one word, as in `ConnectError` or `InvalidReply`; or None.
        took_s: from the start of the attempt to its end; of a stream to its first content.
        blame: whose fault it was, as in `endpoint` or `caller`; None where it served.
        is_canary: the request was llmwire's own, to see whether the endpoint's vectors are of the pool's space.
        is_for_routing: it was llmwire's own, to see which route a text is meant for.
    """

    function: str
    endpoint: str
    server: str
    operation: str
    status: int | None
    error: str | None
    took_s: float
    blame: str | None = None
    is_canary: bool = False
    is_for_routing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """A stream whose first content had been handed on came to its end.

    Attributes:
        error: `StreamInterrupted`, `StreamTruncated`, `cancelled` where the caller gave it up, or None: complete.
        took_s: from the start of its attempt.
    """

    function: str
    endpoint: str
    error: str | None
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged:
    """An endpoint's breaker is in another state now: `open` with the time until it is probed, or `closed`."""

    function: str
    endpoint: str
    state: str
    for_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPaused:
    """An endpoint is left alone for a while, as it is busy or asked for it."""

    function: str
    endpoint: str
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointDisabled:
    """An endpoint certainly cannot answer; it is asked again after `for_s` seconds.

    Attributes:
        reason: as in `401` or `certificate`.
        model: the one model that it does not know, or None: it is disabled as a whole.
    """

    function: str
    endpoint: str
    reason: str
    for_s: float
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRouted:
    """A request was given a pool. Told where a function has routes, before the first attempt.

    Attributes:
        route: the name of the one that decided; None where none holds, or the request names the pool itself.
        pool: the pool's name; None where no endpoint may have the request.
        is_shadow: it is what routes in shadow mode would have done; the request goes elsewhere, or there too.
        took_s: the time of the decision, that for an embedding included.
    """

    function: str
    route: str | None
    pool: str | None
    is_shadow: bool = False
    took_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFailed:
    """A route could not be decided for a request, and counts as one that does not hold; its demand of trust does.

    Attributes:
        problem: as in `its pattern took too long`; never a text of the request.
    """

    function: str
    route: str
    problem: str


Event = (
    ConfigWarned
    | AttemptEnded
    | StreamEnded
    | BreakerChanged
    | EndpointPaused
    | EndpointDisabled
    | RequestRouted
    | RouteFailed
)


class Listener(Protocol):
    """Is told of every event, on the thread where it happened. Must return at once; what it raises is dropped."""

    def __call__(self, event: Event, /) -> None: ...


def tell(listener: Listener, event: Event) -> None:
    """Tell a listener, without letting it harm the call that it hears of."""
    try:  # noqa: SIM105  # `suppress` takes as long as all the rest
        listener(event)
    except Exception:  # noqa: S110  # a broken listener must not break a call, and has no one to tell
        pass
