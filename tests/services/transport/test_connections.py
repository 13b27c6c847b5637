"""The connections to one server belong to one process, and to one event loop where they are asynchronous."""

from __future__ import annotations

import asyncio
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from llmwire.services.testing import StandIn
from llmwire.services.transport import connections
from llmwire.services.transport.connections import AsyncConnections, Connections

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def url():
    with StandIn() as server:
        yield f"{server.base_url}/models"


def status(transport, url):
    response = transport.handle_request(httpx2.Request("GET", url))
    response.read()
    response.close()
    return response.status_code


async def async_status(transport, url):
    response = await transport.handle_async_request(httpx2.Request("GET", url))
    await response.aread()
    await response.aclose()
    return response.status_code


# The context of TLS.


def test_all_servers_over_https_share_one_context_that_checks_certificates():
    contexts = {connections._ssl_context_for(f"https://{host}:443") for host in ("a.test", "b.test")}

    [context] = contexts
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_the_context_that_http_never_uses_would_trust_nobody():
    context = connections._ssl_context_for(NOWHERE)

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.get_ca_certs() == []


# Of a process.


def test_one_transport_serves_all_threads():
    owner = Connections(NOWHERE)
    start = threading.Barrier(8)

    def take(_):
        start.wait()
        return owner.transport()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(take, range(8)))) == 1
    owner.close()


def test_after_close_a_later_request_opens_new_connections(url):
    owner = Connections(url)
    first = owner.transport()
    assert status(first, url) == 200

    owner.close()

    assert owner.transport() is not first
    assert status(owner.transport(), url) == 200
    owner.close()


def test_closing_what_was_never_opened_does_nothing():
    Connections(NOWHERE).close()


def test_a_child_has_a_transport_of_its_own_and_leaves_the_parent_s_open(url):
    owner = Connections(url)
    parents = owner.transport()
    assert status(parents, url) == 200

    owner.renew_after_fork()
    childs = owner.transport()
    owner.close()

    assert childs is not parents
    assert len(parents._pool.connections) == 1
    parents.close()


def test_a_child_does_not_wait_for_a_lock_of_its_parent():
    owner = Connections(NOWHERE)
    with owner._lock:
        owner.renew_after_fork()

        owner.transport()
    owner.close()


# Of an event loop.


def test_a_loop_keeps_its_transport_and_the_next_loop_has_another(url):
    owner = AsyncConnections(url)

    async def take():
        transport = await owner.transport()
        assert await owner.transport() is transport
        assert await async_status(transport, url) == 200
        return transport

    assert asyncio.run(take()) is not asyncio.run(take())


def test_loops_that_have_ended_are_forgotten():
    owner = AsyncConnections(NOWHERE)

    for _ in range(3):
        asyncio.run(owner.transport())

    assert len(owner._by_loop) == 1


def test_the_coroutines_of_a_loop_share_one_transport():
    owner = AsyncConnections(NOWHERE)

    async def take_all():
        return await asyncio.gather(*(owner.transport() for _ in range(8)))

    assert len(set(asyncio.run(take_all()))) == 1


def test_connections_close_with_their_loop(url):
    owner = AsyncConnections(url)

    async def main():
        transport = await owner.transport()
        await async_status(transport, url)
        assert len(transport._pool.connections) == 1
        return transport

    assert asyncio.run(main())._pool.connections == []


def test_aclose_closes_what_the_running_loop_opened(url):
    owner = AsyncConnections(url)

    async def main():
        transport = await owner.transport()
        await async_status(transport, url)
        await owner.aclose()
        return transport._pool.connections

    assert asyncio.run(main()) == []


@pytest.mark.parametrize("is_async", [True, False], ids=["aclose", "close"])
def test_closing_from_elsewhere_has_a_running_loop_close_its_own(url, is_async):
    owner = AsyncConnections(url)

    async def main():
        transport = await owner.transport()
        await async_status(transport, url)
        close = (lambda: asyncio.run(owner.aclose())) if is_async else owner.close
        await asyncio.to_thread(close)
        while transport._pool.connections:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_closing_after_the_loop_has_ended_does_nothing():
    owner = AsyncConnections(NOWHERE)
    asyncio.run(owner.transport())

    owner.close()
    asyncio.run(owner.aclose())


def test_a_child_knows_none_of_the_parent_s_loops():
    owner = AsyncConnections(NOWHERE)
    asyncio.run(owner.transport())
    with owner._lock:
        owner.renew_after_fork()

        asyncio.run(owner.transport())

    assert len(owner._by_loop) == 1
