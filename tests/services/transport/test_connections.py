"""The connections to one server belong to one process, and to one event loop where they are asynchronous."""

from __future__ import annotations

import asyncio
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmwire.services.transport import connections
from llmwire.services.transport.connections import AsyncConnections, Connections
from llmwire.services.transport.deadline import Watch

from .peers import PATIENCE_S, a_request, listening, serve

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def server():
    with listening(serve) as server:
        yield server


def of(kind, server):
    return kind(f"http://{server.host}:{server.port}")


def asked(owner, server):
    """The body of an answer that is read to its end."""
    received = owner.send(a_request(server), Watch(None))
    try:
        return b"".join(received.stream)
    finally:
        received.close()


async def async_asked(pool, server):
    received = await pool.send(a_request(server), Watch(None))
    try:
        return b"".join([part async for part in received.stream])
    finally:
        received.close()


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


def test_all_threads_share_one_set_of_connections():
    owner = Connections(NOWHERE)
    start = threading.Barrier(8)

    def take(_):
        start.wait()
        return owner._opened()

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(take, range(8)))) == 1
    owner.close()


def test_a_connection_serves_one_thread_after_another(server):
    owner = of(Connections, server)

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        bodies = [threads.submit(asked, owner, server).result(PATIENCE_S) for threads in (one, other)]
    owner.close()

    assert bodies == [b"pong"] * 2
    assert server.accepted == 1


def test_after_close_a_later_request_opens_new_connections(server):
    owner = of(Connections, server)
    asked(owner, server)

    owner.close()

    assert asked(owner, server) == asked(owner, server) == b"pong"
    assert server.accepted == 2
    owner.close()


@pytest.mark.parametrize("give_up", ["drop_idle", "retire", "close"])
def test_giving_up_what_was_never_opened_does_nothing(give_up):
    getattr(Connections(NOWHERE), give_up)()


def test_a_child_has_connections_of_its_own_and_leaves_the_parent_s_open(server):
    owner = of(Connections, server)
    asked(owner, server)
    parents = owner._pool

    owner.renew_after_fork()
    asked(owner, server)
    owner.close()

    assert server.accepted == 2
    assert len(parents._idle) == 1
    assert asked(parents, server) == b"pong"
    assert server.accepted == 2
    parents.close()


def test_a_child_does_not_wait_for_a_lock_of_its_parent(server):
    owner = of(Connections, server)
    with owner._lock:
        owner.renew_after_fork()

        asked(owner, server)
    owner.close()


# Of an event loop.


def test_a_loop_keeps_its_connections_and_the_next_loop_has_others(server):
    owner = of(AsyncConnections, server)

    async def take():
        pool = await owner.pool()
        assert await owner.pool() is pool
        for _ in range(2):
            assert await async_asked(pool, server) == b"pong"
        return pool

    assert asyncio.run(take()) is not asyncio.run(take())
    assert server.accepted == 2


def test_loops_that_have_ended_are_forgotten():
    owner = AsyncConnections(NOWHERE)

    for _ in range(3):
        asyncio.run(owner.pool())

    assert len(owner._by_loop) == 1


def test_the_coroutines_of_a_loop_share_their_connections():
    owner = AsyncConnections(NOWHERE)

    async def take_all():
        return await asyncio.gather(*(owner.pool() for _ in range(8)))

    assert len(set(asyncio.run(take_all()))) == 1


def test_connections_close_with_their_loop(server):
    owner = of(AsyncConnections, server)

    async def main():
        pool = await owner.pool()
        await async_asked(pool, server)
        assert len(pool._open) == 1
        return pool

    assert not asyncio.run(main())._open


def test_closing_here_closes_what_the_running_loop_opened(server):
    owner = of(AsyncConnections, server)

    async def main():
        pool = await owner.pool()
        await async_asked(pool, server)
        [open_one] = pool._open
        await asyncio.wait(owner.close_here())
        return pool._open, open_one.gone.done()

    assert asyncio.run(main()) == (set(), True)


@pytest.mark.parametrize("is_async", [True, False], ids=["here", "close"])
def test_closing_from_elsewhere_has_a_running_loop_close_its_own(server, is_async):
    owner = of(AsyncConnections, server)

    async def main():
        pool = await owner.pool()
        await async_asked(pool, server)
        close = (lambda: asyncio.run(closed_here(owner))) if is_async else owner.close
        await asyncio.to_thread(close)
        while pool._open:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def test_closing_after_the_loop_has_ended_does_nothing():
    owner = AsyncConnections(NOWHERE)
    asyncio.run(owner.pool())

    owner.close()
    owner.retire()
    asyncio.run(closed_here(owner))


async def closed_here(owner):
    owner.close_here()


def test_after_closing_here_a_request_opens_new_connections(server):
    owner = of(AsyncConnections, server)

    async def main():
        await async_asked(await owner.pool(), server)
        await asyncio.wait(owner.close_here())
        await async_asked(await owner.pool(), server)

    asyncio.run(main())


def test_a_child_knows_none_of_the_parent_s_loops():
    owner = AsyncConnections(NOWHERE)
    asyncio.run(owner.pool())
    with owner._lock:
        owner.renew_after_fork()

        asyncio.run(owner.pool())

    assert len(owner._by_loop) == 1
