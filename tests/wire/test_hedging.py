"""Embeddings that a slow endpoint would hold up come from another one, and nobody is blamed for it."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from dependency_injector import providers

from llmwire.services import recorded
from llmwire.services.events import AttemptEnded, CallEnded
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.hedging import MIN_SAMPLES
from llmwire.services.testing.standin import embed

from .pools import BASE64, CHAT, MODEL, TEXTS, VECTORS, in_flight, is_async, repeated, states

PATIENCE_S = 20.0
SHARE = 0.5
TRUTH = [embed(text, 256) for text in TEXTS]


def right(answer):
    """Whether these are the vectors of the texts, to the last bit of the form that was asked for."""
    return all(list(vector) == pytest.approx(truth, abs=1e-6) for vector, truth in zip(answer, TRUTH, strict=True))


@pytest.fixture
def heard():
    """What the listener of `a_lane` was told, in order."""
    return []


@pytest.fixture
def a_lane(trio, contain, caller, heard):
    """A container whose embeddings are hedged, and which knows how long they take."""

    def a_lane(*, servers=3, operation=BASE64, **function):
        trio.script()
        settings = trio.settings(hedge=SHARE) | function
        settings["endpoints"] = dict(list(settings["endpoints"].items())[:servers])
        container = contain(embedding=settings)
        container.listener.override(providers.Object(heard.append))
        caller.run(container, repeated(operation, MIN_SAMPLES), function="embedding")
        return container

    return a_lane


def asked(container, caller, operation=BASE64):
    """What a call gives, its provenance, and the seconds it took."""
    began_at_s = time.monotonic()
    with recorded() as calls:
        [answer] = caller.run(container, repeated(operation, 1), function="embedding")
    [provenance] = calls
    return answer, provenance, time.monotonic() - began_at_s


def check_nobody_is_blamed(container):
    for state in states(container, "embedding").values():
        assert (state.breaker, state.failed, state.in_flight) == (BreakerState.CLOSED, 0, 0), state


@pytest.mark.parametrize("operation", VECTORS, ids=lambda one: one.name)
@pytest.mark.parametrize("fault", ["hang", "hang:when=body", "hang:after_bytes=40", "trickle:every_s=0.5", "slow:15"])
def test_the_answer_comes_from_another_endpoint_where_one_is_slow(trio, a_lane, caller, fault, operation):
    container = a_lane(servers=2, operation=operation)
    trio.script([fault])

    answer, provenance, took_s = asked(container, caller, operation)

    assert right(answer)
    assert (provenance.endpoint, provenance.is_hedged, provenance.is_degraded) == ("b", True, False)
    assert [attempt.endpoint for attempt in provenance.attempts] == ["b"]
    assert took_s < 5
    check_nobody_is_blamed(container)
    trio.servers[0].wait_until(lambda server: server.open_connections == 0)  # it may stop working on it


def test_it_is_off_by_default(trio, contain, caller):
    container = contain(embedding=trio.settings())
    caller.run(container, repeated(BASE64, MIN_SAMPLES), function="embedding")
    trio.script(["slow:0.3"])
    count = trio.counted()

    answer, provenance, _ = asked(container, caller)

    assert right(answer)
    assert (provenance.endpoint, provenance.is_hedged) == ("a", False)
    assert count() == {"a": 1, "b": 0, "c": 0}


def test_a_pool_of_one_endpoint_is_never_hedged(trio, a_lane, caller):
    container = a_lane(servers=1)
    trio.script(["slow:0.3"])

    answer, provenance, _ = asked(container, caller)

    assert right(answer)
    assert (provenance.endpoint, provenance.is_hedged) == ("a", False)


def test_what_names_its_endpoint_is_never_hedged(trio, a_lane, caller):
    container = a_lane()
    trio.script(["slow:0.3"])
    count = trio.counted()

    def only(client):
        return client.embeddings.create(model=MODEL, input=TEXTS, extra_headers={"x-llmwire-only": "a"})

    _, provenance, _ = asked(container, caller, only)

    assert (provenance.endpoint, provenance.is_hedged) == ("a", False)
    assert count() == {"a": 1, "b": 0, "c": 0}


def test_nothing_but_embeddings_is_hedged(trio, a_lane, caller):
    container = a_lane()
    trio.script(["slow:0.3"])
    count = trio.counted()

    _, provenance, _ = asked(container, caller, CHAT)  # of the client of embeddings

    assert not provenance.is_hedged
    assert count() == {"a": 1, "b": 0, "c": 0}


def test_what_must_not_be_sent_twice_is_never_hedged(trio, a_lane, caller):
    container = a_lane(failover_after_send="never")
    trio.script(["slow:0.3"])

    _, provenance, _ = asked(container, caller)

    assert (provenance.endpoint, provenance.is_hedged) == ("a", False)


def test_where_the_others_fail_the_slow_one_is_waited_for(trio, a_lane, caller):
    container = a_lane()
    trio.script(["slow:0.5"], ["500"], ["500"])

    answer, provenance, _ = asked(container, caller)

    assert right(answer)
    assert (provenance.endpoint, provenance.is_hedged) == ("a", True)
    assert {name: state.failed for name, state in states(container, "embedding").items()} == {"a": 0, "b": 1, "c": 1}
    assert in_flight(container, "embedding") == 0


def test_where_all_fail_the_attempts_of_both_stories_are_told(trio, a_lane, caller):
    container = a_lane(servers=2)
    trio.script(["slow:0.3+502"], ["502"])

    error, provenance, _ = asked(container, caller)

    assert isinstance(error, openai.InternalServerError)
    assert sorted(attempt.endpoint for attempt in provenance.attempts) == ["a", "b"]
    assert provenance.is_hedged
    assert in_flight(container, "embedding") == 0


def test_the_cut_attempt_is_told_as_cancelled_and_nothing_else_is(trio, a_lane, caller, heard):
    container = a_lane(servers=2)
    trio.script(["hang"])
    heard.clear()

    asked(container, caller)
    wait_for_players()

    attempts = [event for event in heard if isinstance(event, AttemptEnded) and not event.is_canary]
    told = [(event.endpoint, event.blame, event.is_duplicate, event.is_hedge) for event in attempts]
    assert sorted(told, key=str) == [("a", "cancelled", True, False), ("b", None, False, True)]
    [call] = [event for event in heard if not isinstance(event, AttemptEnded)]
    assert (type(call), call.endpoint, call.error, call.is_hedged) == (CallEnded, "b", None, True)
    assert {event.call for event in attempts} == {call.call}


def wait_for_players():
    for thread in threading.enumerate():
        if thread.name == "llmwire hedging":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_calls_of_many_callers_are_answered_rightly_while_some_are_cut(trio, a_lane, caller):
    container = a_lane(strategy="p2c")
    trio.script(["share:0.2:slow:0.03"], ["share:0.2:slow:0.3"], ["share:0.2:slow:0.1"])

    def many(client):
        if is_async(client):
            return many_async(client)
        with ThreadPoolExecutor(8) as threads:
            return list(threads.map(lambda _: BASE64(client), range(200)))

    async def many_async(client):
        async def one(places=asyncio.Semaphore(8)):  # noqa: B008  # one for all
            async with places:
                return await BASE64(client)

        return await asyncio.gather(*(one() for _ in range(200)))

    count = trio.counted()
    answers = caller.run(container, many, function="embedding")

    assert all(map(right, answers))
    assert sum(count().values()) > 210  # some were asked twice
    wait_for_players()
    check_nobody_is_blamed(container)


def test_a_cancelled_caller_leaves_nothing_in_flight(trio, contain):
    trio.script()
    container = contain(embedding=trio.settings(hedge=SHARE))

    async def main():
        client = container.async_embedding_client()
        for _ in range(MIN_SAMPLES):
            await BASE64(client)
        trio.script(["hang"], ["hang"])
        task = asyncio.ensure_future(BASE64(client))
        while in_flight(container, "embedding") < 2:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert in_flight(container, "embedding") == 0
        gc.collect()
        trio.script()
        assert right(await BASE64(client))

    asyncio.run(main())

    check_nobody_is_blamed(container)


def test_a_client_that_is_closed_meanwhile_ends_both(trio, contain):
    trio.script()
    container = contain(embedding=trio.settings(hedge=SHARE))
    client = container.embedding_client().with_options(max_retries=0)
    for _ in range(MIN_SAMPLES):
        BASE64(client)
    trio.script(["hang"], ["hang"])

    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(BASE64, client)
        trio.servers[1].wait_until(lambda server: server.open_connections == 1)
        client.close()
        with pytest.raises(openai.APIConnectionError):
            call.result()

    wait_for_players()
    assert in_flight(container, "embedding") == 0


# When the time is over.


@pytest.mark.parametrize("limit", ["deadline", "caller's"])
def test_where_both_are_silent_the_call_ends_with_its_time(trio, a_lane, caller, limit):
    limits = {"deadline_s": 0.6} if limit == "deadline" else {}
    container = a_lane(servers=2, **limits)
    trio.script(["hang"], ["hang"])

    def embedded(client):
        return BASE64(client.with_options(timeout=0.6) if limit != "deadline" else client)

    error, provenance, took_s = asked(container, caller, embedded)

    assert isinstance(error, openai.APITimeoutError)
    assert provenance.is_hedged
    assert sorted(attempt.endpoint for attempt in provenance.attempts) == ["a", "b"]
    assert 0.2 < took_s < 5
    assert in_flight(container, "embedding") == 0
    if limit != "deadline":
        check_nobody_is_blamed(container)
