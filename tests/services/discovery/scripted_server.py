"""An HTTP server that says what a test tells it to, also what no server should: on the loopback, in the test's loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

TRICKLE_S = 0.02  #: between two bytes of an answer that trickles


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it came; names of headers in lower case."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Hanging:
    """Sends this and then nothing more, with the connection open."""

    content: bytes = b""


@dataclass(frozen=True)
class Trickling:
    """Sends this byte by byte."""

    content: bytes


@dataclass(frozen=True)
class Broken:
    """Sends this and closes the connection."""

    content: bytes = b""


Said = bytes | Hanging | Trickling | Broken


@dataclass
class Server:
    """What was asked, and whether the other side has hung up."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    is_left: asyncio.Event = field(default_factory=asyncio.Event)


def answer(content: Any = b"", *, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """An answer in order; what is not bytes is sent as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    told = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body


@asynccontextmanager
async def scripted(*script: Said, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """A server that gives these answers in turn, and the last one again and again."""
    server, tasks = Server(), set[asyncio.Task[None]]()
    left = list(script)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            while True:
                server.asked.append(await _read(reader))
                said = left.pop(0) if len(left) > 1 else left[0]
                if not await _say(said, reader, writer):
                    break
        server.is_left.set()
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()

    listening = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    scheme = "http" if tls is None else "https"
    server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    return Asked(method=method, path=url.path, params=dict(parse_qsl(url.query)), headers=headers, body=body)


async def _say(said: Said, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Say it. Returns whether the connection can be used again."""
    if isinstance(said, Trickling):
        for byte in said.content:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(TRICKLE_S)
        return True
    writer.write(said if isinstance(said, bytes) else said.content)
    await writer.drain()
    if isinstance(said, Hanging):
        await reader.read()  # returns when the other side hangs up
    return isinstance(said, bytes)
