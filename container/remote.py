"""The report of another process, over HTTP. Knows URLs and JSON; shows nothing."""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage
from typing import IO, Any, Final, Self
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit

from llmwire.services.errors import ConfigError
from llmwire.services.monitoring.report import Report

from .rows import rows_of

TIMEOUT_S: Final = 5.0  #: of the whole answer: it is a few ms of work and some ten kilobytes
MOST_BYTES: Final = 32_000_000  #: 200 series of 1, 5, 15 minutes and the whole are below 1 MB
_PIECE_BYTES: Final = 65_536
_EXPECTED: Final = "Serve there, as JSON: container.report().as_dict()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a process tells its report.

    Attributes:
        url: without a user and a password, to be shown.
        authorization: of a URL that has them: the header that carries them.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of a URL. Raises ConfigError where it is none of http or https."""
        remedy = "Write it as in http://localhost:8000/api/figures."
        try:
            parts = urlsplit(text)
            is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_usable = False
        if not is_usable or not text.isprintable() or " " in text:
            raise ConfigError("is no URL of http or https", key=_without_user(text), remedy=remedy)
        address = parts.netloc.rpartition("@")[2]
        url = urlunsplit((parts.scheme, address, parts.path or "/", parts.query, ""))
        if parts.username is None:
            return cls(url=url)
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(url=url, authorization=f"Basic {base64.b64encode(user.encode()).decode()}")

    def fetch(self) -> Report:
        """What it tells now. Raises ConfigError where it does not answer, or answers something else."""
        written = self._read()
        try:
            told = json.loads(written)
        except (ValueError, RecursionError):
            raise ConfigError("answers something that is no JSON", key=self.url, remedy=f"{_EXPECTED}.") from None
        try:
            report = Report.from_dict(told)
            rows_of(Report.merged([report, report]))  # what cannot be added up and shown is no report
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            raise ConfigError("answers JSON that is no report", key=self.url, remedy=f"{_EXPECTED}.") from None
        return report

    def _read(self) -> bytes:
        headers = {"Accept": "application/json", "User-Agent": "llmwire-top"}
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        request = urllib.request.Request(self.url, headers=headers)  # noqa: S310  # http or https: see parse()
        until_s = time.monotonic() + TIMEOUT_S
        try:
            with _opener.open(request, timeout=TIMEOUT_S) as answer:
                return self._body(answer, until_s)
        except HTTPError as error:
            with error:
                raise self._refused(error) from None
        except (OSError, HTTPException) as error:
            problem = f"does not answer: {_reason(error)}"
            remedy = "Start the program that serves it, or correct the URL."
            raise ConfigError(problem, key=self.url, remedy=remedy) from None

    def _body(self, answer: Any, until_s: float) -> bytes:
        read = bytearray()
        while piece := answer.read1(_PIECE_BYTES):
            read += piece
            if len(read) > MOST_BYTES:
                raise ConfigError(f"answers more than {MOST_BYTES:,} bytes", key=self.url, remedy=f"{_EXPECTED}.")
            if time.monotonic() > until_s:
                raise TimeoutError
        return bytes(read)

    def _refused(self, error: HTTPError) -> ConfigError:
        if error.code in (301, 302, 303, 307, 308):
            elsewhere = _without_user(str(error.headers.get("location", "")))
            return ConfigError(f"sends on to {elsewhere}", key=self.url, remedy="Name the URL where that ends.")
        remedy = f"Correct the URL. {_EXPECTED}."
        if error.code in (401, 403):
            remedy = "Write user and password as in http://user:password@localhost:8000/api/figures."
        return ConfigError(f"answers {error.code} {error.reason}".rstrip(), key=self.url, remedy=remedy)


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follows to other paths of the same server only: what a URL carries is for that one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        former, new = urlsplit(req.full_url), urlsplit(newurl)
        if (former.scheme, former.netloc) != (new.scheme, new.netloc):
            return None  # and the answer becomes an HTTPError
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener: Final = urllib.request.build_opener(_SameServer)


def _reason(error: BaseException) -> str:
    inner = error.reason if isinstance(error, URLError) else error
    if isinstance(inner, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__


def _without_user(url: str) -> str:
    """For a message: a password is nobody's business."""
    start, divider, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return f"{start}{divider}{place.rpartition('@')[2]}{slash}{path}"
