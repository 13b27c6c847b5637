"""What OpenTelemetry is told of an event, as attributes. Pure: knows events and names, and no OpenTelemetry.

Attributes of spans say what was; those of figures are from sets with an end: names of the operator's, words of ours,
and the first so many models that are heard of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from ..events import AttemptEnded, CallEnded, StreamEnded
from ..usage import Usage
from . import conventions as names

MOST_MODELS: Final = 100  #: a caller who makes up models, or a server, makes no series without end
LONGEST: Final = 120  #: characters of a model's name: some are paths of files
OTHERS: Final = "(others)"  #: the model of all that is heard of after that
_PORTS: Final = {"http": 80, "https": 443}

Attributes = dict[str, str | int | float | bool]


class Models:
    """The first models that are heard of under their names, all others under one."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: set[str] = set()

    def __call__(self, model: str | None) -> str | None:
        """The name to count a model under; None for None."""
        if model is None or model in self._known:
            return model
        short = model[:LONGEST]
        if short in self._known or len(self._known) < MOST_MODELS:
            self._known.add(short)
            return short
        return OTHERS


def operation_of(path: str) -> str:
    """The operation's name, from the path below the base URL: `chat` for `chat/completions`."""
    known = names.OPERATIONS.get(path)
    if known is not None:
        return known
    first = path.partition("/")[0]
    return first if first in names.PATHS else names.OTHER


def span_name(path: str, model: str | None) -> str:
    """As in `chat gpt-5`."""
    operation = operation_of(path)
    return operation if model is None else f"{operation} {model[:LONGEST]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a server is, and whose; no address where nobody was asked."""

    address: str | None
    port: int | None
    provider: str


@lru_cache(maxsize=256)
def server_of(url: str | None) -> Server:
    """Of scheme, host and port, as in `https://api.openai.com`."""
    parts = urlsplit(url or "")
    host = parts.hostname
    if host is None:
        return Server(address=None, port=None, provider=names.UNKNOWN_PROVIDER)
    return Server(address=host, port=parts.port or _PORTS.get(parts.scheme), provider=_provider(host))


def _provider(host: str) -> str:
    for end, provider in names.PROVIDERS.items():
        if f".{host}".endswith(end):
            return provider
    start, end, provider = names.BEDROCK
    return provider if host.startswith(start) and host.endswith(end) else names.UNKNOWN_PROVIDER


# Of spans.


def of_new_call(event: AttemptEnded | CallEnded) -> Attributes:
    """What is known when the span of a call is made, and may decide whether it is kept."""
    server = server_of(event.server)
    return _without_none(
        {
            names.OPERATION: operation_of(event.operation),
            names.PROVIDER: server.provider,
            names.REQUEST_MODEL: _short(event.model),
            names.ADDRESS: server.address,
            names.PORT: server.port,
            names.FUNCTION: event.function,
            names.IS_FOR_ROUTING: event.is_for_routing or None,
        }
    )


def of_call(event: CallEnded) -> Attributes:
    """What is known at its end. The server and the model are those of the endpoint whose answer it has."""
    of_answer = {} if event.server is None else of_new_call(event)
    is_stream = event.first_content_s is not None
    return of_answer | _without_none(
        {
            names.RESPONSE_MODEL: _short(event.reply_model),
            names.ERROR: event.error,
            names.IS_STREAM: is_stream or None,
            names.FIRST_CHUNK_S: event.first_content_s,
            names.POOL: event.pool,
            names.ROUTE: event.route,
            names.ENDPOINT: event.endpoint,
            names.ATTEMPTS: event.attempts,
            names.IS_HEDGED: event.is_hedged or None,
            **_of_usage(event.usage),
        }
    )


def of_attempt(event: AttemptEnded) -> Attributes:
    """Of one attempt of it: what belongs to calls, as their tokens, is not said again."""
    server = server_of(event.server)
    return _without_none(
        {
            names.FUNCTION: event.function,
            names.ENDPOINT: event.endpoint,
            names.POOL: event.pool,
            names.MODEL: _short(event.model),
            names.ADDRESS: server.address,
            names.PORT: server.port,
            names.STATUS: event.status,
            names.ERROR: event.label,
            names.KIND: _kind(event),
            names.BLAME: event.blame,
            names.IS_DUPLICATE: event.is_duplicate or None,
            names.IS_REPEATED: event.is_repeated or None,
            names.NEVER_SENT: not event.was_sent or None,
            names.COST: event.cost,
            names.SENT_BYTES: event.sent_bytes or None,
            names.RECEIVED_BYTES: event.received_bytes or None,
        }
    )


def of_stream(event: StreamEnded) -> Attributes:
    """What the end of its stream adds to an attempt."""
    return _without_none({names.ERROR: event.error, names.COST: event.cost})


def _of_usage(usage: Usage | None) -> dict[str, int | None]:
    if usage is None:
        return {}
    return {
        names.INPUT_TOKENS: usage.input,
        names.OUTPUT_TOKENS: usage.output,
        names.CACHED_TOKENS: usage.cached,
        names.REASONING_TOKENS: usage.reasoning,
    }


# Of figures.


def counted_call(event: CallEnded, models: Models) -> Attributes:
    """What a call is counted under, without its error."""
    server = server_of(event.server)
    return _without_none(
        {
            names.OPERATION: operation_of(event.operation),
            names.PROVIDER: server.provider,
            names.REQUEST_MODEL: models(event.model),
            names.RESPONSE_MODEL: models(event.reply_model),
            names.ADDRESS: server.address,
            names.PORT: server.port,
            names.IS_FOR_ROUTING: event.is_for_routing or None,
        }
    )


def counted_attempt(event: AttemptEnded | StreamEnded, models: Models) -> Attributes:
    """What an attempt is counted under, without its error."""
    counted = _without_none(
        {
            names.FUNCTION: event.function,
            names.ENDPOINT: event.endpoint,
            names.POOL: event.pool,
            names.MODEL: models(event.model),
        }
    )
    if isinstance(event, AttemptEnded):
        counted[names.KIND] = _kind(event)
        if event.is_duplicate:
            counted[names.IS_DUPLICATE] = True
        if event.is_repeated:
            counted[names.IS_REPEATED] = True
    return counted


def _kind(event: AttemptEnded) -> str:
    if event.is_canary:
        return names.CANARY_KIND
    if event.is_for_routing:
        return names.ROUTING_KIND
    return names.HEDGE_KIND if event.is_hedge else names.REQUEST_KIND


def _short(model: str | None) -> str | None:
    return None if model is None else model[:LONGEST]


def _without_none(attributes: dict[str, str | int | float | None]) -> Attributes:
    return {name: value for name, value in attributes.items() if value is not None}
