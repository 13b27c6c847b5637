"""What each endpoint did, how fast, for how much: a listener that counts. Knows events; keeps none of them.

A call pays for the adding of its events to a queue; they are booked a few dozen at a time, by whichever thread has
filled the queue, and by whoever asks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from ..events import AttemptEnded, CallEnded, EndpointsChanged, Event, StreamEnded
from .figures import WINDOWS_MIN, Figures, Series, Snapshot

SLOT_S: Final = 15  #: the step in which the windows move on
SLOTS: Final = max(WINDOWS_MIN) * 60 // SLOT_S
MOST_SERIES: Final = 200  #: a caller who makes up models fills no memory
OTHERS: Final = "(others)"  #: the model of all that is asked for after that
REMOVED: Final = "(removed)"  #: the endpoint of all that are no longer there
_MOST_GONE: Final = 1000  #: names that are remembered as such: their last answers still come
_BATCH: Final = 64  #: events that are booked together

_Key = tuple[str, str, str]


class _Account:
    """The figures of one series, and what they were at the start of each of the last slots."""

    __slots__ = ("history", "is_changed", "now")

    def __init__(self) -> None:
        self.now = Figures()
        self.history: deque[Figures] = deque(maxlen=SLOTS + 1)
        self.is_changed = False

    def passed(self, slots: int) -> None:
        """So many slots are over."""
        if self.is_changed or not self.history:
            self.history.append(self.now.copy())
            self.is_changed, slots = False, slots - 1
        for _ in range(min(slots, SLOTS + 1)):
            self.history.append(self.history[-1])

    def since(self, slots: int) -> Figures:
        """Of the last so many slots, and the one that has begun."""
        history = self.history
        return self.now.minus(history[-slots - 1]) if len(history) > slots else self.now.copy()


class Meter:
    """Counts what the endpoints of one function do. Safe among threads; in constant memory.

    A child process that is forked begins anew: what its parent did is the parent's.

    Args:
        function: `completion` or `embedding`; events of others are left out.
        clock: seconds, monotonic.
        wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        function: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._function, self._clock, self._wall_clock = function, clock, wall_clock
        self._lock = threading.Lock()
        self._begin()

    def __call__(self, event: Event, /) -> None:
        """Be told of an event."""
        if type(event) not in _BOOKED:
            return
        waiting = self._waiting
        waiting.append((self._clock(), event))
        # Never waited for: whoever has the lock books this one too, or the next who comes. So garbage that is collected
        # while this thread books may tell of a stream's end.
        if len(waiting) >= _BATCH and self._lock.acquire(blocking=False):
            try:
                self._book()
            finally:
                self._lock.release()

    def snapshot(self) -> Snapshot:
        """What was counted until now."""
        with self._lock:
            self._book()
            self._move_on(self._clock())
            return Snapshot(
                function=self._function,
                at_s=self._wall_clock(),
                since_s=self._since_s,
                series=tuple(_series(key, self._accounts[key]) for key in sorted(self._accounts)),
            )

    def history(self, endpoint: str) -> tuple[Figures, ...]:
        """What one endpoint did in each quarter of a minute of the last 15 minutes, the oldest first.

        As many as have passed since counting began, 60 at most; the last one has only begun.
        """
        with self._lock:
            self._book()
            self._move_on(self._clock())
            accounts = [each for (_, name, _), each in self._accounts.items() if name == endpoint]
            longest = max((len(each.history) for each in accounts), default=0)
            return tuple(_slot(accounts, back) for back in range(longest, -1, -1))[-SLOTS:]

    def reset(self) -> None:
        """Begin anew, at zero."""
        with self._lock:
            self._begin()

    def renew_after_fork(self) -> None:
        """In a child process."""
        self._lock = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._waiting: deque[tuple[float, Event]] = deque()
        self._accounts: dict[_Key, _Account] = {}
        self._gone: dict[str, None] = {}
        self._slot = int(self._clock() // SLOT_S)
        self._since_s = self._wall_clock()

    def _book(self) -> None:
        waiting = self._waiting
        while waiting:
            now_s, event = waiting.popleft()
            if now_s // SLOT_S > self._slot:
                self._move_on(now_s)
            match event:
                case AttemptEnded():
                    _book_attempt(self._figures(event.pool, event.endpoint, event.model), event)
                case StreamEnded():
                    _book_stream(self._figures(event.pool, event.endpoint, event.model), event)
                case CallEnded():
                    _book_call(self._figures(event.pool, event.endpoint or "", event.model), event)
                case EndpointsChanged():
                    self._forget(event)

    def _move_on(self, now_s: float) -> None:
        slot = int(now_s // SLOT_S)
        if (passed := slot - self._slot) > 0:
            self._slot = slot
            for account in self._accounts.values():
                account.passed(passed)

    def _figures(self, pool: str, endpoint: str, model: str | None) -> Figures:
        if endpoint in self._gone:
            endpoint = REMOVED
        key = pool, endpoint, model or ""
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= MOST_SERIES:
                key = pool, endpoint, OTHERS
            account = self._accounts.setdefault(key, _Account())
        account.is_changed = True
        return account.now

    def _forget(self, event: EndpointsChanged) -> None:
        """Of an endpoint that is removed nothing stays but its share in the sums."""
        for name in event.added:
            self._gone.pop(name, None)
        for name in event.removed:
            self._gone[name] = None
            if len(self._gone) > _MOST_GONE:
                del self._gone[next(iter(self._gone))]
        for key in [key for key in self._accounts if key[1] in self._gone]:
            pool, _, model = key
            gone = self._accounts.pop(key)
            self._merge(self._accounts.setdefault((pool, REMOVED, model), _Account()), gone)

    @staticmethod
    def _merge(account: _Account, gone: _Account) -> None:
        longest = max(len(account.history), len(gone.history))
        history = [_at(account.history, back).plus(_at(gone.history, back)) for back in range(longest, 0, -1)]
        account.history = deque(history, maxlen=SLOTS + 1)
        account.now, account.is_changed = account.now.plus(gone.now), True


_BOOKED: Final = frozenset({AttemptEnded, StreamEnded, CallEnded, EndpointsChanged})


def _at(history: deque[Figures], back: int) -> Figures:
    return history[-back] if len(history) >= back else Figures()


def _slot(accounts: list[_Account], back: int) -> Figures:
    """Of the slot that began so many slots before the one of now."""
    figures = Figures()
    for account in accounts:
        later = account.now if back == 0 else _at(account.history, back)
        figures = figures.plus(later.minus(_at(account.history, back + 1)))
    return figures


def _series(key: _Key, account: _Account) -> Series:
    pool, endpoint, model = key
    windows = {minutes: account.since(minutes * 60 // SLOT_S) for minutes in WINDOWS_MIN}
    return Series(pool=pool, endpoint=endpoint, model=model, total=account.now.copy(), windows=windows)


def _book_attempt(figures: Figures, event: AttemptEnded) -> None:
    figures.attempts += 1
    figures.sent_bytes += event.sent_bytes
    figures.received_bytes += event.received_bytes
    if not event.was_sent:
        figures.never_sent += 1
    if event.is_canary:
        figures.canaries += 1
    if event.is_for_routing:
        figures.for_routing += 1
    if event.is_hedge:
        figures.hedges += 1
    if event.is_repeated:
        figures.repeated += 1
        return
    if event.is_duplicate:
        figures.duplicates += 1
    elif event.blame is not None:
        label = event.label or "error"
        figures.errors[label] = figures.errors.get(label, 0) + 1
    elif event.is_open:
        figures.first_content.add(event.took_s)  # it has served when it is complete
    elif not event.is_canary:
        figures.served += 1
        figures.took.add(event.took_s)
    if event.blame is None and not event.is_open:
        _book_usage(figures, event)


def _book_stream(figures: Figures, event: StreamEnded) -> None:
    figures.received_bytes += event.received_bytes
    if event.error is None:
        figures.served += 1
        figures.took.add(event.took_s)
    else:
        figures.errors[event.error] = figures.errors.get(event.error, 0) + 1
    _book_usage(figures, event)


def _book_usage(figures: Figures, event: AttemptEnded | StreamEnded) -> None:
    usage = event.usage
    if event.operation.startswith("models"):  # to ask what there is costs nothing
        return
    if usage is None:
        figures.untold += 1
    else:
        figures.input_tokens += usage.input or 0
        figures.output_tokens += usage.output or 0
        figures.cached_tokens += usage.cached or 0
        figures.reasoning_tokens += usage.reasoning or 0
    if event.cost is None:
        figures.unpriced += 1
    else:
        figures.priced += 1
        figures.spent += event.cost


def _book_call(figures: Figures, event: CallEnded) -> None:
    figures.calls += 1
    if event.error is None:
        figures.call_took.add(event.took_s)
    else:
        figures.call_errors[event.error] = figures.call_errors.get(event.error, 0) + 1
