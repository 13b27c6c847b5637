"""What the SDK gets in the end: an answer that says where it came from, or the error that fits. Pure.

Where the last attempt had an HTTP answer, that is handed on, and the SDK raises what its users already catch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpcore2
import httpx2

from ..errors import AllEndpointsFailed, BudgetExceeded, DeadlineExceeded
from ..provenance import Provenance, record
from ..routing.endpoint import DEFAULT_POOL
from ..routing.failover import Ending
from ..routing.outcome import Blame, Outcome
from ..routing.pool import Unavailable
from ..routing.router import Decision
from ..routing.spending import BudgetState
from ..usage import Usage
from .reply import Vectors
from .written import Headers

ENDPOINT_HEADER: Final = b"x-llmwire-endpoint"
ATTEMPTS_HEADER: Final = b"x-llmwire-attempts"
DEGRADED_HEADER: Final = b"x-llmwire-degraded"
POOL_HEADER: Final = b"x-llmwire-pool"
ROUTE_HEADER: Final = b"x-llmwire-route"
_OURS: Final = b"x-llmwire-"  #: no server says itself where an answer came from
EXTENSION: Final = "llmwire"  #: where a response keeps its Provenance
VECTORS: Final = "llmwire_vectors"  #: where one keeps its embeddings, decoded and checked

_LOCAL_ERRORS: Final[dict[type[BaseException], type[httpx2.TransportError]]] = {
    httpcore2.PoolTimeout: httpx2.PoolTimeout,
    httpcore2.LocalProtocolError: httpx2.LocalProtocolError,
    httpcore2.UnsupportedProtocol: httpx2.UnsupportedProtocol,
}


class Failed(AllEndpointsFailed, httpx2.NetworkError):
    """For the SDK it is an error of the connection."""

    _request: Any = None


class Overdue(DeadlineExceeded, httpx2.ReadTimeout):
    """For the SDK it is a timeout of the transport."""

    _request: Any = None


class Received:
    """An answer as far as it was read: its body, or the stream of it; and what is in it.

    Attributes:
        vectors: where it is of embeddings.
        usage: what it cost in tokens, where it is whole and its server said it.
        model: what it says that it is of.
    """

    __slots__ = ("content", "extensions", "headers", "model", "status", "stream", "usage", "vectors")

    def __init__(
        self, status: int, headers: Headers, extensions: Any, *, content: bytes = b"", stream: Any = None
    ) -> None:
        self.status, self.headers, self.extensions = status, headers, extensions
        self.content, self.stream = content, stream
        self.vectors: Vectors | None = None
        self.usage: Usage | None = None
        self.model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a call might take, and the setting that says so, as in `completion.deadline_s`."""

    deadline_s: float
    setting: str


def concluded(function: str, ending: Ending, limits: Limits, *, decision: Decision | None = None) -> httpx2.Response:
    """The response for the SDK, or an error: ours, httpx2's for what is local, a timeout's where time was over."""
    outcome, lease = ending.outcome, ending.lease
    if outcome is None:
        return _without_attempt(function, ending, decision)
    assert lease is not None  # noqa: S101  # for the type checker: an outcome has one
    is_degraded = lease.is_degraded or len(ending.attempts) > 1
    served_by = lease.endpoint.name if outcome.has_served else None
    provenance = Provenance(
        function=function,
        endpoint=served_by,
        attempts=tuple(ending.attempts),
        is_degraded=is_degraded,
        price=lease.endpoint.price.input if served_by and lease.endpoint.price else None,
        is_hedged=ending.is_hedged,
        **_path(ending, decision),
    )
    record(provenance)
    if isinstance(outcome.result, Received):
        received = outcome.result
        if not outcome.has_served and ending.unavailable is not None and len(ending.unavailable.reasons) > 1:
            _ask_later(received, ending.unavailable)  # of one alone its own words are exact
        return _response(received, provenance, lease.endpoint.name)
    raise _error(function, ending, outcome, limits) from outcome.result


def refused(function: str, state: BudgetState) -> BudgetExceeded:
    """The error of a call that is not made, as a budget is reached."""
    of_what = f"{function} calls" if state.tag is None else f"{function} calls with the tag {state.tag}"
    spent, limit = f"{state.spent:.6g}", state.budget
    message = f"{of_what} have spent their budget of {limit}: {spent} so far, and {state.ends_in_s:.0f} s to go"
    return BudgetExceeded(
        f"{message}. Raise {function}.budget, or wait.",
        function=function,
        budget=state.budget,
        tag=state.tag,
        spent=state.spent,
        limit=state.limit,
        retry_after_s=state.ends_in_s,
    )


def _response(received: Received, provenance: Provenance, endpoint: str) -> httpx2.Response:
    headers = [pair for pair in received.headers if not pair[0].lower().startswith(_OURS)]
    headers.append((ENDPOINT_HEADER, f"{provenance.function}/{endpoint}".encode()))
    headers.append((ATTEMPTS_HEADER, b"%d" % len(provenance.attempts)))
    headers.append((DEGRADED_HEADER, b"true" if provenance.is_degraded else b"false"))
    if provenance.pool != DEFAULT_POOL or provenance.route is not None:
        headers.append((POOL_HEADER, f"{provenance.function}/{provenance.pool}".encode()))
    if provenance.route is not None:
        headers.append((ROUTE_HEADER, _fit_for_header(provenance.route)))
    extensions = {**received.extensions, EXTENSION: provenance}
    if received.vectors is not None:
        extensions[VECTORS] = received.vectors
    stream = received.stream or httpx2.ByteStream(received.content)
    return httpx2.Response(received.status, headers=headers, stream=stream, extensions=extensions)


def _fit_for_header(name: str) -> bytes:
    """A route may be called anything; a header is printable ASCII."""
    return "".join(sign if sign.isascii() and sign.isprintable() else "?" for sign in name).encode()


def _ask_later(received: Received, unavailable: Unavailable) -> None:
    """Of several busy endpoints the first that is free again says when to come back."""
    if unavailable.wait_s is None:
        return
    received.headers = [pair for pair in received.headers if not pair[0].lower().startswith(b"retry-after")]
    received.headers.append((b"retry-after", b"%d" % math.ceil(unavailable.wait_s)))


def _path(ending: Ending, decision: Decision | None) -> dict[str, Any]:
    """The pool that the call went to, and the route that chose it."""
    if decision is None:
        return {}
    choice = (decision.larger if ending.has_moved else None) or decision.choice
    return {"pool": choice.pool.name, "route": decision.route}


def _without_attempt(function: str, ending: Ending, decision: Decision | None) -> httpx2.Response:
    """Nobody could be asked. Where all gave the same answer before, that is the answer still."""
    unavailable = ending.unavailable
    assert unavailable is not None  # noqa: S101  # for the type checker: there is no other way to make no attempt
    provenance = Provenance(function=function, endpoint=None, attempts=(), is_degraded=True, **_path(ending, decision))
    record(provenance)
    reasons = _reasons_of(ending)
    message = f"no {function} endpoint may be asked now: {_reasons(reasons)}"
    if unavailable.is_over_budget:
        remedy = f"Raise the budget of an endpoint ({function}.endpoints.NAME.budget), or wait"
        raise BudgetExceeded(f"{message}. {remedy}.", function=function, retry_after_s=unavailable.wait_s)
    if ending.is_overdue:
        raise Overdue(message, function=function, reasons=reasons)
    if unavailable.status is None or unavailable.status < 400:
        raise Failed(message, function=function, reasons=reasons, retry_after_s=unavailable.wait_s)
    error = {"message": message, "type": "llmwire_unavailable", "param": None, "code": "no_endpoint_available"}
    received = Received(
        unavailable.status,
        [(b"content-type", b"application/json")],
        {"http_version": b"HTTP/1.1"},
        content=json.dumps({"error": error}).encode(),
    )
    _ask_later(received, unavailable)
    return _response(received, provenance, "none")


def _error(function: str, ending: Ending, outcome: Outcome, limits: Limits) -> Exception:
    cause = outcome.result
    if outcome.blame is Blame.LOCAL:
        return _local_error(cause)
    waited = ending.unavailable
    facts: dict[str, Any] = {
        "function": function,
        "attempts": tuple(ending.attempts),
        "reasons": _reasons_of(ending),
        "retry_after_s": waited.wait_s if waited else None,
    }
    is_overdue = ending.is_overdue or outcome.blame is Blame.CANCELLED  # by the caller's clock
    is_timeout = outcome.is_timeout and all(_is_timeout(attempt.label) for attempt in ending.attempts)
    kind: type[AllEndpointsFailed] = Overdue if is_timeout or is_overdue else Failed
    return kind(_words(function, ending, outcome, limits), **facts)


def _local_error(cause: BaseException) -> Exception:
    kind = next((ours for theirs, ours in _LOCAL_ERRORS.items() if isinstance(cause, theirs)), httpx2.NetworkError)
    return kind(str(cause) or type(cause).__name__)


def _is_timeout(label: str) -> bool:
    return label.lower().endswith("timeout")


def _words(function: str, ending: Ending, outcome: Outcome, limits: Limits) -> str:
    text = _text(ending, outcome, limits)
    tried = ending.attempts
    if all(attempt.endpoint == tried[0].endpoint for attempt in tried):
        times = f", {len(tried)} times" if len(tried) > 1 else ""
        message = f"{function} endpoint {tried[0].server}: {text}{times}"
    else:
        message = f"no {function} endpoint could answer: {'; '.join(map(str, tried))}. The last: {text}"
    left_alone = _reasons_of(ending)
    return f"{message}. Not asked: {_reasons(left_alone)}" if left_alone else message


def _text(ending: Ending, outcome: Outcome, limits: Limits) -> str:
    cause = outcome.result
    if not outcome.is_timeout:
        return str(cause) or type(cause).__name__
    if outcome.blame is Blame.CANCELLED:
        return "no answer within the time that the caller gave"
    if ending.is_overdue:
        return f"no answer within {limits.deadline_s:g} s; {limits.setting} sets this time"
    return f"no answer in time ({outcome.label})"


def _reasons_of(ending: Ending) -> dict[str, str]:
    """Why endpoints were not asked: as they are not well, or could not or might not have the request."""
    return {**(ending.unavailable.reasons if ending.unavailable else {}), **ending.left_out}


def _reasons(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name} is {why}" for name, why in reasons.items()) or "all were tried"
