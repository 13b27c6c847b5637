"""Events are frozen facts; a listener cannot harm the call that it hears of."""

import dataclasses
from types import SimpleNamespace

import pytest

from llmwire.services import (
    AttemptEnded,
    BreakerChanged,
    ConfigWarned,
    EndpointDisabled,
    EndpointPaused,
    RequestRouted,
    RouteFailed,
    StreamEnded,
)
from llmwire.services.events import tell
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


OTHERS = [
    BreakerChanged(function="completion", endpoint="a", state="open", for_s=5.0),
    EndpointDisabled(function="completion", endpoint="a", reason="401", for_s=300.0),
    EndpointPaused(function="completion", endpoint="a", for_s=5.0),
    StreamEnded(function="completion", endpoint="a", error=None, took_s=1.0),
    RequestRouted(function="completion", route="maths", pool="long", took_s=0.001),
    RouteFailed(function="completion", route="maths", problem="its pattern took too long"),
]


@pytest.mark.parametrize("event", [WARNED, ENDED, *OTHERS], ids=lambda event: type(event).__name__)
def test_an_event_is_frozen(event):
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.function = "other"


def test_a_listener_hears_the_event():
    heard = []

    tell(heard.append, ENDED)

    assert heard == [ENDED]


def test_what_a_listener_raises_is_dropped():
    def broken(event):
        raise RuntimeError(event)

    tell(broken, ENDED)


def test_what_is_no_ordinary_error_passes_through():
    def interrupted(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tell(interrupted, ENDED)


def test_a_warning_is_one_line_of_the_log_and_an_attempt_is_none(caplog):
    log(WARNED)
    log(ENDED)

    assert [record.getMessage() for record in caplog.records] == [
        "completion.api_key (from env.OPENAI_API_KEY): goes far"
    ]
    assert caplog.records[0].name == "llmwire"


# A route that breaks does so for every request.


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
