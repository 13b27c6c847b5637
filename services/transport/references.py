"""What the canary's vector is in a pool, for each kind of request. Knows vectors; knows no endpoints and no HTTP."""

from __future__ import annotations

import threading
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import InvalidReply
from ..routing.canary import MAX_KINDS
from ..space import SAME_COSINE, cosine, is_unit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]


class WrongSpace(InvalidReply):
    """The canary's vector is not that of the pool: another model's, under whatever name."""


class References:
    """The first answer for each kind of request, which the others are compared with."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Vector, str, bytes]] = {}
        self._lock = threading.Lock()

    def knows(self, kind: str) -> bool:
        """Whether a vector of that kind has come."""
        return kind in self._known

    def anchor(self) -> str | None:
        """The first kind of all; None before."""
        return next(iter(self._known), None)

    def request_of(self, kind: str) -> bytes:
        """The body of the canary of a kind that is known."""
        return self._known[kind][2]

    def renew_after_fork(self) -> None:
        """In a child: a lock of its own."""
        self._lock = threading.Lock()

    def check(self, kind: str, vector: Vector, name: str, request: bytes = b"") -> None:
        """Take the first vector of a kind, and what it was asked with; compare the others.

        Raises:
            WrongSpace: it points elsewhere, or it is of length 1 where the first is not, or the other way round.
        """
        with self._lock:
            while len(self._known) >= MAX_KINDS and kind not in self._known:
                del self._known[next(islice(self._known, 1, None))]  # never the anchor
            reference, of, _ = self._known.setdefault(kind, (vector.copy(), name, request))
        if len(vector) != len(reference):
            raise WrongSpace(f"its vectors have {len(vector)} dimensions, those of {of} {len(reference)}")
        alike = cosine(reference, vector)
        if alike < SAME_COSINE:
            message = f"its vectors are of another space than those of {of}: the canary's cosine is {alike:.3f}"
            raise WrongSpace(f"{message}, and one model gives at least {SAME_COSINE}")
        if is_unit(vector) != is_unit(reference):
            raise WrongSpace(f"its vectors are scaled otherwise than those of {of}: only one of them gives length 1")
