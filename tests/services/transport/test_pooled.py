"""What stands below a client, apart from what goes over the wire."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import threading
import time
from itertools import zip_longest

import httpx2
import pytest

from llmwire.services.errors import AllEndpointsFailed, DeadlineExceeded, InvalidReply, NetworkRefused, NoRoute
from llmwire.services.events import AttemptEnded, CallEnded, RequestRouted, RouteFailed
from llmwire.services.provenance import recorded
from llmwire.services.routing.backoff import BackoffSpec
from llmwire.services.routing.budget import Budget
from llmwire.services.routing.endpoint import DEFAULT_POOL, Endpoint, Timeouts
from llmwire.services.routing.failover import CallSpec, Send
from llmwire.services.routing.outcome import Blame, Outcome
from llmwire.services.routing.pool import Pool
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import NamedPool, Router, Scores
from llmwire.services.transport import network
from llmwire.services.transport.call import Call
from llmwire.services.transport.facade import Sending
from llmwire.services.transport.patterns import searching
from llmwire.services.transport.pooled import AsyncPoolTransport, PoolTransport
from llmwire.services.transport.router import NO_MEANING, LaneRouter
from llmwire.services.transport.telling import Teller, Wire
from llmwire.services.transport.traffic import Traffic
from llmwire.services.wanted import routing

from .peers import PATIENCE_S, answer, listening, silent

URL = "http://127.0.0.1:9/v1"
KINDS = pytest.mark.parametrize("kind", [PoolTransport, AsyncPoolTransport])
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SAID = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}]}


def ignored(event):
    pass


def a_traffic(*urls, listener=ignored, serves=(), routes=(), pools=(), meaning=None, model=None, **spec):
    """Of the endpoints a, b, c; `serves` names the pool of each."""
    endpoints = [
        Endpoint(
            function="completion",
            name=name,
            base_url=url,
            pools=(pool or DEFAULT_POOL,),
            timeouts=Timeouts(connect_s=PATIENCE_S),
        )
        for name, url, pool in zip_longest("abc"[: len(urls or (URL,))], urls or (URL,), serves)
    ]
    calls = CallSpec(backoff=BackoffSpec(base_s=0.001, cap_s=0.001), **spec)
    randomness = random.Random(7)
    pool = Pool(endpoints, clock=time.monotonic, randomness=randomness, make_lock=threading.RLock, listener=listener)
    budget = Budget(calls.budget, clock=time.monotonic, make_lock=threading.Lock)
    rules = Router(routes, pools=pools, compile_pattern=searching)
    router = LaneRouter(rules, pool, listener=listener, meaning=meaning, model=model)
    return Traffic(pool, spec=calls, budget=budget, randomness=randomness, listener=listener, router=router)


def send(transport, url=f"{URL}/models", method="GET", *, headers=None, **extensions):
    """The whole response to one request."""
    body = json.dumps(CHAT).encode() if method == "POST" else None
    request = httpx2.Request(method, url, content=body, headers=headers, extensions=extensions)
    if isinstance(transport, PoolTransport):
        response = transport.handle_request(request)
        response.read()
        response.close()
        return response

    async def main():
        response = await transport.handle_async_request(request)
        await response.aread()
        await response.aclose()
        return response

    return asyncio.run(main())


def close(transport):
    transport.close_soon() if isinstance(transport, AsyncPoolTransport) else transport.close()


@pytest.fixture
def a_transport():
    made = []

    def a_transport(kind, *urls, **options):
        made.append(kind(a_traffic(*urls, **options)))
        return made[-1]

    yield a_transport
    for transport in made:
        close(transport)


def url_of(server):
    return f"http://{server.host}:{server.port}/v1"


def serve(peer):
    """Answer a chat, and say whom."""
    peer.request()
    peer.send(answer(json.dumps(SAID).encode(), headers=b"Content-Type: application/json\r\n"))


def fail(peer):
    peer.request()
    peer.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\nx-request-id: 7\r\n\r\n{}")


def nonsense(peer):
    peer.request()
    peer.send(answer(b"{}"))


# The life of a transport.


@KINDS
def test_a_transport_that_is_forgotten_unclosed_says_so(kind):
    held = [kind(a_traffic())]

    with pytest.warns(ResourceWarning, match="unclosed completion client"):
        held.clear()


@KINDS
def test_a_transport_that_its_parent_process_forgets_says_nothing_in_a_child(kind):
    transport = kind(a_traffic())
    transport._pid = -1  # of another process

    del transport
    gc.collect()


@KINDS
def test_a_closed_transport_says_who_closed_it_and_what_to_do(kind):
    transport = kind(a_traffic())
    close(transport)

    with pytest.raises(RuntimeError, match="closed by its container; ask the container for a new one"):
        send(transport)


@KINDS
def test_closing_twice_is_closing_once(kind):
    transport = kind(a_traffic())

    close(transport)
    close(transport)


def test_a_call_that_waits_when_its_transport_is_closed_is_told(a_transport):
    with listening(silent) as server:
        transport = a_transport(PoolTransport, url_of(server))
        closing = threading.Thread(target=lambda: (server.wait_for_a_request(), transport.close()))
        closing.start()
        with pytest.raises(httpx2.ReadError, match="closed while it waited"):
            send(transport, f"{url_of(server)}/chat/completions", "POST")
        closing.join()

    assert transport.pool.snapshot()[0].in_flight == 0


@KINDS
def test_what_the_gate_raises_is_not_wrapped_and_is_told_as_no_attempt(kind, a_transport):
    def refuse(server, /):
        raise NetworkRefused(server)

    told = []
    transport = a_transport(kind, listener=told.append)
    network.set_gate(refuse)
    try:
        with pytest.raises(NetworkRefused, match="http://127.0.0.1:9"):
            send(transport)
    finally:
        network.set_gate(None)

    assert [(type(event), event.error, event.attempts) for event in told] == [(CallEnded, "NetworkRefused", 0)]
    assert transport.pool.snapshot()[0].in_flight == 0


# Time.


def an_attempt(*, sent_by, first_byte_s=60.0):
    endpoint = Endpoint(function="completion", name="a", base_url=URL, timeouts=Timeouts(first_byte_s=first_byte_s))
    lease = type("Lease", (), {"endpoint": endpoint})()
    call = Call(httpx2.Request("GET", f"{URL}/models"), "models")
    teller = Teller(Wire(ignored), "completion", "models", None, began_at_s=0.0, tags=(), is_for_routing=False)
    return Sending(call, Send(lease, sent_by), teller, chunk_s=None, is_callers_time=False, asks_usage=False)


def test_an_attempt_that_begins_again_has_only_the_time_that_is_left():
    attempt = an_attempt(sent_by=time.monotonic() + 5.0)
    first = attempt.watch

    attempt.begin_again()

    assert attempt.watch is not first
    assert attempt.watch.ends_at_s == first.ends_at_s == attempt.sent_by


def test_the_first_byte_has_a_time_of_its_own_within_the_deadline():
    attempt = an_attempt(sent_by=time.monotonic() + 100.0, first_byte_s=5.0)

    assert attempt.watch.ends_at_s == attempt.started_at_s + 5.0


@KINDS
def test_all_attempts_share_the_deadline(kind, a_transport):
    with listening(silent) as server:
        transport = a_transport(kind, url_of(server), deadline_s=0.2)
        started_at_s = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s; completion\.deadline_s sets this time"):
            send(transport, f"{url_of(server)}/chat/completions", "POST")

    assert 0.2 <= time.monotonic() - started_at_s < PATIENCE_S / 2


@KINDS
def test_a_shorter_time_of_the_caller_holds(kind, a_transport):
    with listening(silent) as server:
        transport = a_transport(kind, url_of(server))
        with pytest.raises(DeadlineExceeded, match="within the time that the caller gave"):
            send(transport, f"{url_of(server)}/chat/completions", "POST", timeout={"read": 0.1})

    [state] = transport.pool.snapshot()
    assert (state.in_flight, state.failed) == (0, 0)


# The time of a pool.


TOO_LONG = Outcome(blame=Blame.CALLER, label="400", status=400, is_too_long=True)
SHORT, LONG, TAGGED = "short", "long", {"x-llmwire-tags": "x"}


def a_request(*, headers=None, **extensions):
    return httpx2.Request(
        "POST", f"{URL}/chat/completions", content=json.dumps(CHAT).encode(), headers=headers, extensions=extensions
    )


@pytest.fixture
def begun(a_transport):
    """Begin a request that goes to one pool, and to a larger one where it is too long; nothing is sent.

    Gives the sendings of both, and how long each may take, in seconds.
    """

    def begun(*, deadline_s=60.0, short_s=None, long_s=None, patience_s=None):
        pools = [NamedPool(name=SHORT, deadline_s=short_s), NamedPool(name=LONG, deadline_s=long_s)]
        rule = Route(pool=SHORT, on_context_length=LONG)
        transport = a_transport(
            PoolTransport, URL, URL, serves=(SHORT, LONG), routes=[rule], pools=pools, deadline_s=deadline_s
        )
        asked = transport.asked(a_request(timeout={"read": patience_s}))
        story, sending = transport.begin(asked)
        first = sending(story.send(None))
        then = sending(story.send(TOO_LONG))
        story.close()
        return [(each, pytest.approx(each.sent_by - asked.began_at_s)) for each in (first, then)]

    return begun


def test_a_pool_may_have_a_deadline_of_its_own_and_else_has_that_of_its_function(begun):
    times = [[time_s for _, time_s in begun(**pools)] for pools in ({}, {"short_s": 5.0}, {"long_s": 300.0})]

    assert times == [[60.0, 60.0], [5.0, 60.0], [60.0, 300.0]]


def test_the_deadline_of_the_larger_pool_may_be_the_shorter_one(begun):
    assert [time_s for _, time_s in begun(short_s=50.0, long_s=5.0)] == [50.0, 5.0]


@pytest.mark.parametrize(
    ("patience_s", "times_s", "are_callers"),
    [
        (None, [60.0, 300.0], [False, False]),
        (10.0, [10.0, 10.0], [True, True]),
        (100.0, [60.0, 100.0], [False, True]),
        (300.0, [60.0, 300.0], [False, False]),
        (900.0, [60.0, 300.0], [False, False]),
    ],
)
def test_a_time_of_the_caller_s_ends_what_may_take_longer_and_only_there_it_is_his(
    begun, patience_s, times_s, are_callers
):
    both = begun(long_s=300.0, patience_s=patience_s)

    assert [time_s for _, time_s in both] == times_s
    assert [sending.is_callers_time for sending, _ in both] == are_callers


@pytest.mark.parametrize(
    ("patience_s", "times_s", "are_callers"), [(20.0, [20.0, 5.0], [True, False]), (3.0, [3.0, 3.0], [True, True])]
)
def test_the_same_holds_where_the_larger_pool_has_less_time(begun, patience_s, times_s, are_callers):
    both = begun(long_s=5.0, patience_s=patience_s)

    assert [time_s for _, time_s in both] == times_s
    assert [sending.is_callers_time for sending, _ in both] == are_callers


def test_the_longest_deadline_of_all_pools_is_that_of_the_traffic():
    pools = [NamedPool(name="a", deadline_s=5.0), NamedPool(name="b"), NamedPool(name="c", deadline_s=300.0)]

    assert a_traffic(deadline_s=60.0).longest_s == 60.0
    assert a_traffic(deadline_s=60.0, pools=pools).longest_s == 300.0
    assert a_traffic(deadline_s=60.0, pools=pools[:2]).longest_s == 60.0


@KINDS
def test_a_call_that_took_longer_than_its_pool_may_names_the_setting_of_the_pool(kind, a_transport):
    pools = [NamedPool(name=LONG, deadline_s=0.2)]
    with listening(silent) as server:
        transport = a_transport(kind, url_of(server), serves=(LONG,), routes=[Route(pool=LONG)], pools=pools)
        with pytest.raises(
            DeadlineExceeded, match=r"no answer within 0\.2 s; completion\.pools\.long\.deadline_s sets this time"
        ):
            send(transport, f"{url_of(server)}/chat/completions", "POST")


@KINDS
def test_a_call_that_moved_and_took_too_long_there_names_the_setting_of_the_larger_pool(kind, a_transport):
    def refuse(peer):
        peer.request()
        problem = b'{"error": {"code": "context_length_exceeded"}}'
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(problem), problem))

    with listening(refuse) as short, listening(silent) as long:
        transport = a_transport(
            kind,
            url_of(short),
            url_of(long),
            serves=(SHORT, LONG),
            routes=[Route(pool=SHORT, on_context_length=LONG)],
            pools=[NamedPool(name=LONG, deadline_s=0.3)],
        )
        with recorded() as calls, pytest.raises(DeadlineExceeded, match=r"0\.3 s; completion\.pools\.long\."):
            send(transport, f"{url_of(short)}/chat/completions", "POST")

    assert (short.requests, long.requests) == (1, 1)
    assert [call.pool for call in calls] == [LONG]


# Where a request goes.


class Meaning:
    """Knows one answer for both transports; says which of them asked, and tells of shadows when it is told to."""

    def __init__(self, **by_route):
        self._scores, self.asked, self.later = Scores(by_route=by_route), [], []

    limit_s = 0.15

    def scores(self, text, trust, *, limit_s):
        self.asked.append((text, trust, PoolTransport))
        return self._scores

    async def async_scores(self, text, trust, *, limit_s):
        self.asked.append((text, trust, AsyncPoolTransport))
        return self._scores

    def scored_later(self, text, trust, then):
        self.later.append((text, trust, PoolTransport))
        then(self._scores)

    def async_scored_later(self, text, trust, then):
        self.later.append((text, trust, AsyncPoolTransport))
        then(self._scores)


MATHS = {"name": "maths", "pool": LONG, "examples": ("add two numbers",)}


@pytest.fixture
def routed_to(a_transport):
    """Send a chat to servers in the pools `default` and `long`, which answer; the response, and what was told."""

    def routed_to(kind, *routes, headers=None, **options):
        told = []
        with listening(serve) as one, listening(serve) as other:
            transport = a_transport(
                kind,
                url_of(one),
                url_of(other),
                serves=(DEFAULT_POOL, LONG),
                routes=routes,
                listener=told.append,
                **options,
            )
            response = send(transport, f"{url_of(one)}/chat/completions", "POST", headers=headers)
        decisions = [(event.route, event.pool, event.is_shadow) for event in told if isinstance(event, RequestRouted)]
        return response, decisions, [event for event in told if isinstance(event, RouteFailed)]

    return routed_to


@KINDS
def test_a_request_goes_to_the_pool_of_its_route_and_the_answer_says_so(kind, routed_to):
    response, decisions, _ = routed_to(kind, Route(name="tagged", pool=LONG, tags=("x",)), headers=TAGGED)

    assert decisions == [("tagged", LONG, False)]
    assert response.headers["x-llmwire-endpoint"] == "completion/b"
    assert (response.headers["x-llmwire-pool"], response.headers["x-llmwire-route"]) == ("completion/long", "tagged")


@KINDS
def test_each_transport_asks_for_the_meaning_in_its_own_way(kind, routed_to):
    meaning = Meaning(maths=0.9)

    response, decisions, _ = routed_to(kind, Route(**MATHS), meaning=meaning)

    assert meaning.asked == [("hi", None, kind)]
    assert decisions == [("maths", LONG, False)]
    assert response.headers["x-llmwire-endpoint"] == "completion/b"


@KINDS
def test_where_nothing_finds_out_meanings_a_route_that_asks_for_one_cannot_be_decided(kind, routed_to):
    response, decisions, failures = routed_to(kind, Route(**MATHS))

    assert [(event.route, event.problem) for event in failures] == [("maths", NO_MEANING.problem)]
    assert decisions == [(None, DEFAULT_POOL, False)]
    assert response.headers["x-llmwire-endpoint"] == "completion/a"


@KINDS
def test_the_meaning_for_a_shadow_is_found_out_later_and_the_request_goes_its_way(kind, routed_to):
    meaning = Meaning(maths=0.9)

    response, decisions, _ = routed_to(kind, Route(**MATHS, mode=Mode.SHADOW), meaning=meaning)

    assert (meaning.asked, meaning.later) == ([], [("hi", None, kind)])
    assert decisions == [(None, DEFAULT_POOL, False), ("maths", LONG, True)]
    assert response.headers["x-llmwire-endpoint"] == "completion/a"


@KINDS
def test_a_shadow_whose_meaning_nothing_finds_out_harms_no_call(kind, routed_to):
    response, decisions, _ = routed_to(kind, Route(**MATHS, mode=Mode.SHADOW))

    assert response.status_code == 200
    assert decisions == [(None, DEFAULT_POOL, False)]


@KINDS
def test_a_request_for_one_endpoint_is_asked_no_route(kind, routed_to):
    response, decisions, _ = routed_to(kind, Route(pool=DEFAULT_POOL), headers={"x-llmwire-only": "b"})

    assert decisions == []
    assert response.headers["x-llmwire-endpoint"] == "completion/b"


@pytest.mark.parametrize(
    ("model", "sent"), [("of-the-function", "of-the-function"), (None, LONG)], ids=["a model", "none"]
)
def test_a_server_is_asked_for_the_function_s_model_where_a_request_names_a_pool(a_transport, model, sent):
    transport = a_transport(PoolTransport, URL, URL, serves=(DEFAULT_POOL, LONG), model=model)
    body = json.dumps({**CHAT, "model": LONG}).encode()

    story, sending = transport.begin(transport.asked(httpx2.Request("POST", f"{URL}/chat/completions", content=body)))
    its = sending(story.send(None))
    story.close()

    assert (its.endpoint.name, its.call.model, json.loads(its.call.content)["model"]) == ("b", sent, sent)


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_call_that_is_made_to_find_a_route_is_told_as_such(a_transport, is_ours):
    told = []
    with listening(serve) as server:
        transport = a_transport(PoolTransport, url_of(server), listener=told.append)
        with routing(None) if is_ours else recorded():
            send(transport, f"{url_of(server)}/chat/completions", "POST")

    assert [event.is_for_routing for event in told if isinstance(event, AttemptEnded)] == [is_ours]


# What comes back.


@KINDS
def test_an_answer_says_where_it_came_from(kind, a_transport):
    with listening(fail) as bad, listening(serve) as good, recorded() as calls:
        transport = a_transport(kind, url_of(bad), url_of(good))
        responses = [send(transport, f"{url_of(bad)}/chat/completions", "POST") for _ in range(8)]

    endpoints = {response.headers["x-llmwire-endpoint"] for response in responses}
    attempts = {response.headers["x-llmwire-attempts"] for response in responses}
    assert [response.json() for response in responses] == [SAID] * 8
    assert endpoints == {"completion/b"}
    assert attempts <= {"1", "2"}
    assert [call.endpoint for call in calls] == ["b"] * 8
    assert [call.is_degraded for call in calls] == [
        response.headers["x-llmwire-degraded"] == "true" for response in responses
    ]


@KINDS
def test_the_last_answer_is_handed_on_as_it_is(kind, a_transport):
    with listening(fail) as server:
        response = send(a_transport(kind, url_of(server)), f"{url_of(server)}/chat/completions", "POST")

    assert (response.status_code, response.content, response.headers["x-request-id"]) == (502, b"{}", "7")
    assert response.headers["x-llmwire-attempts"] == "3"
    assert server.accepted == 3


@KINDS
def test_without_an_answer_the_error_carries_all_attempts_and_its_cause(kind, a_transport):
    with listening(nonsense) as server:
        transport = a_transport(kind, url_of(server))
        with pytest.raises(AllEndpointsFailed) as caught:
            send(transport, f"{url_of(server)}/chat/completions", "POST")

    assert isinstance(caught.value, httpx2.NetworkError)  # for the SDK
    assert isinstance(caught.value.__cause__, InvalidReply)
    assert [(attempt.endpoint, attempt.label) for attempt in caught.value.attempts] == [("a", "InvalidReply")] * 3


@KINDS
def test_a_request_may_name_its_endpoint(kind, a_transport):
    with listening(fail) as one, listening(serve) as other:
        transport = a_transport(kind, url_of(one), url_of(other))
        url = f"{url_of(one)}/chat/completions"
        response = send(transport, url, "POST", headers={"x-llmwire-only": "a"})
        with pytest.raises(NoRoute, match="there is no completion endpoint 'z': there are a, b"):
            send(transport, url, "POST", headers={"x-llmwire-only": "z"})

    assert (response.status_code, response.headers["x-llmwire-attempts"]) == (502, "1")
    assert (one.accepted, other.accepted) == (1, 0)


# Hedging.


def test_traffic_in_a_child_process_hedges_with_a_lock_of_its_own():
    known = a_traffic(URL, URL)
    traffic = Traffic(
        known.pool, spec=known.spec, budget=known.budget, randomness=known.randomness, listener=ignored, hedge=0.5
    )
    traffic.hedging._lock.acquire()  # by a thread of the parent, that the child does not have

    traffic.renew_after_fork()

    assert traffic.hedging.delay_s(1) is None


def test_traffic_without_a_share_has_no_hedging():
    assert a_traffic().hedging is None
