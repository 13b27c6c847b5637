"""Blocking connections to one server, whose every wait ends with the call's deadline.

Knows sockets and threads; knows nothing of endpoints or keys. Errors are httpcore2's, as of all connections here.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any, Final, Protocol

import httpcore2

from .deadline import Phase, Watch
from .incoming import Incoming
from .written import Headers, Written

READ_BYTES: Final = 2**16
WRITE_BYTES: Final = 2**16  #: at a time; a deadline is looked at between two writes


class ConnectionPool:
    """Keeps connections alive between requests. For many threads of one process.

    Args:
        ssl_context: for an https server.
        max_connections: that may be in use at once; further requests wait.
        max_idle: that are kept for later, each for at most `keepalive_s` seconds.
    """

    def __init__(self, ssl_context: ssl.SSLContext, *, max_connections: int, max_idle: int, keepalive_s: float) -> None:
        self._ssl_context, self._max_idle, self._keepalive_s = ssl_context, max_idle, keepalive_s
        self._free = _Places(max_connections)
        self._lock = threading.RLock()  # an answer that is collected under it gives its connection back
        self._idle: deque[tuple[_Connection, float]] = deque()
        self._open: set[_Connection] = set()
        self._is_closed = False
        self._pid = os.getpid()

    def send(self, written: Written, watch: Watch) -> SyncAnswer:
        """Send, and wait for the answer's head. Raises httpcore2's errors."""
        if not self._free.acquire(timeout=written.timeouts["pool"]):
            raise httpcore2.PoolTimeout("all connections to the server are in use")
        connection = None
        try:
            # An upload cannot be sent again: it takes no connection that may have died.
            kept = self._kept() if written.content is not None else None
            connection = kept or self._opened(written, watch)
            if watch.cut is not None:
                watch.cut.takes(connection)
            return SyncAnswer(connection, connection.exchange(written, watch), self)
        except BaseException:
            if watch.cut is not None:
                watch.cut.leaves()
            if connection is not None:
                self._drop(connection)
            self._free.release()
            raise

    def drop_idle(self) -> None:
        """Close the connections that are idle now: one of them was dead."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection, _ in idle:
            self._drop(connection)

    def retire(self) -> None:
        """Keep no connection for later: those in use are closed when their answers were read."""
        self._max_idle = 0
        self.drop_idle()

    def close(self) -> None:
        """Close all connections; the threads that use one are woken, and close it."""
        self.retire()
        with self._lock:
            self._is_closed = True
            in_use, self._open = self._open, set()
        for connection in in_use:
            connection.end()

    def give_back(self, connection: _Connection, *, may_be_kept: bool) -> None:
        """Take a connection whose answer was read, or given up."""
        if self._pid != os.getpid():  # it is the parent's, and so is the lock, which may be held there for ever
            return
        connection.let_go()
        surplus = []
        now_s = time.monotonic()
        with self._lock:
            if may_be_kept and connection in self._open:
                self._idle.append((connection, now_s + self._keepalive_s))
            else:
                surplus.append(connection)
            while self._idle and (len(self._idle) > self._max_idle or self._idle[0][1] < now_s):
                surplus.append(self._idle.popleft()[0])
        for one in surplus:
            self._drop(one)
        self._free.release()

    def _kept(self) -> _Connection | None:
        """The connection that was used last, if it is still good."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, until_s = self._idle.pop()
            if time.monotonic() < until_s and connection.is_quiet():
                return connection
            self._drop(connection)

    def _opened(self, written: Written, watch: Watch) -> _Connection:
        connection = _Connection.opened(written, watch, self._ssl_context)
        with self._lock:
            if not self._is_closed:
                self._open.add(connection)
                return connection
        connection.close()
        raise httpcore2.ReadError("the connections were closed meanwhile")

    def _drop(self, connection: _Connection) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()


class _Places(threading.Semaphore):
    """Counts the connections that may still be used. An answer that is collected under its lock gives one back."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self._cond = threading.Condition(threading.RLock())


class _Connection:
    """One socket, and the watch of the request that uses it now."""

    __slots__ = ("_has_ended", "_pid", "_poll", "_socket", "_watch", "read_s")

    def __init__(self, connected: socket.socket, watch: Watch) -> None:
        self._socket, self._watch = connected, watch
        self.read_s: float | None = None
        self._has_ended = False
        self._pid = os.getpid()
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)

    @classmethod
    def opened(cls, written: Written, watch: Watch, ssl_context: ssl.SSLContext) -> _Connection:
        """Connect to the server of the request. Raises httpcore2.ConnectError or ConnectTimeout."""
        watch.connects()
        until_s = time.monotonic() + (watch.remaining_s(written.timeouts["connect"]) or 0.0)
        try:
            connected = _connected(written.host, written.port, until_s)
            if written.is_secure:
                connected = _secured(connected, written.host, ssl_context, until_s)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError) as error:  # the latter: a name that is none
            raise httpcore2.ConnectError(str(error)) from error
        return cls(connected, watch)

    def is_quiet(self) -> bool:
        """Whether nothing came while it was idle: what comes then is the end of it."""
        return not self._poll.poll(0)

    def let_go(self) -> None:
        """Its attempt is over, and cuts it no longer: it may be another's at once, or closed."""
        if (cut := self._watch.cut) is not None:
            cut.leaves()

    def exchange(self, written: Written, watch: Watch) -> Incoming:
        """Write the request, and read the head of its answer."""
        self._watch, self.read_s = watch, written.timeouts["read"]
        incoming = Incoming(written.method)
        refused: httpcore2.WriteError | None = None
        watch.writes()
        pieces = 0
        try:
            for piece in written.pieces():
                self._send(piece, written.timeouts["write"])
                pieces += 1
        except httpcore2.WriteError as error:  # a server may answer before it has read all, and hang up
            refused = error
            if self._has_ended and not pieces and _is_broken_pipe(error):
                watch.has_not_written()
        try:
            while not incoming.has_head:
                self.receive(incoming)
        except (httpcore2.ReadError, httpcore2.RemoteProtocolError):
            if refused is not None:
                raise refused from refused.__cause__
            raise
        watch.phase = Phase.BODY
        return incoming

    def receive(self, incoming: Incoming) -> None:
        """Wait for bytes, at most until the deadline."""
        try:
            self._socket.settimeout(self._watch.remaining_s(self.read_s))
            data = self._socket.recv(READ_BYTES)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout("no answer in time") from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error
        if data:
            self._watch.reads()
            incoming.feed(data)
        elif self._has_ended:  # our own doing: a body that goes on until the end is not complete
            raise httpcore2.ReadError("the connection was closed")
        else:
            incoming.end()

    def end(self) -> None:
        """End it for both sides, and wake the thread that uses it. In a child process it is the parent's still."""
        self._has_ended = True
        if self._pid == os.getpid():
            with contextlib.suppress(OSError):
                # Past SSLSocket's own, which forgets its keys first: what a thread writes then would go in clear.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close it: by the thread that uses it, as the number of its socket may be another's at once."""
        self.end()
        self._socket.close()

    def _send(self, piece: memoryview, write_s: float) -> None:
        try:
            for at in range(0, len(piece), WRITE_BYTES):
                self._socket.settimeout(self._watch.remaining_s(write_s))
                self._socket.sendall(piece[at : at + WRITE_BYTES])
        except TimeoutError as error:
            raise httpcore2.WriteTimeout("the server takes nothing") from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error


class _Home(Protocol):
    def give_back(self, connection: _Connection, *, may_be_kept: bool) -> None: ...


class SyncAnswer:
    """The head of an answer, and its body to be read."""

    __slots__ = ("_connection", "_home", "_incoming", "extensions", "headers", "status")

    def __init__(self, connection: _Connection, incoming: Incoming, home: _Home) -> None:
        self._connection: _Connection | None = connection
        self._incoming, self._home = incoming, home
        self.status: int = incoming.status
        self.headers: Headers = incoming.headers
        self.extensions: dict[str, Any] = {"http_version": incoming.version, "reason_phrase": incoming.reason}

    @property
    def stream(self) -> Iterator[bytes]:
        """The parts of the body as they come."""
        incoming = self._incoming
        while True:
            if part := incoming.take():
                yield part
            if incoming.is_complete or self._connection is None:
                return
            self._connection.receive(incoming)

    def wait_at_most(self, read_s: float) -> None:
        """How long each further part may take, in seconds."""
        if self._connection is not None:
            self._connection.read_s = read_s

    def finish(self, within_s: float) -> bytes:
        """Read the end of a body that nobody reads any further, so that its connection may be used again.

        What of it came.
        """
        if self._connection is not None and not self._incoming.is_complete:
            self._connection.read_s = within_s
            with contextlib.suppress(httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException):
                self._connection.receive(self._incoming)
        return self._incoming.take()

    def close(self) -> None:
        """Give the connection back where the body was read to its end; else close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._home.give_back(connection, may_be_kept=self._incoming.may_be_kept)

    def __del__(self) -> None:
        self.close()


def _is_broken_pipe(error: BaseException) -> bool:
    return isinstance(error.__cause__, BrokenPipeError)


def _connected(host: str, port: int, until_s: float) -> socket.socket:
    """A socket to the first address that answers. Raises the error of the first: resolvers put the best one there."""
    failed: OSError | None = None
    addresses = _addresses(host, port, until_s)
    for tried, (family, kind, protocol, _, address) in enumerate(addresses):
        # One that swallows what is sent must leave time to the others.
        left_s = (until_s - time.monotonic()) / (len(addresses) - tried)
        if left_s <= 0:
            break
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.settimeout(left_s)
            connecting.connect(address)
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connecting.close()
            failed = failed or error
        else:
            return connecting
    raise failed or TimeoutError("no time to connect")


def _addresses(host: str, port: int, until_s: float) -> list[Any]:
    """What the name means. A resolver has no time of its own: on a thread it can be left behind."""
    try:
        ip_address(host)
    except ValueError:
        found: Future[list[Any]] = Future()
        threading.Thread(target=_resolve, args=(host, port, found), name="llmwire resolver", daemon=True).start()
        return found.result(timeout=max(until_s - time.monotonic(), 0.0))
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _resolve(host: str, port: int, found: Future[list[Any]]) -> None:
    try:
        found.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except BaseException as error:  # whoever waits must be told of it
        found.set_exception(error)


def _secured(plain: socket.socket, host: str, ssl_context: ssl.SSLContext, until_s: float) -> socket.socket:
    try:
        plain.settimeout(max(until_s - time.monotonic(), 0.001))
        return ssl_context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
