"""How many requests and tokens a minute may have, counted in one place for threads, processes and machines.

Knows counts and where they are kept; knows no requests. limits and redis are imported when the first is made.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Final

from ..errors import ConfigError
from ..store import MEMORY, errors_of, opened

MINUTE_S: Final = 60
AGAIN_S: Final = 0.05  #: another process was faster, or it is a matter of milliseconds: more often is noise
ABSENT_S: Final = 1.0  #: between two tries to reach a store that is away


class NeverGoes(ConfigError):  # noqa: N818  # as the other errors
    """A request is larger than what a whole minute may have: it would wait for ever."""


class RateLimit:
    """Permission to send, of at most so many requests and tokens a minute. Safe among threads.

    The window slides: as a minute passes, what the minute before it has used becomes free little by little, not all
    at its end. So never more than the limit goes at once; over a minute that follows a sudden burst it may come to
    twice the limit, as it does with the token buckets of the providers. A store keeps two numbers a limit, and asking
    for 100,000 tokens costs what asking for one does.

    Args:
        requests_per_minute: None does not count them.
        tokens_per_minute: None does not count them.
        store: where they are counted. `memory://` is for the threads that share this object; `redis://host:6379/0`
            for all who give the same store and name.
        name: whose limit it is, as in `embedding.primary`. Each side keeps its own limit over the common count.
        patience_s: for so long a store that was there may be away, and the caller is asked to wait.
    Raises:
        ConfigError: nothing or less than one is allowed, limits is not installed, or the store cannot be used.
    """

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        *,
        store: str = MEMORY,
        name: str,
        patience_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = _checked({"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute})
        self._name, self._patience_s, self._clock = name, patience_s, clock
        self._storage, self._place = opened(store)
        is_shared = store != MEMORY
        self._away: tuple[type[Exception], ...] = errors_of(self._storage) if is_shared else ()
        self._away_since_s: float | None = None
        # Of the two only Redis takes a count in one step.
        self._lock: AbstractContextManager[object] = nullcontext() if is_shared else Lock()
        try:
            self._free_in_s(dict.fromkeys(self._limits, 1))
        except self._away as error:
            raise _unusable(f"{self._place} cannot be used", error) from error

    def delay_s(self, texts: int, tokens: int) -> float:
        """0.0 where a request may go now, and is counted; else in how many seconds it is worth asking again.

        Both limits have room for it, or neither counts it. Where two processes ask for the last tokens at one moment,
        the one that is refused may have used up one of the requests: it is never more that go, but may be one less.
        Waits for the store's answer itself: in asyncio, call it in a thread.

        Args:
            texts: in the request.
            tokens: in the request, as well as they are known.
        Raises:
            NeverGoes: the request is larger than what a whole minute may have. A run cuts it, down to single texts.
            ConfigError: the store was away for too long.
        """
        costs = {"requests_per_minute": 1, "tokens_per_minute": tokens}
        self._check_fits(texts, tokens)
        try:
            delay_s = self._asked({kind: costs[kind] for kind in self._limits})
        except self._away as error:
            return self._absent(error)
        self._away_since_s = None
        return delay_s

    def _asked(self, costs: Mapping[str, int]) -> float:
        with self._lock:
            free_in_s = self._free_in_s(costs)
            if free_in_s > 0:
                return max(free_in_s, AGAIN_S)
            is_taken = all(self._take(kind, cost) for kind, cost in costs.items())  # requests first: one is cheap
            return 0.0 if is_taken else AGAIN_S

    def _free_in_s(self, costs: Mapping[str, int]) -> float:
        return max(self._one_free_in_s(kind, cost) for kind, cost in costs.items())

    def _one_free_in_s(self, kind: str, cost: int) -> float:
        """When the limit has room, if nobody else takes it: the arithmetic of limits' sliding window, turned round."""
        earlier, earlier_left_s, current, current_left_s = self._storage.get_sliding_window(self._key(kind), MINUTE_S)
        room = self._limits[kind] - cost
        if current <= room:
            return _faded_in_s(earlier, earlier_left_s, room - current)
        ends_in_s = max(0.0, current_left_s - MINUTE_S)  # a window is kept for one more, to fade
        return ends_in_s + _faded_in_s(current, MINUTE_S, room)

    def _take(self, kind: str, cost: int) -> bool:
        key, limit = self._key(kind), self._limits[kind]
        return self._storage.acquire_sliding_window_entry(key, limit, MINUTE_S, cost)

    def _key(self, kind: str) -> str:
        return f"{self._name}/{kind}"

    def _check_fits(self, texts: int, tokens: int) -> None:
        limit = self._limits.get("tokens_per_minute", math.inf)
        if tokens > limit:
            problem = (
                f"a request of {texts:,} texts has {tokens:,} tokens, more than a whole minute may have ({limit:,})"
            )
            raise NeverGoes(problem, key="tokens_per_minute", remedy="Make the requests smaller, or raise the limit.")

    def _absent(self, error: Exception) -> float:
        now_s = self._clock()
        since_s = self._away_since_s
        if since_s is None:
            self._away_since_s = since_s = now_s
        if now_s - since_s >= self._patience_s:
            raise _unusable(f"{self._place} could not be used for {self._patience_s:g} s", error) from error
        return ABSENT_S


def _faded_in_s(count: int, left_s: float, room: int) -> float:
    """Until no more than `room` is left of an earlier window's count, which fades to nothing in `left_s`."""
    if math.floor(count * left_s / MINUTE_S) <= room:
        return 0.0
    return max(left_s - MINUTE_S * (room + 1) / count, math.ulp(1.0))


def _checked(limits: Mapping[str, int | None]) -> dict[str, int]:
    given = {kind: limit for kind, limit in limits.items() if limit is not None}
    for kind, limit in given.items():
        if limit < 1:
            raise ConfigError(f"must be above 0, not {limit}", key=kind, remedy="Raise it, or leave it out.")
    if not given:
        remedy = "Give it, or tokens_per_minute, or make no RateLimit."
        raise ConfigError("is not set, and nor is tokens_per_minute", key="requests_per_minute", remedy=remedy)
    return given


def _unusable(problem: str, error: Exception) -> ConfigError:
    remedy = "Start it, or correct the URL and the rights of its user."
    return ConfigError(f"{problem}: {str(error).rstrip('.')}", key="store", remedy=remedy)
