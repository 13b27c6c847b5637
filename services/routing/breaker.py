"""Whether an endpoint fails so often that it is left alone. Knows results and times; knows nothing of endpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from .backoff import doubled, jittered
from .balancer import Randomness

BUCKETS = 12  #: the window is forgotten in so many steps


class BreakerState(StrEnum):
    """Closed: calls pass. Open: left alone. Half-open: one call at a time is let through to see."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSpec:
    """When a breaker trips and for how long, in seconds and results."""

    window_s: float = 60.0  #: what happened earlier says little of now
    in_a_row: int = 5  #: fewer are chance, where single requests fail on their own
    share: float = 0.5  #: an endpoint that serves more than half is better than none
    min_results: int = 20  #: below this a share is noise
    surely_in_a_row: int = 20  #: so many in a row are a kill, whatever the minute before was like
    open_s: float = 5.0  #: a restart takes about so long
    open_cap_s: float = 60.0  #: an endpoint that is back is found within a minute
    jitter: float = 0.2  #: many processes must not probe at one moment
    probes: int = 2  #: successes in half-open that close it: one may be luck


class Breaker:
    """Closed, open or half-open. Not safe among threads: its pool holds a lock."""

    __slots__ = (
        "_buckets",
        "_failures",
        "_results",
        "_spec",
        "_step",
        "_tripped",
        "in_a_row",
        "open_until_s",
        "openings",
    )

    def __init__(self, spec: BreakerSpec) -> None:
        self._spec = spec
        self._tripped = False
        self.openings = 0
        self.open_until_s = -math.inf
        self._forget()

    def state(self, now_s: float) -> BreakerState:
        """What it is at this moment."""
        if not self._tripped:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self.open_until_s else BreakerState.HALF_OPEN

    @property
    def probes(self) -> int:
        """Successes in half-open that close it."""
        return self._spec.probes

    @property
    def is_tripped(self) -> bool:
        """Whether it is open or half-open."""
        return self._tripped

    def succeeded(self, now_s: float) -> None:
        """One result more, while closed."""
        self.in_a_row = 0
        self._count(now_s, failed=0)

    def failed(self, now_s: float) -> bool:
        """One failure more, while closed. Returns whether it should trip now."""
        self._count(now_s, failed=1)
        self.in_a_row += 1
        spec = self._spec
        if self.in_a_row >= spec.surely_in_a_row:
            return True
        is_bad = self._failures >= spec.share * self._results
        return is_bad and (self.in_a_row >= spec.in_a_row or self._results >= spec.min_results)

    def open(self, now_s: float, randomness: Randomness) -> float:
        """Trip, or open once more for longer. Returns for how long, in seconds."""
        spec = self._spec
        open_s = doubled(spec.open_s, self.openings, cap_s=spec.open_cap_s)
        for_s = jittered(open_s, spec.jitter, randomness)
        self.openings += 1
        self._tripped = True
        self.open_until_s = max(self.open_until_s, now_s + for_s)
        return for_s

    def close(self) -> None:
        """Forget all: the next failure is a first one."""
        self._tripped = False
        self.openings = 0
        self.open_until_s = -math.inf
        self._forget()

    def _forget(self) -> None:
        self.in_a_row = self._results = self._failures = 0
        self._step = -1
        self._buckets: list[list[int]] = [[0, 0] for _ in range(BUCKETS)]

    def _count(self, now_s: float, *, failed: int) -> None:
        step = int(now_s * BUCKETS / self._spec.window_s)
        if step != self._step:
            self._forget_before(step)
        bucket = self._buckets[step % BUCKETS]
        bucket[0] += 1
        bucket[1] += failed
        self._results += 1
        self._failures += failed

    def _forget_before(self, step: int) -> None:
        passed = min(step - self._step, BUCKETS) if self._step >= 0 else BUCKETS
        for back in range(passed):
            bucket = self._buckets[(step - back) % BUCKETS]
            self._results -= bucket[0]
            self._failures -= bucket[1]
            bucket[0] = bucket[1] = 0
        if not self._results:  # what happened before a minute of silence is no part of a row
            self.in_a_row = 0
        self._step = step
