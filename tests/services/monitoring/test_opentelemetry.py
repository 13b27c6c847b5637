"""OpenTelemetry hears of each call as one span with its attempts, and as figures under the conventions' names."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmwire.services.errors import ConfigError
from llmwire.services.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetReached,
    CallEnded,
    ConfigWarned,
    EndpointDisabled,
    EndpointPaused,
    EndpointsChanged,
    FailoverDenied,
    LedgerFailed,
    RequestRouted,
    RouteFailed,
    StreamEnded,
)
from llmwire.services.monitoring import attributes, conventions, opentelemetry
from llmwire.services.monitoring.opentelemetry import OpenTelemetry
from llmwire.services.usage import Usage

S = 1_000_000_000  #: nanoseconds
USAGE = Usage(input=100, output=20, cached=40, reasoning=5)


class Told:
    """What one OpenTelemetry made of its events, as an application's SDK sees it."""

    def __init__(self, **options):
        self.exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        tracers, meters = TracerProvider(), MeterProvider([self._reader])
        tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = tracers.get_tracer("the application")
        self.listener = OpenTelemetry(tracer_provider=tracers, meter_provider=meters, **options)

    def __call__(self, *events):
        for event in events:
            self.listener(event)

    @property
    def spans(self):
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def metrics(self):
        data = self._reader.get_metrics_data()
        scopes = [] if data is None else data.resource_metrics[0].scope_metrics
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name):
        """Amounts by their attributes: of a histogram its sum."""
        metric = self.metrics().get(name)
        points = () if metric is None else metric.data.data_points
        return [
            (getattr(point, "sum", None) or getattr(point, "value", None), dict(point.attributes)) for point in points
        ]


@pytest.fixture
def told():
    return Told()


def attempt(endpoint="a", **fields):
    given = {
        "function": "completion",
        "endpoint": endpoint,
        "server": f"https://{endpoint}.example:8443",
        "operation": "chat/completions",
        "status": 200,
        "error": None,
        "took_s": 2.0,
        "call": 1,
        "model": "gpt-5",
        "sent_bytes": 300,
        "received_bytes": 700,
    }
    return AttemptEnded(**(given | fields))


def failed(endpoint="a", **fields):
    return attempt(endpoint, **({"status": 503, "blame": "endpoint"} | fields))


def ended(endpoint="a", **fields):
    given = {
        "function": "completion",
        "call": 1,
        "operation": "chat/completions",
        "pool": "default",
        "route": None,
        "endpoint": endpoint,
        "server": None if endpoint is None else f"https://{endpoint}.example:8443",
        "model": "gpt-5",
        "reply_model": "gpt-5-2026",
        "error": None,
        "took_s": 3.0,
        "first_content_s": None,
        "attempts": 1,
        "usage": USAGE,
        "cost": 0.5,
    }
    return CallEnded(**(given | fields))


def refused(error="NoRoute", **fields):
    return ended(None, **({"error": error, "reply_model": None, "usage": None, "cost": None, "attempts": 0} | fields))


# Spans.


def test_a_call_that_failed_over_is_one_span_with_a_child_for_each_attempt(told):
    told(
        failed("a", took_s=1.0),
        attempt("b", began_s=1.25, took_s=2.0, reply_model="gpt-5-2026", usage=USAGE, cost=0.5),
        ended("b", took_s=3.5, attempts=2),
    )

    first, second, call = told.exporter.get_finished_spans()
    assert [span.name for span in (call, first, second)] == ["chat gpt-5", "attempt a", "attempt b"]
    assert call.parent is None
    assert first.parent == second.parent == call.context
    assert {span.kind for span in (call, first, second)} == {SpanKind.CLIENT}
    assert [span.status.status_code for span in (call, first, second)] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.response.model": "gpt-5-2026",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.reasoning.output_tokens": 5,
        "server.address": "b.example",
        "server.port": 8443,
        "llmwire.function": "completion",
        "llmwire.pool": "default",
        "llmwire.endpoint": "b",
        "llmwire.call.attempts": 2,
    }
    common = {"llmwire.function": "completion", "llmwire.pool": "default", "llmwire.model": "gpt-5"}
    common |= {"llmwire.attempt.kind": "request", "server.port": 8443}
    common |= {"http.request.body.size": 300, "http.response.body.size": 700}
    assert dict(first.attributes) == common | {
        "llmwire.endpoint": "a",
        "llmwire.attempt.blame": "endpoint",
        "server.address": "a.example",
        "http.response.status_code": 503,
        "error.type": "503",
    }
    assert dict(second.attributes) == common | {
        "llmwire.endpoint": "b",
        "llmwire.attempt.cost": 0.5,
        "server.address": "b.example",
        "http.response.status_code": 200,
    }


def test_spans_lie_within_each_other_at_the_times_that_were_told(told):
    told(failed("a", took_s=1.0), attempt("b", began_s=1.25, took_s=2.0), ended("b", took_s=3.5, attempts=2))

    call, first, second = (told.spans[name] for name in ("chat gpt-5", "attempt a", "attempt b"))
    began = call.start_time
    assert call.end_time - began == 3.5 * S
    assert (first.start_time - began, first.end_time - began) == (0, 1 * S)
    assert (second.start_time - began, second.end_time - began) == (1.25 * S, 3.25 * S)


def test_a_call_is_a_child_of_the_span_that_is_current_where_it_is_made(told):
    with told.tracer.start_as_current_span("a page") as page:
        told(attempt())
    told(ended())

    assert told.spans["chat gpt-5"].parent == page.get_span_context()
    assert told.spans["attempt a"].parent == told.spans["chat gpt-5"].context


def test_calls_that_overlap_keep_their_attempts_apart(told):
    told(attempt("a", call=1), attempt("b", call=2, model="x"), ended("b", call=2, model="x"), ended("a", call=1))

    spans = told.spans
    assert spans["attempt a"].parent == spans["chat gpt-5"].context
    assert spans["attempt b"].parent == spans["chat x"].context


def test_the_model_of_a_call_is_what_the_endpoint_that_answered_was_asked_for(told):
    told(failed("a", model="gpt-5"), attempt("b", model="llama"), ended("b", model="llama", attempts=2))

    assert set(told.spans) == {"chat llama", "attempt a", "attempt b"}
    assert told.spans["chat llama"].attributes["gen_ai.request.model"] == "llama"


def test_the_attempt_of_a_stream_lasts_until_the_stream_ends(told):
    told(
        attempt(began_s=0.5, took_s=1.0, is_open=True, received_bytes=100),
        StreamEnded(
            function="completion",
            endpoint="a",
            error=None,
            took_s=4.0,
            call=1,
            model="gpt-5",
            usage=USAGE,
            cost=0.5,
            received_bytes=900,
        ),
        ended(took_s=4.75, first_content_s=1.5),
    )

    call, made = told.spans["chat gpt-5"], told.spans["attempt a"]
    assert made.start_time - call.start_time == 0.5 * S
    assert made.end_time - made.start_time == 4 * S
    assert made.attributes["http.response.body.size"] == 1000
    assert made.attributes["llmwire.attempt.cost"] == 0.5
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.attributes["gen_ai.response.time_to_first_chunk"] == 1.5


def test_a_stream_that_breaks_off_fails_its_attempt_and_its_call(told):
    broken = StreamEnded(function="completion", endpoint="a", error="StreamInterrupted", took_s=4.0, call=1)

    told(attempt(is_open=True), broken, ended(error="StreamInterrupted", first_content_s=2.0))

    for name in ("attempt a", "chat gpt-5"):
        assert told.spans[name].status.status_code is StatusCode.ERROR
        assert told.spans[name].attributes["error.type"] == "StreamInterrupted"


def test_a_stream_whose_end_is_not_told_ends_with_its_call(told):
    told(attempt(is_open=True), ended(took_s=5.0, first_content_s=2.0))

    assert told.spans["attempt a"].end_time == told.spans["chat gpt-5"].end_time


def test_what_its_caller_gave_up_is_no_failure(told):
    told(
        attempt(status=None, error="cancelled", blame="cancelled"),
        ended(error="cancelled", reply_model=None, usage=None, cost=None),
    )

    for span in told.spans.values():
        assert span.status.status_code is StatusCode.UNSET
        assert span.attributes["error.type"] == "cancelled"


def test_a_call_that_asked_nobody_is_a_span_without_children(told):
    told(refused("BudgetExceeded", took_s=0.25))

    [span] = told.exporter.get_finished_spans()
    assert span.name == "chat gpt-5"
    assert span.end_time - span.start_time == 0.25 * S
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "BudgetExceeded"
    assert span.attributes["llmwire.call.attempts"] == 0
    assert "server.address" not in span.attributes


def test_a_request_that_names_no_model_is_known_by_its_operation(told):
    told(attempt(operation="models", model=None), ended(operation="models", model=None, usage=None))

    assert set(told.spans) == {"models", "attempt a"}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "request"),
        ({"is_hedge": True}, "hedge"),
        ({"is_canary": True}, "canary"),
        ({"is_for_routing": True}, "routing"),
        ({"is_canary": True, "is_for_routing": True}, "canary"),
    ],
)
def test_an_attempt_says_what_it_was_made_for(told, fields, kind):
    told(attempt(**fields))

    assert told.spans["attempt a"].attributes["llmwire.attempt.kind"] == kind
    [(_, counted)] = told.points("llmwire.attempt.duration")
    assert counted["llmwire.attempt.kind"] == kind


def test_a_call_of_llmwire_itself_is_marked_as_such(told):
    routing = {"function": "embedding", "operation": "embeddings", "is_for_routing": True}

    told(attempt(**routing), ended(**routing))

    assert told.spans["embeddings gpt-5"].attributes["llmwire.call.routing"] is True
    [(_, counted)] = told.points("gen_ai.client.operation.duration")
    assert counted["llmwire.call.routing"] is True


def test_the_slower_of_two_attempts_belongs_to_its_call_even_when_that_has_ended(told):
    told(
        attempt("b", is_hedge=True, began_s=1.0, took_s=1.0),
        ended("b", took_s=2.0, attempts=1, is_hedged=True),
        attempt("a", status=None, error="cancelled", blame="cancelled", took_s=2.125, is_duplicate=True),
    )

    spans = told.spans
    assert set(spans) == {"chat gpt-5", "attempt a", "attempt b"}
    assert spans["attempt a"].parent == spans["chat gpt-5"].context
    assert spans["attempt a"].attributes["llmwire.attempt.duplicate"] is True
    assert spans["attempt b"].attributes["llmwire.attempt.kind"] == "hedge"
    assert spans["chat gpt-5"].attributes["llmwire.call.hedged"] is True


def test_a_second_stream_that_nobody_wants_ends_at_once(told):
    told(attempt("b", is_open=True, is_duplicate=True, took_s=1.0), attempt("a", is_open=True, took_s=1.5))

    assert set(told.spans) == {"attempt b"}
    assert told.points("llmwire.attempt.duration")[0][0] == 1.0


def test_of_calls_whose_end_is_never_told_the_oldest_is_ended(told, monkeypatch):
    monkeypatch.setattr(opentelemetry, "MOST_CALLS", 2)

    told(*(attempt(call=number, model=f"m{number}", is_open=number == 1) for number in (1, 2, 3)))

    ended_ones = {name: span for name, span in told.spans.items() if name.startswith("chat")}
    assert list(ended_ones) == ["chat m1"]
    assert ended_ones["chat m1"].attributes["llmwire.call.unfinished"] is True
    assert len(told.listener._spans._calls) == 2


def test_a_call_that_was_ended_as_the_oldest_is_counted_and_makes_no_second_span(told, monkeypatch):
    monkeypatch.setattr(opentelemetry, "MOST_CALLS", 1)
    done = StreamEnded(function="completion", endpoint="a", error=None, took_s=4.0, call=1, model="gpt-5")

    told(attempt(call=1, is_open=True), attempt(call=2, model="x"), done, ended(call=1, first_content_s=2.0))

    assert [span.name for span in told.exporter.get_finished_spans()].count("chat gpt-5") == 1
    assert told.points("gen_ai.client.operation.duration")[0][0] == 3.0
    assert [amount for amount, _ in told.points("llmwire.attempt.duration")] == [2.0, 4.0]


def test_hedged_calls_are_remembered_in_a_table_with_an_end(told, monkeypatch):
    monkeypatch.setattr(opentelemetry, "MOST_HEDGED", 2)

    for number in range(5):
        told(attempt(call=number), ended(call=number, is_hedged=True))

    assert list(told.listener._spans._hedged) == [3, 4]
    assert told.listener._spans._calls == {}


def test_a_child_process_does_not_end_the_calls_of_its_parent(told):
    told(attempt())

    told.listener._spans.renew_after_fork()
    told(ended(), attempt(call=2, model="x"), ended(call=2, model="x"))

    assert set(told.spans) == {"attempt a", "chat x"}


@pytest.fixture
def hasty():
    """Threads take turns as often as they can."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


def test_two_threads_that_tell_of_one_call_at_once_make_one_span_of_it(told, hasty):
    at_once = threading.Barrier(2)

    def tell(endpoint):
        for number in range(1000):
            at_once.wait(10)
            told(attempt(endpoint, call=number))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(tell, "ab"))
    told(*(ended(call=number, attempts=2) for number in range(1000)))

    spans = told.exporter.get_finished_spans()
    calls = {span.context.span_id for span in spans if span.name == "chat gpt-5"}
    assert len(calls) == 1000
    assert Counter(span.parent.span_id for span in spans if span.name != "chat gpt-5") == dict.fromkeys(calls, 2)


# Another instrumentation is there.


def test_beside_another_instrumentation_attempts_are_children_of_its_span():
    told = Told(gen_ai=False)

    with told.tracer.start_as_current_span("chat gpt-5", kind=SpanKind.CLIENT) as official:
        told(failed("a", took_s=1.0), attempt("b", began_s=1.25), ended("b", took_s=3.5, attempts=2))

    assert len(told.exporter.get_finished_spans()) == 3
    assert told.spans["attempt a"].parent == told.spans["attempt b"].parent == official.get_span_context()


def test_beside_another_instrumentation_a_stream_and_a_refusal_make_no_span_of_a_call():
    told = Told(gen_ai=False)
    done = StreamEnded(function="completion", endpoint="a", error=None, took_s=4.0, call=1, model="gpt-5")

    told(attempt(is_open=True), done, ended(first_content_s=2.0), refused(call=2))

    assert set(told.spans) == {"attempt a"}


def test_beside_another_instrumentation_only_the_figures_of_ours_are_made():
    told = Told(gen_ai=False)

    told(attempt(usage=USAGE, cost=0.5), ended())

    assert set(told.metrics()) == {"llmwire.attempt.duration", "llmwire.attempt.tokens", "llmwire.attempt.cost"}


# Figures.


def test_a_call_is_counted_under_the_names_of_the_conventions(told):
    told(attempt(usage=USAGE), ended(took_s=3.0))

    counted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.response.model": "gpt-5-2026",
        "server.address": "a.example",
        "server.port": 8443,
    }
    assert told.points("gen_ai.client.operation.duration") == [(3.0, counted)]
    assert told.points("gen_ai.client.token.usage") == [
        (100, counted | {"gen_ai.token.type": "input"}),
        (20, counted | {"gen_ai.token.type": "output"}),
    ]
    assert told.points("gen_ai.client.operation.time_to_first_chunk") == []


def test_the_first_chunk_is_counted_of_streams(told):
    told(attempt(is_open=True, took_s=1.25), ended(first_content_s=1.5, usage=None))

    assert [amount for amount, _ in told.points("gen_ai.client.operation.time_to_first_chunk")] == [1.5]
    assert [amount for amount, _ in told.points("llmwire.attempt.time_to_first_chunk")] == [1.25]
    assert told.points("gen_ai.client.token.usage") == []


def test_a_failed_call_is_counted_with_its_error(told):
    told(failed(), ended(error="503", reply_model=None, usage=None, cost=None), refused(call=2))

    errors = [counted["error.type"] for _, counted in told.points("gen_ai.client.operation.duration")]
    assert errors == ["503", "NoRoute"]


def test_each_attempt_is_counted_on_the_endpoint_that_made_it(told):
    told(
        failed("a", took_s=1.0),
        attempt("b", took_s=2.0, usage=USAGE, cost=0.5),
        attempt("c", took_s=4.0, usage=USAGE, cost=0.25, is_hedge=True, is_duplicate=True),
        attempt("d", took_s=8.0, status=None, error="ReadError", blame="endpoint", is_repeated=True),
    )

    common = {"llmwire.function": "completion", "llmwire.pool": "default", "llmwire.model": "gpt-5"}
    a, b = ({**common, "llmwire.endpoint": name, "llmwire.attempt.kind": "request"} for name in "ab")
    c = {**common, "llmwire.endpoint": "c", "llmwire.attempt.kind": "hedge", "llmwire.attempt.duplicate": True}
    d = {**common, "llmwire.endpoint": "d", "llmwire.attempt.kind": "request", "llmwire.attempt.repeated": True}
    assert told.points("llmwire.attempt.duration") == [
        (1.0, a | {"error.type": "503"}),
        (2.0, b),
        (4.0, c),
        (8.0, d | {"error.type": "ReadError"}),
    ]
    assert told.points("llmwire.attempt.cost") == [(0.5, b), (0.25, c)]
    amounts = {"input": 100, "output": 20, "cached": 40, "reasoning": 5}
    assert told.points("llmwire.attempt.tokens") == [
        (amount, whose | {"llmwire.token.type": kind}) for whose in (b, c) for kind, amount in amounts.items()
    ]


def test_a_streamed_attempt_is_counted_once_when_it_is_over(told):
    done = StreamEnded(function="completion", endpoint="a", error="StreamTruncated", took_s=4.0, call=1, usage=USAGE)

    told(attempt(is_open=True, is_hedge=True))
    before = told.points("llmwire.attempt.duration")
    told(done)

    assert before == []
    [(took_s, counted)] = told.points("llmwire.attempt.duration")
    assert (took_s, counted["error.type"], counted["llmwire.attempt.kind"]) == (4.0, "StreamTruncated", "hedge")
    assert len(told.points("llmwire.attempt.tokens")) == 4


def test_what_the_server_did_not_say_is_not_counted_as_nothing(told):
    told(attempt(usage=Usage(input=7)), ended(usage=Usage(input=7), cost=None))

    assert [(amount, counted["llmwire.token.type"]) for amount, counted in told.points("llmwire.attempt.tokens")] == [
        (7, "input")
    ]
    assert [counted["gen_ai.token.type"] for _, counted in told.points("gen_ai.client.token.usage")] == ["input"]
    assert told.points("llmwire.attempt.cost") == []


OF_A = {"llmwire.function": "completion", "llmwire.endpoint": "a"}


@pytest.mark.parametrize(
    ("event", "name", "counted"),
    [
        (
            BreakerChanged(function="completion", endpoint="a", state="open", for_s=5.0),
            "llmwire.breaker.changes",
            OF_A | {"llmwire.breaker.state": "open"},
        ),
        (EndpointPaused(function="completion", endpoint="a", for_s=1.0), "llmwire.endpoint.pauses", OF_A),
        (
            EndpointDisabled(function="completion", endpoint="a", reason="404", for_s=60.0, model="made-up"),
            "llmwire.endpoint.disables",
            OF_A | {"llmwire.reason": "404"},
        ),
        (
            EndpointsChanged(function="completion", added=("b",), removed=(), changed=()),
            "llmwire.endpoints.changes",
            {"llmwire.function": "completion"},
        ),
        (FailoverDenied(function="completion", endpoint="a"), "llmwire.failover.denials", OF_A),
        (
            BudgetReached(function="completion", budget="5/day", endpoint="a", tag=None, spent=5.0, for_s=9.0),
            "llmwire.budget.reached",
            OF_A | {"llmwire.budget": "5/day"},
        ),
        (
            BudgetReached(function="completion", budget="5/day", endpoint=None, tag="batch", spent=5.0, for_s=9.0),
            "llmwire.budget.reached",
            {"llmwire.function": "completion", "llmwire.budget": "5/day", "llmwire.tag": "batch"},
        ),
        (
            LedgerFailed(function="completion", problem="ConnectionError"),
            "llmwire.ledger.failures",
            {"llmwire.function": "completion", "error.type": "ConnectionError"},
        ),
        (
            RouteFailed(function="completion", route="code", problem="its pattern took too long"),
            "llmwire.route.failures",
            {"llmwire.function": "completion", "llmwire.route": "code"},
        ),
    ],
)
def test_a_change_between_calls_is_counted(told, event, name, counted):
    told(event, event)

    assert told.points(name) == [(2, counted)]
    assert told.exporter.get_finished_spans() == ()


def test_a_decision_of_routes_is_counted_with_its_time(told):
    told(
        RequestRouted(function="completion", route="code", pool="coders", took_s=0.5),
        RequestRouted(function="completion", route=None, pool=None, is_shadow=True, took_s=0.25),
    )

    assert told.points("llmwire.route.duration") == [
        (0.5, {"llmwire.function": "completion", "llmwire.route": "code", "llmwire.pool": "coders"}),
        (0.25, {"llmwire.function": "completion", "llmwire.route.shadow": True}),
    ]


def test_a_warning_of_the_settings_is_not_of_interest(told):
    told(ConfigWarned(function="completion", key="k", origin=None, message="m"))

    assert told.metrics() == {}


def test_instruments_have_the_units_and_buckets_of_their_table(told):
    told(
        attempt(usage=USAGE, cost=1.0),
        attempt(is_open=True),
        ended(first_content_s=1.0),
        RequestRouted(function="completion", route=None, pool="default", took_s=0.1),
    )

    made = told.metrics()
    table = {each.name: each for each in (*conventions.OF_CALLS, *conventions.OWN)}
    assert set(made) == {name for name, each in table.items() if each.bounds or "attempt" in name}
    for name, metric in made.items():
        assert (metric.unit, metric.description) == (table[name].unit, table[name].description)
        if table[name].bounds is not None:
            assert {point.explicit_bounds for point in metric.data.data_points} == {table[name].bounds}
    tokens = made["gen_ai.client.token.usage"].data.data_points[0].explicit_bounds
    assert (tokens[:3], tokens[-1]) == ((1, 4, 16), 67108864)


def test_models_that_a_caller_makes_up_make_no_series_without_end(told):
    for number in range(attributes.MOST_MODELS + 50):
        told(attempt(call=number, model=f"m{number}"), ended(call=number, model=f"m{number}", reply_model=None))

    models = {counted["gen_ai.request.model"] for _, counted in told.points("gen_ai.client.operation.duration")}
    assert len(models) == attributes.MOST_MODELS + 1
    assert "(others)" in models
    assert f"chat m{attributes.MOST_MODELS + 49}" in told.spans


def test_a_model_with_a_name_without_end_is_cut_everywhere(told):
    long = "m" * 10_000

    told(attempt(model=long), ended(model=long, reply_model=long))

    named = [value for span in told.spans.values() for value in (span.name, *span.attributes.values())]
    counted = [value for name in told.metrics() for _, point in told.points(name) for value in point.values()]
    assert max(len(value) for value in named + counted if isinstance(value, str)) <= attributes.LONGEST + len("chat ")


@pytest.mark.parametrize(
    ("path", "operation"),
    [
        ("chat/completions", "chat"),
        ("responses", "chat"),
        ("completions", "text_completion"),
        ("embeddings", "embeddings"),
        ("models", "models"),
        ("files/file-123/content", "files"),
        ("responses/resp_123", "responses"),
        ("whatever/a/caller/writes", "_OTHER"),
    ],
)
def test_an_operation_is_one_of_a_set_with_an_end(path, operation):
    assert attributes.operation_of(path) == operation


@pytest.mark.parametrize(
    ("url", "address", "port", "provider"),
    [
        ("https://api.openai.com", "api.openai.com", 443, "openai"),
        ("http://localhost:8000", "localhost", 8000, "openai"),
        ("http://[::1]:8000", "::1", 8000, "openai"),
        ("http://vllm", "vllm", 80, "openai"),
        ("https://ours.openai.azure.com", "ours.openai.azure.com", 443, "azure.ai.openai"),
        ("https://api.x.ai", "api.x.ai", 443, "x_ai"),
        ("https://not-x.ai", "not-x.ai", 443, "openai"),
        (
            "https://europe-west4-aiplatform.googleapis.com",
            "europe-west4-aiplatform.googleapis.com",
            443,
            "gcp.vertex_ai",
        ),
        (
            "https://bedrock-runtime.eu-west-1.amazonaws.com",
            "bedrock-runtime.eu-west-1.amazonaws.com",
            443,
            "aws.bedrock",
        ),
        ("https://ours.elb.amazonaws.com", "ours.elb.amazonaws.com", 443, "openai"),
        (None, None, None, "openai"),
    ],
)
def test_a_server_is_known_by_its_name(url, address, port, provider):
    server = attributes.server_of(url)

    assert (server.address, server.port, server.provider) == (address, port, provider)


# Its surroundings.


def test_without_the_package_the_operator_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigError, match=r"opentelemetry-api.*pip install 'llmwire\[otel\]'"):
        OpenTelemetry()


def test_without_an_sdk_nothing_happens():
    listener = OpenTelemetry()

    for event in (attempt(), ended(), replace(refused(), call=2)):
        listener(event)

    assert listener._spans._calls == {}
