"""What goes into and comes out of a bulk run. Knows values; knows no clients, files or threads."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


def key_of(text: str) -> bytes:
    """What a text is known by, wherever it stands: 32 bytes. Raises UnicodeEncodeError where it is no text."""
    return sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What one request brought.

    Attributes:
        vectors: float32, (texts, dimensions), in the order of the request's texts.
        tokens: as the server counted them; 0 where it did not say.
        endpoint: the name of the endpoint that answered; empty where nobody knows.
        price: of a million of these tokens, or None where nobody said.
    """

    vectors: Matrix
    tokens: int = 0
    endpoint: str = ""
    price: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A text that has no vector: its position among the texts, 0 for the first, and the reason in words."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Vectors of texts that follow each other.

    Attributes:
        start: the position of the first of these texts.
        vectors: float32, (texts, dimensions); the row of a refused text is all NaN.
        refused: of these texts, in order.
    """

    start: int
    vectors: Matrix
    refused: tuple[Refused, ...] = ()


@dataclass(slots=True, kw_only=True)
class EndpointUse:
    """What one endpoint did in a run. `cost` is None where no price is set."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    cost: float | None = None


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run did so far.

    Attributes:
        texts: handed on, refused ones included: embedded + cached + repeated + refused.
        embedded: sent to a server and answered in this run.
        cached: found in the cache.
        repeated: the same as another text of this run, and embedded with it.
        refused: without a vector.
        tokens: as the servers counted them.
        seconds: since the run began.
        endpoints: by name, those that answered.
    """

    texts: int = 0
    embedded: int = 0
    cached: int = 0
    repeated: int = 0
    refused: int = 0
    tokens: int = 0
    seconds: float = 0.0
    endpoints: dict[str, EndpointUse] = field(default_factory=dict)

    @property
    def cost(self) -> float | None:
        """Of all endpoints that have a price, in the currency of their prices; None where none has."""
        costs = [use.cost for use in self.endpoints.values() if use.cost is not None]
        return sum(costs) if costs else None

    def count(self, answer: Answer) -> None:
        """Add what one request brought."""
        use = self.endpoints.setdefault(answer.endpoint, EndpointUse())
        use.requests += 1
        use.texts += len(answer.vectors)
        use.tokens += answer.tokens
        if answer.price is not None:
            use.cost = (use.cost or 0.0) + answer.tokens * answer.price / 1e6
        self.tokens += answer.tokens
        self.embedded += len(answer.vectors)
