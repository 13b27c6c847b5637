"""Connections of an event loop: kept while they are good, given up where they are not, and none of them left open."""

from __future__ import annotations

import asyncio
import gc
import ssl
import threading
from contextlib import asynccontextmanager
from functools import wraps

import httpcore2
import pytest
import trustme

from llmwire.services.transport.deadline import Phase, Watch
from llmwire.services.transport.nonblocking import HELD_BYTES, AsyncConnectionPool, _Connection

from .peers import PATIENCE_S, a_request, answer, full_listener, half, has_ipv6, listening, serve, silent, until_close


@pytest.fixture(autouse=True)
def _nothing_is_left_open():
    """What is forgotten unclosed warns when it is collected, which is an error here."""
    yield
    gc.collect()


def looped(test):
    """Runs a test in an event loop, for as long as a test may take."""

    @wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 2 * PATIENCE_S))

    return run


@asynccontextmanager
async def a_pool(*, max_connections=10, max_idle=10, keepalive_s=60.0, ssl_context=None):
    """A pool, and a check that it leaves nothing open."""
    context = ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    pool = AsyncConnectionPool(context, max_connections=max_connections, max_idle=max_idle, keepalive_s=keepalive_s)
    try:
        yield pool
    finally:
        await pool.aclose()
        for _ in range(5):  # what was dropped before closes itself in the next rounds of the loop
            await asyncio.sleep(0)
    assert not pool._open
    assert not pool._idle


async def body_of(received):
    try:
        return b"".join([part async for part in received.stream])
    finally:
        received.close()


async def asked(pool, request, watch=None):
    """The body of an answer that is read to its end."""
    return await body_of(await pool.send(request, watch or Watch(None)))


async def until(is_so):
    """Let the loop run until something is so."""
    while not is_so():
        await asyncio.sleep(0)


async def upload_of(parts):
    for part in parts:
        yield part


# Kept alive.


@looped
async def test_a_connection_whose_answer_was_read_is_used_again():
    with listening(serve) as server:
        async with a_pool() as pool:
            watches = [Watch(None) for _ in range(3)]
            bodies = [await asked(pool, a_request(server), watch) for watch in watches]

    assert bodies == [b"pong"] * 3
    assert server.accepted == 1
    assert [watch.is_fresh for watch in watches] == [True, False, False]
    assert {watch.phase for watch in watches} == {Phase.BODY}


@looped
async def test_an_answer_that_came_with_its_head_is_there_at_once():
    with listening(serve) as server:
        async with a_pool() as pool:
            received = await pool.send(a_request(server), Watch(None))
            await until(lambda: received._incoming.is_complete)

            assert received.content_now == b"pong"
            received.close()


@looped
async def test_an_answer_that_is_still_to_come_is_not():
    with listening(half) as server:
        async with a_pool() as pool:
            received = await pool.send(a_request(server), Watch(None))

            assert received.content_now is None
            received.close()


@looped
async def test_requests_at_once_have_a_connection_each():
    with listening(serve) as server:
        async with a_pool() as pool:
            assert await asyncio.gather(*(asked(pool, a_request(server)) for _ in range(3))) == [b"pong"] * 3
            assert len(pool._idle) == 3

    assert server.accepted == 3


@pytest.mark.parametrize("content", [answer(headers=b"Connection: close\r\n"), answer() + b"!"], ids=["close", "more"])
@looped
async def test_an_answer_may_be_the_last_of_its_connection(content):
    def once(peer):
        peer.request()
        peer.send(content)
        assert peer.is_left()

    with listening(once) as server:
        async with a_pool() as pool:
            assert [await asked(pool, a_request(server)) for _ in range(2)] == [b"pong"] * 2

    assert server.accepted == 2


@looped
async def test_an_answer_that_was_not_read_to_its_end_costs_its_connection():
    with listening(half, serve) as server:
        async with a_pool() as pool:
            (await pool.send(a_request(server), Watch(None))).close()
            assert await asked(pool, a_request(server)) == b"pong"

    assert server.accepted == 2


@pytest.mark.parametrize("goodbye", ["leave", "reset", "unasked"])
@looped
async def test_a_connection_that_died_while_it_was_idle_is_not_used_again(goodbye):
    may_die = threading.Event()

    def serve_once(peer):
        peer.request()
        peer.send(answer())
        assert may_die.wait(PATIENCE_S)
        if goodbye == "unasked":
            peer.send(answer(b"evil"))
            assert peer.is_left()
        getattr(peer, goodbye, peer.leave)()

    with listening(serve_once, serve) as server:
        async with a_pool() as pool:
            assert await asked(pool, a_request(server)) == b"pong"
            [(idle, _)] = pool._idle
            may_die.set()
            await until(lambda: idle.is_lost)
            watch = Watch(None)
            assert await asked(pool, a_request(server), watch) == b"pong"

    assert (server.accepted, watch.is_fresh) == (2, True)


@looped
async def test_a_connection_that_was_idle_for_too_long_is_not_used_again():
    with listening(serve) as server:
        async with a_pool(keepalive_s=0.0) as pool:
            for _ in range(2):
                await asked(pool, a_request(server))

    assert server.accepted == 2


@looped
async def test_a_connection_that_nobody_needs_any_more_is_closed_by_those_that_are_used():
    with listening(serve) as server:
        async with a_pool(keepalive_s=0.0) as pool:
            first, second = [await pool.send(a_request(server), Watch(None)) for _ in range(2)]
            await body_of(first)
            await body_of(second)

            assert len(pool._idle) == len(pool._open) == 1


@looped
async def test_no_more_connections_are_kept_than_may_be():
    with listening(serve) as server:
        async with a_pool(max_idle=1) as pool:
            await asyncio.gather(*(asked(pool, a_request(server)) for _ in range(3)))

            assert len(pool._idle) == len(pool._open) == 1


# As many as may be.


@looped
async def test_who_waits_for_a_connection_is_known_to_wait_for_nothing_else():
    watch = Watch(None)
    with listening(half) as server:
        async with a_pool(max_connections=1) as pool:
            held = await pool.send(a_request(server), Watch(None))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await pool.send(a_request(server), watch)
            held.close()

    assert (server.accepted, watch.phase, watch.is_queued) == (1, Phase.LOCAL, True)


@looped
async def test_who_waits_for_a_connection_gets_the_next_one():
    with listening(serve) as server:
        async with a_pool(max_connections=1) as pool:
            held = await pool.send(a_request(server), Watch(None))
            waiting = asyncio.create_task(asked(pool, a_request(server)))
            await asyncio.sleep(0)
            await body_of(held)

            assert await waiting == b"pong"

    assert server.accepted == 1


@looped
async def test_what_fails_holds_no_place():
    def broken(peer):
        peer.request()
        peer.send(b"garbage\r\n\r\n")

    with listening(broken, broken, serve) as server:
        async with a_pool(max_connections=1) as pool:
            for _ in range(2):
                with pytest.raises(httpcore2.RemoteProtocolError):
                    await pool.send(a_request(server), Watch(None))
            assert await asked(pool, a_request(server, pool=0.0)) == b"pong"


@looped
async def test_closing_an_answer_twice_gives_back_one_place():
    with listening(serve) as server:
        async with a_pool(max_connections=1) as pool:
            received = await pool.send(a_request(server), Watch(None))
            received.close()
            received.close()
            held = await pool.send(a_request(server), Watch(None))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await pool.send(a_request(server), Watch(None))
            held.close()


# Cancelled.


async def cancelled_at(pool, request, is_there):
    """Begin a request, and cancel it where it is somewhere."""
    task = asyncio.create_task(asked(pool, request))
    await until(is_there)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("play", [silent, half], ids=["before the head", "in the body"])
@looped
async def test_a_cancelled_call_closes_its_connection_and_holds_no_place(play):
    with listening(play, serve) as server:
        async with a_pool(max_connections=1) as pool:
            await cancelled_at(pool, a_request(server), lambda: server.requests == 1)
            assert not pool._open
            assert await asked(pool, a_request(server, pool=0.0)) == b"pong"


@looped
async def test_a_call_that_is_cancelled_while_it_waits_for_a_place_takes_none():
    with listening(serve) as server:
        async with a_pool(max_connections=1) as pool:
            held = await pool.send(a_request(server), Watch(None))
            await cancelled_at(pool, a_request(server), lambda: pool._free._waiters)
            await body_of(held)
            assert await asked(pool, a_request(server, pool=0.0)) == b"pong"

    assert server.accepted == 1


@looped
async def test_a_call_that_is_cancelled_while_it_connects_leaves_nothing_open():
    with full_listener() as place, listening(serve) as server:
        async with a_pool(max_connections=1) as pool:
            task = asyncio.create_task(asked(pool, a_request(place)))
            for _ in range(20):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asked(pool, a_request(server, pool=0.0)) == b"pong"


@looped
async def test_a_call_that_is_cancelled_in_a_handshake_leaves_nothing_open(trusting):
    greeted = threading.Event()

    def mute(peer):
        assert not peer.is_left()  # the first word of the handshake
        greeted.set()
        while not peer.is_left():
            pass

    with listening(mute) as server:
        async with a_pool(max_connections=1, ssl_context=trusting) as pool:
            await cancelled_at(pool, a_request(server, scheme=b"https"), greeted.is_set)
            assert not pool._open
            assert not pool._free.locked()


# Given up.


@pytest.mark.parametrize("give_up", ["drop_idle", "retire"])
@looped
async def test_what_is_idle_is_closed_and_what_is_in_use_stays(give_up):
    released = threading.Event()

    def in_halves(peer):
        peer.request()
        peer.send(answer()[:-2])
        assert released.wait(PATIENCE_S)
        peer.send(answer()[-2:])
        assert peer.is_left()

    with listening(in_halves, serve) as server:
        async with a_pool() as pool:
            held = await pool.send(a_request(server), Watch(None))
            await asked(pool, a_request(server))
            retiring = asyncio.ensure_future(pool.retire()) if give_up == "retire" else pool.drop_idle()
            await asyncio.sleep(0)
            assert len(pool._open) == 1
            released.set()

            assert await body_of(held) == b"pong"
            if retiring is None:
                assert len(pool._open) == 1
            else:
                await retiring
                assert not pool._open


@looped
async def test_retiring_does_not_wait_for_what_is_lost_already():
    def leave(peer):
        peer.request()
        peer.send(answer()[:-2])
        peer.leave()

    with listening(leave) as server:
        async with a_pool() as pool:
            held = await pool.send(a_request(server), Watch(None))
            await until(lambda: held._connection.is_lost)

            await pool.retire()
            held.close()


@looped
async def test_closing_wakes_who_waits_for_an_answer():
    with listening(silent) as server:
        async with a_pool() as pool:
            asking = asyncio.create_task(asked(pool, a_request(server)))
            await until(lambda: server.requests == 1)
            await pool.aclose()

            with pytest.raises((httpcore2.NetworkError, httpcore2.ProtocolError)):
                await asking


@looped
async def test_a_body_that_we_cut_ourselves_is_not_taken_for_complete():
    with listening(until_close) as server:
        async with a_pool() as pool:
            reading = asyncio.create_task(asked(pool, a_request(server)))
            await until(lambda: server.requests == 1)
            await until(lambda: any(one._incoming and one._incoming.has_head for one in pool._open))
            await pool.aclose()

            with pytest.raises(httpcore2.ReadError):
                await reading


@looped
async def test_what_is_opened_or_given_back_after_closing_is_not_kept():
    with listening(serve) as server:
        async with a_pool() as pool:
            held = await pool.send(a_request(server), Watch(None))
            await pool.aclose()
            held.close()
            with pytest.raises(httpcore2.ReadError, match="closed meanwhile"):
                await asked(pool, a_request(server))

            assert not pool._open
            assert not pool._idle


# A body that nobody takes.


@looped
async def test_a_server_is_made_to_wait_for_who_reads_slowly():
    size = 40 * HELD_BYTES

    def large(peer):
        peer.request()
        peer.send(answer(b"x" * size))
        assert peer.is_left()

    with listening(large) as server:
        async with a_pool() as pool:
            received = await pool.send(a_request(server), Watch(None))
            await until(lambda: received._connection._is_paused)
            for _ in range(100):
                await asyncio.sleep(0)
            assert HELD_BYTES < received._incoming.size_bytes <= 3 * HELD_BYTES

            assert len(await body_of(received)) == size
            assert len(pool._idle) == 1


class Transport(asyncio.Transport):
    """One of asyncio's, played by a test."""

    def __init__(self):
        super().__init__()
        self.is_reading = True
        self.unsent = 0
        self.is_aborted = False

    def write(self, data):
        pass

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def get_write_buffer_size(self):
        return self.unsent

    def abort(self):
        self.is_aborted = True


@looped
async def test_a_connection_whose_answer_is_there_goes_on_listening():
    # Else it would not notice, while it is idle, that the server ends it or says what nobody asked for.
    transport = Transport()
    connection = _Connection(asyncio.get_running_loop())
    connection.connection_made(transport)
    exchanging = asyncio.create_task(connection.exchange(a_request(("127.0.0.1", 1)), Watch(None)))
    await asyncio.sleep(0)

    connection.data_received(answer(b"x" * (2 * HELD_BYTES)))
    await exchanging

    assert transport.is_reading


# What may go wrong.


@pytest.mark.parametrize("ending", ["leave", "reset"])
@looped
async def test_a_server_that_ends_the_connection_without_an_answer_is_an_error(ending):
    watch = Watch(None)

    def play(peer):
        peer.request()
        getattr(peer, ending)()

    with listening(play) as server:
        async with a_pool() as pool:
            with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
                await pool.send(a_request(server), watch)

    assert (watch.phase, watch.is_fresh) == (Phase.SENT, True)


@pytest.mark.parametrize("ending", ["leave", "reset"])
@looped
async def test_a_body_that_breaks_off_is_an_error(ending):
    def play(peer):
        peer.request()
        peer.send(answer()[:-2])
        getattr(peer, ending)()

    with listening(play) as server:
        async with a_pool() as pool:
            received = None
            with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
                await body_of(received := await pool.send(a_request(server), Watch(None)))
            assert received is None or received.status == 200
            assert not pool._open


@looped
async def test_what_came_before_a_body_broke_off_is_given_first():
    def play(peer):
        peer.request()
        peer.send(answer()[:-2])
        peer.leave()

    with listening(play) as server:
        async with a_pool() as pool:
            received = await pool.send(a_request(server), Watch(None))
            await until(lambda: received._connection.is_lost)
            parts = received.stream

            assert await anext(parts) == b"po"
            with pytest.raises(httpcore2.RemoteProtocolError):
                await anext(parts)
            received.close()


@looped
async def test_a_body_without_a_length_goes_on_until_the_server_leaves():
    def play(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nwhole")

    with listening(play) as server:
        async with a_pool() as pool:
            assert await asked(pool, a_request(server)) == b"whole"
            assert not pool._open


@looped
async def test_a_status_of_nought_is_no_answer():
    def play(peer):
        peer.request()
        peer.send(b"HTTP/1.1 000 \r\nContent-Length: 0\r\n\r\n")

    with listening(play) as server:
        async with a_pool() as pool:
            with pytest.raises(httpcore2.RemoteProtocolError):
                await pool.send(a_request(server), Watch(None))


@pytest.mark.parametrize(
    "request_of",
    [
        lambda server: a_request(server, content=b"x" * 50_000_000),
        lambda server: a_request(server, stream=upload_of(b"x" * 100_000 for _ in range(500))),
    ],
    ids=["in memory", "upload"],
)
@looped
async def test_an_answer_before_all_was_sent_is_the_answer_and_the_last_of_its_connection(request_of):
    is_done = threading.Event()

    def refuse_early(peer):
        peer.head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        assert is_done.wait(PATIENCE_S)  # and takes nothing more

    with listening(refuse_early, serve) as server:
        async with a_pool() as pool:
            received = await pool.send(request_of(server), Watch(None))
            assert (received.status, await body_of(received)) == (413, b"no")
            assert not pool._open  # what is sent next would be taken for the rest of the body

            assert await asked(pool, a_request(server)) == b"pong"
            is_done.set()


@looped
async def test_a_server_that_leaves_in_the_midst_of_an_upload_is_an_error():
    def leave(peer):
        peer.head()
        peer.reset()

    watch = Watch(None)
    with listening(leave) as server:
        async with a_pool() as pool:
            upload = upload_of(b"x" * 100_000 for _ in range(500))
            with pytest.raises(httpcore2.ReadError):
                await pool.send(a_request(server, stream=upload), watch)
            await upload.aclose()

    assert watch.phase is Phase.SENT


@looped
async def test_what_an_upload_raises_passes_through_and_leaves_nothing_open():
    async def broken():
        yield b"one"
        raise LookupError("the file is gone")

    def play(peer):
        peer.head()
        while not peer.is_left():
            pass

    with listening(play, serve) as server:
        async with a_pool(max_connections=1) as pool:
            with pytest.raises(LookupError, match="the file is gone"):
                await pool.send(a_request(server, stream=broken()), Watch(None))
            assert await asked(pool, a_request(server, pool=0.0)) == b"pong"


@looped
async def test_an_upload_arrives_whole_where_the_server_reads_slowly():
    parts = [b"x" * 100_000] * 100
    seen = []

    def play(peer):
        peer.head()
        seen.append(peer.chunks())
        peer.send(answer())
        assert peer.is_left()

    with listening(play) as server:
        async with a_pool() as pool:
            assert await asked(pool, a_request(server, stream=upload_of(parts))) == b"pong"

    assert seen == [b"".join(parts)]


# Connecting.


@looped
async def test_a_server_that_is_down_is_an_error_of_connecting():
    with listening(serve) as server:
        pass
    watch = Watch(None)

    async with a_pool() as pool:
        with pytest.raises(httpcore2.ConnectError):
            await pool.send(a_request(server), watch)

    assert (watch.phase, watch.is_fresh) == (Phase.CONNECT, True)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".test"])
@looped
async def test_so_is_a_host_that_has_no_address(host):
    async with a_pool() as pool:
        with pytest.raises(httpcore2.ConnectError):
            await pool.send(a_request((host, 1)), Watch(None))


@looped
async def test_a_server_that_does_not_accept_is_a_timeout_of_connecting():
    watch = Watch(None)
    with full_listener() as place:
        async with a_pool() as pool:
            with pytest.raises(httpcore2.ConnectTimeout):
                await pool.send(a_request(place, connect=0.05), watch)

    assert watch.phase is Phase.CONNECT


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")
@looped
async def test_a_server_may_have_an_address_of_ipv6():
    with listening(serve, host="::1") as server:
        async with a_pool() as pool:
            assert await asked(pool, a_request(server)) == b"pong"


# Over TLS.


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def certified(authority):
    """The context of a server with a certificate for a name."""

    def certified(name="127.0.0.1"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return context

    return certified


@pytest.fixture
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@looped
async def test_connections_are_kept_over_tls_too(trusting, certified):
    with listening(serve, tls=certified()) as server:
        async with a_pool(ssl_context=trusting) as pool:
            bodies = [await asked(pool, a_request(server, scheme=b"https")) for _ in range(3)]

    assert bodies == [b"pong"] * 3
    assert server.accepted == 1


@looped
async def test_a_large_answer_over_tls_is_read_as_it_is_taken(trusting, certified):
    size = 20 * HELD_BYTES

    def large(peer):
        peer.request()
        peer.send(answer(b"x" * size))
        assert peer.is_left()

    with listening(large, tls=certified()) as server:
        async with a_pool(ssl_context=trusting) as pool:
            received = await pool.send(a_request(server, scheme=b"https"), Watch(None))
            await until(lambda: received._connection._is_paused)

            assert len(await body_of(received)) == size


@looped
async def test_a_certificate_for_another_name_is_an_error_of_connecting(trusting, certified):
    watch = Watch(None)
    with listening(serve, tls=certified("other.test")) as server:
        async with a_pool(ssl_context=trusting) as pool:
            with pytest.raises(httpcore2.ConnectError) as caught:
                await pool.send(a_request(server, scheme=b"https"), watch)

    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert watch.phase is Phase.CONNECT


@looped
async def test_a_server_that_does_not_shake_hands_is_a_timeout_of_connecting(trusting):
    def mute(peer):
        while not peer.is_left():
            pass

    with listening(mute) as server:
        async with a_pool(ssl_context=trusting) as pool:
            with pytest.raises(httpcore2.ConnectTimeout):
                await pool.send(a_request(server, scheme=b"https", connect=0.05), Watch(None))
