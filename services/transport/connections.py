"""The connections to one server: per process, and per event loop where they are asynchronous.

So one client object works from many threads, in several `asyncio.run` calls and after `fork`. Knows sockets; knows
nothing of endpoints or keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncGenerator, Callable
from functools import cache
from importlib import import_module

import httpx2

from ..forking import no_fork_meanwhile, renew_in_child
from .blocking import ConnectionPool, SyncAnswer
from .deadline import Watch
from .nonblocking import AsyncConnectionPool
from .written import Written

MAX_CONNECTIONS = 1000  #: at once to one server: the SDK's own figure
_of_parents: list[object] = []  #: what a child has inherited and must never close: it is kept until the child ends
KEEPALIVE_S = 5.0  #: also the SDK's; many servers close what is idle for longer

# What a first connection imports, now: our importer lets no fork happen meanwhile (see `no_fork_meanwhile`).
with contextlib.suppress(ImportError):  # a name that has moved is imported a little later, that is all
    import_module("encodings.idna")


@cache
def _shared_ssl_context() -> ssl.SSLContext:
    """One for all clients: each costs about 22 ms and 0.5 MB."""
    return httpx2.create_ssl_context(trust_env=False)


def _ssl_context_for(server: str) -> ssl.SSLContext:
    with (
        no_fork_meanwhile()
    ):  # OpenSSL sets itself up for the first of all contexts, under a lock that a child inherits
        if server.startswith("https:"):
            return _shared_ssl_context()
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; with no authorities it trusts nobody


class Connections:
    """The connections of one process to one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._pool: ConnectionPool | None = None
        renew_in_child(self)

    def send(self, written: Written, watch: Watch) -> SyncAnswer:
        """Send, and wait for the answer's head. Raises httpcore2's errors."""
        return (self._pool or self._opened()).send(written, watch)

    def drop_idle(self) -> None:
        """Use none of the connections that are idle now again: one of them was dead."""
        if (pool := self._pool) is not None:
            pool.drop_idle()

    def retire(self) -> None:
        """Keep no connection for later; calls under way keep theirs until they end."""
        if (pool := self._pool) is not None:
            pool.retire()

    def close(self) -> None:
        """Close all connections of this process. A later request opens new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections without closing them: they are still its own."""
        self._lock = threading.Lock()
        _of_parents.append(self._pool)
        self._pool = None

    def _opened(self) -> ConnectionPool:
        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    _ssl_context_for(self._server),
                    max_connections=MAX_CONNECTIONS,
                    max_idle=MAX_CONNECTIONS,
                    keepalive_s=KEEPALIVE_S,
                )
            return self._pool


class AsyncConnections:
    """The connections of one process to one server, a set for each running event loop."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        renew_in_child(self)

    async def pool(self) -> AsyncConnectionPool:
        """The connections of the running loop."""
        loop = asyncio.get_running_loop()
        known = self._by_loop.get(loop)
        if known is None:
            known = _OfLoop(self._server)
            with self._lock:
                self._by_loop = {other: of for other, of in self._by_loop.items() if not other.is_closed()}
                self._by_loop[loop] = known
            await known.close_with_loop()
        return known.pool

    def retire(self) -> None:
        """Have every loop keep no connection for later; calls under way keep theirs until they end."""
        with self._lock:
            everywhere = list(self._by_loop.items())
        for loop, of_loop in everywhere:
            _soon(loop, of_loop.retire_soon)

    def close_here(self) -> list[asyncio.Future[None]]:
        """Close the running loop's connections, and have the other loops close theirs.

        Returns what is done when the sockets of this loop are gone. A later request opens new ones.
        """
        running = asyncio.get_running_loop()
        self._close_all_but(running)
        with self._lock:
            own = self._by_loop.pop(running, None)
        return own.pool.close() if own is not None else []

    def close(self) -> None:
        """Have every loop close its connections, without waiting: for synchronous code."""
        self._close_all_but(None)

    def renew_after_fork(self) -> None:
        """Forget the parent's loops and connections without closing them: they are still its own."""
        self._lock = threading.Lock()
        _of_parents.append(self._by_loop)
        self._by_loop = {}

    def _close_all_but(self, running: asyncio.AbstractEventLoop | None) -> None:
        with self._lock:
            others = [(loop, of_loop) for loop, of_loop in self._by_loop.items() if loop is not running]
        for loop, of_loop in others:
            _soon(loop, of_loop.close_soon)


class _OfLoop:
    """The connections of one event loop, which close when it ends, if not before."""

    def __init__(self, server: str) -> None:
        self.pool = AsyncConnectionPool(
            _ssl_context_for(server), max_connections=MAX_CONNECTIONS, max_idle=MAX_CONNECTIONS, keepalive_s=KEEPALIVE_S
        )
        self._end = self._until_loop_ends()
        self._retiring: asyncio.Task[None] | None = None

    async def close_with_loop(self) -> None:
        """Start the generator that the loop closes at its end, as `asyncio.run` does with all that it knows."""
        await anext(self._end)

    def close_soon(self) -> None:
        """Close the connections, in the running loop."""
        self.pool.close()

    def retire_soon(self) -> None:
        """Close each connection once its answer was read, in a task of the running loop."""
        self._retiring = asyncio.ensure_future(self._retire())

    async def aclose(self) -> None:
        """Close the connections that are open now."""
        await self.pool.aclose()

    async def _retire(self) -> None:
        await self.pool.retire()
        await self._end.aclose()

    async def _until_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self.aclose()


def _soon(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """A loop that is closed has closed its connections; one that stands still acts when it runs again."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(act)
