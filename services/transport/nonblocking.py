"""The connections of one event loop to one server. Knows asyncio's transports; knows nothing of endpoints or keys.

Waits have no end of their own: whoever awaits puts a time around them. Errors are httpcore2's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any, Final

import httpcore2

from .deadline import Phase, Watch
from .incoming import Incoming
from .written import Headers, Written

HELD_BYTES: Final = 2**18  #: of a body that nobody takes; then the server is made to wait
GOODBYE_S: Final = 1.0  #: how long closing may wait for sockets that are gone


class AsyncConnectionPool:
    """Keeps connections alive between requests, in one event loop.

    Args:
        ssl_context: for an https server.
        max_connections: that may be in use at once; further requests wait.
        max_idle: that are kept for later, each for at most `keepalive_s` seconds.
    """

    def __init__(self, ssl_context: ssl.SSLContext, *, max_connections: int, max_idle: int, keepalive_s: float) -> None:
        self._ssl_context, self._max_idle, self._keepalive_s = ssl_context, max_idle, keepalive_s
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(max_connections)
        self._idle: deque[tuple[_Connection, float]] = deque()
        self._open: set[_Connection] = set()
        self._is_closed = False

    async def send(self, written: Written, watch: Watch) -> AsyncAnswer:
        """Send, and wait for the answer's head. Raises httpcore2's errors."""
        await self._admitted(watch)
        connection = None
        try:
            # An upload cannot be sent again: it takes no connection that may have died.
            kept = self._kept() if written.content is not None else None
            connection = kept or await self._opened(written, watch)
            return AsyncAnswer(connection, await connection.exchange(written, watch), self)
        except BaseException:
            if connection is not None:
                self._drop(connection)
            self._free.release()
            raise

    def drop_idle(self) -> None:
        """Close the connections that are idle now: one of them was dead."""
        while self._idle:
            self._drop(self._idle.popleft()[0])

    async def retire(self) -> None:
        """Keep no connection for later, and wait until those in use have been given back."""
        self._max_idle = 0
        self.drop_idle()
        while in_use := [connection.gone for connection in self._open if not connection.gone.done()]:
            await asyncio.wait(in_use)

    def close(self) -> list[asyncio.Future[None]]:
        """Close all connections now; whoever waits for one is told. What it returns is done when they are gone."""
        self._max_idle, self._is_closed = 0, True
        self._idle.clear()
        connections, self._open = self._open, set()
        for connection in connections:
            connection.close()
        return [connection.gone for connection in connections]

    async def aclose(self) -> None:
        """Close all connections, and wait until they are gone."""
        if gone := self.close():
            await asyncio.wait(gone, timeout=GOODBYE_S)

    def give_back(self, connection: _Connection, *, may_be_kept: bool) -> None:
        """Take a connection whose answer was read, or given up."""
        now_s = time.monotonic()
        if may_be_kept and connection in self._open and connection.is_usable:
            self._idle.append((connection, now_s + self._keepalive_s))
        else:
            self._drop(connection)
        while self._idle and (len(self._idle) > self._max_idle or self._idle[0][1] < now_s):
            self._drop(self._idle.popleft()[0])
        self._free.release()

    async def _admitted(self, watch: Watch) -> None:
        if self._free.locked():
            watch.is_queued = True
        await self._free.acquire()
        watch.is_queued = False

    def _kept(self) -> _Connection | None:
        """The connection that was used last, if it is still good."""
        while self._idle:
            connection, until_s = self._idle.pop()
            if time.monotonic() < until_s and connection.is_usable:
                return connection
            self._drop(connection)
        return None

    async def _opened(self, written: Written, watch: Watch) -> _Connection:
        """Connect to the first address that answers. Raises httpcore2.ConnectError or ConnectTimeout."""
        watch.connects()
        until_s = self._loop.time() + written.timeouts["connect"]
        failed: OSError | None = None
        try:
            async with asyncio.timeout_at(until_s):
                addresses = await self._addresses(written)
            for tried, address in enumerate(addresses):
                # One that swallows what is sent must leave time to the others.
                share_s = (until_s - self._loop.time()) / (len(addresses) - tried)
                try:
                    async with asyncio.timeout(share_s):
                        connection = await self._connected(written, address)
                except OSError as error:
                    failed = failed or error
                else:
                    return self._kept_open(connection)
            raise failed or TimeoutError
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("no connection in time") from error
        except (OSError, UnicodeError) as error:  # the latter: a name that is none
            raise httpcore2.ConnectError(str(error)) from error

    async def _addresses(self, written: Written) -> list[str]:
        try:
            ip_address(written.host)
        except ValueError:
            found = await self._loop.getaddrinfo(written.host, written.port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(address[0]) for *_, address in found))
        return [written.host]

    async def _connected(self, written: Written, address: str) -> _Connection:
        secure: dict[str, Any] = {}
        if written.is_secure:
            secure = {"ssl": self._ssl_context, "server_hostname": written.host}
        _, connection = await self._loop.create_connection(
            lambda: _Connection(self._loop), address, written.port, **secure
        )
        return connection

    def _kept_open(self, connection: _Connection) -> _Connection:
        if self._is_closed:
            connection.close()
            raise httpcore2.ReadError("the connections were closed meanwhile")
        self._open.add(connection)
        return connection

    def _drop(self, connection: _Connection) -> None:
        self._open.discard(connection)
        connection.close()


class _Connection(asyncio.Protocol):
    """One transport of asyncio's, and the answer that comes on it now."""

    __slots__ = (
        "_error",
        "_incoming",
        "_is_paused",
        "_loop",
        "_may_write",
        "_transport",
        "_waiter",
        "_watch",
        "gone",
        "is_lost",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._incoming: Incoming | None = None
        self._watch: Watch | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._may_write: asyncio.Future[None] | None = None
        self._is_paused = False
        self.is_lost = False
        self.gone: asyncio.Future[None] = loop.create_future()

    @property
    def is_usable(self) -> bool:
        """Whether another request may follow: nothing came that was not asked for, and all was sent."""
        return not self.is_lost and not self._transport.get_write_buffer_size()

    async def exchange(self, written: Written, watch: Watch) -> Incoming:
        """Write the request, and read the head of its answer."""
        incoming = self._incoming = Incoming(written.method)
        self._watch = watch
        watch.writes()
        if written.content is not None:
            for piece in written.pieces():
                self._transport.write(piece)
        else:
            await self._upload(written)
        while not incoming.has_head:
            await self.more()
        watch.phase = Phase.BODY
        return incoming

    async def more(self) -> None:
        """Wait until something came. Raises what went wrong meanwhile."""
        if self._error is not None:
            raise self._error
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not (self._incoming is not None and self._incoming.is_complete):
            raise self._error

    def close(self) -> None:
        """Close it at once; what it then lacks is no end of a body."""
        if self._error is None:
            self._error = httpcore2.ReadError("the connection was closed")
        if self._transport is not None and not self._loop.is_closed():
            self._transport.abort()

    async def _upload(self, written: Written) -> None:
        async for piece in written.async_pieces():
            if self.is_lost or (self._incoming is not None and self._incoming.has_head):
                self.is_lost = True  # a server may answer before it has read all: it waits for the rest
                return
            self._transport.write(piece)
            if self._may_write is not None:
                await self._may_write

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None or incoming.is_complete or self._error is not None:
            self.is_lost = True  # nothing was asked: it is not to be used again
            return
        if self._watch is not None:
            self._watch.reads()
        try:
            incoming.feed(data)
        except httpcore2.RemoteProtocolError as error:
            self._error = error
        if incoming.size_bytes > HELD_BYTES and not incoming.is_complete and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        if incoming.has_head:
            self.resume_writing()  # of an upload that the server may not read any further
        self._wake()

    def eof_received(self) -> bool:
        return False  # the transport closes itself, and calls connection_lost

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self._error is None:
            self._error = self._ended(exc)
        if not self.gone.done():
            self.gone.set_result(None)
        self.resume_writing()
        self._wake()

    def pause_writing(self) -> None:
        self._may_write = self._loop.create_future()

    def resume_writing(self) -> None:
        may_write, self._may_write = self._may_write, None
        if may_write is not None and not may_write.done():
            may_write.set_result(None)

    def _ended(self, exc: Exception | None) -> Exception:
        if exc is not None:
            lost = httpcore2.ReadError(str(exc) or type(exc).__name__)
            lost.__cause__ = exc
            return lost
        try:
            if self._incoming is not None:
                self._incoming.end()
        except httpcore2.RemoteProtocolError as error:
            return error
        return httpcore2.ReadError("the connection was closed")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AsyncAnswer:
    """The head of an answer, and its body to be read."""

    __slots__ = ("_connection", "_home", "_incoming", "extensions", "headers", "status")

    def __init__(self, connection: _Connection, incoming: Incoming, home: AsyncConnectionPool) -> None:
        self._connection: _Connection | None = connection
        self._incoming, self._home = incoming, home
        self.status: int = incoming.status
        self.headers: Headers = incoming.headers
        self.extensions: dict[str, Any] = {"http_version": incoming.version, "reason_phrase": incoming.reason}

    @property
    def content_now(self) -> bytes | None:
        """The whole body, where it came with the head; None where it is still to be read."""
        return self._incoming.take() if self._incoming.is_complete else None

    @property
    def come(self) -> bytes:
        """What has come of the body and was not read yet."""
        return self._incoming.take()

    @property
    def stream(self) -> AsyncIterator[bytes]:
        """The parts of the body as they come."""
        return self._parts()

    def close(self) -> None:
        """Give the connection back where the body was read to its end; else close it. In the loop's own thread."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._home.give_back(connection, may_be_kept=self._incoming.may_be_kept)

    async def _parts(self) -> AsyncIterator[bytes]:
        incoming = self._incoming
        while True:
            if part := incoming.take():
                yield part
                continue
            if incoming.is_complete or self._connection is None:
                return
            await self._connection.more()
