"""What became of an attempt: the table of outcomes, row by row; the text of a message decides nothing."""

from __future__ import annotations

import errno
import json
import ssl
from dataclasses import replace
from email.utils import formatdate

import httpcore2
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.errors import InvalidReply
from llmwire.services.routing.outcome import Blame, Outcome
from llmwire.services.transport.call import Call
from llmwire.services.transport.deadline import Phase, Watch
from llmwire.services.transport.identity import NoToken
from llmwire.services.transport.reply import WebPage, WrongDimensions
from llmwire.services.transport.stream import EndedEarly
from llmwire.services.transport.verdict import (
    CERTIFICATE_S,
    CONFLICT_S,
    KEY_S,
    MODEL_S,
    SPACE_S,
    of_error,
    of_status,
    without_frames,
)

RESULT = object()
API_ERROR = b'{"error": {"message": "x", "type": "t", "code": null}}'
PAGE = b"<html>404</html>"


def a_call(operation="chat/completions", **body):
    return Call(httpx2.Request("POST", f"http://facade.test/v1/{operation}", json={"model": "m", **body}), operation)


def verdict(status, content=API_ERROR, call=None, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return of_status(call or a_call(), status, headers, content, RESULT)


def error(code=None, type=None, **more):  # noqa: A002  # as the API calls it
    return json.dumps({"error": {"message": "x", "code": code, "type": type}, **more}).encode()


def outcome(status, blame, **fields):
    return Outcome(blame=blame, label=str(status), status=status, result=RESULT, **fields)


def test_how_long_an_endpoint_is_left_alone_is_as_specified():
    assert (KEY_S, CERTIFICATE_S, CONFLICT_S) == (300.0, 60.0, 0.5)


# An answer's status.


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_of_a_success_the_body_decides(status):
    assert verdict(status) is None


@pytest.mark.parametrize("status", [400, 406, 410, 411, 413, 414, 415, 422, 431, 451])
@pytest.mark.parametrize(
    "content",
    [API_ERROR, error("content_filter"), error("model_not_found"), b"", PAGE],
)
def test_the_caller_s_fault_is_never_shopped_around_and_harms_nobody(status, content):
    assert verdict(status, content, retry_after="9") == outcome(status, Blame.CALLER)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    "content",
    [
        error("context_length_exceeded"),
        b'{"error": {"code": 400, "type": "exceed_context_size_error", "message": "x"}}',
        b'{"error": {"code": "400", "type": "ContextWindowExceededError", "message": "x"}}',
        b'{"error": {"code": 400, "type": "BadRequestError", "param": "input_tokens", "message": "x"}}',
    ],
)
def test_a_request_that_is_too_long_is_the_caller_s_and_may_go_where_there_is_more_room(status, content):
    assert verdict(status, content) == outcome(status, Blame.CALLER, is_too_long=True)


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("content", [API_ERROR, b"", PAGE])
def test_a_refused_key_or_account_disables_its_endpoint_and_the_next_is_asked(status, content):
    assert verdict(status, content) == outcome(status, Blame.KEY, disable_s=KEY_S, is_refusal=True)


@pytest.mark.parametrize("word", ["content_policy_violation", "content_filter", "policy_violation", "Content_Filter"])
@pytest.mark.parametrize("place", ["code", "type"])
def test_what_is_forbidden_by_policy_is_the_caller_s(place, word):
    assert verdict(403, error(**{place: word})) == outcome(403, Blame.CALLER)


@pytest.mark.parametrize("status", [401, 402])
def test_a_policy_explains_no_refused_key(status):
    assert verdict(status, error("content_filter")).blame is Blame.KEY


@pytest.mark.parametrize("place", ["code", "type"])
def test_a_used_up_quota_is_the_account_s(place):
    found = verdict(429, error(**{place: "insufficient_quota"}), retry_after="3")

    assert found == outcome(429, Blame.KEY, disable_s=KEY_S, is_refusal=True)


@pytest.mark.parametrize("content", [API_ERROR, error(type="requests"), b"", PAGE])
def test_a_busy_endpoint_is_paused_and_has_not_failed(content):
    assert verdict(429, content, retry_after="3") == outcome(429, Blame.LOAD, pause_s=3.0, is_refusal=True)


@pytest.mark.parametrize(
    ("headers", "pause_s"),
    [
        ({}, 0.0),
        ({"retry_after": "garbage"}, 0.0),
        ({"retry_after_ms": "250"}, 0.25),
        ({"x_ratelimit_reset_tokens": "1m2s"}, 62.0),
    ],
)
def test_a_busy_endpoint_says_how_long_to_leave_it_alone(headers, pause_s):
    assert verdict(429, **headers).pause_s == pause_s


def test_a_busy_endpoint_may_say_it_as_a_date():
    assert verdict(429, retry_after=formatdate(4_000_000_000, usegmt=True)).pause_s > 1e9


@pytest.mark.parametrize(
    "content", [API_ERROR, b'{"error": "model \'m\' not found"}', b'{"object": "error", "message": "x", "code": 404}']
)
def test_a_model_that_a_server_does_not_know_is_asked_for_elsewhere(content):
    found = verdict(404, content)

    assert found == outcome(404, Blame.ENDPOINT, disable_s=MODEL_S, is_model_unknown=True, is_refusal=True)


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("content", [API_ERROR, b"", PAGE])
def test_a_redirect_is_a_wrong_url(status, content):
    assert verdict(status, content) == outcome(
        status, Blame.ENDPOINT, is_failure=True, is_wrong_url=True, is_refusal=True
    )


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize(
    "content", [b"", PAGE, b"404 page not found", b"[]", b"{}", b'{"detail": "Not Found"}', b"\xff"]
)
def test_no_such_page_without_an_error_of_the_api_is_a_wrong_url(status, content):
    assert verdict(status, content) == outcome(
        status, Blame.ENDPOINT, is_failure=True, is_wrong_url=True, is_refusal=True
    )


@pytest.mark.parametrize(
    ("status", "call"),
    [
        (405, a_call()),
        (404, a_call("responses", previous_response_id="r1")),
        (404, a_call("files")),
        (404, Call(httpx2.Request("GET", "http://facade.test/v1/models/x"), "models/x")),
    ],
    ids=["405", "a stored response", "a file", "a model by its name"],
)
def test_what_the_api_has_not_got_is_the_caller_s(status, call):
    assert verdict(status, call=call) == outcome(status, Blame.CALLER)


@pytest.mark.parametrize("status", [408, 425, 501, 502, 504, 505, 520, 522, 524, 599])
@pytest.mark.parametrize("content", [API_ERROR, b"", PAGE])
def test_a_server_that_fails_is_at_fault(status, content):
    assert verdict(status, content) == outcome(status, Blame.ENDPOINT, is_failure=True)


def test_an_internal_error_may_come_from_the_request_itself():
    assert verdict(500) == outcome(500, Blame.ENDPOINT, is_failure=True, may_be_poison=True)


def test_of_a_server_that_fails_a_retry_after_pauses_nothing():
    assert verdict(500, retry_after="30").pause_s is None


@pytest.mark.parametrize("status", [503, 529])
@pytest.mark.parametrize(
    ("headers", "pause_s"), [({}, None), ({"retry_after": "7"}, 7.0), ({"retry_after": "x"}, None)]
)
def test_an_unavailable_server_has_failed_and_is_paused_where_it_says_so(status, headers, pause_s):
    assert verdict(status, **headers) == outcome(status, Blame.ENDPOINT, is_failure=True, pause_s=pause_s)


LLAMA = error(503, "unavailable_error")
HUGGING_FACE = b'{"error": "Model x is currently loading", "estimated_time": %s}'


@pytest.mark.parametrize(
    ("content", "headers", "pause_s"),
    [
        (LLAMA, {}, 1.0),
        (LLAMA, {"retry_after": "4"}, 4.0),
        (LLAMA, {"retry_after": "0"}, 1.0),
        (LLAMA, {"retry_after": "300"}, 10.0),
        (HUGGING_FACE % b"5.5", {}, 5.5),
        (HUGGING_FACE % b"0", {}, 1.0),
        (HUGGING_FACE % b"-3", {}, 1.0),
        (HUGGING_FACE % b"120", {}, 10.0),
        (HUGGING_FACE % b"120", {"retry_after": "2"}, 2.0),
        (HUGGING_FACE % (b"1" + b"0" * 400), {}, 10.0),
        (error(503, "unavailable_error", estimated_time="soon"), {}, 1.0),
        (error(503, "unavailable_error", estimated_time=[3]), {}, 1.0),
        (error(503, "unavailable_error", estimated_time="3"), {}, 1.0),
    ],
)
def test_a_server_that_still_loads_its_model_has_not_failed_and_is_asked_again_soon(content, headers, pause_s):
    assert verdict(503, content, **headers) == outcome(503, Blame.ENDPOINT, pause_s=pause_s)


def test_what_is_locked_is_asked_for_once_more_and_harms_nobody():
    assert verdict(409, retry_after="30") == outcome(409, Blame.ENDPOINT, again_s=CONFLICT_S)


WORDS = "insufficient_quota content_filter unavailable_error model_not_found loading estimated_time"


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 405, 409, 429, 500, 503])
@pytest.mark.parametrize(
    "form", ['{"error": {"message": "%s"}}', '{"error": "%s"}', '{"object": "error", "message": "%s"}']
)
def test_the_text_of_a_message_decides_nothing(status, form):
    assert verdict(status, (form % WORDS).encode()) == verdict(status, (form % "x").encode())


@given(
    status=st.integers(300, 999),
    content=st.binary(max_size=40)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["error", "code", "type", "object", "estimated_time"]), inner)
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    retry_after=st.text(max_size=8),
)
def test_every_answer_that_is_no_success_has_a_blame(status, content, retry_after):
    found = verdict(status, content, retry_after=retry_after)

    assert found.blame is not None
    assert (found.status, found.label, found.result) == (status, str(status), RESULT)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"error":' + b"[" * 100_000])
def test_a_body_that_is_nested_without_end_is_no_error_of_the_api(content):
    assert verdict(404, content).is_wrong_url


# An exception.


def a_watch(phase, *, is_fresh=True):
    watch = Watch(None)
    watch.phase, watch.is_fresh = phase, is_fresh
    return watch


def judged(error, phase=Phase.SENT, *, is_fresh=True, is_callers_time=False):
    """The outcome, without the error that it carries."""
    found = of_error(error, a_watch(phase, is_fresh=is_fresh), is_callers_time=is_callers_time)
    assert found is not None
    assert found.result is error
    return replace(found, result=None)


BEFORE = [Phase.LOCAL, Phase.CONNECT]
AFTER = [Phase.SENT, Phase.HEADERS, Phase.BODY]
REFUSED = httpcore2.ConnectError("refused")


@pytest.mark.parametrize("phase", BEFORE)
@pytest.mark.parametrize(
    "error",
    [REFUSED, httpcore2.ReadError(), httpcore2.WriteError(), OSError(errno.EHOSTUNREACH, "x"), ConnectionResetError()],
    ids=repr,
)
def test_what_was_never_sent_is_the_endpoint_s_failure_and_free_to_be_sent_elsewhere(error, phase):
    assert judged(error, phase) == Outcome(
        blame=Blame.ENDPOINT, label=type(error).__name__, is_failure=True, was_sent=False
    )


@pytest.mark.parametrize("phase", BEFORE)
@pytest.mark.parametrize(
    "error", [httpcore2.ConnectTimeout(), httpcore2.ReadTimeout(), httpcore2.WriteTimeout()], ids=repr
)
def test_a_connection_that_was_not_made_in_time_was_never_used(error, phase):
    assert judged(error, phase) == Outcome(
        blame=Blame.ENDPOINT, label="ConnectTimeout", is_failure=True, was_sent=False, is_timeout=True
    )


@pytest.mark.parametrize("phase", AFTER)
@pytest.mark.parametrize("error", [httpcore2.ReadTimeout(), httpcore2.WriteTimeout()], ids=repr)
@pytest.mark.parametrize("is_fresh", [True, False])
def test_no_answer_in_time_is_a_failure_and_may_come_from_the_request(error, phase, is_fresh):
    assert judged(error, phase, is_fresh=is_fresh) == Outcome(
        blame=Blame.ENDPOINT, label=type(error).__name__, is_failure=True, is_timeout=True, may_be_poison=True
    )


@pytest.mark.parametrize("phase", [*BEFORE, *AFTER])
def test_the_caller_s_own_timeout_is_nobody_s_fault(phase):
    assert judged(httpcore2.ReadTimeout(), phase, is_callers_time=True) == Outcome(
        blame=Blame.CANCELLED, label="timeout", is_timeout=True, was_sent=phase >= Phase.SENT
    )


def test_an_endpoint_that_breaks_off_at_the_end_of_the_caller_s_time_has_failed_all_the_same():
    assert judged(REFUSED, Phase.CONNECT, is_callers_time=True).blame is Blame.ENDPOINT


LOST = [
    httpcore2.ReadError("reset"),
    httpcore2.WriteError("broken pipe"),
    httpcore2.RemoteProtocolError("Server disconnected without sending a response."),
    ConnectionResetError(),
]


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_connection_lost_after_send_is_a_failure_and_may_come_from_the_request(error):
    assert judged(error, Phase.SENT) == Outcome(
        blame=Blame.ENDPOINT, label=type(error).__name__, is_failure=True, may_be_poison=True
    )


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_connection_that_was_kept_alive_and_is_lost_before_any_byte_is_stale(error):
    assert judged(error, Phase.SENT, is_fresh=False).is_stale


@pytest.mark.parametrize("phase", [Phase.HEADERS, Phase.BODY])
@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_connection_that_is_lost_in_the_middle_of_an_answer_is_not_stale(error, phase):
    found = judged(error, phase, is_fresh=False)

    assert not found.is_stale
    assert found.is_failure


def test_an_answer_that_is_no_http_is_the_server_s_own_doing():
    assert judged(httpcore2.RemoteProtocolError("illegal status line"), Phase.HEADERS) == Outcome(
        blame=Blame.ENDPOINT, label="RemoteProtocolError", is_failure=True
    )


def test_a_body_that_breaks_off_may_come_from_the_request():
    assert judged(httpcore2.RemoteProtocolError("incomplete chunked read"), Phase.BODY).may_be_poison


# An answer that is none.


@pytest.mark.parametrize("error", [InvalidReply("no choices"), EndedEarly("done")], ids=repr)
@pytest.mark.parametrize("is_fresh", [True, False])
def test_an_answer_that_is_none_is_the_endpoint_s_failure(error, is_fresh):
    assert judged(error, Phase.BODY, is_fresh=is_fresh) == Outcome(
        blame=Blame.ENDPOINT, label="InvalidReply", is_failure=True
    )


def test_a_web_page_in_place_of_an_answer_is_a_wrong_url():
    assert judged(WebPage("a page"), Phase.BODY) == Outcome(
        blame=Blame.ENDPOINT, label="InvalidReply", is_failure=True, is_wrong_url=True
    )


def test_vectors_of_another_space_disable_their_endpoint():
    assert judged(WrongDimensions("3 where 2"), Phase.BODY) == Outcome(
        blame=Blame.ENDPOINT, label="InvalidReply", is_failure=True, disable_s=SPACE_S
    )


# The key, the certificate, this process.


def test_without_a_token_nothing_was_sent_and_it_is_the_key_s_fault():
    assert judged(NoToken("no token"), Phase.LOCAL) == Outcome(
        blame=Blame.KEY, label="NoToken", is_failure=True, was_sent=False
    )


def by(cause, error):
    """The error as it is raised from its cause."""
    error.__cause__ = cause
    return error


CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")


@pytest.mark.parametrize(
    "error",
    [
        CERTIFICATE,
        by(CERTIFICATE, httpcore2.ConnectError("x")),
        by(by(CERTIFICATE, OSError("x")), httpcore2.ConnectError("x")),
    ],
    ids=["itself", "a cause", "a cause of a cause"],
)
def test_a_certificate_that_is_refused_disables_its_endpoint_and_nothing_was_sent(error):
    assert judged(error, Phase.CONNECT) == Outcome(
        blame=Blame.ENDPOINT, label="certificate", was_sent=False, disable_s=CERTIFICATE_S
    )


def test_a_handshake_that_fails_otherwise_is_a_failure():
    found = judged(by(ssl.SSLError(1, "wrong version"), httpcore2.ConnectError("x")), Phase.CONNECT)

    assert (found.label, found.is_failure, found.disable_s) == ("ConnectError", True, None)


LOCAL = [
    httpcore2.PoolTimeout(),
    httpcore2.LocalProtocolError("illegal header"),
    httpcore2.UnsupportedProtocol("ftp"),
    OSError(errno.EMFILE, "too many open files"),
    by(OSError(errno.ENFILE, "x"), httpcore2.ConnectError("x")),
    by(OSError(errno.EADDRNOTAVAIL, "x"), httpcore2.ConnectError("x")),
]


@pytest.mark.parametrize("error", LOCAL, ids=repr)
@pytest.mark.parametrize("is_callers_time", [True, False])
def test_what_is_wrong_in_this_process_harms_no_endpoint(error, is_callers_time):
    found = judged(error, Phase.LOCAL, is_callers_time=is_callers_time)

    assert (found.blame, found.is_failure, found.pause_s, found.disable_s) == (Blame.LOCAL, False, None, None)


@pytest.mark.parametrize("error", [RuntimeError("Event loop is closed"), ValueError("x"), KeyError("x")], ids=repr)
def test_an_error_of_a_program_is_nobody_s_outcome(error):
    assert of_error(error, a_watch(Phase.SENT), is_callers_time=False) is None


def test_causes_that_go_in_a_circle_are_looked_at_once():
    first, second = httpcore2.ReadError("a"), OSError("b")
    first.__cause__, second.__cause__ = second, first

    assert judged(first, Phase.SENT).label == "ReadError"


def test_no_frame_of_an_error_or_of_its_causes_is_kept():
    def fail(secret):
        try:
            raise LookupError
        except LookupError as error:
            raise ValueError from error

    with pytest.raises(ValueError) as caught:
        fail("what a server said")
    error = caught.value
    error.__cause__.__cause__ = error  # a circle has an end, too

    without_frames(error)

    assert error.__traceback__ is None
    assert error.__cause__.__traceback__ is None


def test_who_waits_for_one_of_our_own_connections_blames_no_server():
    watch = Watch(None)
    watch.is_queued = True

    outcome = of_error(httpcore2.ReadTimeout("no answer in time"), watch, is_callers_time=False)

    assert (outcome.blame, outcome.label) == (Blame.LOCAL, "PoolTimeout")
