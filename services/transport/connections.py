"""The connections to one server: per process, and per event loop where they are asynchronous.

So one client object works from many threads, in several `asyncio.run` calls and after `fork`. Knows sockets; knows
nothing of endpoints or keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncGenerator
from functools import cache
from importlib import import_module

import httpcore2
import httpx2

from ..forking import no_fork_meanwhile, renew_in_child
from .deadline import DeadlineBackend

MAX_CONNECTIONS = 1000  #: the SDK's own figures
MAX_KEEPALIVE = 100
KEEPALIVE_S = 5.0

# What a first connection imports, now: our importer lets no fork happen meanwhile (see `no_fork_meanwhile`).
for _name in ("encodings.idna", "anyio._backends._asyncio"):
    with contextlib.suppress(ImportError):  # a name that has moved is imported a little later, that is all
        import_module(_name)


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


class _Inner(httpx2.HTTPTransport):
    """httpx2's transport over connections whose waits end at the deadline of the call."""

    def __init__(self, server: str) -> None:
        self._pool = httpcore2.ConnectionPool(
            ssl_context=_ssl_context_for(server),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=MAX_KEEPALIVE,
            keepalive_expiry=KEEPALIVE_S,
            network_backend=DeadlineBackend(),
        )


class Connections:
    """The connections of one process to one server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._inner: httpx2.BaseTransport | None = None
        self._of_parents: list[object] = []
        renew_in_child(self)

    def transport(self) -> httpx2.BaseTransport:
        """The transport of this process."""
        with self._lock:
            if self._inner is None:
                self._inner = _Inner(self._server)
            return self._inner

    def close(self) -> None:
        """Close all connections of this process. A later request opens new ones."""
        with self._lock:
            inner, self._inner = self._inner, None
        if inner is not None:
            inner.close()

    def renew_after_fork(self) -> None:
        """Forget the parent's connections without closing them: they are still its own."""
        self._lock = threading.Lock()
        self._of_parents.append(self._inner)
        self._inner = None


class AsyncConnections:
    """The connections of one process to one server, a set for each running event loop."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._by_loop: dict[asyncio.AbstractEventLoop, _OfLoop] = {}
        self._of_parents: list[object] = []
        renew_in_child(self)

    async def transport(self) -> httpx2.AsyncBaseTransport:
        """The transport of the running loop."""
        loop = asyncio.get_running_loop()
        known = self._by_loop.get(loop)
        if known is None:
            known = _OfLoop(self._server)
            with self._lock:
                self._by_loop = {other: of for other, of in self._by_loop.items() if not other.is_closed()}
                self._by_loop[loop] = known
            await known.close_with_loop()
        return known.transport

    async def aclose(self) -> None:
        """Close the running loop's connections and wait; have the other loops close theirs."""
        running = asyncio.get_running_loop()
        self._close_all_but(running)
        if (own := self._by_loop.get(running)) is not None:
            await own.aclose()

    def close(self) -> None:
        """Have every loop close its connections, without waiting: for synchronous code."""
        self._close_all_but(None)

    def renew_after_fork(self) -> None:
        """Forget the parent's loops and connections without closing them: they are still its own."""
        self._lock = threading.Lock()
        self._of_parents.append(self._by_loop)
        self._by_loop = {}

    def _close_all_but(self, running: asyncio.AbstractEventLoop | None) -> None:
        with self._lock:
            others = [(loop, of_loop) for loop, of_loop in self._by_loop.items() if loop is not running]
        for loop, of_loop in others:
            # A loop that is closed has closed its connections; one that stands still does so when it runs again.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(of_loop.close_soon)


class _OfLoop:
    """The connections of one event loop, which close when it ends, if not before."""

    def __init__(self, server: str) -> None:
        self.transport = httpx2.AsyncHTTPTransport(
            verify=_ssl_context_for(server),
            trust_env=False,
            limits=httpx2.Limits(
                max_connections=MAX_CONNECTIONS,
                max_keepalive_connections=MAX_KEEPALIVE,
                keepalive_expiry=KEEPALIVE_S,
            ),
        )
        self._end = self._until_loop_ends()
        self._closing: asyncio.Task[None] | None = None

    async def close_with_loop(self) -> None:
        """Start the generator that the loop closes at its end, as `asyncio.run` does with all that it knows."""
        await anext(self._end)

    def close_soon(self) -> None:
        """Close the connections in a task of the running loop."""
        self._closing = asyncio.ensure_future(self.aclose())

    async def aclose(self) -> None:
        """Close the connections that are open now."""
        await self.transport.aclose()

    async def _until_loop_ends(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self.aclose()
