"""What an exception means for a bulk run: the SDK's as it makes them, ours, and Python's."""

import subprocess
import sys

import httpx2
import openai
import pytest

from llmwire.services.bulk.trouble import Kind, trouble_of
from llmwire.services.errors import (
    AllEndpointsFailed,
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    InvalidReply,
    NetworkRefused,
    NoRoute,
    SpaceMismatch,
)
from llmwire.services.provenance import Attempt

REQUEST = httpx2.Request("POST", "http://a:8000/v1/embeddings")


def _status_error(status, *, headers=None, body=None):
    """As the SDK makes it of an answer."""
    client = openai.OpenAI(api_key="k", base_url="http://a:8000/v1")
    response = httpx2.Response(status, headers=headers or {}, request=REQUEST)
    with client:
        return client._make_status_error("what the server said", body=body, response=response)


def _attempt(blame, status=None):
    return Attempt(endpoint="a", server="http://a:8000", blame=blame, label="x", status=status, took_s=0.1)


def _all_failed(*attempts, **more):
    return AllEndpointsFailed("nobody", function="embedding", attempts=attempts, **more)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Kind.REFUSED),
        (401, Kind.FATAL),
        (402, Kind.FATAL),
        (403, Kind.FATAL),
        (404, Kind.FATAL),
        (405, Kind.FATAL),
        (408, Kind.DOWN),
        (409, Kind.DOWN),
        (413, Kind.REFUSED),
        (415, Kind.REFUSED),
        (418, Kind.REFUSED),
        (422, Kind.REFUSED),
        (425, Kind.DOWN),
        (429, Kind.BUSY),
        (500, Kind.DOWN),
        (502, Kind.DOWN),
        (503, Kind.DOWN),
        (529, Kind.DOWN),
        (301, Kind.FATAL),
    ],
)
def test_a_status_says_whose_fault_it_is(status, kind):
    assert trouble_of(_status_error(status)).kind is kind


def test_an_account_without_money_is_not_busy():
    error = _status_error(429, body={"code": "insufficient_quota", "message": "pay"})

    assert trouble_of(error).kind is Kind.FATAL


def test_a_text_that_a_policy_forbids_is_no_refused_key():
    error = _status_error(403, body={"code": "content_policy_violation", "message": "no"})

    assert trouble_of(error).kind is Kind.REFUSED


def test_where_our_own_client_asked_nobody_it_cannot_be_the_texts():
    error = _status_error(
        503, body={"code": "no_endpoint_available", "message": "paused"}, headers={"retry-after": "4"}
    )

    trouble = trouble_of(error)

    assert (trouble.kind, trouble.retry_after_s) == (Kind.BUSY, 4.0)


@pytest.mark.parametrize(
    ("headers", "wish_s"),
    [({"Retry-After": "7"}, 7.0), ({"retry-after-ms": "250"}, 0.25), ({"retry-after": "soon"}, None), ({}, None)],
)
def test_a_server_says_when_to_come_back(headers, wish_s):
    assert trouble_of(_status_error(429, headers=headers)).retry_after_s == wish_s


@pytest.mark.parametrize(
    "error",
    [
        openai.APIConnectionError(request=REQUEST),
        openai.APITimeoutError(request=REQUEST),
        httpx2.ReadError("lost"),
        ConnectionResetError(),
        TimeoutError(),
        InvalidReply("three vectors for four texts"),
        DeadlineExceeded("late", function="embedding"),
        _all_failed(_attempt("endpoint", 503), _attempt("load", 429)),
        _all_failed(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_server_that_is_away_or_talks_nonsense_is_down(error):
    trouble = trouble_of(error)

    assert trouble.kind is Kind.DOWN
    assert trouble.error is error


@pytest.mark.parametrize(
    "error",
    [
        _all_failed(_attempt("load"), _attempt("load", 429), retry_after_s=3.0),
        _all_failed(reasons={"a": "paused"}, retry_after_s=3.0),
    ],
    ids=["all were busy", "all are paused"],
)
def test_endpoints_that_are_all_busy_or_left_alone_are_busy(error):
    trouble = trouble_of(error)

    assert (trouble.kind, trouble.retry_after_s) == (Kind.BUSY, 3.0)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("is not set", key="embedding.model", remedy="Set it."),
        NoRoute("no endpoint x"),
        SpaceMismatch("other vectors", expected="a", found="b"),
        NetworkRefused("a test"),
        TypeError("a bug"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_no_repetition_mends_is_fatal(error):
    assert trouble_of(error).kind is Kind.FATAL


def test_a_text_that_a_service_will_not_send_is_refused():
    assert trouble_of(InvalidInput("too long", position=0)).kind is Kind.REFUSED


def test_the_words_of_a_trouble_are_short_and_on_one_line():
    words = trouble_of(ValueError("a text\n" * 1000)).words

    assert words.startswith("a text a text")
    assert "\n" not in words
    assert len(words) < 310


def test_no_client_is_imported_to_judge_an_error():
    code = """
import sys
from llmwire.services.bulk.trouble import trouble_of
assert trouble_of(TypeError()).kind == "fatal"
assert not {"openai", "httpx2", "numpy"} & set(sys.modules), "imported"
"""

    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("retry_after_s", "kind"), [(34.0, Kind.BUSY), (3000.0, Kind.FATAL), (None, Kind.FATAL)])
def test_a_budget_that_begins_anew_within_a_minute_is_waited_for(retry_after_s, kind):
    trouble = trouble_of(BudgetExceeded("spent", function="embedding", retry_after_s=retry_after_s))

    assert (trouble.kind, trouble.retry_after_s) == (kind, retry_after_s)
