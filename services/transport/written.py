"""A request as it goes to one server. Pure: knows the bytes of HTTP/1.1; knows nothing of sockets."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, Final

import httpcore2

Headers = list[tuple[bytes, bytes]]

TOGETHER_BYTES: Final = 2**16  #: a body of this size goes with its head; a larger one is not copied for that


class Written:
    """One request.

    Attributes:
        content: the body where it lies in memory; else it is read from `stream` as it is sent.
        timeouts: seconds for `connect`, `read`, `write` and `pool`.
    """

    __slots__ = ("content", "headers", "method", "stream", "timeouts", "url")

    def __init__(
        self,
        method: str,
        url: httpcore2.URL,
        headers: Headers,
        *,
        content: bytes | None,
        stream: Any,
        timeouts: dict[str, float],
    ) -> None:
        self.method, self.url, self.headers = method, url, headers
        self.content, self.stream, self.timeouts = content, stream, timeouts

    @property
    def host(self) -> str:
        """The server's name or address."""
        return self.url.host.decode("ascii")

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.url.port or (443 if self.is_secure else 80)

    @property
    def is_secure(self) -> bool:
        """Whether it is spoken to through TLS."""
        return self.url.scheme == b"https"

    def pieces(self) -> Iterator[memoryview]:
        """The bytes to send, of a body that lies in memory or is read without waiting.

        As views of memory, which show nothing of what they hold: a traceback with its variables shows no key.
        """
        head = self._head()
        if self.content is not None:
            yield from _joined(head, self.content)
            return
        yield head
        upload = _Upload(self.headers)
        for part in _read(self.stream):
            yield upload.framed(part)
        yield upload.last()

    async def async_pieces(self) -> AsyncIterator[memoryview]:
        """The same, of a body that is awaited."""
        yield self._head()
        upload = _Upload(self.headers)
        async for part in _read_async(self.stream):
            yield upload.framed(part)
        yield upload.last()

    def _head(self) -> memoryview:
        if (head := _head_of(self)) is None:
            raise httpcore2.LocalProtocolError("a header has a line break in it")
        return memoryview(head)


class _Upload:
    """A body that is read as it is sent, in the length that its head declares: one byte more were another request's."""

    def __init__(self, headers: Headers) -> None:
        declared = {name.lower(): value for name, value in headers}
        self._is_chunked = b"transfer-encoding" in declared
        self._left = 0 if self._is_chunked else int(declared.get(b"content-length", b"0"))

    def framed(self, part: bytes) -> memoryview:
        """The part as it is sent. Raises httpcore2.LocalProtocolError where it is too much."""
        if self._is_chunked:
            return memoryview(b"%x\r\n%b\r\n" % (len(part), part) if part else b"")
        self._left -= len(part)
        if self._left < 0:
            raise httpcore2.LocalProtocolError("the upload is longer than its Content-Length")
        return memoryview(part)

    def last(self) -> memoryview:
        """The end. Raises httpcore2.LocalProtocolError where something is missing."""
        if self._left > 0:
            raise httpcore2.LocalProtocolError("the upload is shorter than its Content-Length")
        return memoryview(b"0\r\n\r\n" if self._is_chunked else b"")


def _read(stream: Iterable[bytes]) -> Iterator[bytes]:
    """The parts of a caller's file, whose own errors are no server's."""
    parts = iter(stream)
    while True:
        try:
            part = next(parts, None)
        except OSError as error:
            raise httpcore2.LocalProtocolError(f"the upload cannot be read: {error}") from error
        if part is None:
            return
        yield part


async def _read_async(stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    parts = aiter(stream)
    while True:
        try:
            part = await anext(parts, None)
        except OSError as error:
            raise httpcore2.LocalProtocolError(f"the upload cannot be read: {error}") from error
        if part is None:
            return
        yield part


def _head_of(written: Written) -> bytes | None:
    """Request line and headers; None where a line break in one of them would make more of it."""
    lines = [b"%b %b HTTP/1.1" % (written.method.encode("ascii"), written.url.target)]
    lines += [b"%b: %b" % pair for pair in written.headers]
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    is_sound = head.count(b"\n") == head.count(b"\r") == len(lines) + 1 and b"\0" not in head
    return head if is_sound else None


def _joined(head: memoryview, content: bytes) -> Iterator[memoryview]:
    if len(content) <= TOGETHER_BYTES:
        yield memoryview(b"".join((head, content)))
    else:
        yield head
        yield memoryview(content)
