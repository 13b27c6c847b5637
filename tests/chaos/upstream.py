"""A server that is killed, frozen and restarted: a program of its own, fast enough for hundreds of concurrent calls.

    python upstream.py --port 8001 --service-s 0.5 --failing 0.3 --seed 7

prints its base URL when it listens, and ends with its standard input: nothing outlives a test run that is killed. It
answers a chat completion with the text that it was asked, and knows as much of HTTP as our own transport sends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import sys
from dataclasses import dataclass
from typing import cast

BACKLOG = 4096  #: hundreds of callers connect at once

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How it serves.

    Attributes:
        service_s: from the request to its answer.
        failing: the share of requests that it answers with a 502, in as much time.
    """

    service_s: float
    failing: float
    chance: random.Random


class Connection(asyncio.Protocol):
    """One connection: keep-alive, one request after another."""

    def __init__(self, manner: Manner) -> None:
        self._manner = manner
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (head_end := self._unread.find(_HEAD_END)) >= 0:
            starts, ends = head_end + len(_HEAD_END), head_end + len(_HEAD_END) + _length(self._unread[:head_end])
            if len(self._unread) < ends:
                return
            body, self._unread = self._unread[starts:ends], self._unread[ends:]
            reply = _failure() if self._manner.chance.random() < self._manner.failing else _echo(body)
            asyncio.get_running_loop().call_later(self._manner.service_s, self._write, reply)

    def _write(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


def _length(head: bytes) -> int:
    lowered = head.lower()
    at = lowered.find(_LENGTH)
    return 0 if at < 0 else int(lowered[at + len(_LENGTH) :].partition(b"\r\n")[0])


def _echo(body: bytes) -> bytes:
    asked = json.loads(body)["messages"][-1]["content"]
    choice = {"index": 0, "message": {"role": "assistant", "content": asked}, "finish_reason": "stop"}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "a-model", "choices": [choice]}
    return _answer("200 OK", reply)


def _failure() -> bytes:
    return _answer("502 Bad Gateway", {"error": {"message": "nobody is behind it", "type": "server_error"}})


def _answer(status: str, content: object) -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def serve(port: int, manner: Manner) -> None:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was killed left connections behind
    listening.bind(("127.0.0.1", port))
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Connection(manner), sock=listening, backlog=BACKLOG)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    is_over = asyncio.Event()
    loop.add_reader(sys.stdin, is_over.set)
    await is_over.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--service-s", type=float, default=0.0)
    parser.add_argument("--failing", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    manner = Manner(service_s=given.service_s, failing=given.failing, chance=random.Random(given.seed))
    asyncio.run(serve(given.port, manner))


if __name__ == "__main__":
    main()
