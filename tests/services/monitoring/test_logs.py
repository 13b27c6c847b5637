"""The log has one line for each change of state and none for a call; each record carries its event."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from llmwire.services.events import (
    AttemptEnded,
    BreakerChanged,
    BudgetReached,
    ConfigWarned,
    DocumentRefused,
    DocumentTaken,
    EndpointDisabled,
    EndpointPaused,
    EndpointsChanged,
    FailoverDenied,
    LedgerFailed,
    RequestRouted,
    RouteFailed,
    SourceAnswered,
    SourceSilent,
    StreamEnded,
)
from llmwire.services.monitoring import logs
from llmwire.services.monitoring.logs import EVERY_S, log

WARNED = ConfigWarned(function="completion", key="completion.api_key", origin="env.OPENAI_API_KEY", message="goes far")
ENDED = AttemptEnded(
    function="completion",
    endpoint="default",
    server="http://localhost:8000",
    operation="chat/completions",
    status=200,
    error=None,
    took_s=0.5,
)


def test_a_warning_is_one_line_of_the_log_and_an_attempt_is_none(caplog):
    log(WARNED)
    log(ENDED)

    assert [record.getMessage() for record in caplog.records] == [
        "completion.api_key (from env.OPENAI_API_KEY): goes far"
    ]
    assert caplog.records[0].name == "llmwire"


# What breaks for every request.


def a_failure(*, function="completion", route="maths", problem="its pattern took too long"):
    return RouteFailed(function=function, route=route, problem=problem)


@pytest.fixture
def now(monkeypatch):
    """A clock of the log, moved by hand; nothing was told of before."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now.s))
    monkeypatch.setattr(logs, "_last_told_s", {})
    return now


def test_a_route_that_could_not_be_decided_is_a_warning_and_a_decision_is_none(caplog, now):
    caplog.set_level("DEBUG", logger="llmwire")

    log(RequestRouted(function="completion", route="maths", pool="long", took_s=0.001))
    log(a_failure())

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "completion route maths could not be decided, and was passed over: its pattern took too long",
        )
    ]


def test_a_route_that_breaks_again_and_again_is_warned_of_once_in_a_while(caplog, now):
    for _ in range(3):
        log(a_failure())
    now.s += EVERY_S - 1
    log(a_failure())
    assert len(caplog.records) == 1

    now.s += 1
    log(a_failure())

    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "other", [{"function": "embedding"}, {"route": "verse"}, {"problem": "its pattern raised ValueError"}], ids=str
)
def test_another_function_or_route_or_problem_is_warned_of_for_itself(caplog, now, other):
    log(a_failure())

    log(a_failure(**other))

    assert len(caplog.records) == 2


def test_the_first_failure_is_told_also_where_the_clock_has_just_begun(caplog, now):
    now.s = 0.0

    log(a_failure())

    assert len(caplog.records) == 1


# Changes of state.

OF = {"function": "completion", "endpoint": "a"}
SOURCE = {"function": "completion", "source": "consul://a/b"}
SPENT = {"function": "completion", "budget": "5/day", "spent": 5.0, "for_s": 60.0}


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (EndpointDisabled(**OF, reason="401", for_s=300.0), "ERROR", "disabled after 401; it is asked again in 300 s"),
        (EndpointDisabled(**OF, reason="WrongSpace", for_s=300.0), "WARNING", "disabled after WrongSpace"),
        (EndpointDisabled(**OF, reason="404", for_s=300.0, model="m"), "WARNING", "does not know the model m"),
        (EndpointPaused(**OF, for_s=2.0), "INFO", "completion endpoint a is paused for 2.0 s"),
        (BreakerChanged(**OF, state="open", for_s=5.0), "WARNING", "completion endpoint a fails"),
        (BreakerChanged(**OF, state="closed"), "INFO", "completion endpoint a is well again"),
        (
            EndpointsChanged(function="completion", added=("b", "c"), removed=("a",), changed=()),
            "INFO",
            "completion endpoints changed: added b, c; removed a; changed none",
        ),
        (
            BudgetReached(**SPENT, endpoint=None, tag=None),
            "WARNING",
            "completion has spent its budget of 5/day: its calls are refused for 60 s",
        ),
        (BudgetReached(**SPENT, endpoint=None, tag="night"), "WARNING", "its calls with the tag night are refused"),
        (BudgetReached(**SPENT, endpoint="a", tag=None), "WARNING", "endpoint a has spent its budget of 5/day"),
        (LedgerFailed(function="completion", problem="ConnectionError"), "WARNING", "each goes by its own: Connection"),
        (FailoverDenied(**OF), "WARNING", "a completion call failed at a and was not sent elsewhere"),
        (DocumentTaken(**SOURCE, version="index 7"), "INFO", "completion goes by consul://a/b (index 7)"),
        (
            DocumentTaken(**SOURCE, version="index 7, kept at noon", is_cached=True),
            "WARNING",
            "completion goes by what consul://a/b said last (index 7, kept at noon, from the disk)",
        ),
        (
            DocumentRefused(**SOURCE, version="index 8", reason="is empty"),
            "ERROR",
            "completion does not take what consul://a/b says (index 8), and goes on as before: is empty",
        ),
        (
            SourceSilent(**SOURCE, reason="refuses the connection"),
            "WARNING",
            "completion goes on as before, as consul://a/b is silent: refuses the connection",
        ),
        (SourceAnswered(**SOURCE, after_s=5.4), "INFO", "completion: consul://a/b answers again, after 5 s"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_change_of_state_is_one_line_and_the_record_carries_the_event(caplog, now, event, level, line):
    caplog.set_level("DEBUG", logger="llmwire")

    log(event)

    [record] = caplog.records
    assert record.levelname == level
    assert line in record.getMessage()
    assert record.llmwire["event"] == type(event).__name__
    assert record.llmwire["function"] == "completion"


def test_calls_and_their_parts_are_no_lines(caplog, now):
    caplog.set_level("DEBUG", logger="llmwire")

    log(ENDED)
    log(StreamEnded(function="completion", endpoint="a", error="StreamTruncated", took_s=1.0))

    assert caplog.records == []


def test_a_level_that_nobody_reads_costs_no_record(caplog, now):
    caplog.set_level(logging.WARNING, logger="llmwire")

    log(EndpointPaused(**OF, for_s=2.0))

    assert caplog.records == []
