"""Connections: accepted, read as HTTP, replied to, cut. Knows sockets and threads; knows nothing of the API."""

from __future__ import annotations

import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6, SHUT_RDWR, socket
from typing import Any

from .api import ReceivedRequest
from .failures import Failure, Refused, refuse
from .replies import Reply, failure_reply
from .standin import MARKS

MAX_BODY_BYTES = 32 * 2**20  #: far above any request in earnest: OpenAI's own limits end at some megabytes

_DRAINED_BYTES = 4 * MAX_BODY_BYTES  #: of a body that is too large: a client that is still sending sees no reply
_DRAIN_BYTES = 2**16  #: at a time
_GOODBYE_S = 5.0  #: how long `hang_up` waits for the threads of connections that it has cut


class Listener(ThreadingHTTPServer):
    """Accepts connections, gives each a thread, and knows those that are open.

    Raises:
        OSError: the port is taken, or the address is not of this machine.
    """

    daemon_threads = True
    connection: type[BaseHTTPRequestHandler]  #: what reads and replies; set below
    request_queue_size = 128  # the library's 5 turns a burst of callers away

    def __init__(self, host: str, port: int, received: Callable[[ReceivedRequest], Reply]) -> None:
        self.received = received
        self._open: set[socket] = set()
        self._changed = threading.Condition()
        if ":" in host:
            self.address_family = AF_INET6
        super().__init__((host, port), self.connection)

    def server_bind(self) -> None:
        # Past HTTPServer's own, which asks the resolver for this machine's name, and may wait for it.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news; anything else is a bug, and printed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """Cut the connections that are open, and wait until their threads have let go of them."""
        with self._changed:
            for connection in self._open:
                with suppress(OSError):  # the other side was faster
                    connection.shutdown(SHUT_RDWR)
            self._changed.wait_for(lambda: not self._open, timeout=_GOODBYE_S)


class Connection(BaseHTTPRequestHandler):
    """Reads requests and sends replies until either side has enough."""

    protocol_version = "HTTP/1.1"
    server_version = "llmwire-stand-in"
    sys_version = ""
    disable_nagle_algorithm = True
    server: Listener

    def _serve(self) -> None:
        try:
            self._send(self._reply())
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815  # the library looks for them

    def handle_expect_100(self) -> bool:
        """Ask for the body only if it may be sent."""
        try:
            self._size_bytes()
        except Refused as refused:
            self._refuse(refused.failure)
            return False
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library finds wrong with a request, in OpenAI's shape in place of its HTML."""
        self._refuse(Failure(status=code, message=message or explain or "This is not HTTP as this server speaks it."))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as the library has it
        """Print nothing: a stand-in lives in tests and beside other programs."""

    def _refuse(self, failure: Failure) -> None:
        self.close_connection = True  # nobody knows where the next request begins
        self._send(failure_reply(failure, MARKS))

    def _reply(self) -> Reply:
        try:
            content = self._content()
        except Refused as refused:
            self.close_connection = True
            return failure_reply(refused.failure, MARKS)
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = ReceivedRequest(method=self.command, path=path, query=query, headers=headers, content=content)
        return self.server.received(request)

    def _content(self) -> bytes:
        size = self._declared_bytes()
        if size > MAX_BODY_BYTES:
            self._drain(min(size, _DRAINED_BYTES))
        size = self._size_bytes()
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionAbortedError("the client left in the middle of its request")
        return content

    def _size_bytes(self) -> int:
        """The declared size of the body, which may be read."""
        size = self._declared_bytes()
        if size > MAX_BODY_BYTES:
            raise refuse(f"The body has {size} bytes; {MAX_BODY_BYTES} are allowed.", status=413)
        return size

    def _declared_bytes(self) -> int:
        if "transfer-encoding" in self.headers:
            raise refuse("Send the body whole, with a Content-Length.", status=411)
        declared = self.headers.get("content-length", "0")
        if not (declared.isascii() and declared.isdigit()):
            raise refuse("The Content-Length is no number.")
        return int(declared)

    def _drain(self, size: int) -> None:
        while size > 0 and (read := self.rfile.read(min(size, _DRAIN_BYTES))):
            size -= len(read)

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("x-llmwire-stand-in", "true")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if isinstance(reply.content, bytes):
            self._send_whole(reply.content)
        else:
            self._send_stream(reply.content)

    def _send_whole(self, content: bytes) -> None:
        self.send_header("content-length", str(len(content)))
        self._end_head()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_stream(self, frames: Iterator[bytes]) -> None:
        if self.request_version == "HTTP/1.0":  # knows no chunks: the end of the connection ends the stream
            self.close_connection = True
            self._end_head()
            for frame in frames:
                self.wfile.write(frame)
            return
        self.send_header("transfer-encoding", "chunked")
        self._end_head()
        for frame in frames:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        self.wfile.write(b"0\r\n\r\n")

    def _end_head(self) -> None:
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()


Listener.connection = Connection
