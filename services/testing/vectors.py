"""Vectors that are float32-exact: the same numbers as a list, as JSON and as base64. Knows nothing of meaning."""

from __future__ import annotations

import base64
import hashlib
import math
import sys
from array import array
from collections.abc import Iterable

_BYTES_PER_NUMBER = 8  #: 64 random bits: two texts share a direction by chance as good as never


def unit(values: Iterable[float]) -> list[float]:
    """The direction of a vector that is not zero: length 1, every number exact in float32."""
    numbers = list(values)
    length = math.sqrt(math.fsum(number * number for number in numbers))
    return list(array("f", (number / length for number in numbers)))


def distinct(content: bytes, dimensions: int) -> list[float]:
    """A direction that depends on the content alone: the same in any process, another for any other content.

    With one dimension there are only two directions, 1 and -1.
    """
    digest = hashlib.shake_256(content).digest(_BYTES_PER_NUMBER * dimensions)
    starts = range(0, len(digest), _BYTES_PER_NUMBER)
    # The half keeps every number, and so the length, from being zero.
    return unit(int.from_bytes(digest[at : at + _BYTES_PER_NUMBER], "little", signed=True) + 0.5 for at in starts)


def to_base64(vector: Iterable[float]) -> str:
    """Little-endian float32, as OpenAI sends it for `encoding_format="base64"`."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")
