"""One server and how to speak to it. Knows addresses, credentials and limits; knows nothing of HTTP or clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, TypeGuard, runtime_checkable
from urllib.parse import urlsplit

from ..secrets import Secret
from ..usage import Usage


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


def expires(credential: Credential) -> TypeGuard[TokenSource]:
    """Whether it is a source of tokens. To ask whether it has a source's methods would be slow."""
    return credential is not None and not isinstance(credential, Secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a million tokens cost, in a currency of the operator's choice, the same for all endpoints.

    Attributes:
        cached: of the input that came from the server's cache of prompts; None: as the rest of it.
    """

    input: float
    output: float
    cached: float | None = None

    @property
    def blended(self) -> float:
        """One figure to compare by: three input tokens for each output token, the usual mix of a chat."""
        return (3 * self.input + self.output) / 4

    def cost(self, usage: Usage) -> float | None:
        """What an answer cost; None where its tokens are not known on a side that costs something."""
        taken, given = usage.input, usage.output
        if (taken is None and (self.input or self.cached)) or (given is None and self.output):
            return None
        taken, given = taken or 0, given or 0
        cached = min(usage.cached or 0, taken)
        of_cached = self.input if self.cached is None else self.cached
        return ((taken - cached) * self.input + cached * of_cached + given * self.output) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long one attempt may wait, in seconds; each is cut to what remains of the call's deadline."""

    connect_s: float = 2.0  #: a server on the way answers a handshake in less; a dead one is told soon
    first_byte_s: float = 60.0  #: until the answer's head, and of a stream until its first content
    chunk_s: float = 30.0  #: between two pieces of a body; a model that thinks sends pieces or comments meanwhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a server can take, as far as somebody said. What is not said is not known, and no reason against it.

    Attributes:
        context_length: tokens of a request and its answer together; of embeddings of one text.
        modalities: what may be attached beside text: `image`, `audio`, `file`.
        tools: whether it can call tools.
        structured_output: whether it can be held to JSON, or to a schema.
    """

    context_length: int | None = None
    modalities: frozenset[str] | None = None
    tools: bool | None = None
    structured_output: bool | None = None


UNSAID: Final = Abilities()
DEFAULT_POOL: Final = "default"  #: the name of the pool for what no route matches


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A server that may answer for one function.

    Attributes:
        function: `completion` or `embedding`.
        name: unique in its function.
        base_url: with the API path, without a slash at its end, as in `http://localhost:8000/v1`.
        credential: a key, a source of tokens, or None for no Authorization at all.
        headers: names and values that go to this server with every request.
        deployment: Azure's name for the model; None takes the request's `model`.
        model: asked for in place of the request's `model`; None passes that through.
        weight: its share of the load beside others of its tier, above 0.
        tier: endpoints of the lowest tier that can answer are asked; higher ones stand by.
        tags: words that rules may choose by.
        price: None where nobody said.
        pools: names of the pools that it serves.
        trust: a label of where it is and whose, as in `local`, `eu`, `vendor`; None where nobody said.
        abilities: what it can take.
        stream_usage: streams are asked for their usage, which a server tells in an event of its own.
        server: scheme, host and port: what may be shown, and what a key is bound to.
    """

    function: str
    name: str
    base_url: str
    dialect: Dialect = Dialect.OPENAI
    credential: Credential = field(default=None, repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    api_version: str | None = None
    deployment: str | None = None
    model: str | None = None
    weight: float = 1.0
    tier: int = 0
    tags: tuple[str, ...] = ()
    price: Price | None = None
    pools: tuple[str, ...] = (DEFAULT_POOL,)
    trust: str | None = None
    abilities: Abilities = UNSAID
    stream_usage: bool = True
    timeouts: Timeouts = Timeouts()

    server: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "server", server_of(self.base_url))  # once: it is looked at in every call


def server_of(url: str) -> str:
    """Scheme, host and port of a URL, in lower case, with the port written out; no user, path or query."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"
