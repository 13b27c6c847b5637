"""What stands below a genuine openai client: takes its request, sends it to an endpoint, hands back the answer.

Knows HTTP and one endpoint; decides nothing about which endpoint that is.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpcore2
import httpx2

from ..events import AttemptEnded, Listener, tell
from ..routing.endpoint import Endpoint, TokenSource
from ..secrets import Secret
from . import network
from .connections import AsyncConnections, Connections
from .deadline import ending_at
from .dialect import Ambient, headers_for, operation_of, url_for

ENDPOINT_HEADER = "x-llmwire-endpoint"


class NoToken(httpx2.TransportError):
    """The identity that stands in for a key had no token to give: nothing was sent."""


class _Attempt:
    """One request on its way to one endpoint: what is told of it when it ends, and by when it must.

    Attributes:
        ends_at: on the monotonic clock; None once the answer has shown itself to be a stream.
        status: of the answer, once its head is there.
    """

    def __init__(self, endpoint: Endpoint, operation: str, listener: Listener, *, ends_at: float | None = None) -> None:
        self._endpoint, self._operation, self._listener = endpoint, operation, listener
        self._started_at = time.monotonic()
        self.ends_at: float | None = self._started_at + endpoint.deadline_s if ends_at is None else ends_at
        self.status: int | None = None

    def again(self) -> _Attempt:
        """Another attempt, within the time that is left to this one."""
        return _Attempt(self._endpoint, self._operation, self._listener, ends_at=self.ends_at)

    def has_begun(self, response: httpx2.Response) -> None:
        """The first bytes of the body are there: a stream may now take its time."""
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            self.ends_at = None

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell the listener how the block ends, which gets the answer's head."""
        try:
            with self.explained():
                yield
        except BaseException as error:
            self._tell(type(error).__name__)
            raise
        self._tell(None)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Name the endpoint, and the deadline where that was it, in what httpx2 raises inside the block."""
        try:
            yield
        except httpx2.TimeoutException as error:
            raise type(error)(self._in_words(self._overdue(error))) from error
        except httpx2.TransportError as error:
            raise type(error)(self._in_words(str(error) or type(error).__name__)) from error
        except ssl.SSLError as error:  # which httpx2 lets through in places
            raise httpx2.NetworkError(self._in_words(str(error))) from error

    def _tell(self, error: str | None) -> None:
        event = AttemptEnded(
            function=self._endpoint.function,
            endpoint=self._endpoint.name,
            server=self._endpoint.server,
            operation=self._operation,
            status=None if error else self.status,
            error=error,
            took_s=time.monotonic() - self._started_at,
        )
        tell(self._listener, event)

    def _overdue(self, error: httpx2.TimeoutException) -> str:
        endpoint = self._endpoint
        if self.ends_at is None:
            return f"the stream stood still for too long ({type(error).__name__})"
        if time.monotonic() < self.ends_at:
            return f"no answer in time ({type(error).__name__})"
        return f"no answer within {endpoint.deadline_s:g} s; {endpoint.function}.deadline_s sets this time"

    def _in_words(self, problem: str) -> str:
        return f"{self._endpoint.function} endpoint {self._endpoint.server}: {problem}"


class _Facade:
    """What both transports share: one endpoint and how a request is written for it."""

    def __init__(self, endpoint: Endpoint, *, listener: Listener, ambient: Ambient | None = None) -> None:
        self._endpoint, self._listener, self._ambient = endpoint, listener, ambient or Ambient({})
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

    def _written(self, request: httpx2.Request, token: Secret | None) -> httpx2.Request:
        url = url_for(self._endpoint, operation_of(request.url, self._base), request)
        host = url.netloc.decode("ascii")
        headers = headers_for(self._endpoint, request.headers, host=host, ambient=self._ambient, token=token)
        written = httpx2.Request(request.method, url, headers=headers, stream=request.stream)
        timeout = request.extensions.get("timeout", {})
        limited = {
            name: _least(timeout.get(name), self._endpoint.deadline_s) for name in ("connect", "read", "write", "pool")
        }
        written.extensions = {**request.extensions, "timeout": limited}
        return written

    def _may_renew(self, request: httpx2.Request, response: httpx2.Response) -> bool:
        is_refused = response.status_code == 401 and isinstance(self._endpoint.credential, TokenSource)
        return is_refused and _is_replayable(request)

    def _answer(
        self, response: httpx2.Response, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream
    ) -> httpx2.Response:
        headers = [pair for pair in response.headers.multi_items() if pair[0].lower() != ENDPOINT_HEADER]
        headers.append((ENDPOINT_HEADER, f"{self._endpoint.function}/{self._endpoint.name}"))
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
        with attempt.told():
            token = self._token_in_time(attempt)
            response = self._sent(attempt, self._written(request, token))
        if token and self._may_renew(request, response) and (fresh := self._renewed(attempt, response, token)):
            attempt = attempt.again()
            with attempt.told():
                response = self._sent(attempt, self._written(request, fresh))
        return self._answer(response, _Body(response, attempt))

    def close(self) -> None:
        """Close every connection of this process."""
        self._is_closed = True
        self._connections.close()

    def _sent(self, attempt: _Attempt, request: httpx2.Request) -> httpx2.Response:
        with ending_at(attempt.ends_at):
            response = self._connections.transport().handle_request(request)
        if self._is_closed:  # meanwhile: nobody would close a connection that was opened after that
            response.close()
            raise _closed_meanwhile()
        attempt.status = response.status_code
        return response

    def _token_in_time(self, attempt: _Attempt, *, refused: Secret | None = None) -> Secret | None:
        with ending_at(attempt.ends_at):
            return _token(self._endpoint, refused=refused)

    def _renewed(self, attempt: _Attempt, response: httpx2.Response, refused: Secret) -> Secret | None:
        """Another token in the place of the refused one; None, if there is none, leaves the answer to the caller."""
        try:
            with attempt.explained():
                fresh = self._token_in_time(attempt, refused=refused)
        except BaseException:
            response.close()
            raise
        if fresh == refused:
            return None
        response.close()
        return fresh


class AsyncPoolTransport(_Facade, httpx2.AsyncBaseTransport):
    """The transport of `openai.AsyncOpenAI`. Safe to use in several event loops, one after another or at once."""

    def __init__(self, endpoint: Endpoint, *, listener: Listener, ambient: Ambient | None = None) -> None:
        super().__init__(endpoint, listener=listener, ambient=ambient)
        self._connections = AsyncConnections(endpoint.server)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request of the SDK. Raises httpx2's own errors, each naming the endpoint."""
        attempt = self._begin(request)
        with attempt.told():
            token = await self._token_in_time(attempt)
            response = await self._sent(attempt, self._written(request, token))
        if token and self._may_renew(request, response) and (fresh := await self._renewed(attempt, response, token)):
            attempt = attempt.again()
            with attempt.told():
                response = await self._sent(attempt, self._written(request, fresh))
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
        transport = await self._connections.transport()
        async with _ending_at(attempt.ends_at):
            response = await transport.handle_async_request(request)
        if self._is_closed:
            await response.aclose()
            raise _closed_meanwhile()
        attempt.status = response.status_code
        return response

    async def _token_in_time(self, attempt: _Attempt, *, refused: Secret | None = None) -> Secret | None:
        if not isinstance(self._endpoint.credential, TokenSource):
            return self._endpoint.credential
        # Asking may block on an identity server: never on the event loop, and on no thread longer than the deadline.
        with ending_at(attempt.ends_at):
            return await asyncio.to_thread(_token, self._endpoint, refused=refused)

    async def _renewed(self, attempt: _Attempt, response: httpx2.Response, refused: Secret) -> Secret | None:
        try:
            with attempt.explained():
                fresh = await self._token_in_time(attempt, refused=refused)
        except BaseException:
            await response.aclose()
            raise
        if fresh == refused:
            return None
        await response.aclose()
        return fresh


class _Body(httpx2.SyncByteStream):
    """An answer's bytes, under the deadline: a plain answer to its end, a stream until its first bytes."""

    def __init__(self, response: httpx2.Response, attempt: _Attempt) -> None:
        self._response, self._attempt = response, attempt

    def __iter__(self) -> Iterator[bytes]:
        assert isinstance(self._response.stream, httpx2.SyncByteStream)  # noqa: S101  # for the type checker
        parts = iter(self._response.stream)
        with self._attempt.explained():
            while True:
                with ending_at(self._attempt.ends_at):
                    part = next(parts, None)
                if part is None:
                    return
                self._attempt.has_begun(self._response)
                yield part

    def close(self) -> None:
        self._response.close()


class _AsyncBody(httpx2.AsyncByteStream):
    """The same for asyncio."""

    def __init__(self, response: httpx2.Response, attempt: _Attempt) -> None:
        self._response, self._attempt = response, attempt

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._response.stream, httpx2.AsyncByteStream)  # noqa: S101  # for the type checker
        parts = aiter(self._response.stream)
        with self._attempt.explained():
            while True:
                async with _ending_at(self._attempt.ends_at):
                    part = await anext(parts, None)
                if part is None:
                    return
                self._attempt.has_begun(self._response)
                yield part

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


def _closed_meanwhile() -> httpx2.ReadError:
    return httpx2.ReadError("the client was closed while it waited for the answer")


def _is_replayable(request: httpx2.Request) -> bool:
    """Whether the body lies in memory: JSON does, an upload from a file does not."""
    return isinstance(request.stream, httpx2.ByteStream)


def _least(timeout: float | None, deadline_s: float) -> float:
    return deadline_s if timeout is None else min(timeout, deadline_s)


def _token(endpoint: Endpoint, *, refused: Secret | None = None) -> Secret | None:
    """The key, or a token that is valid now. May block on an identity server."""
    if not isinstance(endpoint.credential, TokenSource):
        return endpoint.credential
    try:
        return endpoint.credential.token(refused=refused)
    except (TimeoutError, httpcore2.TimeoutException) as error:
        raise httpx2.ReadTimeout("no token in time") from error
    except Exception as error:  # whatever an identity library raises
        raise NoToken(f"no token: {error}") from error
