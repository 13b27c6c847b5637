"""The identity of an embedding: vectors of two spaces never mix, not even at equal length.

A space is known by what is declared (name, dimensions, normalisation, revision) and by what its model makes of one
text, the canary: of a model that answers under another's name everything declared is the same, and that is not.
Knows vectors; knows no clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import shake_256
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

#: embedded by each endpoint before its first use. Plain words, so that no server takes it for a command or an attack;
#: changing it would make every stamped index look foreign
CANARY: Final = "A canary sings in the coal mine: seven grey wagons, and a river that runs to the sea."

SAME_COSINE: Final = 0.98  #: one model at two precisions stays above 0.999; two models are seldom above 0.8
UNIT_TOLERANCE: Final = 0.01  #: how far from 1 the length of a vector may be that is called normalised
SKETCH_BITS: Final = 128  #: the share of bits in which two sketches differ is the angle between their vectors
SKETCH_TOLERANCE: Final = 16  #: bits; at a cosine of 0.98 there are 8, of two unrelated models 64 with a deviation of 6

_VERSION: Final = "space1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What vectors are of.

    Attributes:
        name: as the settings have it: `space`, or else the model.
        dimensions: of a vector.
        is_normalised: every vector has length 1, so that a dot product is a cosine.
        revision: which of several versions of the model, where somebody said.
        sketch: of the canary's vector: 128 signs of projections, as a number.
    """

    name: str
    dimensions: int
    is_normalised: bool
    revision: str | None
    sketch: int

    @classmethod
    def of(cls, vector: Vector, *, name: str, revision: str | None = None) -> Space:
        """The space of a canary's vector: (dimensions,), finite, not all zero."""
        return cls(
            name=name,
            dimensions=len(vector),
            is_normalised=is_unit(vector),
            revision=revision,
            sketch=_sketch(vector),
        )

    @classmethod
    def parse(cls, fingerprint: str) -> Space:
        """The space that a fingerprint stands for. Raises ValueError where it is none."""
        parts = fingerprint.split("/") if isinstance(fingerprint, str) else []
        if len(parts) != 6 or parts[0] != _VERSION or parts[3] not in ("unit", "raw"):
            raise ValueError(f"{fingerprint!r} is no fingerprint of an embedding space")
        return cls(
            name=unquote(parts[1]),
            dimensions=int(parts[2]),
            is_normalised=parts[3] == "unit",
            revision=unquote(parts[4]) or None,
            sketch=int(parts[5], 16),
        )

    @property
    def identity(self) -> str:
        """What is declared of it, in one line of ASCII without blanks."""
        scale = "unit" if self.is_normalised else "raw"
        return "/".join(
            [_VERSION, quote(self.name, safe=""), str(self.dimensions), scale, quote(self.revision or "", "")]
        )

    @property
    def fingerprint(self) -> str:
        """All of it, to be stamped on what is kept. Compare two with `difference`: the sketch's last bits may vary."""
        return f"{self.identity}/{self.sketch:0{SKETCH_BITS // 4}x}"

    def difference(self, other: Space) -> str | None:
        """Why vectors of the other do not belong beside this one's; None where they do."""
        if self.name != other.name:
            return f"{other.name} is not {self.name}"
        if self.dimensions != other.dimensions:
            return f"{other.dimensions} dimensions are not {self.dimensions}"
        if self.is_normalised != other.is_normalised:
            return f"the vectors of one are of length 1, those of the other are not, under the same name {self.name}"
        if self.revision != other.revision:
            return f"revision {other.revision or 'unknown'} is not {self.revision or 'unknown'}"
        if (self.sketch ^ other.sketch).bit_count() > SKETCH_TOLERANCE:
            return f"another model answers under the same name {self.name}: it embeds one text differently"
        return None

    def __str__(self) -> str:
        revision = f", revision {self.revision}" if self.revision else ""
        return f"{self.name} ({self.dimensions} dimensions{revision})"


def cosine(one: Vector, other: Vector) -> float:
    """Of the angle between two vectors of equal length, in [-1, 1]."""
    import numpy as np

    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def is_unit(vector: Vector) -> bool:
    """Whether its length is 1."""
    import numpy as np

    return abs(float(np.linalg.norm(vector.astype(np.float64))) - 1.0) <= UNIT_TOLERANCE


def _sketch(vector: Vector) -> int:
    """Signs of the vector's projections onto random directions, the same on every machine.

    Source: M. Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002.
    """
    import numpy as np

    directions = np.frombuffer(shake_256(b"llmwire space").digest(SKETCH_BITS * len(vector) // 8 + 1), dtype=np.uint8)
    signs: Any = np.unpackbits(directions)[: SKETCH_BITS * len(vector)].reshape(len(vector), SKETCH_BITS)
    projections = vector.astype(np.float64) @ (signs * 2.0 - 1.0)
    return _number(projections > 0)


def _number(bits: Sequence[bool]) -> int:
    return int("".join("1" if bit else "0" for bit in bits), 2)
