"""The server that every peer embeds with: its replies are made once and kept, so that it is never the bottleneck.

A program of its own, as `benchmarks.upstream`. Below `/v1` it sends base64 where a request asks for it, as OpenAI does;
below `/floats/v1` always numbers, as servers do that do not know `encoding_format`. Of a request it reads what was
asked for, how many texts there are, and which is the first: the others are taken to follow it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
from functools import cache, lru_cache
from typing import cast

import msgspec

from ..upstream import HEAD_END, length_of, serve, with_head
from .texts import BATCH, CYCLE, number_of, vectors

FLOATS = "/floats/v1"
MODEL = "text-embedding-3-small"  #: of 1,536 dimensions

BASE64 = "base64"
KEPT = 16  #: replies; some have 34 MB

_TAIL = b'],"model":"%b","usage":{"prompt_tokens":13,"total_tokens":13}}' % MODEL.encode()


class _Request(msgspec.Struct):
    input: list[str] | str
    encoding_format: str | None = None


class Upstream(asyncio.Protocol):
    """One connection, kept alive, with requests of any size."""

    def __init__(self) -> None:
        self._unread = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (head_end := self._unread.find(HEAD_END)) >= 0:
            body_at = head_end + len(HEAD_END)
            head = bytes(self._unread[:head_end])
            end = body_at + length_of(head)
            if len(self._unread) < end:
                return
            self._transport.write(reply_to(head, bytes(self._unread[body_at:end])))
            del self._unread[:end]


def reply_to(head: bytes, body: bytes) -> bytes:
    """The whole reply to a request, head and body."""
    request = msgspec.json.decode(body, type=_Request)
    texts = [request.input] if isinstance(request.input, str) else request.input
    encoding = "float" if head.startswith(b"POST " + FLOATS.encode()) else request.encoding_format or "float"
    return _reply(number_of(texts[0]) % CYCLE, len(texts), encoding)


@lru_cache(KEPT)
def _reply(first: int, count: int, encoding: str) -> bytes:
    coded = _coded(encoding)
    items = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, coded[(first + index) % CYCLE])
        for index in range(count)
    ]
    return with_head(b'{"object":"list","data":[' + b",".join(items) + _TAIL)


@cache
def _coded(encoding: str) -> list[bytes]:
    """Every vector as it stands in a reply."""
    if encoding == BASE64:
        return [b'"' + base64.b64encode(vector.astype("<f4").tobytes()) + b'"' for vector in vectors()]
    return [msgspec.json.encode(vector.tolist()) for vector in vectors()]  # up to 22 characters a number, as OpenAI's


def main() -> None:
    """Make the replies to batches of BATCH, then serve."""
    parser = argparse.ArgumentParser(prog="benchmarks.embedding.upstream")
    parser.add_argument("--ports", type=int, default=1)
    arguments = parser.parse_args()
    for encoding in (BASE64, "float"):
        for first in range(0, CYCLE * BATCH, BATCH):
            _reply(first % CYCLE, BATCH, encoding)
    serve(Upstream, ports=arguments.ports)


if __name__ == "__main__":
    main()
