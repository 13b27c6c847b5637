"""Every fact that llmwire reports, and who is told. A listener can never change a decision.

Knows what happened; knows nothing of logs, metrics or HTTP. Times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigWarned:
    """A setting works, but probably not as meant. Reported once for each client that is built."""

    function: str
    key: str
    origin: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """One request to one endpoint came to its end: the whole answer, a stream's first content, or a failure.

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
        call: the number of the call that it is of, in this process; its other events have the same.
        pool: the name of the pool that the call was given.
        model: what the endpoint was asked for; None where the request names none.
        reply_model: what the answer says that it is of.
        began_s: from the start of the call to that of the attempt.
        usage: None where the server did not say; of a stream see `StreamEnded`.
        cost: by the endpoint's price, in its currency; None where that or the usage is not known.
        sent_bytes, received_bytes: of the bodies, as they went over the wire.
        is_open: it served, and the answer goes on, as a stream; `StreamEnded` comes when that is over.
        was_sent: the server may have begun to work on it.
        is_repeated: llmwire sends the same to the same endpoint at once, as a kept connection had died, a token was
            renewed, or the server does not know how to tell the usage of a stream.
        is_hedge: it was made beside another one, as that was slow.
        is_duplicate: the other of the two was the one that answered the call.
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
    call: int = 0
    pool: str = "default"
    model: str | None = None
    reply_model: str | None = None
    began_s: float = 0.0
    usage: Usage | None = None
    cost: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    is_open: bool = False
    was_sent: bool = True
    is_repeated: bool = False
    is_hedge: bool = False
    is_duplicate: bool = False

    @property
    def label(self) -> str | None:
        """What failed in one word, as in `503` or `ConnectError`; None where it served."""
        if self.blame is None:
            return None
        return self.error or str(self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """A stream whose first content had been handed on came to its end.

    Attributes:
        error: `StreamInterrupted`, `StreamTruncated`, `cancelled` where the caller gave it up, or None: complete.
        took_s: from the start of its attempt.
        operation, call, pool, model: as of its attempt.
        reply_model, usage, cost: as of an attempt; known when the server has told them, which it does at the end.
        received_bytes: of the body, since its first content.
    """

    function: str
    endpoint: str
    error: str | None
    took_s: float
    operation: str = "chat/completions"
    call: int = 0
    pool: str = "default"
    model: str | None = None
    reply_model: str | None = None
    usage: Usage | None = None
    cost: float | None = None
    received_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallEnded:
    """A request of the application came to its end, with all of its attempts; of a stream to the end of that.

    It is the last event of its call, but for the attempt that lost against a hedge, which may be told of later.

    Attributes:
        call: its number in this process.
        operation: the API path below the base URL, as in `chat/completions`.
        pool, route: where it was sent, and by which route.
        endpoint: the one whose answer, or error, the caller got; None where nobody's was.
        server: of that endpoint.
        model: what that endpoint was asked for, or what the request names.
        reply_model: what the answer says that it is of.
        error: why it failed in one word, as in `503`, `ConnectError`, `StreamTruncated`, `NoRoute`, `cancelled`; None
            where it was answered.
        took_s: from the request to the end of the answer.
        first_content_s: of a stream: from the request to its first content; None of any other.
        attempts: how many were made.
        usage, cost: of the answer.
        is_for_routing: it was llmwire's own, to see which route a text is meant for.
        is_hedged: a second endpoint was asked, as the first was slow.
    """

    function: str
    call: int
    operation: str
    pool: str
    route: str | None
    endpoint: str | None
    server: str | None
    model: str | None
    reply_model: str | None
    error: str | None
    took_s: float
    first_content_s: float | None
    attempts: int
    usage: Usage | None
    cost: float | None
    is_for_routing: bool = False
    is_hedged: bool = False


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
class EndpointsChanged:
    """The endpoints of a function were swapped for others while it runs. Names, each in the operator's order.

    Attributes:
        changed: those whose server, model, credential or options are others now.
    """

    function: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverDenied:
    """A call failed that another endpoint might have answered: the budget of failovers is used up."""

    function: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReached:
    """What may be spent in this minute, hour or day is spent; told once in each.

    Attributes:
        budget: as it is written, as in `5/day` or `200000 tokens/minute`.
        endpoint: whose it is: that endpoint is left alone; None where it is the function's, whose calls are refused.
        tag: it is that of the calls with this tag.
        spent: in the budget's own unit.
        for_s: until the next minute, hour or day begins.
    """

    function: str
    budget: str
    endpoint: str | None
    tag: str | None
    spent: float
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFailed:
    """What is spent cannot be shared with other processes now; each goes by its own spending until it can.

    Attributes:
        problem: as in `ConnectionError`; never a password.
    """

    function: str
    problem: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentTaken:
    """What a source says of a function is in force from now on; `EndpointsChanged` says what that means for its pool.

    Attributes:
        source: as in `consul://127.0.0.1:8500/llmwire/prod`; never a token.
        version: the source's own word for it, as in `index 42`.
        is_cached: the source is silent, and this is what it said last, kept on the disk.
    """

    function: str
    source: str
    version: str
    is_cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRefused:
    """What a source says of a function cannot be taken; the last that could stays in force.

    Attributes:
        reason: with the key that it is about and what to do; never the text of a secret.
    """

    function: str
    source: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSilent:
    """A source cannot be asked; what it said last stays in force. Told once, until it answers or fails otherwise."""

    function: str
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceAnswered:
    """A source that was silent answers again, after so many seconds."""

    function: str
    source: str
    after_s: float


Event = (
    ConfigWarned
    | AttemptEnded
    | StreamEnded
    | CallEnded
    | BreakerChanged
    | EndpointPaused
    | EndpointDisabled
    | EndpointsChanged
    | FailoverDenied
    | BudgetReached
    | LedgerFailed
    | RequestRouted
    | RouteFailed
    | DocumentTaken
    | DocumentRefused
    | SourceSilent
    | SourceAnswered
)


class Listener(Protocol):
    """Is told of every event, on the thread where it happened. Must return at once; what it raises is dropped.

    One that writes to a disk or a network goes into a `Queued`.
    """

    def __call__(self, event: Event, /) -> None: ...


def tell(listener: Listener, event: Event) -> None:
    """Tell a listener, without letting it harm the call that it hears of."""
    try:  # noqa: SIM105  # `suppress` takes as long as all the rest
        listener(event)
    except Exception:  # noqa: S110  # a broken listener must not break a call, and has no one to tell
        pass


class Listeners:
    """Several listeners as one; what one of them raises is not the others' business."""

    __slots__ = ("_listeners",)

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def __call__(self, event: Event, /) -> None:
        for listener in self._listeners:
            tell(listener, event)
