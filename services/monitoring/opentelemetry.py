"""Tells OpenTelemetry of calls: a span for each, with one for each of its attempts, and figures. The door to its API.

Knows spans and instruments; under which names, `conventions` knows. Never sets up an SDK: that is the application's.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from ..errors import ConfigError
from ..events import (
    AttemptEnded,
    BreakerChanged,
    BudgetReached,
    CallEnded,
    EndpointDisabled,
    EndpointPaused,
    EndpointsChanged,
    Event,
    FailoverDenied,
    LedgerFailed,
    RequestRouted,
    RouteFailed,
    StreamEnded,
)
from ..forking import no_fork_meanwhile, renew_in_child
from ..usage import Usage
from . import conventions as names
from .attributes import (
    Attributes,
    Models,
    counted_attempt,
    counted_call,
    of_attempt,
    of_call,
    of_new_call,
    of_stream,
    span_name,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

MOST_CALLS: Final = 10_000  #: under way at once; a call whose end is never told fills no memory
MOST_HEDGED: Final = 200  #: that have ended, and of which the slower attempt may be told yet


class OpenTelemetry:
    """A Listener that makes spans and figures of events, by OpenTelemetry's conventions for generative AI.

    A call's span is a child of the one that is current where the application makes the call; its attempts are children
    of it. So this one hears of events where they happen, and not in a `Queued`: it does no I/O, the SDK's own
    processors and readers do that on threads of theirs. Safe among threads.

    There is no switch for the content of prompts and replies: events carry none, and no key and no path of a URL.

    Args:
        gen_ai: False where another instrumentation of openai makes the `gen_ai.*` figures and the call's span, as
            opentelemetry-instrumentation-openai-v2 does. Attempts are then children of its span, and the figures of
            ours are all there are.
        tracer_provider, meter_provider: None takes the application's global one, also where it is set later.
    Raises:
        ConfigError: opentelemetry-api is not installed.
    """

    def __init__(
        self,
        *,
        gen_ai: bool = True,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._spans = _Spans(tracer_provider, has_calls=gen_ai)
        self._figures = _Figures(meter_provider, has_calls=gen_ai)

    def __call__(self, event: Event, /) -> None:
        """Be told of an event."""
        match event:
            case AttemptEnded():
                self._figures.attempt(event, self._spans.attempt(event))
            case StreamEnded():
                self._figures.stream(event, self._spans.stream(event))
            case CallEnded():
                self._figures.call(event, self._spans.call(event))
            case RequestRouted():
                self._figures.routed(event)
            case _:
                self._figures.changed(event)


class _Call:
    """One that is under way.

    Attributes:
        began_ns: since 1970; all its times are told from here, so that its spans lie within each other.
        context: the one that its attempts are made in.
        span: its own; None where another instrumentation makes that.
        streaming: the attempt whose answer still comes, and how it was told of.
    """

    __slots__ = ("began_ns", "context", "span", "streaming")

    def __init__(self, began_ns: int, context: Context, span: Span | None) -> None:
        self.began_ns, self.context, self.span = began_ns, context, span
        self.streaming: tuple[Span, AttemptEnded] | None = None

    def at_ns(self, after_s: float) -> int:
        return self.began_ns + round(after_s * 1e9)

    def abandon(self) -> None:
        """End what its own end did not."""
        if self.streaming is not None:
            self.streaming[0].end()
            self.streaming = None
        if self.span is not None:
            self.span.set_attribute(names.IS_UNFINISHED, True)
            self.span.end()


class _Spans:
    """Events are told when things end: a call's span is made with the end of its first attempt, and dated back."""

    def __init__(self, provider: TracerProvider | None, *, has_calls: bool) -> None:
        with no_fork_meanwhile():
            self._context, self._trace, _ = _api()
        self._tracer = self._trace.get_tracer(names.SCOPE, _version(), provider)
        self._has_calls = has_calls
        self.renew_after_fork()
        renew_in_child(self)

    def renew_after_fork(self) -> None:
        """In a child process: the calls under way are the parent's."""
        self._lock = threading.RLock()  # a processor of the application's may itself make a call
        self._calls: dict[int, _Call] = {}
        self._hedged: dict[int, _Call] = {}

    def attempt(self, event: AttemptEnded) -> Context:
        """The context of its call."""
        call = self._call(event)
        span = self._started(f"attempt {event.endpoint}", call.context, of_attempt(event), call.at_ns(event.began_s))
        if event.is_open and not event.is_duplicate:
            call.streaming = span, event
            return call.context
        if event.blame is not None:
            self._fail(span, event.label)
        span.end(call.at_ns(event.began_s + event.took_s))
        return call.context

    def stream(self, event: StreamEnded) -> tuple[Context | None, AttemptEnded | None]:
        """The context of its call, and how its attempt was told of; None each where that is not known any more."""
        call = self._calls.get(event.call)
        if call is None or call.streaming is None:
            return None if call is None else call.context, None
        (span, attempt), call.streaming = call.streaming, None
        span.set_attributes(of_stream(event))
        span.set_attribute(names.RECEIVED_BYTES, attempt.received_bytes + event.received_bytes)
        if event.error is not None:
            self._fail(span, event.error)
        span.end(call.at_ns(attempt.began_s + event.took_s))
        return call.context, attempt

    def call(self, event: CallEnded) -> Context | None:
        """The context of it; None where that is not known any more."""
        with self._lock:
            call = self._calls.pop(event.call, None)
            if call is not None and event.is_hedged:
                self._keep(event.call, call)
        if call is None:
            if event.attempts:  # it was the oldest of too many
                return None
            call = self._begun(event, time.time_ns() - round(event.took_s * 1e9))
        if call.streaming is not None:
            call.streaming[0].end(call.at_ns(event.took_s))
        if call.span is not None:
            call.span.update_name(span_name(event.operation, event.model))
            call.span.set_attributes(of_call(event))
            if event.error is not None:
                self._fail(call.span, event.error)
            call.span.end(call.at_ns(event.took_s))
        return call.context

    def _call(self, event: AttemptEnded) -> _Call:
        oldest = None
        with self._lock:
            call = self._calls.get(event.call) or self._hedged.get(event.call)
            if call is None:
                call = self._begun(event, time.time_ns() - round((event.began_s + event.took_s) * 1e9))
                if len(self._calls) >= MOST_CALLS:
                    oldest = self._calls.pop(next(iter(self._calls)))
                self._calls[event.call] = call
        if oldest is not None:
            oldest.abandon()
        return call

    def _begun(self, event: AttemptEnded | CallEnded, began_ns: int) -> _Call:
        context = self._context.get_current()
        if not self._has_calls:
            return _Call(began_ns, context, None)
        span = self._started(span_name(event.operation, event.model), context, of_new_call(event), began_ns)
        return _Call(began_ns, self._trace.set_span_in_context(span, context), span)

    def _started(self, name: str, context: Context, attributes: Attributes, start_ns: int) -> Span:
        span: Span = self._tracer.start_span(
            name, context, self._trace.SpanKind.CLIENT, attributes=attributes, start_time=start_ns
        )
        return span

    def _fail(self, span: Span, error: str | None) -> None:
        if error != names.CANCELLED:  # the caller gave it up, or had the answer from elsewhere
            span.set_status(self._trace.StatusCode.ERROR)

    def _keep(self, number: int, call: _Call) -> None:
        """The slower of two attempts is cut when the call has ended, and may be told of after that."""
        if len(self._hedged) >= MOST_HEDGED:
            del self._hedged[next(iter(self._hedged))]
        self._hedged[number] = call


class _Figures:
    """The instruments."""

    def __init__(self, provider: MeterProvider | None, *, has_calls: bool) -> None:
        metrics = _api()[2]
        meter = metrics.get_meter(names.SCOPE, _version() or "", provider)
        self._has_calls = has_calls
        wanted = (*names.OF_CALLS, *names.OWN) if has_calls else names.OWN
        self._made = {each.name: _instrument(meter, each) for each in wanted}
        self._models = Models()

    def attempt(self, event: AttemptEnded, context: Context) -> None:
        """One is over, or its answer has begun."""
        counted = counted_attempt(event, self._models)
        if event.is_open:
            self._record(names.ATTEMPT_FIRST_CHUNK, event.took_s, counted, context)
            if not event.is_duplicate:  # its end is told
                return
        self._over(event, event.label, counted, context)

    def stream(self, event: StreamEnded, known: tuple[Context | None, AttemptEnded | None]) -> None:
        """The answer of one is over."""
        context, attempt = known
        self._over(event, event.error, counted_attempt(attempt or event, self._models), context)

    def call(self, event: CallEnded, context: Context | None) -> None:
        """A call is over."""
        if not self._has_calls:
            return
        counted = counted_call(event, self._models)
        self._record(names.CALL_DURATION, event.took_s, _with(counted, names.ERROR, event.error), context)
        if event.first_content_s is not None:
            self._record(names.CALL_FIRST_CHUNK, event.first_content_s, counted, context)
        usage = event.usage or Usage()
        for side, tokens in (("input", usage.input), ("output", usage.output)):
            if tokens is not None:
                self._record(names.CALL_TOKENS, tokens, counted | {names.TYPE_OF_TOKENS: side}, context)

    def routed(self, event: RequestRouted) -> None:
        """A request was given a pool."""
        counted = _with(_with({names.FUNCTION: event.function}, names.ROUTE, event.route), names.POOL, event.pool)
        self._record(names.ROUTE_DURATION, event.took_s, _with(counted, names.IS_SHADOW, event.is_shadow or None))

    def changed(self, event: Event) -> None:
        """Something changed between calls."""
        match event:
            case BreakerChanged():
                self._count(names.BREAKER_CHANGES, event, names.BREAKER_STATE, event.state)
            case EndpointPaused():
                self._count(names.PAUSES, event)
            case EndpointDisabled():
                self._count(names.DISABLES, event, names.REASON, event.reason)
            case FailoverDenied():
                self._count(names.FAILOVER_DENIALS, event)
            case BudgetReached():
                counted = _with(_of(event), names.TAG, event.tag)
                self._add(names.BUDGETS_REACHED, 1, counted | {names.BUDGET: event.budget})
            case LedgerFailed():
                self._count(names.LEDGER_FAILURES, event, names.ERROR, event.problem)
            case RouteFailed():
                self._count(names.ROUTE_FAILURES, event, names.ROUTE, event.route)
            case EndpointsChanged():
                self._count(names.ENDPOINTS_CHANGES, event)

    def _over(
        self, event: AttemptEnded | StreamEnded, error: str | None, counted: Attributes, context: Context | None
    ) -> None:
        self._record(names.ATTEMPT_DURATION, event.took_s, _with(counted, names.ERROR, error), context)
        if event.cost is not None:
            self._add(names.ATTEMPT_COST, event.cost, counted, context)
        if event.usage is None:
            return
        for kind in ("input", "output", "cached", "reasoning"):
            if tokens := getattr(event.usage, kind):
                self._add(names.ATTEMPT_TOKENS, tokens, counted | {names.OWN_TYPE_OF_TOKENS: kind}, context)

    def _count(self, instrument: names.Instrument, event: Any, name: str = "", value: str | None = None) -> None:
        self._add(instrument, 1, _with(_of(event), name, value))

    def _add(
        self, instrument: names.Instrument, amount: float, counted: Attributes, context: Context | None = None
    ) -> None:
        self._made[instrument.name].add(amount, counted, context)

    def _record(
        self, instrument: names.Instrument, amount: float, counted: Attributes, context: Context | None = None
    ) -> None:
        self._made[instrument.name].record(amount, counted, context)


def _with(counted: Attributes, name: str, value: str | bool | None) -> Attributes:
    return counted if value is None else {**counted, name: value}


def _of(event: Any) -> Attributes:
    """Whose change it is."""
    return _with({names.FUNCTION: event.function}, names.ENDPOINT, getattr(event, "endpoint", None))


def _instrument(meter: Any, wanted: names.Instrument) -> Any:
    if wanted.bounds is None:
        return meter.create_counter(wanted.name, wanted.unit, wanted.description)
    return meter.create_histogram(
        wanted.name, wanted.unit, wanted.description, explicit_bucket_boundaries_advisory=wanted.bounds
    )


def _api() -> tuple[Any, Any, Any]:
    """Its modules `context`, `trace` and `metrics`."""
    try:
        from opentelemetry import context, metrics, trace
    except ImportError as error:  # also where another package of that namespace is there
        remedy = "Install it with pip install 'llmwire[otel]'."
        raise ConfigError("needs the package opentelemetry-api", key="listener", remedy=remedy) from error
    return context, trace, metrics


def _version() -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # it takes longer than all the rest

    try:
        return version("llmwire")
    except PackageNotFoundError:  # a bundle of an application's
        return None
