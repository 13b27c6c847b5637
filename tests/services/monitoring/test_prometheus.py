"""What Prometheus is told at a scrape: each figure under its labels, and nothing of what is not known or not there."""

from __future__ import annotations

import builtins
import logging
import math
import subprocess

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from llmwire.services.errors import ConfigError
from llmwire.services.events import AttemptEnded, EndpointsChanged
from llmwire.services.monitoring.figures import Figures, Series, Snapshot
from llmwire.services.monitoring.histogram import Histogram
from llmwire.services.monitoring.meter import Meter
from llmwire.services.monitoring.prometheus import BUCKETS_S, LONGEST, PrometheusCollector
from llmwire.services.monitoring.report import FunctionReport, Report
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health
from llmwire.services.routing.pool import EndpointState
from llmwire.services.routing.spending import BudgetState
from llmwire.services.source import SourceState

from ..prometheus_server import program

LABELS = {"function": "completion", "pool": "default", "endpoint": "a", "model": "m"}


def times(*seconds):
    histogram = Histogram()
    for each in seconds:
        histogram.add(each)
    return histogram


def series(endpoint="a", *, pool="default", model="m", **figures):
    return Series(pool=pool, endpoint=endpoint, model=model, total=Figures(**figures), windows={})


def state(name="a", *, health=Health.OK, breaker=BreakerState.CLOSED, in_flight=0):
    return EndpointState(
        name=name,
        server=f"http://{name}.test:80",
        tier=1,
        health=health,
        breaker=breaker,
        in_flight=in_flight,
        ewma_s=None,
        paused_for_s=0.0,
        disabled_for_s=0.0,
        reason="",
        served=0,
        failed=0,
        last_error="",
    )


def budget(budget="5/day", *, endpoint=None, tag=None, limit=5.0, spent=1.25):
    return BudgetState(budget=budget, endpoint=endpoint, tag=tag, limit=limit, spent=spent, ends_in_s=60.0)


def source(name="consul://a/b", *, asked_s=1.5, error=None):
    return SourceState(source=name, version="index 42", is_cached=False, taken_s=60.0, asked_s=asked_s, error=error)


def report(*counted, function="completion", endpoints=(), budgets=(), sources=()):
    snapshot = Snapshot(function=function, at_s=1.0, since_s=0.0, series=counted)
    of_function = FunctionReport(
        function=function, figures=snapshot, endpoints=tuple(endpoints), budgets=budgets, sources=sources
    )
    return Report(functions=(of_function,))


ALL = report(
    series(
        calls=3,
        call_errors={"503": 1},
        attempts=5,
        served=2,
        errors={"503": 2, "cancelled": 1},
        input_tokens=40,
        output_tokens=30,
        cached_tokens=20,
        reasoning_tokens=10,
        spent=0.5,
        priced=2,
        took=times(0.3, 3.0),
        first_content=times(0.1),
        call_took=times(0.3, 3.0),
    ),
    series("", calls=1, call_errors={"NoRoute": 1}),
    endpoints=[state(), state("b", health=Health.DISABLED, breaker=BreakerState.OPEN, in_flight=2)],
    budgets=(budget(), budget("9 tokens/hour", endpoint="a", limit=9.0), budget("1/day", tag="overnight")),
    sources=(source(), source("file:///etc/llmwire.toml", asked_s=None, error="cannot be read")),
)


def text(told):
    return PrometheusCollector(lambda: told).text().decode()


def samples(told):
    """Values by the name of the sample and its labels."""
    parsed = [each for family in text_string_to_metric_families(text(told)) for each in family.samples]
    by_key = {(each.name, frozenset(each.labels.items())): each.value for each in parsed}
    assert len(by_key) == len(parsed), "Prometheus refuses a scrape that has a sample twice"
    return by_key


def value(told, name, **labels):
    return samples(told).get((f"llmwire_{name}", frozenset(labels.items())))


def names(told):
    return {name for name, _ in samples(told)}


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("calls_total", {}, 3),
        ("call_errors_total", {"error": "503"}, 1),
        ("attempts_total", {}, 5),
        ("served_total", {}, 2),
        ("attempt_errors_total", {"error": "503"}, 2),
        ("attempt_errors_total", {"error": "cancelled"}, 1),
        ("tokens_total", {"type": "input"}, 40),
        ("tokens_total", {"type": "output"}, 30),
        ("tokens_total", {"type": "cached"}, 20),
        ("tokens_total", {"type": "reasoning"}, 10),
        ("cost_total", {}, 0.5),
        ("priced_total", {}, 2),
        ("hedges_total", {}, 0),
    ],
)
def test_each_figure_is_told_under_function_pool_endpoint_and_model(name, more, expected):
    assert value(ALL, name, **LABELS, **more) == expected


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("never_sent", "never_sent_total"),
        ("repeated", "repeated_total"),
        ("canaries", "canaries_total"),
        ("for_routing", "for_routing_total"),
        ("hedges", "hedges_total"),
        ("duplicates", "duplicates_total"),
        ("untold", "untold_total"),
        ("unpriced", "unpriced_total"),
        ("sent_bytes", "sent_bytes_total"),
        ("received_bytes", "received_bytes_total"),
    ],
)
def test_each_sum_is_told_under_its_own_name(field, name):
    assert value(report(series(**{field: 7})), name, **LABELS) == 7


def test_every_number_that_is_counted_is_told():
    ones = {name: 1 for name, value in Figures().as_dict().items() if isinstance(value, int | float)}

    told = samples(report(series(**ones)))

    assert sum(told.values()) == len(ones)


def test_a_call_that_asked_nobody_has_an_endpoint_all_the_same():
    labels = {**LABELS, "endpoint": "(none)"}

    assert value(ALL, "call_errors_total", error="NoRoute", **labels) == 1


def test_a_request_that_names_no_model_has_one_all_the_same():
    assert value(report(series(model="", calls=1)), "calls_total", **{**LABELS, "model": "(none)"}) == 1


@pytest.mark.parametrize("figures", [{}, {"unpriced": 3}, {"attempts": 1, "errors": {"503": 1}}])
def test_a_cost_that_is_not_known_is_left_out_and_not_0(figures):
    assert "llmwire_cost_total" not in names(report(series(**figures)))


def test_a_cost_that_is_0_by_its_price_is_told():
    assert value(report(series(priced=1)), "cost_total", **LABELS) == 0


def test_the_buckets_of_times_are_exact():
    told = report(series(took=times(0.25, 0.26, 0.5, 4.0, 5000.0)))

    buckets = {
        bound_s: value(told, "attempt_duration_seconds_bucket", le=f"{bound_s}", **LABELS) for bound_s in BUCKETS_S
    }

    assert [buckets[bound_s] for bound_s in (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 1024.0)] == [0, 1, 3, 3, 3, 4, 4]
    assert value(told, "attempt_duration_seconds_bucket", le="+Inf", **LABELS) == 5
    assert value(told, "attempt_duration_seconds_count", **LABELS) == 5
    assert math.isclose(value(told, "attempt_duration_seconds_sum", **LABELS), 5005.01)


@pytest.mark.parametrize(
    ("field", "name"),
    [("took", "attempt_duration"), ("first_content", "first_content"), ("call_took", "call_duration")],
)
def test_each_kind_of_time_has_a_histogram_where_there_was_one(field, name):
    told = names(report(series(**{field: times(1.0)})))

    assert {each for each in told if each.endswith("_seconds_count")} == {f"llmwire_{name}_seconds_count"}


def test_an_endpoint_is_in_one_state_of_health():
    healths = {
        each.value: value(ALL, "endpoint_health", function="completion", endpoint="b", health=each.value)
        for each in Health
    }

    assert healths == {each.value: each is Health.DISABLED for each in Health}


@pytest.mark.parametrize(
    ("breaker", "expected"), [(BreakerState.CLOSED, 0), (BreakerState.OPEN, 1), (BreakerState.HALF_OPEN, 1)]
)
def test_a_breaker_that_lets_one_call_through_to_see_counts_as_open(breaker, expected):
    told = report(endpoints=[state(breaker=breaker)])

    assert value(told, "breaker_open", function="completion", endpoint="a") == expected


def test_what_is_under_way_and_where_an_endpoint_is_are_told():
    whose = {"function": "completion", "endpoint": "b"}

    assert value(ALL, "in_flight", **whose) == 2
    assert value(ALL, "endpoint_info", server="http://b.test:80", tier="1", **whose) == 1


@pytest.mark.parametrize(
    ("labels", "limit"),
    [
        ({"budget": "5/day", "endpoint": "", "tag": ""}, 5),
        ({"budget": "9 tokens/hour", "endpoint": "a", "tag": ""}, 9),
        ({"budget": "1/day", "endpoint": "", "tag": "overnight"}, 5),
    ],
)
def test_a_budget_is_told_with_whose_it_is(labels, limit):
    assert value(ALL, "budget_limit", function="completion", **labels) == limit
    assert value(ALL, "budget_spent", function="completion", **labels) == 1.25


@pytest.mark.parametrize(("error", "expected"), [(None, 0), ("is silent", 1)])
def test_a_source_is_told_to_fail_where_it_does(error, expected):
    told = report(sources=(source(error=error),))

    assert value(told, "source_failing", function="completion", source="consul://a/b") == expected


@pytest.mark.parametrize("asked_s", [1.5, None])
def test_since_when_a_source_has_answered_is_told_where_it_ever_did(asked_s):
    told = report(sources=(source(asked_s=asked_s),))

    assert value(told, "source_answered_seconds", function="completion", source="consul://a/b") == asked_s


# What is no longer there.


def attempt(endpoint):
    known = {"function": "completion", "server": "http://a.test:80", "operation": "chat/completions", "model": "m"}
    return AttemptEnded(endpoint=endpoint, status=200, error=None, took_s=0.5, **known)


def test_an_endpoint_that_was_removed_has_no_series_and_none_of_the_others_jumps():
    meter = Meter("completion")
    for endpoint in ("kept", "gone", "gone"):
        meter(attempt(endpoint))
    meter(EndpointsChanged(function="completion", added=(), removed=("gone",), changed=()))
    told = FunctionReport(function="completion", figures=meter.snapshot(), endpoints=(state("kept"),))

    counted = samples(Report(functions=(told,)))

    assert {dict(labels).get("endpoint") for _, labels in counted} - {None} == {"kept"}
    assert counted["llmwire_attempts_total", frozenset({**LABELS, "endpoint": "kept"}.items())] == 1


def test_one_that_drains_is_told_of_until_its_last_call_ends():
    busy, idle = state(health=Health.DRAINING, in_flight=1), state(health=Health.DRAINING)

    assert value(report(endpoints=[busy]), "in_flight", function="completion", endpoint="a") == 1
    assert value(report(endpoints=[idle]), "in_flight", function="completion", endpoint="a") is None


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_with_one_name_the_one_that_may_be_asked_is_told_of(is_first):
    draining, new = state(health=Health.DRAINING, in_flight=1), state(in_flight=5)

    told = report(endpoints=[new, draining] if is_first else [draining, new])

    assert value(told, "in_flight", function="completion", endpoint="a") == 5


def test_the_budget_of_an_endpoint_that_is_gone_is_gone():
    told = report(endpoints=[state("kept")], budgets=(budget(endpoint="gone"), budget(endpoint="kept")))

    assert value(told, "budget_spent", function="completion", budget="5/day", endpoint="kept", tag="") == 1.25
    assert "gone" not in text(told)


# What callers may make up.


def test_models_that_differ_only_where_they_are_cut_are_one():
    long = "m" * LONGEST
    told = report(series(model=f"{long}/1", calls=1), series(model=f"{long}/2", calls=2))

    assert value(told, "calls_total", **{**LABELS, "model": long}) == 3


@pytest.mark.parametrize("model", ['"quoted"', "back\\slash", "two\nlines", "\ud800", "\u6d77"])
def test_whatever_a_model_is_called_the_scrape_can_be_read(model):
    told = report(series(model=model, calls=1))

    expected = model.replace("\ud800", "?")
    assert value(told, "calls_total", **{**LABELS, "model": expected}) == 1


# As a collector.


def test_a_registry_learns_the_names_without_asking_for_a_report():
    def report():
        raise AssertionError("it was asked")

    registry = CollectorRegistry()
    registry.register(PrometheusCollector(report))

    with pytest.raises(ValueError, match="Duplicated"):
        Counter("llmwire_calls", "Of another.", registry=registry)


def test_describe_has_every_family_that_collect_has_and_no_sample():
    collector = PrometheusCollector(lambda: ALL)

    described, collected = collector.describe(), collector.collect()

    assert [(each.name, each.type) for each in described] == [(each.name, each.type) for each in collected]
    assert {each.name for each in described if each.samples} == {"llmwire_report_failed"}


def test_each_scrape_asks_anew():
    reports = iter([report(series(calls=1)), report(series(calls=2))])
    collector = PrometheusCollector(lambda: next(reports))

    first, second = collector.text(), collector.text()

    assert b"llmwire_calls_total{" in first
    assert first != second


def test_a_report_that_fails_leaves_the_metrics_of_others_and_says_so(caplog):
    def broken():
        raise RuntimeError("no report today")

    registry = CollectorRegistry()
    registry.register(PrometheusCollector(broken))
    Counter("others", "Of another.", registry=registry).inc()

    with caplog.at_level(logging.ERROR, logger="llmwire"):
        told = generate_latest(registry).decode()

    assert "others_total 1.0" in told
    assert "llmwire_report_failed 1.0" in told
    assert "llmwire_calls_total{" not in told
    [record] = caplog.records
    assert (record.name, record.exc_info[0]) == ("llmwire", RuntimeError)


def test_a_report_that_works_says_so():
    assert value(ALL, "report_failed") == 0


def test_a_report_in_place_of_what_makes_one_is_refused():
    with pytest.raises(TypeError, match=r"give it container\.report"):
        PrometheusCollector(ALL)


def test_without_the_package_one_is_told_what_to_install(monkeypatch):
    importing = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return importing(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(ConfigError, match=r"pip install 'llmwire\[prometheus\]'"):
        PrometheusCollector(lambda: ALL)


def test_it_can_be_told_in_the_format_of_openmetrics_too():
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(lambda: ALL))

    families = {each.name: each for each in parse_openmetrics(generate_openmetrics(registry).decode())}

    assert families["llmwire_calls"].type == "counter"
    assert families["llmwire_call_duration_seconds"].type == "histogram"
    assert families["llmwire_endpoint"].type == "info"


def test_promtool_finds_nothing_to_complain_of():
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=text(ALL), capture_output=True, text=True)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
