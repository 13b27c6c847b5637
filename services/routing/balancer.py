"""Which of several endpoints gets the next call. Knows load, latency and price; knows nothing of health or HTTP."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeVar

IDLE_S = 10.0  #: an endpoint with nothing to do for so long has its bad time forgiven to a third
EWMA_TAU_S = (
    10.0  #: a sample's weight falls to a third in this time: slow enough for noise, fast enough for a brown-out
)
SLOWER = 10.0  #: times its peer is slow; what is more would only make a server wait that was frozen, and is well again
UNKNOWN_S = 0.001  #: of endpoints that nobody measured yet: equal among themselves, and above zero


class Strategy(StrEnum):
    """How a pool chooses among endpoints that are equally well."""

    P2C = "p2c"
    WEIGHTED_RANDOM = "weighted-random"
    ROUND_ROBIN = "round-robin"
    LEAST_IN_FLIGHT = "least-in-flight"
    LOWEST_LATENCY = "lowest-latency"
    LOWEST_PRICE = "lowest-price"
    IN_ORDER = "in-order"


class Randomness(Protocol):
    """The part of `random.Random` that choosing needs."""

    def random(self) -> float:
        """In [0, 1)."""


class Load:
    """What one endpoint carries and how fast it is.

    Attributes:
        position: in the order in which the operator named the endpoints.
        price: of a million tokens; infinite where nobody said.
        in_flight: attempts that have begun and not ended.
        ewma_s: time to an answer, or to a stream's first content; None before the first.
        at_s: when that was last known.
    """

    __slots__ = ("at_s", "credit", "ewma_s", "in_flight", "position", "price", "weight")

    def __init__(self, *, weight: float = 1.0, price: float = math.inf, position: int = 0) -> None:
        self.weight, self.price, self.position = weight, price, position
        self.in_flight = 0
        self.ewma_s: float | None = None
        self.at_s = -math.inf
        self.credit = 0.0  # of smooth weighted round robin

    def sample(self, took_s: float, now_s: float) -> None:
        """Feed the time of one answer into the mean, which weighs by age (non-peak EWMA)."""
        if self.ewma_s is None:
            self.ewma_s = took_s
        else:
            kept = math.exp(-max(now_s - self.at_s, 0.0) / EWMA_TAU_S)
            # Many samples at one moment would count for nothing each: a sample weighs at least a little.
            kept = min(kept, 0.95)
            self.ewma_s = self.ewma_s * kept + took_s * (1.0 - kept)
        self.at_s = now_s

    def sample_failure(self, took_s: float, now_s: float) -> None:
        """Feed a failure in. A server that fails fast must not look like a fast one, not by its first result either."""
        if self.ewma_s is not None:
            self.sample(max(took_s, 2 * self.ewma_s), now_s)


class Carrier(Protocol):
    """Something with a load."""

    @property
    def load(self) -> Load: ...


def cost(load: Load, now_s: float, *, at_most_s: float = math.inf) -> float:
    """What one more call there would wait, roughly: latency, forgiven with idleness, times the queue.

    Args:
        at_most_s: what counts of its latency.
    Source: Finagle's peak-EWMA balancer, without the peak: one slow answer of a language model means little.
    """
    ewma_s = min(load.ewma_s or UNKNOWN_S, at_most_s)
    if load.ewma_s and not load.in_flight:  # one that owes answers is not idle: it may be frozen
        idle_s = now_s - load.at_s
        if idle_s > 0.5:  # before that it forgives less than 5 %, which is not worth an exponential at each pick
            ewma_s *= math.exp(-idle_s / IDLE_S)
    return ewma_s * (load.in_flight + 1) / load.weight


C = TypeVar("C", bound=Carrier)


def choose(strategy: Strategy, candidates: Sequence[C], now_s: float, randomness: Randomness) -> C:
    """One of the candidates, of which there is at least one."""
    if len(candidates) == 1:
        return candidates[0]
    return _WAYS[strategy](candidates, now_s, randomness)


def _p2c(candidates: Sequence[C], now_s: float, randomness: Randomness) -> C:
    """The cheaper of two drawn at random: nearly as good as the cheapest of all, and no herd runs after one figure.

    Source: M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS, 2001.
    """
    size = len(candidates)
    first = int(randomness.random() * size)
    second = int(randomness.random() * (size - 1))
    one, other = candidates[first].load, candidates[second + (second >= first)].load
    of_one = cost(one, now_s, at_most_s=SLOWER * (other.ewma_s or math.inf))
    of_other = cost(other, now_s, at_most_s=SLOWER * (one.ewma_s or math.inf))
    return candidates[first] if of_one <= of_other else candidates[second + (second >= first)]


def _weighted_random(candidates: Sequence[C], now_s: float, randomness: Randomness) -> C:  # noqa: ARG001
    mark = randomness.random() * sum(candidate.load.weight for candidate in candidates)
    for candidate in candidates:
        mark -= candidate.load.weight
        if mark < 0:
            return candidate
    return candidates[-1]


def _round_robin(candidates: Sequence[C], now_s: float, randomness: Randomness) -> C:  # noqa: ARG001
    """Smooth weighted round robin, as nginx has it: shares by weight, without runs of one endpoint."""
    total = 0.0
    for candidate in candidates:
        candidate.load.credit += candidate.load.weight
        total += candidate.load.weight
    chosen = max(candidates, key=lambda candidate: candidate.load.credit)
    chosen.load.credit -= total
    return chosen


def _least(figure: Callable[[Load, float], float]) -> _Way:
    """The least of a figure; ties are broken at random, so that equals share the load."""

    def way(candidates: Sequence[C], now_s: float, randomness: Randomness) -> C:
        figures = [figure(candidate.load, now_s) for candidate in candidates]
        least = min(figures)
        tied = [candidate for candidate, its in zip(candidates, figures, strict=True) if its == least]
        return tied[0] if len(tied) == 1 else tied[int(randomness.random() * len(tied))]

    return way


def _in_order(candidates: Sequence[C], now_s: float, randomness: Randomness) -> C:  # noqa: ARG001
    return min(candidates, key=lambda candidate: candidate.load.position)


def _latency(load: Load, now_s: float) -> float:
    """Latency alone, forgiven with idleness: a slow one is looked at again after a while."""
    return (load.ewma_s or 0.0) * math.exp(-max(now_s - load.at_s, 0.0) / IDLE_S)


class _Way(Protocol):
    def __call__(self, candidates: Sequence[C], now_s: float, randomness: Randomness, /) -> C: ...


_WAYS: Final[Mapping[Strategy, _Way]] = {
    Strategy.P2C: _p2c,
    Strategy.WEIGHTED_RANDOM: _weighted_random,
    Strategy.ROUND_ROBIN: _round_robin,
    Strategy.LEAST_IN_FLIGHT: _least(lambda load, _: (load.in_flight + 1) / load.weight),
    Strategy.LOWEST_LATENCY: _least(_latency),
    Strategy.LOWEST_PRICE: _least(lambda load, _: load.price),
    Strategy.IN_ORDER: _in_order,
}
