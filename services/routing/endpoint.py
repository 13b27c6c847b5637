"""One server and how to speak to it. Knows addresses and credentials; knows nothing of HTTP or time."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from ..secrets import Secret


class Dialect(StrEnum):
    """How a server wants its requests."""

    OPENAI = "openai"
    AZURE = "azure"


@runtime_checkable
class TokenSource(Protocol):
    """A credential that expires: asked before each request, and once more after a 401."""

    def token(self, *, refused: Secret | None = None) -> Secret:
        """A token that is valid now; `refused` is one that the server has just turned down. May block."""


Credential = Secret | TokenSource | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server that may answer for one function.

    Attributes:
        function: `completion` or `embedding`.
        name: unique in its function.
        base_url: with the API path, without a slash at its end, as in `http://localhost:8000/v1`.
        credential: a key, a source of tokens, or None for no Authorization at all.
        headers: names and values that go to this server with every request.
        deadline_s: for one request, from its start to the last byte of a plain answer or the first of a stream.
        deployment: Azure's name for the model; None takes the request's `model`.
    """

    function: str
    name: str
    base_url: str
    dialect: Dialect = Dialect.OPENAI
    credential: Credential = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    deadline_s: float = 120.0
    api_version: str | None = None
    deployment: str | None = None

    @property
    def server(self) -> str:
        """Scheme, host and port: what may be shown, and what a key is bound to."""
        return server_of(self.base_url)


def server_of(url: str) -> str:
    """Scheme, host and port of a URL, in lower case, with the port written out; no user, path or query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"
