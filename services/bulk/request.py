"""One request of a bulk run, and the texts in it. Knows what they have met until now; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]
    Matrix = NDArray[np.float32]


class Text:
    """One distinct text, wherever it stands: waiting, or with a vector, or with the reason why it has none.

    Attributes:
        place: the position of the first that is the same.
        tokens: that it has at most.
        uses: positions that are held and have this text.
        is_cached: its vector is the cache's.
        is_counted: one of its positions was handed on.
    """

    __slots__ = ("is_cached", "is_counted", "key", "place", "reason", "text", "tokens", "uses", "vector")

    def __init__(self, text: str, key: bytes, *, place: int, tokens: int) -> None:
        self.text, self.key, self.place, self.tokens = text, key, place, tokens
        self.vector: Vector | None = None
        self.reason: str | None = None
        self.is_cached = self.is_counted = False
        self.uses = 0

    @property
    def is_open(self) -> bool:
        """Whether nothing is known of it yet."""
        return self.vector is None and self.reason is None


class Seen(NamedTuple):
    """What a run had met at some moment: answers, and by their first tries the requests that were served or failed."""

    answers: int
    first_served: int
    first_failed: int

    def but_for_its_own(self) -> Seen:
        """The same for a request whose own first try has failed since: it says nothing of the others."""
        return self._replace(first_failed=self.first_failed + 1)


class Request:
    """Texts that are sent together.

    Attributes:
        tokens: that they have at most.
        era: of the pace, when it was sent.
        busy: answers that the servers are busy.
        failures: results that were neither that nor a vector.
        seen: what the whole run had met when this first failed, or was cut off another; None before.
    """

    __slots__ = ("_texts", "busy", "era", "failures", "seen", "tokens")

    def __init__(self, texts: Sequence[Text]) -> None:
        self._texts = texts
        self.tokens = sum(text.tokens for text in texts)
        self.era = self.busy = self.failures = 0
        self.seen: Seen | None = None

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def texts(self) -> list[str]:
        """As they are sent: distinct."""
        return [text.text for text in self._texts]

    @property
    def keys(self) -> list[bytes]:
        """By which a cache knows them, in the same order."""
        return [text.key for text in self._texts]

    @property
    def place(self) -> int:
        """The position of its first text."""
        return self._texts[0].place

    def halves(self) -> tuple[Request, Request]:
        """Two requests in its stead."""
        middle = len(self._texts) // 2
        return Request(self._texts[:middle]), Request(self._texts[middle:])

    def settle(self, vectors: Matrix) -> None:
        """Each text has its vector; what it read is needed no more."""
        for text, vector in zip(self._texts, vectors, strict=True):
            text.vector, text.text = vector, ""

    def refuse(self, reason: str) -> None:
        """None of its texts will have a vector."""
        for text in self._texts:
            text.reason, text.text = reason, ""
