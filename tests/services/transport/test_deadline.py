"""Every wait of a call is cut to what remains until its deadline, on a real connection too."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpcore2
import pytest

from llmwire.services.transport.deadline import DeadlineBackend, ending_at, remaining_s

FAR = 1000.0  #: seconds from now


@contextmanager
def connected():
    """A stream of ours, and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = DeadlineBackend().connect_tcp("127.0.0.1", listener.getsockname()[1])
        server, _ = listener.accept()
        with server:
            yield stream, server
            stream.close()


@pytest.mark.parametrize("timeout", [None, 0.5, 30.0])
def test_without_a_deadline_a_timeout_stays_as_it_is(timeout):
    assert remaining_s(timeout) == timeout


def test_a_timeout_that_ends_before_the_deadline_stays_as_it_is():
    with ending_at(time.monotonic() + FAR):
        assert remaining_s(5.0) == 5.0


@pytest.mark.parametrize("timeout", [None, 10 * FAR])
def test_a_longer_wait_is_cut_to_the_deadline(timeout):
    with ending_at(time.monotonic() + FAR):
        assert 0 < remaining_s(timeout) <= FAR


@pytest.mark.parametrize("timeout", [None, 5.0])
def test_after_the_deadline_there_is_no_wait_at_all(timeout):
    with ending_at(time.monotonic() - 1), pytest.raises(httpcore2.ReadTimeout):
        remaining_s(timeout)


def test_a_deadline_ends_with_its_block_and_the_outer_one_is_back():
    with ending_at(time.monotonic() + FAR):
        with ending_at(None):
            assert remaining_s(None) is None
        assert remaining_s(None) is not None
    assert remaining_s(None) is None


def test_a_deadline_ends_with_its_block_also_after_an_error():
    with pytest.raises(LookupError), ending_at(time.monotonic() + FAR):
        raise LookupError

    assert remaining_s(None) is None


def test_a_deadline_is_of_one_thread():
    seen = []
    with ending_at(time.monotonic() + FAR):
        thread = threading.Thread(target=lambda: seen.append(remaining_s(None)))
        thread.start()
        thread.join()

    assert seen == [None]


def test_a_connection_passes_on_what_is_written_and_read():
    with connected() as (stream, server), ending_at(time.monotonic() + FAR):
        stream.write(b"ping")
        assert server.recv(4) == b"ping"
        server.sendall(b"pong")

        assert stream.read(4) == b"pong"
        assert stream.get_extra_info("server_addr") == server.getsockname()


def ends_early(use):
    """Whether a wait is cut short, and not by its own timeout of ten seconds."""
    started_at = time.monotonic()
    with ending_at(started_at + 0.05), pytest.raises(httpcore2.TimeoutException):
        use(timeout=10.0)
    return time.monotonic() - started_at < 10.0


def test_a_read_from_a_silent_server_ends_at_the_deadline():
    with connected() as (stream, _):
        assert ends_early(lambda timeout: stream.read(1, timeout))


def test_a_write_to_a_server_that_does_not_read_ends_at_the_deadline():
    with connected() as (stream, _):
        assert ends_early(lambda timeout: stream.write(b"x" * 50_000_000, timeout))


def test_after_the_deadline_nothing_is_opened_read_or_written():
    with connected() as (stream, server), ending_at(time.monotonic() - 1):
        for use in (
            lambda: DeadlineBackend().connect_tcp("127.0.0.1", server.getsockname()[1]),
            lambda: stream.read(1),
            lambda: stream.write(b"x"),
        ):
            with pytest.raises(httpcore2.ReadTimeout):
                use()


def test_after_the_deadline_no_handshake_is_begun_and_the_connection_is_closed():
    with connected() as (stream, server):
        with ending_at(time.monotonic() - 1), pytest.raises(httpcore2.ReadTimeout):
            stream.start_tls(ssl.create_default_context(), "localhost", 10.0)

        assert server.recv(1) == b""


def test_closing_a_stream_wakes_the_thread_that_waits_for_it():
    with connected() as (stream, server), ThreadPoolExecutor(1) as threads:
        stream.write(b"x")
        reading = threads.submit(stream.read, 1, 60.0)
        assert server.recv(1) == b"x"

        stream.close()

        assert isinstance(reading.exception(timeout=30.0), httpcore2.ReadError) or reading.result() == b""
