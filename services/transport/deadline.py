"""A blocking call that ends when it must, also against a server that sends one byte now and then.

A timeout alone bounds each wait, not their sum. Knows sockets and a clock; knows nothing of requests.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import httpcore2

WRITE_BYTES = 2**16  #: at a time; a deadline is looked at between two writes

_ends_at: ContextVar[float | None] = ContextVar("llmwire_ends_at", default=None)


@contextlib.contextmanager
def ending_at(at: float | None) -> Iterator[None]:
    """Cut every wait for the network inside the block to what remains until `at` on the monotonic clock, in seconds."""
    token = _ends_at.set(at)
    try:
        yield
    finally:
        _ends_at.reset(token)


def remaining_s(timeout: float | None) -> float | None:
    """The timeout, cut to what remains. Raises httpcore2.ReadTimeout where nothing does."""
    at = _ends_at.get()
    if at is None:
        return timeout
    left = at - time.monotonic()
    if left <= 0:
        raise httpcore2.ReadTimeout("the deadline has passed")
    return left if timeout is None else min(timeout, left)


class DeadlineBackend(httpcore2.NetworkBackend):
    """httpcore's own network, with every wait cut to the deadline of the call."""

    def __init__(self) -> None:
        self._backend = httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        stream = self._backend.connect_tcp(host, port, remaining_s(timeout), local_address, socket_options)
        return _DeadlineStream(stream)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _DeadlineStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream
        self._pid = os.getpid()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, remaining_s(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # Part by part: the stream below waits so long for each piece that the server takes.
        for at in range(0, len(buffer), WRITE_BYTES):
            self._stream.write(buffer[at : at + WRITE_BYTES], remaining_s(timeout))

    def close(self) -> None:
        # To close alone wakes no other thread that waits for this stream. In a child the connection is its parent's.
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                self._stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        try:
            left = remaining_s(timeout)
        except httpcore2.ReadTimeout:
            self.close()  # as the stream below does where it fails
            raise
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
