from __future__ import annotations

import httpx2
import openai
import pytest

from app_example.failures import EndpointError, in_words
from llmwire.container import ConfigError

REQUEST = httpx2.Request("POST", "http://model.test:8001/v1/embeddings")


def status_error(status: int) -> openai.APIStatusError:
    response = httpx2.Response(status, request=REQUEST)
    return openai.APIStatusError("no such model", response=response, body=None)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


SERVER = "embedding server http://model.test:8001"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            caused(openai.APIConnectionError(request=REQUEST), OSError("Connection refused")),
            f"The connection to the {SERVER} failed: Connection refused. Start it, or set EMBEDDING_BASE_URL",
        ),
        (openai.APITimeoutError(REQUEST), f"The {SERVER} took too long to answer. Start it, or set EMBEDDING_BASE_URL"),
        (status_error(401), f"The {SERVER} refused the key (401). Set EMBEDDING_API_KEY to one"),
        (status_error(404), f"The {SERVER} does not know this (404). Check EMBEDDING_MODEL and EMBEDDING_BASE_URL."),
        (status_error(429), f"The {SERVER} is busy, or the quota is used up (429). Wait a little and try again."),
        (status_error(503), f"The {SERVER} failed (503). Try again; if it stays so, look at its log."),
        (status_error(400), f"The {SERVER} refused the request (400): no such model. Check EMBEDDING_MODEL."),
        (
            openai.APIError("GPU on fire", request=REQUEST, body=None),
            "The embedding endpoint failed: GPU on fire",
        ),
    ],
    ids=["unreachable", "slow", "key", "unknown", "busy", "broken", "bad", "in-the-stream"],
)
def test_each_failure_says_what_happened_and_what_to_do(error, sentence):
    with pytest.raises(EndpointError) as caught, in_words("embedding"):
        raise error

    assert str(caught.value).startswith(sentence)
    assert caught.value.__cause__ is error


def test_a_setting_that_cannot_be_used_is_told_in_the_containers_words():
    error = ConfigError("is not set", key="embedding.api_key", remedy="Set EMBEDDING_API_KEY.")

    with (
        pytest.raises(EndpointError, match=r"^embedding\.api_key: is not set\. Set EMBEDDING_API_KEY\.$"),
        in_words("embedding"),
    ):
        raise error


def test_a_bug_stays_a_bug():
    with pytest.raises(ZeroDivisionError), in_words("embedding"):
        raise ZeroDivisionError
