"""Events are frozen facts; a listener cannot harm the call that it hears of."""

import dataclasses
from typing import get_args

import pytest

from llmwire.services import (
    AttemptEnded,
    BreakerChanged,
    BudgetReached,
    CallEnded,
    ConfigWarned,
    DocumentRefused,
    DocumentTaken,
    EndpointDisabled,
    EndpointPaused,
    EndpointsChanged,
    FailoverDenied,
    LedgerFailed,
    Listeners,
    RequestRouted,
    RouteFailed,
    SourceAnswered,
    SourceSilent,
    StreamEnded,
)
from llmwire.services.events import Event, tell

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
    EndpointsChanged(function="completion", added=("b",), removed=("a",), changed=()),
    FailoverDenied(function="completion", endpoint="a"),
    BudgetReached(function="completion", budget="5/day", endpoint=None, tag=None, spent=5.0, for_s=60.0),
    LedgerFailed(function="completion", problem="ConnectionError"),
    DocumentTaken(function="completion", source="consul://a/b", version="index 7"),
    DocumentRefused(function="completion", source="consul://a/b", version="index 8", reason="is empty"),
    SourceSilent(function="completion", source="consul://a/b", reason="refuses the connection"),
    SourceAnswered(function="completion", source="consul://a/b", after_s=5.0),
    CallEnded(
        function="completion",
        call=1,
        operation="chat/completions",
        pool="default",
        route=None,
        endpoint="a",
        server="http://localhost:8000",
        model="m",
        reply_model="m",
        error=None,
        took_s=0.5,
        first_content_s=None,
        attempts=1,
        usage=None,
        cost=None,
    ),
]


@pytest.mark.parametrize("event", [WARNED, ENDED, *OTHERS], ids=lambda event: type(event).__name__)
def test_an_event_is_frozen(event):
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.function = "other"


def test_every_event_there_is_stands_in_the_list_above():
    assert {type(event) for event in (WARNED, ENDED, *OTHERS)} == set(get_args(Event))


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


def test_of_several_listeners_each_hears_it_whatever_another_one_does():
    def broken(event):
        raise RuntimeError(event)

    heard = []

    Listeners(heard.append, broken, heard.append)(ENDED)

    assert heard == [ENDED, ENDED]


@pytest.mark.parametrize(
    ("blame", "status", "error", "label"),
    [
        (None, 200, None, None),
        ("endpoint", 503, None, "503"),
        ("endpoint", None, "ConnectError", "ConnectError"),
        ("cancelled", None, "timeout", "timeout"),
    ],
)
def test_an_attempt_has_one_word_for_what_failed(blame, status, error, label):
    assert dataclasses.replace(ENDED, blame=blame, status=status, error=error).label == label
