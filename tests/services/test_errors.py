"""The tree of errors, and that each crosses processes whole."""

import pickle

import pytest

from llmwire.container import (
    ConfigError,
    InvalidInput,
    InvalidReply,
    LLMWireError,
    NetworkRefused,
    NoText,
    NotWiredError,
    StreamTruncated,
)

EXAMPLES = [
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


def test_an_invalid_input_is_a_value_error_and_an_answer_without_text_an_invalid_reply():
    assert issubclass(InvalidInput, ValueError)
    assert issubclass(NoText, InvalidReply)
