from __future__ import annotations

import httpx2
import openai
import pytest

from app_example.failures import EndpointError, in_words
from llmwire.container import AllEndpointsFailed, ConfigError, DeadlineExceeded, StreamInterrupted, StreamTruncated
from llmwire.services import Attempt

REQUEST = httpx2.Request("POST", "http://model.test:8001/v1/embeddings")


def status_error(status: int) -> openai.APIStatusError:
    response = httpx2.Response(status, request=REQUEST)
    return openai.APIStatusError("no such model", response=response, body=None)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def attempted(name: str = "default", port: int = 8001) -> Attempt:
    server = f"http://model.test:{port}"
    return Attempt(endpoint=name, server=server, blame="endpoint", label="ConnectError", status=None, took_s=0.5)


def unanswered(*attempts: Attempt, kind: type[AllEndpointsFailed] = AllEndpointsFailed, **facts) -> AllEndpointsFailed:
    return kind("nobody could answer", function="embedding", attempts=attempts, **facts)


SERVER = "embedding server http://model.test:8001"
A, B = "a (http://model.test:8001): ConnectError after 0.50 s", "b (http://model.test:8002): ConnectError after 0.50 s"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            caused(openai.APIConnectionError(request=REQUEST), OSError("Connection refused")),
            f"The connection to the {SERVER} failed: Connection refused. Start it, or set EMBEDDING_BASE_URL",
        ),
        (openai.APITimeoutError(REQUEST), f"The {SERVER} took too long to answer. Start it, or set EMBEDDING_BASE_URL"),
        (
            caused(unanswered(attempted(), attempted()), OSError("Connection refused")),
            f"The connection to the {SERVER} failed: Connection refused. Start it, or set EMBEDDING_BASE_URL",
        ),
        (
            unanswered(attempted("a"), attempted("b", port=8002), reasons={"c": "paused"}),
            f"No embedding server could answer: {A}; {B}; c is paused. Start it, or set EMBEDDING_BASE_URL",
        ),
        (
            unanswered(reasons={"a": "disabled"}),
            "No embedding server could answer: a is disabled. Start it, or set EMBEDDING_BASE_URL",
        ),
        (
            unanswered(attempted(), attempted(), kind=DeadlineExceeded),
            f"The {SERVER} took too long to answer. Start it, or set EMBEDDING_BASE_URL",
        ),
        (
            unanswered(attempted(), attempted("b", port=8002), kind=DeadlineExceeded),
            f"The {SERVER} or http://model.test:8002 took too long to answer. Start it",
        ),
        (
            StreamInterrupted("it broke off", received="One "),
            "The embedding server stopped in the midst of its answer: it broke off. Start it, or set EMBEDDING_BASE",
        ),
        (
            StreamTruncated("it ended early", received="One "),
            "The embedding server stopped in the midst of its answer: it ended early. Start it",
        ),
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
    ids=[
        "unreachable",
        "slow",
        "refused",
        "several-refused",
        "disabled",
        "late",
        "several-late",
        "cut",
        "truncated",
        "key",
        "unknown",
        "busy",
        "broken",
        "bad",
        "in-the-stream",
    ],
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
