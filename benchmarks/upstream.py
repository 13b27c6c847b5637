"""The server that every peer calls: fixed replies, so lean that it is never the bottleneck. It is no OpenAI server.

A program of its own: `python -m benchmarks.upstream --ports 3 --delay-ms 20` prints its base URLs as JSON, one process
for all of them, and serves until it is stopped or its parent is gone. It reads a request only as far as it must: the
first line, the length.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import resource
import struct
from collections.abc import Callable
from importlib import import_module
from typing import cast

BACKLOG = 4096  #: a thousand callers connect at once
DIMENSIONS = 256

#: one that LiteLLM has a price for: one that it does not know costs it half as much again
MODEL = "gpt-4o-mini"

HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


def with_head(body: bytes, content_type: str = "application/json") -> bytes:
    """The whole reply, as it goes over the wire."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunked(parts: list[bytes]) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_USAGE = {"prompt_tokens": 13, "completion_tokens": 12, "total_tokens": 25}
_WORDS = ("Air", "scatters", "blue", "light", "more", "than", "it", "scatters", "red", "light.")


def _chat() -> bytes:
    message = {"role": "assistant", "content": " ".join(_WORDS), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    return with_head(_json({**reply, "usage": _USAGE}))


def _streamed_chat() -> bytes:
    def event(delta: dict[str, str], finish_reason: str | None) -> bytes:
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
        choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        return b"data: " + _json({**chunk, "choices": choices}) + b"\n\n"

    words = [event({"content": f"{word} "}, None) for word in _WORDS]
    return _chunked([event({"role": "assistant", "content": ""}, None), *words, event({}, "stop"), b"data: [DONE]\n\n"])


def _embeddings(texts: int = 8) -> bytes:
    vector = base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *([0.0625] * DIMENSIONS))).decode()
    data = [{"object": "embedding", "index": index, "embedding": vector} for index in range(texts)]
    return with_head(_json({"object": "list", "data": data, "model": MODEL, "usage": _USAGE}))


CHAT, STREAMED_CHAT, EMBEDDINGS = _chat(), _streamed_chat(), _embeddings()


class Upstream(asyncio.Protocol):
    """One connection. Keep-alive; answers in order; `GET /attempts` tells how many requests the process has seen."""

    attempts = 0

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def data_received(self, data: bytes) -> None:
        self._unread = unread = self._unread + data if self._unread else data
        while (head_end := unread.find(HEAD_END)) >= 0:
            end = head_end + len(HEAD_END) + length_of(unread[:head_end])
            if len(unread) < end:
                return
            self._answer(unread[:end])
            self._unread = unread = unread[end:]

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET /attempts"):
            self._transport.write(with_head(_json(Upstream.attempts)))
            return
        Upstream.attempts += 1
        reply = _reply_to(request)
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._write, reply)
        else:
            self._transport.write(reply)

    def _write(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


def length_of(head: bytes) -> int:
    """Bytes of the body that follows; 0 where the head does not say."""
    lowered = head.lower()
    at = lowered.find(_LENGTH)
    return 0 if at < 0 else int(lowered[at + len(_LENGTH) :].partition(b"\r\n")[0])


def _reply_to(request: bytes) -> bytes:
    if b"/embeddings" in request[:100]:
        return EMBEDDINGS
    return STREAMED_CHAT if b'"stream":true' in request.replace(b" ", b"") else CHAT


def more_files() -> None:
    """Allow this process as many open connections as the system lets it have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    with contextlib.suppress(ImportError):
        new_loop: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
        return new_loop
    return None


def serve(protocol: Callable[[], asyncio.Protocol], *, ports: int) -> None:
    """Print the base URLs as JSON, and serve until stopped or the parent is gone; on uvloop where it is installed."""
    parent = os.getppid()
    more_files()
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner, contextlib.suppress(KeyboardInterrupt):
        runner.run(_serve(protocol, ports, parent=parent))


async def _serve(protocol: Callable[[], asyncio.Protocol], ports: int, *, parent: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(protocol, "127.0.0.1", 0, backlog=BACKLOG) for _ in range(ports)]
    print(json.dumps([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1" for server in servers]), flush=True)
    while os.getppid() == parent:  # nobody would stop a server whose benchmark was killed
        await asyncio.sleep(1)
    for server in servers:
        server.close()


def main() -> None:
    """Serve as the arguments say."""
    parser = argparse.ArgumentParser(prog="benchmarks.upstream")
    parser.add_argument("--ports", type=int, default=1)
    parser.add_argument("--delay-ms", type=float, default=0)
    arguments = parser.parse_args()
    serve(lambda: Upstream(arguments.delay_ms / 1000), ports=arguments.ports)


if __name__ == "__main__":
    main()
