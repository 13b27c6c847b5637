"""What OpenTelemetry is told of real calls: their span trees, their figures, and what an exporter sends of them."""

from __future__ import annotations

import threading

import openai
import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from llmwire.container import LLMContainer, NoRoute
from llmwire.services.events import Listeners
from llmwire.services.monitoring.logs import log
from llmwire.services.monitoring.opentelemetry import OpenTelemetry
from llmwire.services.routing.hedging import MIN_SAMPLES

from .callers import saying, text_of
from .pools import BASE64, CHAT_STREAM, repeated
from .servers import PATIENCE_S, chat, refuse

USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def counted(exchange):
    """An answer with its tokens."""
    exchange.json({**chat("hi"), "usage": USAGE})


def a_pool(*servers, **function):
    """The settings of a function with these servers as a, b, asked in this order."""
    endpoints = {
        name: {"base_url": server.url, "api_key": f"key-of-{name}"} for name, server in zip("ab", servers, strict=False)
    }
    return {"strategy": "in-order", "endpoints": endpoints, **function}


@pytest.fixture
def exporter():
    """Has the spans that ended."""
    return InMemorySpanExporter()


@pytest.fixture
def tracers(exporter):
    """An application's tracer provider."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def reader():
    """Reads an application's figures."""
    return InMemoryMetricReader()


@pytest.fixture
def traced(tracers, reader):
    """Makes a container that tells OpenTelemetry, as an application does."""
    made, meters = [], MeterProvider([reader])

    def traced(*, gen_ai=True, **tables):
        listener = OpenTelemetry(gen_ai=gen_ai, tracer_provider=tracers, meter_provider=meters)
        made.append(LLMContainer(config=tables, env={}, listener=Listeners(log, listener)))
        return made[-1]

    yield traced
    for container in made:
        container.shutdown_resources()
    meters.shutdown()


def tree(exporter):
    """Names of spans in their order of beginning, each with its children, as `{"a page": {"chat m": {}}}`."""
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    known = {span.context.span_id for span in spans}

    def below(parent):
        return {
            span.name: below(span.context.span_id)
            for span in spans
            if (span.parent.span_id if span.parent and span.parent.span_id in known else None) == parent
        }

    return below(None)


def named(exporter, name):
    [span] = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


def figures(reader, name):
    """Counts of a histogram by one attribute, or all attributes."""
    data = reader.get_metrics_data()
    metrics = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
    [points] = [metric.data.data_points for metric in metrics if metric.name == name]
    return [(point.count, dict(point.attributes)) for point in points]


def test_a_call_that_failed_over_is_a_tree_of_spans_below_that_of_the_application(
    serve, traced, tracers, exporter, reader, caller
):
    busy, good = serve(refuse(503)), serve(counted)
    container = traced(completion=a_pool(busy, good))

    with tracers.get_tracer("the application").start_as_current_span("a page"):
        assert text_of(caller.run(container, saying("hi"))) == "hi"

    assert tree(exporter) == {"a page": {"chat a-model": {"attempt a": {}, "attempt b": {}}}}
    call, first, second = (named(exporter, name) for name in ("chat a-model", "attempt a", "attempt b"))
    assert len({span.context.trace_id for span in exporter.get_finished_spans()}) == 1
    assert call.start_time <= first.start_time <= first.end_time <= second.start_time
    assert second.end_time <= call.end_time
    assert (first.status.status_code, first.attributes["error.type"]) == (StatusCode.ERROR, "503")
    assert (second.status.status_code, second.attributes["http.response.status_code"]) == (StatusCode.UNSET, 200)
    assert call.status.status_code is StatusCode.UNSET
    assert (call.attributes["server.address"], call.attributes["server.port"]) == ("127.0.0.1", good.port)
    assert (call.attributes["gen_ai.usage.input_tokens"], call.attributes["gen_ai.usage.output_tokens"]) == (11, 7)
    assert [point["gen_ai.response.model"] for _, point in figures(reader, "gen_ai.client.operation.duration")] == [
        "a-model"
    ]
    assert sorted(
        (point["llmwire.endpoint"], point.get("error.type"), count)
        for count, point in figures(reader, "llmwire.attempt.duration")
    ) == [("a", "503", 1), ("b", None, 1)]


def test_a_stream_that_failed_over_is_a_tree_that_lasts_as_long_as_the_stream(serve, traced, exporter, reader, caller):
    container = traced(completion=a_pool(serve(refuse(503)), serve()))

    caller.run(container, CHAT_STREAM)

    assert tree(exporter) == {"chat a-model": {"attempt a": {}, "attempt b": {}}}
    call, made = named(exporter, "chat a-model"), named(exporter, "attempt b")
    first_chunk_s = call.attributes["gen_ai.response.time_to_first_chunk"]
    assert call.attributes["gen_ai.request.stream"] is True
    assert 0 < first_chunk_s * 1e9 < call.end_time - call.start_time
    assert made.start_time + 1 < made.end_time <= call.end_time
    assert [count for count, _ in figures(reader, "gen_ai.client.operation.time_to_first_chunk")] == [1]


def test_a_call_that_asked_nobody_is_a_span_without_children(serve, traced, exporter, caller):
    container = traced(completion=a_pool(serve(), serve()))

    with pytest.raises(NoRoute):
        caller.run(container, saying("hi", extra_headers={"x-llmwire-only": "z"}))

    assert tree(exporter) == {"chat a-model": {}}
    assert named(exporter, "chat a-model").attributes["error.type"] == "NoRoute"


def test_a_call_that_failed_everywhere_has_the_last_error(serve, traced, exporter, caller):
    container = traced(completion=a_pool(serve(refuse(400))))

    with pytest.raises(openai.BadRequestError):
        caller.run(container, saying("hi"))

    for name in ("chat a-model", "attempt a"):
        assert named(exporter, name).status.status_code is StatusCode.ERROR
        assert named(exporter, name).attributes["error.type"] == "400"


def test_of_two_attempts_that_run_beside_each_other_both_are_children_of_their_call(trio, traced, exporter, caller):
    settings = trio.settings(hedge=0.5)
    del settings["endpoints"]["c"]
    container = traced(embedding=settings)
    caller.run(container, repeated(BASE64, MIN_SAMPLES), function="embedding")
    exporter.clear()
    trio.script(["hang"])

    caller.run(container, BASE64, function="embedding")
    for thread in threading.enumerate():  # the slower attempt is told of when its thread has seen that it is cut
        if thread.name == "llmwire hedging":
            thread.join(PATIENCE_S)

    call = named(exporter, "embeddings a-model")
    made = [span for span in exporter.get_finished_spans() if span is not call]
    assert all(span.parent == call.context for span in made)
    assert sorted(
        (
            span.name,
            span.attributes["llmwire.attempt.kind"],
            span.attributes.get("llmwire.attempt.duplicate"),
            span.attributes.get("error.type"),
        )
        for span in made
    ) == [
        ("attempt a", "request", True, "cancelled"),
        ("attempt b", "canary", None, None),
        ("attempt b", "hedge", None, None),
    ]
    assert {span.status.status_code for span in (call, *made)} == {StatusCode.UNSET}


def test_beside_another_instrumentation_of_openai_attempts_are_children_of_its_span(
    serve, traced, tracers, exporter, caller
):
    container = traced(gen_ai=False, completion=a_pool(serve(refuse(503)), serve()))

    with tracers.get_tracer("official").start_as_current_span("chat official"):
        caller.run(container, saying("hi"))

    assert tree(exporter) == {"chat official": {"attempt a": {}, "attempt b": {}}}


def test_an_exporter_sends_it_by_otlp_and_no_word_and_no_key_goes_with_it(serve, caller):
    collector = serve(lambda exchange: exchange.send(b"", headers={"content-type": "application/x-protobuf"}))
    busy, good = serve(refuse(503)), serve(counted)
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(f"{collector.url}/v1/metrics"))])
    listener = OpenTelemetry(tracer_provider=tracers, meter_provider=meters)
    container = LLMContainer(config={"completion": a_pool(busy, good)}, env={}, listener=listener)

    caller.run(container, saying("a secret prompt"))
    container.shutdown_resources()
    tracers.shutdown()
    meters.shutdown()

    sent = {seen.target: seen for seen in collector.seen}
    [resource] = ExportTraceServiceRequest.FromString(sent["/v1/traces"].content).resource_spans
    [scope] = resource.scope_spans
    parents = {span.name: span.parent_span_id for span in scope.spans}
    ids = {span.name: span.span_id for span in scope.spans}
    assert scope.scope.name == "llmwire"
    assert parents == {"chat a-model": b"", "attempt a": ids["chat a-model"], "attempt b": ids["chat a-model"]}
    [resource] = ExportMetricsServiceRequest.FromString(sent["/v1/metrics"].content).resource_metrics
    [scope] = resource.scope_metrics
    assert {metric.name: metric.unit for metric in scope.metrics} == {
        "gen_ai.client.operation.duration": "s",
        "gen_ai.client.token.usage": "{token}",
        "llmwire.attempt.duration": "s",
        "llmwire.attempt.tokens": "{token}",
    }
    for seen in collector.seen:
        for secret in (b"secret prompt", b"key-of", b"/v1/chat"):
            assert secret not in seen.content
