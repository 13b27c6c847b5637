"""A connection on which faults happen. Knows sockets and steps; knows nothing of words, scripts or the API."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import chain
from typing import Any

from .api import ReceivedRequest
from .effects import Effect, Ending, Event, Head, Pause, Piece, Steps, Whole
from .listening import Connection, Listener
from .replies import Reply
from .tally import Tally

_RST = struct.pack("ii", 1, 0)  #: SO_LINGER: close at once, and throw away what is on its way
_GONE = getattr(select, "POLLRDHUP", select.POLLHUP)  #: Linux tells a FIN so, others by POLLHUP
_DRAIN_BYTES = 2**16  #: at a time

Drawn = Effect | Callable[[ReceivedRequest], Effect]  # a function, where it takes the whole request to tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Reply):
    """The right answer to a request that may meet a fault."""

    request: ReceivedRequest


class FaultyListener(Listener):
    """Accepts connections on which faults are played.

    Args:
        received: the answer to a request: an `Answer` meets the fault that was drawn, any other reply is sent as it is.
        draw: what happens to the next request, by its path.
    """

    request_queue_size = 4096  # hundreds of connections at once; the system's own limit may be lower

    def __init__(
        self,
        host: str,
        port: int,
        received: Callable[[ReceivedRequest], Reply],
        draw: Callable[[str], Drawn],
        tally: Tally,
    ) -> None:
        self.draw, self._tally = draw, tally
        super().__init__(host, port, received)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._tally.connection_opened()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._tally.connection_closed()


class _FaultyConnection(Connection):
    """Plays what a fault makes of each answer."""

    server: FaultyListener
    raw_requestline: bytes  # set by the library
    server_version = "llmwire-faultd"

    def parse_request(self) -> bool:
        """Called when the first line of a request is here, and nothing else of it is read."""
        line = self.raw_requestline.split()
        path = line[1].partition(b"?")[0].decode("latin-1") if len(line) > 1 else ""
        self._drawn = self.server.draw(path)
        if isinstance(self._drawn, Effect) and self._drawn.is_early:
            self.close_connection = True
            self._play(self._drawn.wire(iter(())), is_chunked=False)
            return False
        return super().parse_request()

    def _send(self, reply: Reply) -> None:
        if not isinstance(reply, Answer):
            super()._send(reply)
            return
        effect = self._drawn if isinstance(self._drawn, Effect) else self._drawn(reply.request)
        changed = effect.reply(Reply(status=reply.status, headers=reply.headers, content=reply.content))
        is_stream = not isinstance(changed.content, bytes)
        is_chunked = is_stream and self.request_version != "HTTP/1.0"
        if is_stream and not is_chunked:  # the end of the connection ends the stream
            self.close_connection = True
        self._play(effect.wire(self._steps(changed, is_chunked)), is_chunked=is_chunked)

    def _steps(self, reply: Reply, is_chunked: bool) -> Steps:
        body: Iterator[Piece] = iter(())
        if self.command != "HEAD":
            body = iter([Whole(reply.content)]) if isinstance(reply.content, bytes) else map(Event, reply.content)
        return chain([Head(self._head(reply, is_chunked))], body)

    def _head(self, reply: Reply, is_chunked: bool) -> bytes:
        headers = {"server": self.server_version, **reply.headers}
        if isinstance(reply.content, bytes):
            headers["content-length"] = str(len(reply.content))
        elif is_chunked:
            headers["transfer-encoding"] = "chunked"
        if self.close_connection:
            headers["connection"] = "close"
        phrase = next((known.phrase for known in HTTPStatus if known == reply.status), "")
        lines = [f"HTTP/1.1 {reply.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def _play(self, steps: Steps, *, is_chunked: bool) -> None:
        for step in steps:
            if isinstance(step, Ending):
                self._end(step)
                return
            if isinstance(step, Pause):
                if self._is_gone(step.for_s):
                    raise ConnectionAbortedError("the client has gone")
            elif is_chunked and isinstance(step, Event):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(step), step))
            else:
                self.wfile.write(step)
        if is_chunked and self.command != "HEAD":
            self.wfile.write(b"0\r\n\r\n")

    def _end(self, ending: Ending) -> None:
        self.close_connection = True
        if ending is Ending.HANG:
            self._is_gone(None)
        elif ending is Ending.RESET:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
            self.connection.close()  # before anyone says goodbye; the handler lets go of the last reference
        else:
            self.connection.shutdown(socket.SHUT_WR)
            # Closing over bytes that are not read would be a reset.
            while self.connection.recv(_DRAIN_BYTES):
                pass

    def _is_gone(self, wait_s: float | None) -> bool:
        """Whether the client leaves in that time, or the server stops; None waits for it."""
        poll = select.poll()
        poll.register(self.connection, _GONE)
        return bool(poll.poll(None if wait_s is None else wait_s * 1000))


FaultyListener.connection = _FaultyConnection
