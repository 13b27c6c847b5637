"""The texts and their vectors: text number k has vector k % CYCLE, so that a vector in a wrong place is noticed."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DIMENSIONS = 1536
BATCH = 1000  #: texts of a request, for everybody
CYCLE = 1500  #: no multiple of BATCH: a batch has not the vectors of the one before
CELLS = 100  #: so many are summed up, all over the matrix


def texts(count: int) -> list[str]:
    """So many, each as long as a title or a question."""
    return [f"{number}: how long does it take until all of these have a vector?" for number in range(count)]


def number_of(text: str) -> int:
    """Of one of these texts."""
    return int(text.partition(":")[0])


@cache
def vectors() -> NDArray[np.float32]:
    """float32, (CYCLE, DIMENSIONS), each of length 1, the same in every process."""
    import numpy as np

    drawn = np.random.default_rng(1).standard_normal((CYCLE, DIMENSIONS), dtype=np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


def checksum(rows: Any, count: int) -> float:
    """The sum of some cells of a matrix, or of a list of lists: without error, so that it equals another's exactly."""
    places = [(number * (count - 1) // (CELLS - 1), number * 769 % DIMENSIONS) for number in range(CELLS)]
    return math.fsum(float(rows[row][column]) for row, column in places)


def expected(count: int) -> float:
    """The checksum of the right vectors of so many texts."""

    class Right:
        def __getitem__(self, row: int) -> NDArray[np.float32]:
            vector: NDArray[np.float32] = vectors()[row % CYCLE]
            return vector

    return checksum(Right(), count)
