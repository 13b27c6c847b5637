"""The other end of a connection, byte by byte: a listener on loopback whose connections a test plays."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2

from llmwire.services.transport.written import Written

PATIENCE_S = 20.0  #: how long a test waits for what must happen; reached only where it fails

Play = Callable[["Peer"], None]


class Peer:
    """One accepted connection."""

    def __init__(self, connection: socket.socket, listener: Listener) -> None:
        self._connection, self._listener = connection, listener
        self._read = b""

    def request(self) -> bytes:
        """One request: its head, and a body of the length that it names."""
        head = self.head()
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(self._read) < length:
            self._receive()
        body, self._read = self._read[:length], self._read[length:]
        return head + body

    def head(self) -> bytes:
        """The head of a request alone."""
        while b"\r\n\r\n" not in self._read:
            self._receive()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        self._listener.has_request()
        return head + b"\r\n\r\n"

    def chunks(self) -> bytes:
        """The rest of a request in chunks: what is in them."""
        content = b""
        while True:
            while b"\r\n" not in self._read:
                self._receive()
            size, _, self._read = self._read.partition(b"\r\n")
            while len(self._read) < int(size, 16) + 2:
                self._receive()
            content += self._read[: int(size, 16)]
            self._read = self._read[int(size, 16) + 2 :]
            if not int(size, 16):
                return content

    def send(self, content: bytes) -> None:
        self._connection.sendall(content)

    def is_left(self) -> bool:
        """Waits until the client says something; whether that is its end."""
        try:
            return not self._connection.recv(2**16)
        except ConnectionError:
            return True

    def leave(self) -> None:
        """End the connection in order."""
        self._connection.close()

    def reset(self) -> None:
        """End it as a crash does."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def _receive(self) -> None:
        if not (data := self._connection.recv(2**16)):
            raise ConnectionError("the client has left")
        self._read += data


class Listener:
    """Accepts connections; the first is played by the first play, and so on; the last play plays all that follow."""

    def __init__(self, plays: tuple[Play, ...], tls: ssl.SSLContext | None, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.host, self.port = host, self._listener.getsockname()[1]
        self._plays, self._tls = plays, tls
        self.accepted = self.requests = 0
        self._changed = threading.Condition()
        self.problems: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def has_request(self) -> None:
        with self._changed:
            self.requests += 1
            self._changed.notify_all()

    def wait_for_a_request(self) -> None:
        """Wait until the head of a request is there."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests, PATIENCE_S)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        for thread in [self._accepting, *self._threads]:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a play did not end"
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE_S)
            play = self._plays[min(self.accepted, len(self._plays) - 1)]
            self.accepted += 1
            thread = threading.Thread(target=self._play, args=(play, connection), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _play(self, play: Play, connection: socket.socket) -> None:
        with connection:
            try:
                if self._tls is None:
                    play(Peer(connection, self))
                    return
                with (
                    suppress(ssl.SSLError, ConnectionError),
                    self._tls.wrap_socket(connection, server_side=True) as tls,
                ):
                    play(Peer(tls, self))
            except BaseException as problem:  # the test's own thread tells of it
                self.problems.append(problem)


@contextmanager
def listening(*plays: Play, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Listener]:
    """A listener for the time of the block; what its plays raise is raised at its end."""
    listener = Listener(plays, tls, host)
    try:
        yield listener
    finally:
        listener.stop()
    if listener.problems:
        raise listener.problems[0]


def answer(body: bytes = b"pong", *, headers: bytes = b"") -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, len(body), body)


def serve(peer: Peer) -> None:
    """Answer every request until the client leaves."""
    with suppress(ConnectionError):
        while True:
            peer.request()
            peer.send(answer())


def silent(peer: Peer) -> None:
    """Take a request, and say nothing until the client leaves."""
    peer.request()
    assert peer.is_left()


def half(peer: Peer) -> None:
    """Answer with half of a body, and wait until the client leaves."""
    peer.request()
    peer.send(answer()[:-2])
    assert peer.is_left()


def until_close(peer: Peer) -> None:
    """Begin a body that goes on until the connection ends, and wait until the client leaves."""
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    assert peer.is_left()


def a_request(
    listener: Listener | tuple[str, int],
    *,
    content: bytes | None = b"ping",
    stream: Any = None,
    scheme: bytes = b"http",
    **timeouts: float,
) -> Written:
    """A request to the listener; `stream` is an upload of a length that is not known."""
    host, port = listener if isinstance(listener, tuple) else (listener.host, listener.port)
    url = httpcore2.URL(scheme=scheme, host=host.encode(), port=port, target=b"/v1")
    headers = [(b"Host", b"a")]
    if stream is None:
        headers.append((b"Content-Length", b"%d" % len(content or b"")))
    else:
        headers.append((b"Transfer-Encoding", b"chunked"))
        content = None
    limits = dict.fromkeys(("connect", "read", "write", "pool"), PATIENCE_S) | timeouts
    return Written("POST", url, headers, content=content, stream=stream, timeouts=limits)


@contextmanager
def full_listener() -> Iterator[tuple[str, int]]:
    """A place where nobody accepts, and the queue is full: a further connection is neither made nor refused."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        try:
            yield listener.getsockname()
        finally:
            for one in waiting:
                one.close()


def has_ipv6() -> bool:
    """Whether this machine has IPv6 on loopback."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
