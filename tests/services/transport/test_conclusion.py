"""What the SDK gets in the end: an answer that says where it came from, or the error that fits."""

from __future__ import annotations

import json
import pickle

import httpcore2
import httpx2
import pytest

from llmwire.services.errors import AllEndpointsFailed, DeadlineExceeded, InvalidReply, LLMWireError
from llmwire.services.provenance import Attempt, Provenance, recorded
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.failover import Ending
from llmwire.services.routing.outcome import Blame, Outcome
from llmwire.services.routing.pool import Selection, Unavailable
from llmwire.services.routing.router import Choice, Decision, NamedPool
from llmwire.services.transport.conclusion import EXTENSION, Failed, Limits, Overdue, Received, concluded

LIMITS = Limits(deadline_s=60.0, setting="completion.deadline_s")


class Lease:
    """Of the last attempt; it is settled long ago."""

    def __init__(self, name="a", *, is_degraded=False):
        self.endpoint = Endpoint(function="completion", name=name, base_url=f"http://{name}.test:80/v1")
        self.is_degraded = is_degraded


def attempt(name="a", *, blame=None, label="served", status=None, took_s=0.5):
    server = f"http://{name}.test:80"
    return Attempt(endpoint=name, server=server, blame=blame, label=label, status=status, took_s=took_s)


def answered(status=200, headers=(), *, content=b"{}", **fields):
    received = Received(status, list(headers), {"http_version": b"HTTP/1.1"}, content=content)
    return Outcome(label=str(status), status=status, result=received, **fields)


def failed(error, *, label=None, blame=Blame.ENDPOINT, **fields):
    return Outcome(blame=blame, label=label or type(error).__name__, result=error, **fields)


def timed_out(label="ReadTimeout", **fields):
    return failed(httpcore2.ReadTimeout("no answer in time"), label=label, is_timeout=True, **fields)


def an_ending(outcome, *before, lease=None, **fields):
    """An ending whose last attempt, at `a`, was the outcome."""
    last = attempt("a", blame=outcome.blame, label=outcome.label, status=outcome.status)
    return Ending(outcome, lease or Lease(), [*before, last], **fields)


def unavailable(status=None, *, wait_s=None, reasons=None):
    return Unavailable(
        wait_s=wait_s, reasons={"a": "paused", "b": "open"} if reasons is None else reasons, status=status
    )


def a_choice(pool):
    return Choice(pool=NamedPool(name=pool), among=Selection(names=frozenset({"a"})))


def decided(pool="long", route=None, **fields):
    return Decision(choice=a_choice(pool), route=route, **fields)


def conclude(ending, decision=None, limits=LIMITS):
    return concluded("completion", ending, limits, decision=decision)


def refused(ending, kind=AllEndpointsFailed, **said):
    with pytest.raises(kind) as caught:
        conclude(ending, **said)
    return caught.value


REFUSED = attempt("b", blame="endpoint", label="ConnectError")

# An answer.


def test_an_answer_is_handed_on_with_where_it_came_from():
    response = conclude(an_ending(answered(headers=[(b"X-Id", b"7")], content=b'{"x": 1}')))

    assert (response.status_code, response.read()) == (200, b'{"x": 1}')
    assert response.headers.multi_items() == [
        ("x-id", "7"),
        ("x-llmwire-endpoint", "completion/a"),
        ("x-llmwire-attempts", "1"),
        ("x-llmwire-degraded", "false"),
    ]
    assert response.http_version == "HTTP/1.1"
    assert response.extensions[EXTENSION] == Provenance(
        function="completion", endpoint="a", attempts=(attempt("a", label="200", status=200),), is_degraded=False
    )


def test_a_stream_is_handed_on_unread():
    stream = httpx2.ByteStream(b"later")
    outcome = Outcome(result=Received(200, [], {}, stream=stream), status=200, is_open=True)

    assert conclude(an_ending(outcome)).stream is stream


@pytest.mark.parametrize(
    ("before", "is_lease_degraded", "degraded"),
    [([], False, "false"), ([REFUSED], False, "true"), ([], True, "true")],
    ids=["at once", "after a failure", "from an endpoint that is not well"],
)
def test_an_answer_says_whether_all_was_well(before, is_lease_degraded, degraded):
    response = conclude(an_ending(answered(), *before, lease=Lease(is_degraded=is_lease_degraded)))

    assert response.headers["x-llmwire-degraded"] == degraded
    assert response.headers["x-llmwire-attempts"] == str(len(before) + 1)
    assert response.extensions[EXTENSION].is_degraded is (degraded == "true")


def test_a_server_cannot_say_itself_where_an_answer_came_from():
    forged = [(b"X-LLMWire-Endpoint", b"b"), (b"x-llmwire-ATTEMPTS", b"9"), (b"x-llmwire-other", b"z"), (b"X-Id", b"7")]

    response = conclude(an_ending(answered(headers=forged)))

    assert response.headers.get_list("x-llmwire-endpoint") == ["completion/a"]
    assert response.headers.get_list("x-llmwire-attempts") == ["1"]
    assert "x-llmwire-other" not in response.headers
    assert response.headers["x-id"] == "7"


def test_an_endpoint_may_have_any_name():
    response = conclude(an_ending(answered(), lease=Lease("größe")))

    assert response.headers["x-llmwire-endpoint"] == "completion/größe"


# Which pool it came from, and by which route.


def path_of(response):
    headers, provenance = response.headers, response.extensions[EXTENSION]
    return headers.get("x-llmwire-pool"), headers.get("x-llmwire-route"), provenance.pool, provenance.route


@pytest.mark.parametrize(
    ("decision", "path"),
    [
        (None, (None, None, "default", None)),
        (decided("default"), (None, None, "default", None)),
        (decided("default", "cheap"), ("completion/default", "cheap", "default", "cheap")),
        (decided("long", "tall"), ("completion/long", "tall", "long", "tall")),
        (decided("long", is_named=True), ("completion/long", None, "long", None)),
    ],
    ids=["no rules", "no route", "a route to the default", "a route", "named by the request"],
)
def test_an_answer_says_its_pool_and_its_route_where_one_was_chosen(decision, path):
    assert path_of(conclude(an_ending(answered()), decision)) == path


def test_what_has_moved_came_from_the_larger_pool_by_the_same_route():
    decision = decided("short", "by size", larger=a_choice("long"))

    assert path_of(conclude(an_ending(answered()), decision))[2:] == ("short", "by size")
    assert path_of(conclude(an_ending(answered(), has_moved=True), decision)) == (
        "completion/long",
        "by size",
        "long",
        "by size",
    )


def test_a_call_that_failed_is_remembered_with_its_pool_and_its_route():
    with recorded() as calls:
        refused(an_ending(failed(httpcore2.ConnectError("x"))), decision=decided("long", "tall"))
        refused(nobody(), decision=decided("long", "tall"))

    assert [(call.pool, call.route, call.endpoint) for call in calls] == [("long", "tall", None)] * 2


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("route 2", "route 2"),
        ("größe", "gr??e"),
        ("長い", "??"),
        ("a\r\nx-forged: b", "a??x-forged: b"),
        ("\x00\x7f", "??"),
    ],
    ids=ascii,
)
def test_a_route_may_have_any_name_and_a_header_stays_printable_ascii(name, written):
    response = conclude(an_ending(answered()), decided("long", name))

    assert response.headers["x-llmwire-route"] == written
    assert response.extensions[EXTENSION].route == name
    assert "x-forged" not in response.headers


def test_a_server_cannot_say_itself_which_pool_an_answer_came_from():
    forged = [(b"X-LLMWire-Pool", b"completion/eu"), (b"x-llmwire-route", b"trusted")]

    assert path_of(conclude(an_ending(answered(headers=forged))))[:2] == (None, None)
    assert path_of(conclude(an_ending(answered(headers=forged)), decided("long", "tall")))[:2] == (
        "completion/long",
        "tall",
    )


# An answer that is an error.


@pytest.mark.parametrize(
    ("status", "blame"), [(400, Blame.CALLER), (401, Blame.KEY), (429, Blame.LOAD), (500, Blame.ENDPOINT)]
)
@pytest.mark.parametrize("is_overdue", [True, False])
def test_the_last_http_answer_is_handed_on_for_the_sdk_to_raise(status, blame, is_overdue):
    outcome = answered(status, [(b"Retry-After", b"7")], content=b'{"error": {}}', blame=blame)

    response = conclude(an_ending(outcome, REFUSED, is_overdue=is_overdue))

    assert (response.status_code, response.read()) == (status, b'{"error": {}}')
    assert response.headers["retry-after"] == "7"
    assert response.headers["x-llmwire-endpoint"] == "completion/a"
    assert response.extensions[EXTENSION].endpoint is None
    assert [one.label for one in response.extensions[EXTENSION].attempts] == ["ConnectError", str(status)]


def test_of_several_busy_endpoints_the_first_that_is_free_again_says_when_to_come_back():
    headers = [(b"Retry-After", b"300"), (b"retry-after-ms", b"300000"), (b"X-Id", b"7")]

    response = conclude(an_ending(answered(429, headers, blame=Blame.LOAD), unavailable=unavailable(wait_s=2.2)))

    assert response.headers.get_list("retry-after") == ["3"]
    assert "retry-after-ms" not in response.headers
    assert response.headers["x-id"] == "7"


def test_where_no_endpoint_will_be_free_the_server_s_own_word_stands():
    outcome = answered(429, [(b"Retry-After", b"300")], blame=Blame.LOAD)

    assert conclude(an_ending(outcome, unavailable=unavailable())).headers["retry-after"] == "300"


# Nobody could be asked.


def nobody(**fields):
    return Ending(None, None, [], unavailable(**fields))


def test_where_all_are_busy_the_answer_is_still_that_they_are_and_when_to_come_back():
    response = conclude(nobody(status=429, wait_s=7.1))

    assert (response.status_code, response.headers["retry-after"]) == (429, "8")
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.read())["error"] == {
        "message": "no completion endpoint may be asked now: a is paused; b is open",
        "type": "llmwire_unavailable",
        "param": None,
        "code": "no_endpoint_available",
    }
    assert response.headers["x-llmwire-endpoint"] == "completion/none"
    assert (response.headers["x-llmwire-attempts"], response.headers["x-llmwire-degraded"]) == ("0", "true")


def test_where_all_refused_the_key_the_answer_is_still_that():
    response = conclude(nobody(status=401, reasons={"a": "disabled after 401"}))

    assert response.status_code == 401
    assert "retry-after" not in response.headers
    assert "disabled after 401" in json.loads(response.read())["error"]["message"]


@pytest.mark.parametrize("status", [None, 200, 302])
def test_where_they_are_left_alone_for_different_reasons_it_is_an_error_that_names_them(status):
    error = refused(nobody(status=status, wait_s=7.5), Failed)

    assert str(error) == "no completion endpoint may be asked now: a is paused; b is open"
    assert (error.function, error.attempts, error.retry_after_s) == ("completion", (), 7.5)
    assert error.reasons == {"a": "paused", "b": "open"}
    assert isinstance(error, httpx2.NetworkError)


# No answer at all.


def test_a_single_endpoint_that_fails_is_named_with_what_happened():
    error = refused(an_ending(failed(httpcore2.ConnectError("connection refused"))), Failed)

    assert str(error) == "completion endpoint http://a.test:80: connection refused"
    assert [one.label for one in error.attempts] == ["ConnectError"]
    assert isinstance(error.__cause__, httpcore2.ConnectError)
    assert isinstance(error, httpx2.NetworkError)


@pytest.mark.parametrize(("before", "end"), [(1, "refused, 2 times"), (2, "refused, 3 times")])
def test_a_single_endpoint_that_fails_again_and_again_is_named_once(before, end):
    again = [attempt("a", blame="endpoint", label="ConnectError")] * before

    error = refused(an_ending(failed(httpcore2.ConnectError("refused")), *again))

    assert str(error) == f"completion endpoint http://a.test:80: {end}"


def test_where_several_fail_each_is_named():
    error = refused(an_ending(failed(InvalidReply("its answer has no choices")), REFUSED), Failed)

    assert str(error) == (
        "no completion endpoint could answer: "
        "b (http://b.test:80): ConnectError after 0.50 s; a (http://a.test:80): InvalidReply after 0.50 s. "
        "The last: its answer has no choices"
    )
    assert [one.endpoint for one in error.attempts] == ["b", "a"]


def test_an_error_that_says_nothing_is_told_by_its_name():
    assert str(refused(an_ending(failed(httpcore2.ReadError())))).endswith(": ReadError")


def test_endpoints_that_were_not_asked_are_named_with_the_reason():
    ending = an_ending(
        failed(httpcore2.ConnectError("x")), unavailable=unavailable(wait_s=3.0, reasons={"b": "paused"})
    )

    error = refused(ending)

    assert str(error).endswith(". Not asked: b is paused")
    assert (error.reasons, error.retry_after_s) == ({"b": "paused"}, 3.0)


def test_where_all_were_tried_nobody_is_said_to_be_left_alone():
    error = refused(an_ending(failed(httpcore2.ConnectError("x")), REFUSED, unavailable=unavailable(reasons={})))

    assert "Not asked" not in str(error)


def test_endpoints_that_could_not_have_the_request_are_named_with_those_that_are_not_well():
    ending = an_ending(
        failed(httpcore2.ConnectError("x")),
        unavailable=unavailable(reasons={"b": "paused"}),
        left_out={"c": "unable to call tools"},
    )

    error = refused(ending)

    assert str(error).endswith(". Not asked: b is paused; c is unable to call tools")
    assert error.reasons == {"b": "paused", "c": "unable to call tools"}


def test_endpoints_that_could_not_have_the_request_are_named_where_all_others_were_tried():
    error = refused(an_ending(failed(httpcore2.ConnectError("x")), left_out={"c": "unable to call tools"}))

    assert str(error) == "completion endpoint http://a.test:80: x. Not asked: c is unable to call tools"
    assert error.reasons == {"c": "unable to call tools"}


@pytest.mark.parametrize(("is_overdue", "kind"), [(False, Failed), (True, Overdue)])
def test_where_nobody_was_asked_those_that_could_not_have_the_request_are_named_too(is_overdue, kind):
    left_out = {"c": "too small: it holds 8 tokens, and the request is about 9"}
    ending = Ending(None, None, [], unavailable(reasons={"b": "paused"}), left_out=left_out, is_overdue=is_overdue)

    error = refused(ending, kind)

    assert str(error) == f"no completion endpoint may be asked now: b is paused; c is {left_out['c']}"
    assert error.reasons == {"b": "paused", **left_out}


def test_the_answer_that_nobody_may_be_asked_names_them_as_well():
    response = conclude(
        Ending(None, None, [], unavailable(429, wait_s=7.1, reasons={"b": "paused"}), left_out={"c": "unable"}),
        decided("long", "tall"),
    )

    assert json.loads(response.read())["error"]["message"].endswith(": b is paused; c is unable")
    assert path_of(response) == ("completion/long", "tall", "long", "tall")


# No time left.


@pytest.mark.parametrize("label", ["ReadTimeout", "ConnectTimeout", "WriteTimeout"])
def test_where_all_took_too_long_it_is_a_timeout(label):
    error = refused(an_ending(timed_out(label), attempt("b", blame="endpoint", label="ConnectTimeout")), Overdue)

    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, httpx2.TimeoutException)
    assert f"no answer in time ({label})" in str(error)


def test_where_only_the_last_took_too_long_it_is_no_timeout():
    assert type(refused(an_ending(timed_out(), REFUSED))) is Failed


def test_a_call_that_is_overdue_names_the_setting():
    error = refused(an_ending(timed_out(), REFUSED, is_overdue=True), Overdue)

    assert "no answer within 60 s; completion.deadline_s sets this time" in str(error)


def test_a_call_that_is_overdue_in_a_pool_names_the_setting_of_that():
    limits = Limits(deadline_s=0.5, setting="completion.pools.fast.deadline_s")

    error = refused(an_ending(timed_out(), is_overdue=True), Overdue, limits=limits)

    assert "no answer within 0.5 s; completion.pools.fast.deadline_s sets this time" in str(error)


def test_a_call_that_is_overdue_after_another_failure_is_a_timeout_that_tells_of_it():
    error = refused(an_ending(failed(InvalidReply("its answer has no choices")), is_overdue=True), Overdue)

    assert "no choices" in str(error)


@pytest.mark.parametrize("before", [[], [REFUSED]], ids=["at once", "after another failure"])
@pytest.mark.parametrize("is_overdue", [True, False])
def test_the_end_of_the_caller_s_own_time_is_a_timeout_whatever_was_before(before, is_overdue):
    ending = an_ending(timed_out("timeout", blame=Blame.CANCELLED), *before, is_overdue=is_overdue)

    assert "no answer within the time that the caller gave" in str(refused(ending, Overdue))


# This process.


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (httpcore2.PoolTimeout("x"), httpx2.PoolTimeout),
        (httpcore2.LocalProtocolError("x"), httpx2.LocalProtocolError),
        (httpcore2.UnsupportedProtocol("x"), httpx2.UnsupportedProtocol),
        (OSError(24, "too many open files"), httpx2.NetworkError),
        (httpcore2.ConnectError("x"), httpx2.NetworkError),
    ],
)
def test_what_is_wrong_in_this_process_is_told_as_it_is(cause, kind):
    error = refused(an_ending(failed(cause, blame=Blame.LOCAL)), kind)

    assert type(error) is kind
    assert (str(error), error.__cause__) == (str(cause), cause)


# What is remembered of it.


def test_every_call_inside_the_block_is_recorded_also_one_that_failed():
    with recorded() as calls:
        response = conclude(an_ending(answered(), REFUSED))
        refused(an_ending(failed(httpcore2.ConnectError("x"))))
        refused(nobody())
    conclude(an_ending(answered()))

    assert calls[0] == response.extensions[EXTENSION]
    assert [(call.function, call.endpoint, len(call.attempts), call.is_degraded) for call in calls] == [
        ("completion", "a", 2, True),
        ("completion", None, 1, False),
        ("completion", None, 0, True),
    ]


# Across processes.


FACTS = {
    "function": "completion",
    "attempts": (attempt("b", blame=Blame.LOAD, label="429", status=429), attempt()),
    "reasons": {"c": "paused"},
    "retry_after_s": 7.5,
}


@pytest.mark.parametrize("kind", [AllEndpointsFailed, DeadlineExceeded, Failed, Overdue])
def test_an_error_crosses_processes_whole(kind):
    error = kind("nobody could answer", **FACTS)

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert isinstance(copy, LLMWireError)
    assert str(copy) == str(error) == "nobody could answer"
    assert {name: getattr(copy, name) for name in FACTS} == FACTS
    assert isinstance(copy, TimeoutError) is (kind in (DeadlineExceeded, Overdue))


@pytest.mark.parametrize("kind", [Failed, Overdue])
def test_an_error_crosses_processes_with_the_request_that_the_transport_s_client_adds(kind):
    error = kind("nobody could answer", **FACTS)
    with pytest.raises(RuntimeError, match="request"):
        _ = error.request
    error.request = httpx2.Request("POST", "http://facade.test/v1/x")

    assert pickle.loads(pickle.dumps(error)).request.url == error.request.url


@pytest.mark.parametrize(
    "outcome", [failed(httpcore2.ConnectError("CANARY"), label="ConnectError")], ids=["what was raised"]
)
def test_what_a_server_said_is_in_no_attempt(outcome):
    assert "CANARY" not in repr(refused(an_ending(outcome)).attempts)
