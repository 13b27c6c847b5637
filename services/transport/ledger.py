"""Shares what is spent with other processes, through a store that they have in common. Never on a caller's thread.

Knows the store and a thread; what counts and what is reached is the spending's.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from ..events import BudgetReached, LedgerFailed, Listener, tell
from ..routing.spending import Share, Spending
from ..store import opened

if TYPE_CHECKING:
    from ..store import Storage

EVERY_S: Final = 1.0  #: so long may other processes not know what was spent here
TIMEOUT_S: Final = 2.0  #: of one word with the store
KEPT_S: Final = 60.0  #: a count outlives its period by so long, as clocks differ
GOODBYE_S: Final = 1.0  #: how long closing may take


class Ledger:
    """Adds what this process spends to a common store, and learns what all have spent, each second that it is used.

    A store that is away stops nobody: each process goes by its own spending until it is back, and then tells all that
    it had not told.

    Args:
        spending: of a function.
        storage: of the package limits.
        reached: is told where the spending of all has reached a limit.
        listener: is told that the store is away, once until it is back.
    """

    def __init__(
        self,
        function: str,
        spending: Spending,
        storage: Storage,
        *,
        reached: Callable[[BudgetReached], None],
        listener: Listener,
        every_s: float = EVERY_S,
    ) -> None:
        self._function, self._spending, self._storage = function, spending, storage
        self._reached, self._listener, self._every_s = reached, listener, every_s
        self._is_away = False
        self._thread: threading.Thread | None = None
        self._begin()
        _open.add(self)

    def wake(self) -> None:
        """Share, on a thread of its own; to be called with each call, as a child process has none yet."""
        self._is_called = True
        if self._thread is not None or not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None and not self._is_over.is_set():
                arguments = (weakref.ref(self), self._is_over, self._every_s)
                thread = threading.Thread(target=_work, args=arguments, name="llmwire ledger", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError as error:  # there is no thread to be had now; the next call tries again
            self._failed((), type(error).__name__)
        finally:
            self._starting.release()

    def share(self) -> None:
        """Tell what was spent, and learn what all have spent, now. On one thread at a time."""
        shares = self._spending.shares()
        reached: list[BudgetReached] = []
        for number, share in enumerate(shares):
            try:
                total = self._told(share)
            except Exception as error:  # whatever a store does, an amount on its way must come back
                self._failed(shares[number:], type(error).__name__)
                break
            reached += self._spending.learnt(share, total)
        else:
            self._is_away = False
        for event in reached:
            self._reached(event)

    def share_if_used(self) -> None:
        """The same, unless nobody has called or spent since the last time."""
        if self._is_called or self._spending.has_untold:
            self._is_called = False  # first: who calls meanwhile, wants to know more
            self.share()

    def close(self) -> None:
        """Tell what is not told yet, for at most a second, and stop."""
        if self._pid != os.getpid() or self._is_over.is_set():
            return
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(GOODBYE_S)

    def renew_after_fork(self) -> None:
        """In a child process: a thread of its own, when it makes its first call."""
        self._begin()

    def _begin(self) -> None:
        self._starting, self._is_over = threading.Lock(), threading.Event()
        self._thread = None
        self._is_called = False
        self._pid = os.getpid()

    def _failed(self, shares: Sequence[Share], problem: str) -> None:
        for share in shares:
            self._spending.give_back(share)
        if not self._is_away:
            self._is_away = True
            tell(self._listener, LedgerFailed(function=self._function, problem=problem))

    def _told(self, share: Share) -> int:
        if not share.amount:
            return self._storage.get(share.key)
        return self._storage.incr(share.key, math.ceil(share.ends_in_s + KEPT_S), amount=share.amount)


def opened_ledger(
    function: str, spending: Spending, store: str, *, reached: Callable[[BudgetReached], None], listener: Listener
) -> Ledger:
    """A ledger in the store that a setting names. Nothing is sent yet: a store that is away stops no program.

    Raises:
        ConfigError: limits or redis is not installed, or the URL cannot be used.
    """
    storage, _ = opened(store, key=f"{function}.budget_ledger", timeout_s=TIMEOUT_S)
    return Ledger(function, spending, storage, reached=reached, listener=listener)


def _work(reference: weakref.ref[Ledger], is_over: threading.Event, every_s: float) -> None:
    is_last = False
    while (ledger := reference()) is not None:  # at once: a process that has just begun knows nothing of the others
        with contextlib.suppress(Exception):  # what a listener of ours or the store breaks must not end the sharing
            ledger.share_if_used()
        if is_last:
            return
        del ledger
        is_last = is_over.wait(every_s)


#: those whose last second is told when the interpreter ends: a script that is over sooner would share nothing at all
_open: Final[weakref.WeakSet[Ledger]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for ledger in list(_open):
        ledger.close()
