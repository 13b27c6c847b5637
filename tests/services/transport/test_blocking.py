"""Blocking connections: kept while they are good, given up where they are not, and none of them left open."""

from __future__ import annotations

import gc
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpcore2
import pytest
import trustme

from llmwire.services.transport.blocking import ConnectionPool
from llmwire.services.transport.deadline import Cut, NoLongerWanted, Phase, Watch

from .peers import PATIENCE_S, a_request, answer, full_listener, half, has_ipv6, listening, serve, silent, until_close


@pytest.fixture(autouse=True)
def _nothing_is_left_open():
    """What is forgotten unclosed warns when it is collected, which is an error here."""
    yield
    gc.collect()


@pytest.fixture
def a_pool():
    pools = []

    def a_pool(*, max_connections=10, max_idle=10, keepalive_s=60.0, ssl_context=None):
        context = ssl_context or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        pools.append(
            ConnectionPool(context, max_connections=max_connections, max_idle=max_idle, keepalive_s=keepalive_s)
        )
        return pools[-1]

    yield a_pool
    for pool in pools:
        pool.close()


@pytest.fixture
def pool(a_pool):
    return a_pool()


def asked(pool, request, watch=None):
    """The body of an answer that is read to its end."""
    received = pool.send(request, watch or Watch(None))
    try:
        return b"".join(received.stream)
    finally:
        received.close()


# Kept alive.


def test_a_connection_whose_answer_was_read_is_used_again(pool):
    with listening(serve) as server:
        bodies = [asked(pool, a_request(server)) for _ in range(3)]
        pool.close()

    assert bodies == [b"pong"] * 3
    assert server.accepted == 1


def test_requests_at_once_have_a_connection_each(pool):
    with listening(serve) as server:
        held = [pool.send(a_request(server), Watch(None)) for _ in range(3)]
        for received in held:
            received.close()
        pool.close()

    assert server.accepted == 3


@pytest.mark.parametrize("content", [answer(headers=b"Connection: close\r\n"), answer() + b"!"], ids=["close", "more"])
def test_an_answer_may_be_the_last_of_its_connection(pool, content):
    def once(peer):
        peer.request()
        peer.send(content)
        assert peer.is_left()

    with listening(once) as server:
        assert [asked(pool, a_request(server)) for _ in range(2)] == [b"pong"] * 2

    assert server.accepted == 2


def test_an_answer_that_was_not_read_to_its_end_costs_its_connection(pool):
    with listening(half, serve) as server:
        pool.send(a_request(server), Watch(None)).close()
        assert asked(pool, a_request(server)) == b"pong"
        pool.close()

    assert server.accepted == 2


@pytest.mark.parametrize("goodbye", ["leave", "reset", "unasked"])
def test_a_connection_that_died_while_it_was_idle_is_not_used_again(pool, goodbye):
    died = threading.Event()

    def serve_once(peer):
        peer.request()
        peer.send(answer())
        if goodbye == "unasked":
            peer.send(answer(b"evil"))
            died.set()
            assert peer.is_left()
        getattr(peer, goodbye, peer.leave)()
        died.set()

    with listening(serve_once, serve) as server:
        assert asked(pool, a_request(server)) == b"pong"
        assert died.wait(PATIENCE_S)
        watch = Watch(None)
        assert asked(pool, a_request(server), watch) == b"pong"
        pool.close()

    assert (server.accepted, watch.is_fresh) == (2, True)


def test_a_connection_that_was_idle_for_too_long_is_not_used_again(a_pool):
    pool = a_pool(keepalive_s=0.0)

    with listening(serve) as server:
        for _ in range(2):
            asked(pool, a_request(server))
        pool.close()

    assert server.accepted == 2


def test_a_connection_that_nobody_needs_any_more_is_closed_by_those_that_are_used(a_pool):
    pool = a_pool(keepalive_s=0.0)
    left = threading.Event()

    def serve_and_tell(peer):
        serve(peer)
        left.set()

    with listening(serve_and_tell, serve) as server:
        first, second = (pool.send(a_request(server), Watch(None)) for _ in range(2))
        first.close()
        second.close()

        assert left.wait(PATIENCE_S)
        pool.close()


def test_no_more_connections_are_kept_than_may_be(a_pool):
    pool = a_pool(max_idle=1)

    with listening(serve) as server:
        held = [pool.send(a_request(server), Watch(None)) for _ in range(3)]
        for received in held:
            received.close()

        assert len(pool._open) == 1
        pool.close()


def test_an_answer_that_is_forgotten_gives_its_connection_back(a_pool):
    pool = a_pool(max_connections=1)

    with listening(half, serve) as server:
        held = [pool.send(a_request(server), Watch(None))]
        held.clear()
        gc.collect()

        assert asked(pool, a_request(server, pool=0.0)) == b"pong"
        pool.close()


@pytest.mark.parametrize("end", ["comes", "breaks off", "is late"])
def test_the_end_of_a_body_is_read_where_it_comes_soon(pool, end):
    is_over = threading.Event()

    def play(peer):
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npong\r\n")
        if end == "comes":
            peer.send(b"0\r\n\r\n")
        if end != "breaks off":
            assert is_over.wait(PATIENCE_S)

    with listening(play) as server:
        received = pool.send(a_request(server), Watch(None))
        assert next(received.stream) == b"pong"
        received.finish(PATIENCE_S if end == "comes" else 0.01)
        received.finish(0.01)
        received.close()
        is_over.set()

        assert len(pool._idle) == (1 if end == "comes" else 0)
        pool.close()


# As many as may be.


def test_who_gets_no_connection_in_time_is_told(a_pool):
    pool = a_pool(max_connections=1)
    watch = Watch(None)

    with listening(half) as server:
        held = pool.send(a_request(server), Watch(None))
        with pytest.raises(httpcore2.PoolTimeout):
            pool.send(a_request(server, pool=0.01), watch)
        held.close()

    assert (server.accepted, watch.phase) == (1, Phase.LOCAL)


def test_who_waits_for_a_connection_gets_the_next_one(a_pool):
    pool = a_pool(max_connections=1)

    with listening(serve) as server, ThreadPoolExecutor(1) as threads:
        held = pool.send(a_request(server), Watch(None))
        waiting = threads.submit(asked, pool, a_request(server))
        held.close()

        assert waiting.result(PATIENCE_S) == b"pong"
        pool.close()


def test_what_fails_holds_no_place(a_pool):
    pool = a_pool(max_connections=1)

    def broken(peer):
        peer.request()
        peer.send(b"garbage\r\n\r\n")

    with listening(broken, broken, serve) as server:
        for _ in range(2):
            with pytest.raises(httpcore2.RemoteProtocolError):
                pool.send(a_request(server), Watch(None))
        assert asked(pool, a_request(server, pool=0.0)) == b"pong"
        pool.close()


def test_closing_an_answer_twice_gives_back_one_place(a_pool):
    pool = a_pool(max_connections=1)

    with listening(serve) as server:
        received = pool.send(a_request(server), Watch(None))
        received.close()
        received.close()
        held = pool.send(a_request(server), Watch(None))
        with pytest.raises(httpcore2.PoolTimeout):
            pool.send(a_request(server, pool=0.0), Watch(None))
        held.close()
        pool.close()


# Given up.


@pytest.mark.parametrize("give_up", ["drop_idle", "retire"])
def test_what_is_idle_is_closed_and_what_is_in_use_stays(pool, give_up):
    released = threading.Event()

    def in_halves(peer):
        peer.request()
        peer.send(answer()[:-2])
        assert released.wait(PATIENCE_S)
        peer.send(answer()[-2:])
        assert peer.is_left()

    with listening(in_halves, serve) as server:
        held = pool.send(a_request(server), Watch(None))
        asked(pool, a_request(server))
        getattr(pool, give_up)()
        assert len(pool._open) == 1
        released.set()

        assert b"".join(held.stream) == b"pong"
        held.close()
        assert len(pool._open) == (0 if give_up == "retire" else 1)
        pool.close()


def test_closing_wakes_who_waits_for_an_answer(pool):
    with listening(silent) as server, ThreadPoolExecutor(1) as threads:
        asking = threads.submit(pool.send, a_request(server), Watch(None))
        server.wait_for_a_request()
        pool.close()

        assert isinstance(asking.exception(PATIENCE_S), httpcore2.NetworkError | httpcore2.ProtocolError)


def to_be_cut():
    watch = Watch(None)
    watch.cut = Cut()
    return watch


@pytest.mark.parametrize("play", [silent, half])
def test_a_cut_wakes_who_waits_and_ends_the_connection(pool, play):
    watch = to_be_cut()
    with listening(play) as server:
        cutting = threading.Thread(target=lambda: (server.wait_for_a_request(), watch.cut.make()))
        cutting.start()
        with pytest.raises(httpcore2.ReadError):
            asked(pool, a_request(server), watch)
        cutting.join()

    assert not pool._open


def test_a_cut_does_no_harm_to_the_next_request_on_the_same_connection(pool):
    watch, arrived, may_answer = to_be_cut(), threading.Event(), threading.Event()

    def serve_two(peer):
        peer.request()
        peer.send(answer())
        peer.request()
        arrived.set()
        assert may_answer.wait(PATIENCE_S)
        peer.send(answer())

    with listening(serve_two) as server, ThreadPoolExecutor(1) as thread:
        asked(pool, a_request(server), watch)
        following = thread.submit(asked, pool, a_request(server))
        assert arrived.wait(PATIENCE_S)
        watch.cut.make()
        may_answer.set()
        assert following.result() == b"pong"

    assert server.accepted == 1


def test_what_was_cut_sends_nothing(pool):
    watch = to_be_cut()
    watch.cut.make()
    with listening(lambda peer: peer.is_left()) as server, pytest.raises(NoLongerWanted):
        asked(pool, a_request(server), watch)

    assert not pool._open


def test_a_body_that_we_cut_ourselves_is_not_taken_for_complete(pool):
    with listening(until_close) as server:
        received = pool.send(a_request(server), Watch(None))
        pool.close()

        with pytest.raises(httpcore2.ReadError):
            list(received.stream)
        received.close()


def test_a_connection_in_use_is_closed_by_who_uses_it(pool):
    # Its number would go to the next file or connection, while another thread still reads from it.
    with listening(until_close) as server:
        received = pool.send(a_request(server), Watch(None))
        used = received._connection._socket
        pool.close()
        assert used.fileno() != -1
        received.close()

    assert used.fileno() == -1


def test_what_was_in_use_when_the_pool_was_closed_is_not_kept(pool):
    with listening(serve) as server:
        received = pool.send(a_request(server), Watch(None))
        pool.close()
        received.close()

    assert not pool._open
    assert not pool._idle


def test_nor_is_what_was_opened_meanwhile(pool):
    with listening(serve) as server:
        pool.close()
        with pytest.raises(httpcore2.ReadError, match="closed meanwhile"):
            pool.send(a_request(server), Watch(None))

    assert not pool._open
    assert not pool._idle


# What may go wrong.


@pytest.mark.parametrize("ending", ["leave", "reset"])
def test_a_server_that_ends_the_connection_without_an_answer_is_an_error(pool, ending):
    watch = Watch(None)

    def play(peer):
        peer.request()
        getattr(peer, ending)()

    with listening(play) as server, pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
        pool.send(a_request(server), watch)

    assert (watch.phase, watch.is_fresh) == (Phase.SENT, True)


@pytest.mark.parametrize("ending", ["leave", "reset"])
def test_a_body_that_breaks_off_is_an_error(pool, ending):
    def play(peer):
        peer.request()
        peer.send(answer()[:-2])
        getattr(peer, ending)()

    with listening(play) as server:
        received = pool.send(a_request(server), Watch(None))
        with pytest.raises((httpcore2.RemoteProtocolError, httpcore2.ReadError)):
            list(received.stream)
        received.close()

    assert not pool._open


def test_a_status_of_nought_is_no_answer(pool):
    def play(peer):
        peer.request()
        peer.send(b"HTTP/1.1 000 \r\nContent-Length: 0\r\n\r\n")

    with listening(play) as server, pytest.raises(httpcore2.RemoteProtocolError):
        pool.send(a_request(server), Watch(None))


@pytest.mark.parametrize(
    "request_of",
    [
        lambda server: a_request(server, content=b"x" * 50_000_000),
        lambda server: a_request(server, stream=(b"x" * 100_000 for _ in range(500))),
    ],
    ids=["in memory", "upload"],
)
def test_an_answer_before_all_was_sent_is_the_answer(pool, request_of):
    def refuse(peer):
        peer.head()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        peer.leave()

    with listening(refuse, serve) as server:
        received = pool.send(request_of(server), Watch(None))
        assert (received.status, b"".join(received.stream)) == (413, b"no")
        received.close()

        assert asked(pool, a_request(server)) == b"pong"
        pool.close()

    assert server.accepted == 2


def test_a_server_that_leaves_in_the_midst_of_an_upload_is_an_error_of_writing(pool):
    def leave(peer):
        peer.head()
        peer.reset()

    watch = Watch(None)
    with listening(leave) as server, pytest.raises(httpcore2.WriteError):
        pool.send(a_request(server, content=b"x" * 50_000_000), watch)

    assert watch.phase is Phase.SENT


def test_what_an_upload_raises_passes_through_and_leaves_nothing_open(a_pool):
    pool = a_pool(max_connections=1)

    def broken():
        yield b"one"
        raise LookupError("the file is gone")

    def play(peer):
        peer.head()
        while not peer.is_left():
            pass

    with listening(play, serve) as server:
        with pytest.raises(LookupError, match="the file is gone"):
            pool.send(a_request(server, stream=broken()), Watch(None))
        assert asked(pool, a_request(server, pool=0.0)) == b"pong"
        pool.close()


def test_an_upload_arrives_in_chunks(pool):
    seen = []

    def play(peer):
        peer.head()
        seen.append(peer.chunks())
        peer.send(answer())
        assert peer.is_left()

    with listening(play) as server:
        assert asked(pool, a_request(server, stream=[b"one", b" two"])) == b"pong"
        pool.close()

    assert seen == [b"one two"]


def test_each_part_of_a_body_has_its_own_time(pool):
    with listening(half) as server:
        received = pool.send(a_request(server), Watch(None))
        received.wait_at_most(0.01)
        with pytest.raises(httpcore2.ReadTimeout):
            list(received.stream)
        received.close()


# Connecting.


def test_a_server_that_is_down_is_an_error_of_connecting(pool):
    with listening(serve) as server:
        pass
    watch = Watch(None)

    with pytest.raises(httpcore2.ConnectError):
        pool.send(a_request(server), watch)

    assert (watch.phase, watch.is_fresh) == (Phase.CONNECT, True)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".test"])
def test_so_is_a_host_that_has_no_address(pool, host):
    with pytest.raises(httpcore2.ConnectError):
        pool.send(a_request((host, 1)), Watch(None))


@pytest.mark.parametrize("within", ["connect", "deadline"])
def test_a_server_that_does_not_accept_is_a_timeout_of_connecting(pool, within):
    watch = Watch(time.monotonic() + 0.05 if within == "deadline" else None)
    with full_listener() as place, pytest.raises(httpcore2.ConnectTimeout):
        pool.send(a_request(place, **({"connect": 0.05} if within == "connect" else {})), watch)

    assert watch.phase is Phase.CONNECT


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 on loopback")
def test_a_server_may_have_an_address_of_ipv6(pool):
    with listening(serve, host="::1") as server:
        assert asked(pool, a_request(server)) == b"pong"
        pool.close()


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


def test_connections_are_kept_over_tls_too(a_pool, trusting, certified):
    pool = a_pool(ssl_context=trusting)

    with listening(serve, tls=certified()) as server:
        bodies = [asked(pool, a_request(server, scheme=b"https")) for _ in range(3)]
        pool.close()

    assert bodies == [b"pong"] * 3
    assert server.accepted == 1


def test_a_certificate_for_another_name_is_an_error_of_connecting(a_pool, trusting, certified):
    pool, watch = a_pool(ssl_context=trusting), Watch(None)

    with listening(serve, tls=certified("other.test")) as server, pytest.raises(httpcore2.ConnectError) as caught:
        pool.send(a_request(server, scheme=b"https"), watch)

    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert watch.phase is Phase.CONNECT


def test_a_server_that_does_not_shake_hands_is_a_timeout_of_connecting(a_pool, trusting):
    pool = a_pool(ssl_context=trusting)

    def mute(peer):
        while not peer.is_left():
            pass

    with listening(mute) as server, pytest.raises(httpcore2.ConnectTimeout):
        pool.send(a_request(server, scheme=b"https", connect=0.05), Watch(None))


def test_closing_a_connection_in_use_does_not_take_its_encryption_away(a_pool, trusting, certified):
    # Who writes at this moment would write in clear.
    pool = a_pool(ssl_context=trusting)

    with listening(until_close, tls=certified()) as server:
        received = pool.send(a_request(server, scheme=b"https"), Watch(None))
        pool.close()

        assert received._connection._socket._sslobj is not None
        with pytest.raises(httpcore2.ReadError):
            list(received.stream)
        received.close()


def test_in_a_child_process_closing_leaves_the_parent_s_connection_open(pool):
    with listening(half, serve) as server:
        received = pool.send(a_request(server), Watch(None))
        connection = received._connection
        connection._pid = -1  # of another process
        with connection._socket.dup() as parents:
            connection.close()
            parents.settimeout(0.01)
            with pytest.raises(TimeoutError):
                parents.recv(1)
        received.close()


def test_an_upload_takes_no_connection_that_was_kept(pool):
    # It cannot be sent again, should that one have died.
    with listening(serve) as server:
        for request in (a_request(server), a_request(server), a_request(server, content=None, stream=[b"abc"])):
            received = pool.send(request, Watch(None))
            list(received.stream)
            received.close()
        pool.close()

    assert server.accepted == 2
