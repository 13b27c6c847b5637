"""Events are frozen facts; a listener cannot harm the call that it hears of."""

import dataclasses

import pytest

from llmwire.services import (
    AttemptEnded,
    BreakerChanged,
    ConfigWarned,
    EndpointDisabled,
    EndpointPaused,
    StreamEnded,
)
from llmwire.services.events import tell
from llmwire.services.monitoring.logs import log

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
