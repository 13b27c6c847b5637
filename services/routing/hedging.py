"""When a slow call may ask a second endpoint, how often, and whose answer it takes. Sends nothing, has no clock.

Source: J. Dean, L. A. Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013: a second request that is
sent after the 95th percentile cuts the tail for a few percent more load.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count
from typing import Final

from .failover import Ending, Send, Story, Tally, Wish
from .outcome import Blame
from .pool import Lease

SAMPLES: Final = 200  #: of each size: ten of them above a 95th percentile, and as new as the load of now
MIN_SAMPLES: Final = 20  #: the fewest of which one in twenty can be told
CAP: Final = 10.0  #: hedges that quiet times save up: where all becomes slow at once, no wave of them adds to it
_SMALLEST_BITS: Final = 10  #: below 1 KiB, some 250 tokens, a call's time is its way there and back


class Hedging:
    """The delay before a second endpoint is asked, and the budget of that. Safe among threads.

    Calls are compared with those of their size, as the time of an embedding grows with it: within a factor of two.

    Args:
        share: of the calls that may be hedged, from 0 to 0.5.
        make_lock: called for each call that may be hedged, and again in a child process, whose parent's lock may be
            held for ever.
    Raises:
        ValueError: the share is none.
    """

    def __init__(self, share: float, make_lock: Callable[[], AbstractContextManager[object]]) -> None:
        if not 0.0 <= share <= 0.5:
            raise ValueError(f"a share of calls to be hedged is from 0 to 0.5, not {share:g}")
        self.share, self.make_lock = share, make_lock
        self._lock, self._tokens = make_lock(), 0.0  # nothing is hedged that no other call has earned
        self._by_size: dict[int, _Recent] = {}

    def delay_s(self, size_bytes: int) -> float | None:
        """What the (1 - share) quantile of calls of this size took lately; None where too few are known."""
        with self._lock:
            recent = self._by_size.get(_class_of(size_bytes)) if self.share else None
            return recent.quantile_s(1.0 - self.share) if recent is not None else None

    def spend(self) -> bool:
        """Pay for one hedge; False where there is nothing to pay with."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True

    def give_back(self) -> None:
        """A hedge that was paid for asked nobody."""
        with self._lock:
            self._tokens = min(CAP, self._tokens + 1.0)

    def took(self, size_bytes: int, seconds: float) -> None:
        """A call was answered after so long, by whomever: earns its share of a hedge.

        Where the second endpoint was the quicker one, that is less than the first would have taken; but more than the
        delay, and so above the quantile all the same.
        """
        with self._lock:
            self._tokens = min(CAP, self._tokens + self.share)
            self._by_size.setdefault(_class_of(size_bytes), _Recent()).add(seconds)

    def renew_after_fork(self) -> None:
        """In a child: a lock of its own, and nothing known, as the parent may have been in the middle of a change."""
        self._lock, self._tokens, self._by_size = self.make_lock(), 0.0, {}


class Hedge:
    """What is decided of one call that may ask a second endpoint: when it does, and which ending is the call's.

    Args:
        wish: what the call wants.
        story_of: tells the story of a wish.
        size_bytes: of the request.
        clock: seconds, monotonic.

    Attributes:
        delay_s: how long the first endpoint may take alone; None where too little is known: as long as it likes.
        is_decided: one of the stories has the call's answer, or its error; what the other does is of no use.
    """

    __slots__ = (
        "_began_at_s",
        "_clock",
        "_hedging",
        "_served",
        "_size_bytes",
        "_story_of",
        "delay_s",
        "first",
        "is_decided",
        "second",
    )

    def __init__(
        self,
        hedging: Hedging,
        wish: Wish,
        story_of: Callable[[Wish], Story],
        *,
        size_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._hedging, self._story_of, self._size_bytes = hedging, story_of, size_bytes
        self._clock, self._began_at_s = clock, clock()
        self._served = count()
        self.is_decided = False
        self.delay_s = hedging.delay_s(size_bytes)
        one = replace(wish, tally=Tally(hedging.make_lock()))
        another = replace(one, is_hedge=True)
        self.first, self.second = Track(one, beside=another), Track(another, beside=one)

    @property
    def is_hedged(self) -> bool:
        """Whether a second endpoint was asked."""
        return bool(self.first.wish.avoid)

    def is_first_to_serve(self) -> bool:
        """Whether no attempt has served before this one; to be asked once by each that does."""
        return next(self._served) == 0  # in one step, also where two threads come at once

    def first_story(self) -> Story:
        """The one that every call has."""
        return self._story_of(self.first.wish)

    def second_story(self) -> Story | None:
        """The one that asks another endpoint; None where the budget does not pay for it."""
        return self._paid() if self._hedging.spend() else None

    def _paid(self) -> Story:
        try:
            return (yield from self._story_of(self.second.wish))
        finally:
            if not self.is_hedged:  # there was no other endpoint to be had
                self._hedging.give_back()

    def is_over(self, endings: list[Ending]) -> bool:
        """Whether the story that ended last has decided the call: it served, or nobody would take this request.

        One that is too long may be taken by a larger endpoint, which the other story is perhaps asking.
        """
        outcome = endings[-1].outcome if endings else None
        if outcome is None:
            return False
        return outcome.has_served or (outcome.blame is Blame.CALLER and not outcome.is_too_long)

    def ending(self, endings: list[Ending]) -> Ending:
        """Of the call, from those of its stories that have ended, in their order."""
        ending = next((each for each in reversed(endings) if each.outcome is not None), endings[-1])
        if not self.is_over(endings):
            ending.attempts = [attempt for each in endings for attempt in each.attempts]
        elif ending.outcome is not None and ending.outcome.has_served:
            self._hedging.took(self._size_bytes, self._clock() - self._began_at_s)
        ending.is_hedged, self.is_decided = self.is_hedged, self.is_over(endings)
        return ending


class Track:
    """One of a call's two stories, and where it is.

    Args:
        beside: the wish of the other one.

    Attributes:
        lease: of its latest attempt; None before the first.
    """

    __slots__ = ("_beside", "lease", "wish")

    def __init__(self, wish: Wish, *, beside: Wish) -> None:
        self.wish, self._beside = wish, beside
        self.lease: Lease | None = None

    def asks(self, send: Send) -> Send:
        """It asks this endpoint now, so that the other story goes elsewhere."""
        self.lease = send.lease
        self._beside.avoid |= {send.lease.endpoint.name}
        return send


class _Recent:
    """The last times, in the order in which they came and in that of their length."""

    __slots__ = ("_ordered", "_times")

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._ordered: list[float] = []

    def add(self, seconds: float) -> None:
        if len(self._times) == SAMPLES:
            del self._ordered[bisect_left(self._ordered, self._times.popleft())]
        self._times.append(seconds)
        insort(self._ordered, seconds)

    def quantile_s(self, share: float) -> float | None:
        """The least time that so great a share did not exceed."""
        count = len(self._ordered)
        return self._ordered[math.ceil(share * count) - 1] if count >= MIN_SAMPLES else None


def _class_of(size_bytes: int) -> int:
    """Sizes that are compared with each other."""
    return (size_bytes >> _SMALLEST_BITS).bit_length()
