"""How like a text is to the examples of routes: directions of vectors, and those of texts that came before.

Knows vectors; knows neither what makes them nor how long that takes. numpy is imported by whoever has a vector.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from ..routing.facts import SAMPLE_CHARS
from ..routing.route import Route

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

MOST_TEXTS: Final = 1000  #: of 1,536 numbers each: 6 MB


class Unusable(ValueError):  # noqa: N818  # never leaves this room
    """What came is no vectors of the texts; says what it is, to follow a noun."""


def directions(reply: object, count: int) -> Matrix:
    """The vectors of a reply at length 1: float32, (count, dimensions).

    Raises:
        Unusable: there are not so many, or one is not finite or all zeros.
    """
    import numpy as np

    try:
        given = np.asarray(reply, dtype=np.float64)
    except Exception as error:  # whatever a foreign object raises that is asked for its numbers
        raise Unusable("is no matrix of numbers") from error
    if given.ndim != 2 or len(given) != count or not given.shape[1]:
        raise Unusable(f"is of the shape {given.shape} for {count} texts")
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(given, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise Unusable("has something in it that is no finite number")
    if not lengths.all():
        raise Unusable("is all zeros")
    unit: Matrix = (given / lengths).astype(np.float32)
    return unit


class Layout:
    """Which examples are whose.

    Args:
        routes: with examples, by their names.

    Attributes:
        texts: of all of them, each once, cut as a request's is.
    """

    def __init__(self, routes: Mapping[str, Route]) -> None:
        examples = {name: [text[:SAMPLE_CHARS] for text in route.examples] for name, route in routes.items()}
        self.texts = list(dict.fromkeys(text for texts in examples.values() for text in texts))
        places = {text: place for place, text in enumerate(self.texts)}
        #: by the names of routes: rows of the examples, and how many of them count
        self.rows = {name: ([places[text] for text in texts], routes[name].top_k) for name, texts in examples.items()}


class Examples:
    """The directions of all examples: (len(layout.texts), dimensions)."""

    def __init__(self, layout: Layout, matrix: Matrix) -> None:
        self._layout, self._matrix = layout, matrix

    @property
    def dimensions(self) -> int:
        """Of a vector."""
        return int(self._matrix.shape[1])

    def scores(self, direction: Matrix) -> dict[str, float]:
        """By the names of routes the mean of the cosines of the nearest examples, in [-1, 1].

        Args:
            direction: of a text: (dimensions,), of length 1.
        """
        cosines = (self._matrix @ direction).clip(-1.0, 1.0)
        return {name: _mean_of_largest(cosines[rows], top_k) for name, (rows, top_k) in self._layout.rows.items()}


def _mean_of_largest(cosines: Matrix, count: int) -> float:
    if count < len(cosines):
        cosines.partition(len(cosines) - count)
        cosines = cosines[-count:]
    return float(cosines.mean())


class Remembered:
    """The directions of the texts that came last, by their hashes: no text is kept. For many threads."""

    def __init__(self, most: int = MOST_TEXTS) -> None:
        self._most = most
        self._known: OrderedDict[bytes, Matrix] = OrderedDict()
        self._lock = threading.Lock()

    def renew_after_fork(self) -> None:
        """In a child: a lock of its own."""
        self._lock = threading.Lock()

    def get(self, text: str) -> Matrix | None:
        """Its direction, where it is known: (dimensions,)."""
        key = _key(text)
        with self._lock:
            if (direction := self._known.get(key)) is not None:
                self._known.move_to_end(key)
            return direction

    def put(self, text: str, direction: Matrix) -> None:
        """Remember it, in the place of the one that was not asked for the longest."""
        key = _key(text)
        with self._lock:
            self._known[key] = direction
            self._known.move_to_end(key)
            if len(self._known) > self._most:
                self._known.popitem(last=False)

    def forget(self) -> None:
        """All of them."""
        with self._lock:
            self._known.clear()


def _key(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
