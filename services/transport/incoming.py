"""One answer, as its bytes come: its head, then the parts of its body, then its end. Pure: knows HTTP/1.1, no sockets.

The parser is llhttp, through httptools: it is strict, and a tenth of the work of one in Python.
"""

from __future__ import annotations

from typing import Any, Final

import httpcore2
import httptools

from .written import Headers

MAX_HEAD_BYTES: Final = 100 * 1024  #: far above any answer's; a server must not fill the memory with headers
LOWEST_STATUS: Final = 100  #: below it there are none, and 0 would pass for no answer yet


class Incoming:
    """The answer to one request.

    Attributes:
        status: 0 until the head is there.
        is_complete: its body is at its end.
        may_be_kept: the connection may be used for another request.
        size_bytes: of the parts that were not taken yet.
    """

    __slots__ = (
        "_head_bytes",
        "_is_for_head",
        "_is_informational",
        "_parser",
        "_parts",
        "_until_close",
        "headers",
        "is_complete",
        "may_be_kept",
        "reason",
        "size_bytes",
        "status",
        "version",
    )

    def __init__(self, method: str) -> None:
        self._parser: Any = httptools.HttpResponseParser(self)
        self._is_for_head = method == "HEAD"
        self._is_informational = self._until_close = False
        self._head_bytes = self.size_bytes = self.status = 0
        self._parts: list[bytes] = []
        self.headers: Headers = []
        self.reason = self.version = b""
        self.is_complete = self.may_be_kept = False

    @property
    def has_head(self) -> bool:
        """Whether status and headers are there."""
        return self.status != 0

    def feed(self, data: bytes) -> None:
        """Take what came. Raises httpcore2.RemoteProtocolError where it is no HTTP."""
        if self.is_complete:
            raise httpcore2.RemoteProtocolError("bytes came after the end of the answer")
        size_bytes = self.size_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:  # ours, or a Ctrl-C that came while one of them ran
            raise error.__context__ or error from None
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.is_complete:  # and what follows it is none of our business
                self.may_be_kept = False
                return
            raise httpcore2.RemoteProtocolError(f"the answer is no HTTP ({type(error).__name__})") from None
        if self.is_complete:
            self._parser = None  # it holds us as we hold it: a circle for each call would wait for the collector
            return
        # A head, or what stands around chunks: their extensions and trailers.
        self._head_bytes = self._head_bytes + len(data) if self.size_bytes == size_bytes else 0
        if self._head_bytes > MAX_HEAD_BYTES:
            raise httpcore2.RemoteProtocolError("the head of the answer is too large")

    def end(self) -> None:
        """Take that nothing more comes. Raises httpcore2.RemoteProtocolError where the answer is not complete."""
        self.may_be_kept = False
        if self.is_complete:
            return
        if not self.status:
            raise httpcore2.RemoteProtocolError("the server closed the connection without an answer")
        if not self._until_close:
            raise httpcore2.RemoteProtocolError("the answer broke off")
        self.is_complete = True

    def take(self) -> bytes:
        """The body as far as it came and was not taken yet."""
        parts = self._parts
        if not parts:
            return b""
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts = []
        self.size_bytes = 0
        return taken

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.is_complete:
            self.may_be_kept = False  # a second answer, to nothing that was asked

    def on_status(self, status: bytes) -> None:
        if not self.is_complete:
            self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.is_complete and not self.status:  # after it: trailers
            self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < LOWEST_STATUS:
            raise httpcore2.RemoteProtocolError("the answer is no HTTP (a status below 100)")
        self._is_informational = 100 <= status < 200 and status != 101
        if self._is_informational or self.is_complete:
            return
        self.status = status
        self.version = b"HTTP/" + self._parser.get_http_version().encode("ascii")
        self._until_close = not any(name.lower() in _FRAMED for name, _ in self.headers)
        if self._is_for_head:
            self._complete()

    def on_body(self, body: bytes) -> None:
        if self.is_complete:
            self.may_be_kept = False  # a body where there is to be none
        else:
            self._parts.append(body)
            self.size_bytes += len(body)

    def on_message_complete(self) -> None:
        if self._is_informational:
            self.headers, self.reason = [], b""
        elif not self.is_complete:
            self._complete()

    def _complete(self) -> None:
        self.is_complete = True
        self.may_be_kept = bool(self._parser.should_keep_alive())


_FRAMED: Final = frozenset({b"content-length", b"transfer-encoding"})
