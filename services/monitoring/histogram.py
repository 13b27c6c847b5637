"""How times are spread, in few numbers that can be added: nothing is kept of any single one.

Pure: knows times in seconds, and no clock.
Source: the base-2 exponential histogram of OpenTelemetry's metrics data model, at scale 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Self

PER_DOUBLING: Final = 8  #: buckets from a time to twice that: a quantile is at most 4.5 % off
LOWEST: Final = -20 * PER_DOUBLING  #: a microsecond, and all that is less
HIGHEST: Final = 12 * PER_DOUBLING  #: an hour, and all that is more: so the memory of one has an end


class Histogram:
    """Counts of times in buckets, each 1.09 times as wide as the one below.

    Attributes:
        count: of all times.
        sum_s: of them, in seconds.
        buckets: counts by the number of the bucket: number `i` has times above `2 ** ((i - 1) / 8)` seconds, up to
            `2 ** (i / 8)`.
    """

    __slots__ = ("buckets", "count", "sum_s")

    def __init__(self, count: int = 0, sum_s: float = 0.0, buckets: Mapping[int, int] | None = None) -> None:
        self.count, self.sum_s = count, sum_s
        self.buckets: dict[int, int] = dict(buckets or {})

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.count += 1
        self.sum_s += seconds
        number = bucket_of(seconds)
        self.buckets[number] = self.buckets.get(number, 0) + 1

    @property
    def mean_s(self) -> float | None:
        """None where nothing was counted."""
        return self.sum_s / self.count if self.count else None

    def quantile_s(self, share: float) -> float | None:
        """The time that so great a share of them did not exceed, within 4.5 %; None where nothing was counted.

        Args:
            share: from 0 to 1, as in 0.95.
        """
        if not self.count:
            return None
        wanted, seen = max(1, math.ceil(share * self.count)), 0
        for number in sorted(self.buckets):
            seen += self.buckets[number]
            if seen >= wanted:
                return float(2.0 ** ((number - 0.5) / PER_DOUBLING))
        raise AssertionError("a histogram counts as many as its buckets do")

    def up_to(self, bound_s: float) -> int:
        """How many times were at most so long. Exact for powers of two."""
        last = bucket_of(bound_s)
        return sum(count for number, count in self.buckets.items() if number <= last)

    def copy(self) -> Self:
        """One that changes no more with this one."""
        return type(self)(self.count, self.sum_s, self.buckets)

    def plus(self, other: Histogram) -> Self:
        """Of the times of both."""
        buckets = dict(self.buckets)
        for number, count in other.buckets.items():
            buckets[number] = buckets.get(number, 0) + count
        return type(self)(self.count + other.count, self.sum_s + other.sum_s, buckets)

    def minus(self, earlier: Histogram) -> Self:
        """Of what came since an earlier copy of it."""
        if earlier.count == self.count:
            return type(self)()
        before = earlier.buckets.get
        buckets = {number: since for number, count in self.buckets.items() if (since := count - before(number, 0))}
        return type(self)(self.count - earlier.count, max(self.sum_s - earlier.sum_s, 0.0), buckets)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "count": self.count,
            "sum_s": self.sum_s,
            "buckets": {str(number): count for number, count in sorted(self.buckets.items())},
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """From what `as_dict` gave."""
        buckets = {int(number): int(count) for number, count in written["buckets"].items()}
        return cls(int(written["count"]), float(written["sum_s"]), buckets)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return (self.count, self.buckets) == (other.count, other.buckets) and math.isclose(
            self.sum_s, other.sum_s, abs_tol=1e-9
        )

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, sum_s={self.sum_s:.6g})"


def bucket_of(seconds: float) -> int:
    """The number of the bucket that a time belongs to."""
    if seconds <= 0.0:
        return LOWEST
    return min(max(math.ceil(math.log2(seconds) * PER_DOUBLING), LOWEST), HIGHEST)
