"""How long to rest. Knows numbers; knows nothing of clocks or randomness of its own."""

from __future__ import annotations

from dataclasses import dataclass

from .balancer import Randomness


@dataclass(frozen=True, slots=True, kw_only=True)
class BackoffSpec:
    """The rest between two attempts at the same endpoint, in seconds."""

    base_s: float = 0.5  #: a restart or a full queue needs at least so long
    cap_s: float = 8.0  #: a caller who waits longer would rather be told

    def wait_s(self, attempt: int, randomness: Randomness) -> float:
        """How long to rest before the given attempt, in seconds.

        Full jitter: uniform in [0, min(cap_s, base_s * 2 ** (attempt - 1))].

        Args:
            attempt: 1 for the first repetition.
        Raises:
            ValueError: attempt is below 1.
        Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        if attempt < 1:
            raise ValueError(f"attempt must be at least 1, not {attempt}")
        return randomness.random() * doubled(self.base_s, attempt - 1, cap_s=self.cap_s)


def doubled(base_s: float, times: int, *, cap_s: float) -> float:
    """`base_s` doubled so many times, at most `cap_s`; any number of times is safe."""
    return min(cap_s, base_s * 2.0 ** min(times, 64))


def jittered(seconds: float, share: float, randomness: Randomness) -> float:
    """A time spread evenly by ± a share of itself, so that many do not come back at one moment."""
    return seconds * (1.0 + share * (2.0 * randomness.random() - 1.0))
