"""The body of an answer: read whole, or handed on while it comes. Knows one answer; decides nothing about others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import httpx2

from ..errors import InvalidReply, StreamInterrupted, StreamTruncated
from .written import Headers

_ENCODED: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class Interrupted(StreamInterrupted, httpx2.ReadError):
    """For the SDK it is an error of the connection."""


class Truncated(StreamTruncated, httpx2.ReadError):
    """For the SDK it is an error of the connection."""


class Stalled(StreamInterrupted, httpx2.ReadTimeout):
    """For the SDK it is a timeout of the transport."""


class Whole:
    """Gathers a body that is read to its end, up to a size."""

    __slots__ = ("_most", "_parts", "_size")

    def __init__(self, most_bytes: int) -> None:
        self._parts: list[bytes] = []
        self._size, self._most = 0, most_bytes

    def add(self, part: bytes) -> None:
        """Take a part. Raises InvalidReply where it is too much."""
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._most:
            raise InvalidReply(f"its answer is larger than {self._most // 2**20} MiB")

    def content(self) -> bytes:
        """All of it."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


def encoding_of(headers: Headers) -> str:
    """The compression of a body, or an empty text."""
    for name, value in headers:
        if name.lower() == b"content-encoding":
            encoding = value.decode("latin-1").strip().lower()
            return "" if encoding == "identity" else encoding
    return ""


def without_encoding(headers: Headers) -> Headers:
    """The headers of a body that was decompressed or changed."""
    return [pair for pair in headers if pair[0].lower() not in _ENCODED]


def decompressed(headers: Headers, content: bytes, most_bytes: int) -> bytes:
    """The body as it was before its server compressed it. Raises InvalidReply where it is broken or too large."""
    encoding = encoding_of(headers)
    if not encoding or not content:
        return content
    response = httpx2.Response(200, headers={"content-encoding": encoding}, stream=httpx2.ByteStream(content))
    whole = Whole(most_bytes)
    try:
        for part in response.iter_bytes(2**16):
            whole.add(part)
    except httpx2.DecodingError as error:
        raise InvalidReply("its answer cannot be decompressed") from error
    return whole.content()


class _Parts(httpx2.SyncByteStream):
    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return self._parts


class _AsyncParts(httpx2.AsyncByteStream):
    def __init__(self, parts: AsyncIterator[bytes]) -> None:
        self._parts = parts

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts


def parts_of(headers: Headers, stream: Any) -> Iterator[bytes]:
    """The parts of a body that is handed on while it comes, decompressed. Raises InvalidReply where it is broken."""
    encoding = encoding_of(headers)
    if not encoding:
        return iter(stream)
    response = httpx2.Response(200, headers={"content-encoding": encoding}, stream=_Parts(iter(stream)))
    return _readable(response.iter_bytes())


def async_parts_of(headers: Headers, stream: Any) -> AsyncIterator[bytes]:
    """The same for asyncio."""
    encoding = encoding_of(headers)
    if not encoding:
        return aiter(stream)
    response = httpx2.Response(200, headers={"content-encoding": encoding}, stream=_AsyncParts(aiter(stream)))
    return _async_readable(response.aiter_bytes())


def _readable(parts: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from parts
    except httpx2.DecodingError as error:
        raise InvalidReply("its answer cannot be decompressed") from error


async def _async_readable(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for part in parts:
            yield part
    except httpx2.DecodingError as error:
        raise InvalidReply("its answer cannot be decompressed") from error
