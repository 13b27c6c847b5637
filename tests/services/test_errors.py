"""The tree of errors, and that each crosses processes whole."""

import pickle

import pytest

from llmwire.container import (
    AllEndpointsFailed,
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    InvalidReply,
    LLMWireError,
    NetworkRefused,
    NoRoute,
    NoText,
    NotWiredError,
    StreamInterrupted,
    StreamTruncated,
)
from llmwire.services import Attempt
from llmwire.services.transport.body import Interrupted, Stalled, Truncated
from llmwire.services.transport.conclusion import Failed, Overdue

TRIED = Attempt(
    endpoint="a", server="http://a.test:80", blame="endpoint", label="ConnectError", status=None, took_s=0.5
)
FACTS = {"function": "completion", "attempts": (TRIED,), "reasons": {"b": "disabled"}, "retry_after_s": 3.0}

EXAMPLES = [
    AllEndpointsFailed("nobody could answer", **FACTS),
    DeadlineExceeded("nobody answered in time", **FACTS),
    Failed("nobody could answer", **FACTS),
    Overdue("nobody answered in time", **FACTS),
    Interrupted("cut", received="half"),
    Stalled("stood still", received="half"),
    Truncated("ended early", received="half"),
    NoRoute("there is no endpoint z"),
    NoRoute("nobody may", reasons={"a": "unable"}, passed={"long": "it has none"}, undecided={"odd": "it raised"}),
    StreamInterrupted("cut", received="half"),
    ConfigError("is not set", key="completion.api_key", origin="env.X", remedy="Set X."),
    InvalidInput("input 3 is empty", position=3),
    InvalidReply("two vectors for three texts"),
    NetworkRefused("no"),
    NoText("a refusal"),
    NotWiredError("f()"),
    StreamTruncated("cut", received="half"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_is_one_of_ours_and_survives_pickling(error):
    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(error, LLMWireError)
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_config_error_names_the_key_its_origin_and_what_to_do():
    error = ConfigError(
        "has a blank in it", key="completion.api_key", origin="env.COMPLETION_API_KEY", remedy="Fix it."
    )

    assert str(error) == "completion.api_key (from env.COMPLETION_API_KEY): has a blank in it. Fix it."


def test_a_deadline_is_a_timeout_and_a_failure_of_all_endpoints():
    assert issubclass(DeadlineExceeded, AllEndpointsFailed)
    assert issubclass(DeadlineExceeded, TimeoutError)
    assert issubclass(StreamTruncated, StreamInterrupted)


def test_a_request_that_nobody_may_have_says_why_of_endpoints_and_routes():
    error = NoRoute("nobody may", reasons={"a": "unable"}, undecided={"odd": "it raised"})

    assert (error.reasons, error.passed, error.undecided) == ({"a": "unable"}, {}, {"odd": "it raised"})


def test_an_invalid_input_is_a_value_error_and_an_answer_without_text_an_invalid_reply():
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(NoText, InvalidReply)
