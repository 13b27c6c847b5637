"""What stands below a genuine openai client: takes its request, sends it to an endpoint, hands back the answer.

Knows HTTP and one endpoint; decides nothing about which endpoint that is.
"""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx2

from ..events import AttemptEnded, Listener, tell
from ..routing.endpoint import Endpoint, TokenSource
from ..secrets import Secret
from . import network
from .connections import AsyncConnections, Connections
from .deadline import ending_at
from .dialect import Ambient, headers_for, operation_of, url_for

ENDPOINT_HEADER = "x-llmwire-endpoint"


class _Attempt:
    """One request on its way to one endpoint: what is told of it when it ends, and by when it must."""

    def __init__(self, endpoint: Endpoint, operation: str, listener: Listener) -> None:
        self._endpoint, self._operation, self._listener = endpoint, operation, listener
        self.started_at = time.monotonic()
        self.ends_at = self.started_at + endpoint.deadline_s

    def ended(self, *, status: int | None = None, error: BaseException | None = None) -> None:
        event = AttemptEnded(
            function=self._endpoint.function,
            endpoint=self._endpoint.name,
            server=self._endpoint.server,
            operation=self._operation,
            status=status,
            error=type(error).__name__ if error else None,
            took_s=time.monotonic() - self.started_at,
        )
        tell(self._listener, event)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Name the endpoint, and the deadline where that was it, in what httpx2 raises inside the block."""
        try:
            yield
        except httpx2.TimeoutException as error:
            raise type(error)(self._in_words(self._overdue(error))) from error
        except httpx2.TransportError as error:
            raise type(error)(self._in_words(str(error) or type(error).__name__)) from error

    def _overdue(self, error: httpx2.TimeoutException) -> str:
        endpoint = self._endpoint
        if time.monotonic() < self.ends_at:
            return str(error) or f"{type(error).__name__}: no answer in time"
        return f"no answer within {endpoint.deadline_s:g} s; {endpoint.function}.deadline_s sets this time"

    def _in_words(self, problem: str) -> str:
        return f"{self._endpoint.function} endpoint {self._endpoint.server}: {problem}"


class _Facade:
    """What both transports share: one endpoint and how a request is written for it."""

    def __init__(self, endpoint: Endpoint, *, listener: Listener, ambient: Ambient | None = None) -> None:
        self._endpoint, self._listener, self._ambient = endpoint, listener, ambient or Ambient()
        self._base = httpx2.URL(endpoint.base_url)
        self._is_closed = False
        self._pid = os.getpid()

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint that requests go to."""
        return self._endpoint

    def _begin(self, request: httpx2.Request) -> _Attempt:
        if self._is_closed:
            raise RuntimeError("this client was closed by its container; ask the container for a new one")
        attempt = _Attempt(self._endpoint, operation_of(request.url, self._base), self._listener)
        network.check(self._endpoint.server)
        return attempt

    def _written(self, request: httpx2.Request, body: bytes, token: Secret | None) -> httpx2.Request:
        operation = operation_of(request.url, self._base)
        url = url_for(self._endpoint, operation, request.url.query, body)
        host = url.netloc.decode("ascii")
        headers = headers_for(self._endpoint, request.headers, host=host, ambient=self._ambient, token=token)
        written = httpx2.Request(request.method, url, headers=headers, stream=request.stream)
        timeout = request.extensions.get("timeout", {})
        limited = {
            name: _least(timeout.get(name), self._endpoint.deadline_s) for name in ("connect", "read", "write", "pool")
        }
        written.extensions = {**request.extensions, "timeout": limited}
        return written

    def _answer(
        self, response: httpx2.Response, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream
    ) -> httpx2.Response:
        headers = [
            *response.headers.multi_items(),
            (ENDPOINT_HEADER, f"{self._endpoint.function}/{self._endpoint.name}"),
        ]
        return httpx2.Response(response.status_code, headers=headers, stream=stream, extensions=response.extensions)

    def __del__(self) -> None:
        if not getattr(self, "_is_closed", True) and self._pid == os.getpid():
            message = (
                f"unclosed {self._endpoint.function} client: call container.shutdown_resources() or client.close()"
            )
            warnings.warn(message, ResourceWarning, source=self, stacklevel=2)


class PoolTransport(_Facade, httpx2.BaseTransport):
    """The transport of `openai.OpenAI`. Safe to use from many threads and after `fork`."""

    def __init__(self, endpoint: Endpoint, *, listener: Listener, ambient: Ambient | None = None) -> None:
        super().__init__(endpoint, listener=listener, ambient=ambient)
        self._connections = Connections(endpoint.server)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request of the SDK. Raises httpx2's own errors, each naming the endpoint."""
        attempt = self._begin(request)
        body = request.read() if _is_replayable(request) else b""
        token = _token(self._endpoint)
        response = self._sent(attempt, self._written(request, body, token))
        if response.status_code == 401 and _is_replayable(request) and (fresh := _fresh_token(self._endpoint, token)):
            response.close()
            attempt = self._begin(request)
            response = self._sent(attempt, self._written(request, body, fresh))
        return self._answer(response, _Body(response, attempt))

    def close(self) -> None:
        """Close every connection of this process."""
        self._is_closed = True
        self._connections.close()

    def _sent(self, attempt: _Attempt, request: httpx2.Request) -> httpx2.Response:
        try:
            with attempt.explained(), ending_at(attempt.ends_at):
                response = self._connections.transport().handle_request(request)
        except BaseException as error:
            attempt.ended(error=error)
            raise
        attempt.ended(status=response.status_code)
        return response


class AsyncPoolTransport(_Facade, httpx2.AsyncBaseTransport):
    """The transport of `openai.AsyncOpenAI`. Safe to use in several event loops, one after another or at once."""

    def __init__(self, endpoint: Endpoint, *, listener: Listener, ambient: Ambient | None = None) -> None:
        super().__init__(endpoint, listener=listener, ambient=ambient)
        self._connections = AsyncConnections(endpoint.server)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request of the SDK. Raises httpx2's own errors, each naming the endpoint."""
        attempt = self._begin(request)
        body = await request.aread() if _is_replayable(request) else b""
        token = await _token_async(self._endpoint)
        response = await self._sent(attempt, self._written(request, body, token))
        if response.status_code == 401 and _is_replayable(request):
            fresh = await asyncio.to_thread(_fresh_token, self._endpoint, token)
            if fresh:
                await response.aclose()
                attempt = self._begin(request)
                response = await self._sent(attempt, self._written(request, body, fresh))
        return self._answer(response, _AsyncBody(response, attempt))

    async def aclose(self) -> None:
        """Close the running loop's connections and wait; have the other loops close theirs."""
        self._is_closed = True
        await self._connections.aclose()

    def close_soon(self) -> None:
        """Have every loop close its connections, without waiting: for synchronous code."""
        self._is_closed = True
        self._connections.close()

    async def _sent(self, attempt: _Attempt, request: httpx2.Request) -> httpx2.Response:
        try:
            with attempt.explained():
                transport = await self._connections.transport()
                async with _ending_at(attempt.ends_at):
                    response = await transport.handle_async_request(request)
        except BaseException as error:
            attempt.ended(error=error)
            raise
        attempt.ended(status=response.status_code)
        return response


class _Body(httpx2.SyncByteStream):
    """An answer's bytes, under the deadline: a plain answer to its end, a stream until its first bytes."""

    def __init__(self, response: httpx2.Response, attempt: _Attempt) -> None:
        self._response, self._attempt = response, attempt

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._response.stream, httpx2.SyncByteStream)  # noqa: S101  # for the type checker
        parts = iter(self._response.stream)
        ends_at: float | None = self._attempt.ends_at
        with self._attempt.explained():
            while True:
                with ending_at(ends_at):
                    part = next(parts, None)
                if part is None:
                    return
                yield part
                ends_at = None if _is_stream(self._response) else ends_at

    def close(self) -> None:
        self._response.close()


class _AsyncBody(httpx2.AsyncByteStream):
    """The same for asyncio."""

    def __init__(self, response: httpx2.Response, attempt: _Attempt) -> None:
        self._response, self._attempt = response, attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, httpx2.AsyncByteStream)  # noqa: S101  # for the type checker
        parts = aiter(self._response.stream)
        ends_at: float | None = self._attempt.ends_at
        with self._attempt.explained():
            while True:
                async with _ending_at(ends_at):
                    part = await anext(parts, None)
                if part is None:
                    return
                yield part
                ends_at = None if _is_stream(self._response) else ends_at

    async def aclose(self) -> None:
        await self._response.aclose()


@asynccontextmanager
async def _ending_at(at: float | None) -> AsyncIterator[None]:
    """End the block at `at` on the monotonic clock with httpx2.ReadTimeout; a cancellation from outside stays one."""
    left = None if at is None else at - time.monotonic()
    try:
        async with asyncio.timeout(left):
            yield
    except TimeoutError as error:
        raise httpx2.ReadTimeout("the deadline has passed") from error


def _is_stream(response: httpx2.Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/event-stream")


def _is_replayable(request: httpx2.Request) -> bool:
    """Whether the body lies in memory: JSON does, an upload from a file does not."""
    return isinstance(request.stream, httpx2.ByteStream)


def _least(timeout: float | None, deadline_s: float) -> float:
    return deadline_s if timeout is None else min(timeout, deadline_s)


def _token(endpoint: Endpoint) -> Secret | None:
    credential = endpoint.credential
    return credential.token() if isinstance(credential, TokenSource) else credential


async def _token_async(endpoint: Endpoint) -> Secret | None:
    credential = endpoint.credential
    # Asking may block on an identity server: never on the event loop.
    return await asyncio.to_thread(credential.token) if isinstance(credential, TokenSource) else credential


def _fresh_token(endpoint: Endpoint, refused: Secret | None) -> Secret | None:
    """Another token than the refused one, where the credential can have one."""
    if not isinstance(endpoint.credential, TokenSource) or refused is None:
        return None
    fresh = endpoint.credential.token(refused=refused)
    return None if fresh == refused else fresh
