"""What stands below a client, apart from what goes over the wire."""

from __future__ import annotations

import asyncio
import gc

import httpx2
import pytest

from llmwire.services.errors import NetworkRefused
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.transport import network
from llmwire.services.transport.pooled import AsyncPoolTransport, PoolTransport, _Attempt

ENDPOINT = Endpoint(function="completion", name="a", base_url="http://127.0.0.1:9/v1", deadline_s=30.0)
KINDS = pytest.mark.parametrize("kind", [PoolTransport, AsyncPoolTransport])


def ignored(event):
    pass


def send(transport, url="http://127.0.0.1:9/v1/models"):
    request = httpx2.Request("GET", url)
    if isinstance(transport, AsyncPoolTransport):
        return asyncio.run(transport.handle_async_request(request))
    return transport.handle_request(request)


def close(transport):
    transport.close_soon() if isinstance(transport, AsyncPoolTransport) else transport.close()


def test_a_second_attempt_has_only_the_time_that_the_first_one_left():
    first = _Attempt(ENDPOINT, "models", ignored)

    second = first.again()

    assert second.ends_at == first.ends_at


@KINDS
def test_a_transport_that_is_forgotten_unclosed_says_so(kind):
    held = [kind(ENDPOINT, listener=ignored)]

    with pytest.warns(ResourceWarning, match="unclosed completion client"):
        held.clear()


@KINDS
def test_a_transport_that_its_parent_process_forgets_says_nothing_in_a_child(kind):
    transport = kind(ENDPOINT, listener=ignored)
    transport._pid = -1  # of another process

    del transport
    gc.collect()


@KINDS
def test_a_closed_transport_says_who_closed_it_and_what_to_do(kind):
    transport = kind(ENDPOINT, listener=ignored)
    close(transport)

    with pytest.raises(RuntimeError, match="closed by its container; ask the container for a new one"):
        send(transport)


@KINDS
def test_closing_twice_is_closing_once(kind):
    transport = kind(ENDPOINT, listener=ignored)

    close(transport)
    close(transport)


@KINDS
def test_what_the_gate_raises_is_neither_wrapped_nor_told(kind):
    def refuse(server, /):
        raise NetworkRefused(server)

    told = []
    transport = kind(ENDPOINT, listener=told.append)
    network.set_gate(refuse)
    try:
        with pytest.raises(NetworkRefused, match="http://127.0.0.1:9"):
            send(transport)
    finally:
        network.set_gate(None)
        close(transport)

    assert told == []
