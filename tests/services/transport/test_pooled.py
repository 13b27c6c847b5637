"""What stands below a client, apart from what goes over the wire."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import threading
import time

import httpx2
import pytest

from llmwire.services.errors import AllEndpointsFailed, DeadlineExceeded, InvalidReply, NetworkRefused, NoRoute
from llmwire.services.provenance import recorded
from llmwire.services.routing.backoff import BackoffSpec
from llmwire.services.routing.budget import Budget
from llmwire.services.routing.endpoint import Endpoint, Timeouts
from llmwire.services.routing.failover import CallSpec, Send
from llmwire.services.routing.pool import Pool
from llmwire.services.transport import network
from llmwire.services.transport.call import Call
from llmwire.services.transport.facade import Sending, Traffic
from llmwire.services.transport.pooled import AsyncPoolTransport, PoolTransport

from .peers import PATIENCE_S, answer, listening, silent

URL = "http://127.0.0.1:9/v1"
KINDS = pytest.mark.parametrize("kind", [PoolTransport, AsyncPoolTransport])
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SAID = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}]}


def ignored(event):
    pass


def a_traffic(*urls, listener=ignored, **spec):
    endpoints = [
        Endpoint(function="completion", name=name, base_url=url, timeouts=Timeouts(connect_s=PATIENCE_S))
        for name, url in zip("abc", urls or (URL,), strict=False)
    ]
    calls = CallSpec(backoff=BackoffSpec(base_s=0.001, cap_s=0.001), **spec)
    randomness = random.Random(7)
    pool = Pool(endpoints, clock=time.monotonic, randomness=randomness, make_lock=threading.RLock, listener=listener)
    budget = Budget(calls.budget, clock=time.monotonic, make_lock=threading.Lock)
    return Traffic(pool, spec=calls, budget=budget, randomness=randomness, listener=listener)


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
def test_what_the_gate_raises_is_neither_wrapped_nor_told(kind, a_transport):
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

    assert told == []
    assert transport.pool.snapshot()[0].in_flight == 0


# Time.


def an_attempt(*, sent_by, first_byte_s=60.0):
    endpoint = Endpoint(function="completion", name="a", base_url=URL, timeouts=Timeouts(first_byte_s=first_byte_s))
    lease = type("Lease", (), {"endpoint": endpoint})()
    call = Call(httpx2.Request("GET", f"{URL}/models"), "models")
    return Sending(call, Send(lease, sent_by), chunk_s=None, is_callers_time=False)


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
