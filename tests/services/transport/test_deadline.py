"""Every wait of a call is cut to what remains until its deadline, on a real connection too."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpcore2
import pytest

from llmwire.services.transport.blocking import ConnectionPool
from llmwire.services.transport.deadline import Cut, NoLongerWanted, Phase, Watch, remaining_s, watched
from llmwire.services.transport.written import Written

FAR = 1000.0  #: seconds from now
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


@pytest.mark.parametrize("timeout", [None, 0.5, 30.0])
def test_without_a_deadline_a_timeout_stays_as_it_is(timeout):
    assert remaining_s(timeout) == timeout


def test_a_timeout_that_ends_before_the_deadline_stays_as_it_is():
    with watched(Watch(time.monotonic() + FAR)):
        assert remaining_s(5.0) == 5.0


@pytest.mark.parametrize("timeout", [None, 10 * FAR])
def test_a_longer_wait_is_cut_to_the_deadline(timeout):
    with watched(Watch(time.monotonic() + FAR)):
        assert 0 < remaining_s(timeout) <= FAR


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_after_the_deadline_there_is_no_wait_at_all(timeout):
    with watched(Watch(time.monotonic() - 1)), pytest.raises(httpcore2.ReadTimeout):
        remaining_s(timeout)


def test_a_deadline_ends_with_its_block_and_the_outer_one_is_back():
    with watched(Watch(time.monotonic() + FAR)):
        with watched(Watch(None)):
            assert remaining_s(None) is None
        assert remaining_s(None) is not None
    assert remaining_s(None) is None


def test_a_deadline_ends_with_its_block_also_after_an_error():
    with pytest.raises(LookupError), watched(Watch(time.monotonic() + FAR)):
        raise LookupError

    assert remaining_s(None) is None


def test_a_deadline_is_of_one_thread():
    seen = []
    with watched(Watch(time.monotonic() + FAR)):
        thread = threading.Thread(target=lambda: seen.append(remaining_s(None)))
        thread.start()
        thread.join()

    assert seen == [None]


# How far an attempt came.


def test_an_attempt_comes_from_phase_to_phase():
    watch = Watch(None)
    phases = [watch.phase]

    for step in (watch.connects, watch.writes, watch.reads):
        step()
        phases.append(watch.phase)

    assert phases == [Phase.LOCAL, Phase.CONNECT, Phase.SENT, Phase.HEADERS]
    assert phases == sorted(phases)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("step", ["connects", "writes", "reads"])
def test_an_attempt_never_goes_back(phase, step):
    watch = Watch(None)
    watch.phase = phase

    getattr(watch, step)()

    assert watch.phase >= phase


def test_bytes_of_a_handshake_are_no_answer():
    watch = Watch(None)
    watch.connects()

    watch.reads()

    assert watch.phase is Phase.CONNECT


def test_only_a_connection_that_is_made_for_it_is_fresh():
    kept_alive, new = Watch(None), Watch(None)

    kept_alive.writes()
    new.connects()

    assert (kept_alive.is_fresh, new.is_fresh) == (False, True)


def test_tasks_that_run_at_once_have_deadlines_of_their_own():
    async def seen(ends_at_s, meeting):
        with watched(Watch(ends_at_s)):
            await meeting.wait()
            return remaining_s(None)

    async def both():
        meeting = asyncio.Barrier(2)
        return await asyncio.gather(seen(None, meeting), seen(time.monotonic() + FAR, meeting))

    without, within = asyncio.run(both())

    assert without is None
    assert 0 < within <= FAR


# On a real connection.


@pytest.fixture
def pool():
    pool = ConnectionPool(ssl.create_default_context(), max_connections=10, max_idle=10, keepalive_s=60.0)
    yield pool
    pool.close()


@pytest.fixture
def listener():
    """A server that takes connections, and does nothing with them by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextmanager
def answering(listener, content, *, then=lambda connection: None):
    """Have the server read one request and write the content."""

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.recv(2**16)
            connection.sendall(content)
            then(connection)

    with ThreadPoolExecutor(1) as threads:
        serving = threads.submit(serve)
        yield
        serving.result(timeout=30.0)


def a_request(listener, *, scheme=b"http", content=b"ping"):
    host, port = listener.getsockname()
    url = httpcore2.URL(scheme=scheme, host=host.encode(), port=port, target=b"/v1")
    headers = [(b"Host", b"a"), (b"Content-Length", b"%d" % len(content))]
    timeouts = {"connect": 10.0, "read": 10.0, "write": 10.0, "pool": 10.0}
    return Written("POST", url, headers, content=content, stream=None, timeouts=timeouts)


def ends_early(use):
    """Whether a wait is cut short, and not by its own timeout of ten seconds."""
    started_at = time.monotonic()
    with pytest.raises(httpcore2.TimeoutException):
        use(Watch(started_at + 0.05))
    return time.monotonic() - started_at < 10.0


def test_a_connection_passes_on_what_is_written_and_read_and_is_watched(pool, listener):
    watch = Watch(time.monotonic() + FAR)

    with answering(listener, HEAD + b"pong"):
        answer = pool.send(a_request(listener), watch)

        assert b"".join(answer.stream) == b"pong"
    assert (watch.phase, watch.is_fresh) == (Phase.BODY, True)
    answer.close()


def test_a_read_from_a_silent_server_ends_at_the_deadline(pool, listener):
    assert ends_early(lambda watch: pool.send(a_request(listener), watch))


def test_a_body_that_stands_still_ends_at_the_deadline(pool, listener):
    released = threading.Event()

    with answering(listener, HEAD + b"po", then=lambda connection: released.wait(30.0)):
        watch = Watch(None)
        answer = pool.send(a_request(listener), watch)
        watch.ends_at_s = time.monotonic() + 0.05
        with pytest.raises(httpcore2.ReadTimeout):
            list(answer.stream)
        released.set()
    answer.close()


def test_a_write_to_a_server_that_does_not_read_ends_at_the_deadline(pool, listener):
    assert ends_early(lambda watch: pool.send(a_request(listener, content=b"x" * 50_000_000), watch))


def test_a_handshake_with_a_silent_server_ends_at_the_deadline(pool, listener):
    assert ends_early(lambda watch: pool.send(a_request(listener, scheme=b"https"), watch))


@pytest.mark.parametrize("scheme", [b"http", b"https"])
def test_after_the_deadline_nothing_is_opened(pool, listener, scheme):
    listener.setblocking(False)

    with pytest.raises(httpcore2.TimeoutException):
        pool.send(a_request(listener, scheme=scheme), Watch(time.monotonic() - 1))

    with pytest.raises(BlockingIOError):
        listener.accept()


def test_closing_the_connections_wakes_the_thread_that_waits_for_one(pool, listener):
    with ThreadPoolExecutor(1) as threads:
        sending = threads.submit(pool.send, a_request(listener), Watch(None))
        connection, _ = listener.accept()
        with connection:
            connection.recv(2**16)
            pool.close()

            assert isinstance(sending.exception(timeout=30.0), httpcore2.NetworkError | httpcore2.ProtocolError)


def test_a_connection_that_is_refused_came_as_far_as_connecting(pool):
    watch = Watch(None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        request = a_request(listener)

    with pytest.raises(httpcore2.ConnectError):
        pool.send(request, watch)

    assert (watch.phase, watch.is_fresh) == (Phase.CONNECT, True)


def test_the_end_of_a_connection_is_no_byte_of_an_answer(pool, listener):
    watch = Watch(None)

    with answering(listener, b""), pytest.raises((httpcore2.ReadError, httpcore2.RemoteProtocolError)):
        pool.send(a_request(listener), watch)

    assert watch.phase is Phase.SENT


def test_an_answer_that_breaks_off_in_its_head_came_as_far_as_that(pool, listener):
    watch = Watch(None)

    with answering(listener, HEAD[:9]), pytest.raises((httpcore2.ReadError, httpcore2.RemoteProtocolError)):
        pool.send(a_request(listener), watch)

    assert watch.phase is Phase.HEADERS


def test_a_connection_that_was_kept_alive_is_not_fresh(pool, listener):
    def again(connection):
        connection.recv(2**16)
        connection.sendall(HEAD + b"pong")

    watches = [Watch(None), Watch(None)]
    with answering(listener, HEAD + b"pong", then=again):
        for watch in watches:
            answer = pool.send(a_request(listener), watch)
            assert b"".join(answer.stream) == b"pong"
            answer.close()

    assert [watch.is_fresh for watch in watches] == [True, False]


# The cut.


class _Line:
    """A connection that can be ended."""

    def __init__(self):
        self.is_ended = False

    def end(self):
        self.is_ended = True


def test_a_cut_ends_the_connection_that_is_in_use():
    cut, line = Cut(), _Line()
    cut.takes(line)

    cut.make()

    assert line.is_ended
    with pytest.raises(NoLongerWanted):
        cut.check()


def test_a_cut_leaves_alone_a_connection_that_was_given_back():
    cut, line = Cut(), _Line()
    cut.takes(line)
    cut.leaves()

    cut.make()

    assert not line.is_ended


def test_after_a_cut_no_connection_is_taken():
    cut, line = Cut(), _Line()
    cut.make()

    with pytest.raises(NoLongerWanted):
        cut.takes(line)

    assert not line.is_ended
