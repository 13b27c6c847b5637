"""Servers under a test's full control: real sockets on loopback, every byte and every pause chosen by the test.

An answer is a function of one exchange. Run as a program, this file is such a server in a process of its own.
"""

from __future__ import annotations

import base64
import gzip
import json
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE_S = 20.0  #: how long a test waits for what must happen; reached only where it fails
SEEN_PATH = "/seen"  #: where a server in a process of its own tells what it received

Answer = Callable[["Exchange"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it came: names of headers in lower case, each with all its values."""

    method: str
    target: str
    headers: dict[str, list[str]]
    content: bytes

    @property
    def body(self) -> Any:
        """The body's JSON."""
        return json.loads(self.content)

    def header(self, name: str) -> str | None:
        """The one value of a header, or None."""
        values = self.headers.get(name, [])
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None


class Exchange:
    """One request and the connection to answer it on."""

    def __init__(self, handler: _Handler, seen: Seen, stopping: threading.Event) -> None:
        self._handler, self.seen, self.stopping = handler, seen, stopping

    def json(self, body: object, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON and a length."""
        self.send(
            json.dumps(body).encode(), status=status, headers={"content-type": "application/json"} | (headers or {})
        )

    def send(self, content: bytes, *, status: int = 200, headers: dict[str, str]) -> None:
        """Answer with bytes and a length."""
        self.head(status=status, headers=headers | {"content-length": str(len(content))})
        self.raw(content)

    def head(self, *, status: int = 200, headers: dict[str, str]) -> None:
        """Send the status line and the headers only."""
        self._handler.send_response_only(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()

    def raw(self, content: bytes) -> None:
        """Send bytes as they are."""
        self._handler.wfile.write(content)

    def chunk(self, content: bytes) -> None:
        """Send one chunk of a chunked body; an empty one ends it."""
        self.raw(b"%x\r\n%b\r\n" % (len(content), content))

    def event(self, data: object) -> None:
        """Send one server-sent event as a chunk."""
        text = data if isinstance(data, str) else json.dumps(data)
        self.chunk(f"data: {text}\n\n".encode())

    def named_event(self, data: dict[str, Any]) -> None:
        """Send one event of a response."""
        self.chunk(f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode())

    def start_stream(self) -> None:
        """Send the head of a stream of events."""
        self.head(headers={"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"})

    def hang_up(self) -> None:
        """Close the connection after this."""
        self._handler.close_connection = True

    def is_over(self, wait_s: float) -> bool:
        """Whether the server stops or the client has gone; looks for so long."""
        if self.stopping.is_set():
            return True
        readable, _, _ = select.select([self._handler.connection], [], [], wait_s)
        return bool(readable) and not self._handler.connection.recv(1, socket.MSG_PEEK)


class Server:
    """A server in this process, one thread for each connection.

    Attributes:
        seen: the requests so far, the earliest first.
        accepted: how many connections were opened in all.
    """

    def __init__(self, answer: Answer | None = None, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.answer: Answer = answer or speak
        self.seen: list[Seen] = []
        self.accepted = 0
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()
        self._listener = _Listener(port, self, tls)
        self._scheme = "https" if tls else "http"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._listener.server_port

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return f"{self._scheme}://localhost:{self.port}" if self._scheme == "https" else f"http://127.0.0.1:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open now, as this side sees it."""
        with self._changed:
            return len(self._open)

    def wait_until(self, is_so: Callable[[Server], bool], what: str) -> None:
        """Wait until something is so of this server; it is looked at whenever a connection or request comes or ends."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), PATIENCE_S), f"never happened: {what}"

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many requests were received."""
        self.wait_until(lambda server: len(server.seen) >= count, f"{count} requests")

    def wait_for_connections(self, count: int) -> None:
        """Wait until so many connections are open."""
        self.wait_until(lambda server: len(server._open) == count, f"{count} open connections")

    def stop(self) -> None:
        """Refuse connections, and cut those that are open."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        with self._changed:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _opened(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.add(connection)
            self.accepted += 1
            self._changed.notify_all()

    def _ended(self, connection: socket.socket) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def _received(self, seen: Seen) -> None:
        with self._changed:
            self.seen.append(seen)
            self._changed.notify_all()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, owner: Server, tls: ssl.SSLContext | None) -> None:
        self.owner, self._tls = owner, tls
        super().__init__(("127.0.0.1", port), _Handler)

    def server_bind(self) -> None:
        # Past HTTPServer's own, which asks the resolver for this machine's name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def finish_request(self, request: Any, client_address: Any) -> None:
        # On the connection's own thread: a slow handshake holds up nobody else.
        with self._tls.wrap_socket(request, server_side=True) if self._tls else request as connection:
            super().finish_request(connection, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner._opened(request)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.owner._ended(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that has gone is no news
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 0
    server: _Listener

    def _serve(self) -> None:
        owner = self.server.owner
        headers: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        seen = Seen(method=self.command, target=self.path, headers=headers, content=self._content())
        if self.path == SEEN_PATH:
            Exchange(self, seen, owner._stopping).json([_plain(one) for one in owner.seen])
            return
        owner._received(seen)
        owner.answer(Exchange(self, seen, owner._stopping))

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815  # the library looks for them

    def _content(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the library has it
        pass


# Answers: what a server does with a request.


def speak(exchange: Exchange) -> None:
    """Answer as a server of the API: a chat with its own last message, a text's vector with `numbers_of` it."""
    path = exchange.seen.target.partition("?")[0]
    if path.endswith("/embeddings"):
        exchange.json(vectors(exchange.seen.body))
    elif path.endswith("/chat/completions"):
        said = exchange.seen.body["messages"][-1]["content"]
        _stream(exchange, said) if exchange.seen.body.get("stream") else exchange.json(chat(said))
    elif path.endswith("/completions"):
        exchange.json(completion(exchange.seen.body["prompt"]))
    elif path.endswith("/responses") and exchange.seen.method == "POST":
        said = exchange.seen.body["input"]
        _stream_response(exchange, said) if exchange.seen.body.get("stream") else exchange.json(response(said))
    elif path.endswith("/models"):
        exchange.json(
            {"object": "list", "data": [{"id": "a-model", "object": "model", "created": 1, "owned_by": "us"}]}
        )
    else:
        exchange.json({"path": path})


def _stream(exchange: Exchange, said: str) -> None:
    exchange.start_stream()
    for word in said.split(" "):
        exchange.event(delta(word + " "))
    exchange.event(delta(None, finish="stop"))
    exchange.event("[DONE]")
    exchange.chunk(b"")


def _stream_response(exchange: Exchange, said: str) -> None:
    exchange.start_stream()
    for word in said.split(" "):
        exchange.named_event({"type": "response.output_text.delta", "delta": word + " "})
    exchange.named_event({"type": "response.completed", "response": response(said)})
    exchange.chunk(b"")


def chat(text: str) -> dict[str, Any]:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "a-model", "choices": [choice]}


def completion(text: str) -> dict[str, Any]:
    """The body of a legacy completion."""
    choice = {"index": 0, "finish_reason": "stop", "text": text}
    return {"id": "1", "object": "text_completion", "created": 1, "model": "a-model", "choices": [choice]}


def response(text: str) -> dict[str, Any]:
    """The body of a response."""
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "2", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    return {"id": "1", "object": "response", "created_at": 1, "model": "a-model", "output": [message]}


def delta(text: str | None, *, finish: str | None = None) -> dict[str, Any]:
    """One event of a streamed chat completion."""
    choice = {"index": 0, "finish_reason": finish, "delta": {} if text is None else {"content": text}}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "a-model", "choices": [choice]}


def numbers_of(text: str) -> list[float]:
    """Three numbers that tell short texts apart, exact in float32."""
    return [float(len(text)), float(sum(text.encode())), float(sum(text.encode()[::2]))]


def vectors(body: dict[str, Any]) -> dict[str, Any]:
    """The body of an answer to an embeddings request."""
    texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(text, body.get("encoding_format", "float"))}
        for index, text in enumerate(texts)
    ]
    return {"object": "list", "data": data, "model": "a-model", "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def _encoded(text: str, form: str) -> list[float] | str:
    numbers = numbers_of(text)
    return base64.b64encode(struct.pack("<3f", *numbers)).decode() if form == "base64" else numbers


def hang(exchange: Exchange) -> None:
    """Say nothing until the client goes."""
    while not exchange.is_over(wait_s=0.05):
        pass
    exchange.hang_up()


def trickle(content: bytes) -> Answer:
    """Send the content a byte at a time, slowly: for ever, as far as any test is concerned."""

    def answer(exchange: Exchange) -> None:
        for at in range(len(content)):
            exchange.raw(content[at : at + 1])
            if exchange.is_over(wait_s=0.05):
                break
        exchange.hang_up()

    return answer


def trickle_body(exchange: Exchange) -> None:
    """Send the head of an answer at once, and its body a byte at a time."""
    exchange.head(headers={"content-type": "application/json", "content-length": "10000"})
    trickle(b" " * 10_000)(exchange)


trickle_head = trickle(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-filler: " + b"x" * 10_000)


def refuse(status: int, *, headers: dict[str, str] | None = None) -> Answer:
    """Answer with an error of the API."""
    return lambda exchange: exchange.json({"error": {"message": "refused"}}, status=status, headers=headers)


def redirect(location: str, status: int = 307) -> Answer:
    """Send the client elsewhere."""
    return lambda exchange: exchange.json({}, status=status, headers={"location": location})


def zipped(exchange: Exchange) -> None:
    """Answer as `speak` does to a chat, compressed."""
    content = gzip.compress(json.dumps(chat(exchange.seen.body["messages"][-1]["content"])).encode())
    exchange.send(content, headers={"content-type": "application/json", "content-encoding": "gzip"})


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, and so on; the last one to all that follow."""
    left = iter(answers)
    lock = threading.Lock()

    def answer(exchange: Exchange) -> None:
        with lock:
            one = next(left, answers[-1])
        one(exchange)

    return answer


# A server in a process of its own.


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that answers as `speak` does, in another process."""

    process: subprocess.Popen[str]
    url: str

    def seen(self) -> list[Seen]:
        """What it received so far."""
        with urllib.request.urlopen(f"{self.url}{SEEN_PATH}", timeout=PATIENCE_S) as answer:
            return [Seen(**(one | {"content": one["content"].encode()})) for one in json.load(answer)]

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def server_process() -> Iterator[ServerProcess]:
    """Start one, and end it after the block."""
    with subprocess.Popen([sys.executable, Path(__file__)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        served = ServerProcess(process, process.stdout.readline().strip())
        try:
            yield served
        finally:
            served.kill()


def _plain(seen: Seen) -> dict[str, Any]:
    return {"method": seen.method, "target": seen.target, "headers": seen.headers, "content": seen.content.decode()}


if __name__ == "__main__":
    print(Server().url, flush=True)
    signal.pause()
