"""One config centre, asked over HTTP. Knows connections, limits and what may go wrong; judges no status.

The room's one door to httpx2: only its transport is used, which knows no proxies, redirects, cookies or netrc files.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2

from ..errors import DiscoveryError

MAX_ANSWER: Final = 8 * 1024 * 1024  #: bytes; a document of the largest size is 1.4 MiB in base64
MAX_LINE: Final = 8 * 1024 * 1024  #: bytes of one line of a streamed answer, which may hold a document too
CONNECT_S: Final = 5.0  #: for a connection, and for TLS over it once more
TIMEOUT_S: Final = 10.0  #: a config centre that thinks for longer than this has no leader or no machine

_OWN: Final = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "llmwire"}


class TooLarge(DiscoveryError):  # noqa: N818
    """An answer is larger than the asker takes; what had come of it was dropped."""


class Refused(DiscoveryError):  # noqa: N818
    """A stream was asked for and an answer of another status than 200 came, which is in `answer`."""

    def __init__(self, problem: str, *, source: str, remedy: str = "", answer: Answer | None = None) -> None:
        self.answer = answer
        super().__init__(problem, source=source, remedy=remedy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a config centre is reached.

    Attributes:
        name: the source's own, for messages; no secret in it.
        url: as in `http://127.0.0.1:8500`, without a path.
        headers: asked before each request, as a token may be in a file that changes. May raise DiscoveryError.
        ca_file: the authorities to believe, in place of those that come with the program; PEM.
        cert_file: a client's certificate, and its key where that is not in a file of its own; PEM.
        key_file: the key of the certificate; PEM, without a password.
    """

    name: str
    url: str
    headers: Callable[[], Mapping[str, str]] = field(default=dict, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes = field(repr=False)


class Session:
    """Requests to one config centre, over connections that are kept. For one event loop; opens nothing by itself."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._transport: httpx2.AsyncHTTPTransport | None = None

    @property
    def access(self) -> Access:
        """How the config centre is reached."""
        return self._access

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | Sequence[str]] | None = None,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = MAX_ANSWER,
    ) -> Answer:
        """Send one request and read the answer whole, whatever its status.

        Args:
            path: begins with a slash; percent-encoded.
            params: the query; several of one name as a list.
            json: a body to be sent as JSON, where it is not None.
            headers: beside those of the access; of two of one name these are sent.
            timeout_s: for all of it, from the name of the host to the last byte.
            max_bytes: of the answer's body.
        Raises:
            TooLarge: the body has more than max_bytes.
            DiscoveryError: there is no answer; it says why.
        """
        request = self._request(
            method, path, params=params, json=json, content=content, headers=headers, timeout_s=timeout_s
        )
        async with self._within(timeout_s), self._opened(request) as response:
            return await self._whole(response, max_bytes)

    async def stream(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        idle_s: float,
    ) -> AsyncGenerator[bytes, None]:
        """The lines of an answer while they come, without their ends; empty ones are left out.

        Ends where the server ends it, or where no line came for `idle_s`. Wrap it in `contextlib.aclosing`: a loop that
        is left early would keep the connection.

        Raises:
            Refused: the status is not 200.
            TooLarge: one line is longer than MAX_LINE.
            DiscoveryError: there is no answer, or it broke off; it says why.
        """
        request = self._request(method, path, json=json, headers=headers, timeout_s=TIMEOUT_S)
        async with self._within(TIMEOUT_S):
            response = await self._transported().handle_async_request(request)
        try:
            await self._must_be_streamed(response)
            async with aclosing(_lines(_parts(response), self._access.name)) as lines:
                while (line := await self._next(lines, idle_s)) is not None:
                    yield line
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Let go of the connections. A later request opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None,
        timeout_s: float,
        params: Mapping[str, str | Sequence[str]] | None = None,
        json: Any = None,
        content: bytes | None = None,
    ) -> httpx2.Request:
        lines = {**_OWN, **self._access.headers(), **(headers or {})}
        for name, value in lines.items():
            if not (value.isascii() and value.isprintable()) or value != value.strip():
                # Here and not in httpx2, whose errors show the value.
                raise self._error(
                    f"the header {name} cannot be sent: its value has blanks around it, or characters that none has",
                    remedy="Look at the file or variable that it is read from.",
                )
        try:
            return httpx2.Request(
                method,
                f"{self._access.url}{path}",
                params=params,
                headers=lines,
                json=json,
                content=content,
                # The whole is limited by asyncio; but what is cancelled amid a handshake of TLS keeps its socket.
                extensions={"timeout": {"connect": min(CONNECT_S, timeout_s / 2)}},
            )
        except httpx2.InvalidURL as error:
            raise self._error("its address is none", remedy="Correct the host and the port.") from error

    def _transported(self) -> httpx2.AsyncHTTPTransport:
        if self._transport is None:
            self._transport = httpx2.AsyncHTTPTransport(verify=self._ssl_context(), trust_env=False)
        return self._transport

    @asynccontextmanager
    async def _opened(self, request: httpx2.Request) -> AsyncIterator[httpx2.Response]:
        response = await self._transported().handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()

    @asynccontextmanager
    async def _within(self, timeout_s: float) -> AsyncIterator[None]:
        """All of the block has so long; and what goes wrong in it is a DiscoveryError."""
        try:
            async with self._reported(), asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            raise self._error(
                f"no whole answer within {timeout_s:g} s",
                remedy="Look at the config centre's health and at the network between.",
            ) from error

    @asynccontextmanager
    async def _reported(self) -> AsyncIterator[None]:
        try:
            yield
        except httpx2.TransportError as error:
            await self._forget_files()
            problem, remedy = _told(error, self._access)
            raise self._error(problem, remedy=remedy) from error

    async def _forget_files(self) -> None:
        """A certificate that was renewed on the disk is read again."""
        if self._access.ca_file or self._access.cert_file:
            await self.aclose()

    async def _whole(self, response: httpx2.Response, max_bytes: int) -> Answer:
        self._must_be_plain(response)
        headers = {name.lower(): value for name, value in response.headers.items()}
        content = bytearray()
        async for part in _parts(response):
            content += part
            if len(content) > max_bytes:
                raise TooLarge(
                    f"its answer is larger than {max_bytes // 1024} KiB",
                    source=self._access.name,
                    remedy="Make the document smaller.",
                )
        return Answer(status=response.status_code, headers=headers, content=bytes(content))

    async def _next(self, lines: AsyncGenerator[bytes, None], idle_s: float) -> bytes | None:
        try:
            async with self._reported(), asyncio.timeout(idle_s):
                return await anext(lines, None)
        except TimeoutError:
            return None

    async def _must_be_streamed(self, response: httpx2.Response) -> None:
        if response.status_code == httpx2.codes.OK:
            self._must_be_plain(response)
            return
        async with self._within(TIMEOUT_S):
            answer = await self._whole(response, MAX_ANSWER)
        raise Refused(f"it answered with status {answer.status}", source=self._access.name, answer=answer)

    def _must_be_plain(self, response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise self._error(
                "its answer is compressed, which it was not asked for",
                remedy="Look for a proxy between that compresses.",
            )

    def _ssl_context(self) -> ssl.SSLContext:
        access = self._access
        if not access.url.startswith("https:"):
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; with no authorities it trusts nobody
        if access.ca_file:
            with self._reading("ca_file", access.ca_file):
                context = ssl.create_default_context(cafile=access.ca_file)
        else:
            context = httpx2.create_ssl_context(trust_env=False)
        if access.cert_file:
            with self._reading("cert_file", access.cert_file):
                # A key with a password would be asked for at the terminal: an empty one is refused.
                context.load_cert_chain(access.cert_file, access.key_file, password="")
        return context

    @contextmanager
    def _reading(self, option: str, path: str) -> Iterator[None]:
        try:
            Path(path).open("rb").close()
            yield
        except ssl.SSLError as error:
            reason = f"is no certificate that can be used ({_reason(error)})"
            raise self._error(
                f"{option} {path} {reason}", remedy="Give PEM files that belong together, the key without a password."
            ) from error
        except OSError as error:
            reason = f"cannot be read ({error.strerror or type(error).__name__})"
            raise self._error(f"{option} {path} {reason}", remedy="Correct the path or the rights.") from error

    def _error(self, problem: str, *, remedy: str) -> DiscoveryError:
        return DiscoveryError(problem, source=self._access.name, remedy=remedy)


def _parts(response: httpx2.Response) -> AsyncIterable[bytes]:
    assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101  # for the type: an async transport's is
    return response.stream


async def _lines(parts: AsyncIterable[bytes], source: str) -> AsyncGenerator[bytes, None]:
    left = bytearray()
    async for part in parts:
        *whole, rest = part.split(b"\n")
        for end in whole:
            left += end
            if line := bytes(left).strip():
                yield line
            left.clear()
        left += rest
        if len(left) > MAX_LINE:
            raise TooLarge(
                f"a line of its answer is larger than {MAX_LINE // 2**20} MiB",
                source=source,
                remedy="Make the document smaller.",
            )
    if line := bytes(left).strip():
        yield line


def _told(error: BaseException, access: Access) -> tuple[str, str]:
    """What went wrong and what to do, in sentences without a secret."""
    url = urlsplit(access.url)
    server = url.netloc.rpartition("@")[2]
    if isinstance(error, httpx2.ConnectTimeout):
        return (
            f"no connection to {server} in time",
            "Look at the network, and whether that port speaks TLS where TLS is asked for.",
        )
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of {server} is not to be trusted: {cause.verify_message}",
                "Name the authority that signed it with ca_file, and the host as the certificate has it.",
            )
        if isinstance(cause, ssl.SSLError):
            return (
                f"no TLS with {server}: {_reason(cause)}",
                "Look whether that port speaks TLS, and whether it asks for a client's certificate.",
            )
        if isinstance(cause, socket.gaierror):
            return f"no address is known for the host {url.hostname}", "Correct the host, or look at the DNS."
        if isinstance(cause, ConnectionRefusedError):
            return f"nothing listens at {server}", "Start the config centre, or correct the host and the port."
    if isinstance(error, httpx2.ConnectError):
        return f"no connection to {server}: {_os_reason(error)}", "Look at the network and at the host and the port."
    if isinstance(error, httpx2.ProtocolError):
        remedy = "Look what listens there and whether it speaks TLS, unless it was just restarted."
        return f"the answer of {server} broke off, or is no HTTP", remedy
    return f"the connection to {server} broke", "Look at the config centre's log."


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        each = todo.pop()
        if each is None or each in seen:
            continue
        seen.append(each)
        yield each
        todo += [each.__context__, each.__cause__]
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions


def _os_reason(error: BaseException) -> str:
    reasons = (cause.strerror for cause in _causes(error) if isinstance(cause, OSError) and cause.strerror)
    return next(reasons, "it failed")


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or type(error).__name__).replace("_", " ").lower()
