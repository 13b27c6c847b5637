"""Which endpoints of a pool have shown that their vectors are of one space, before any other vector of theirs is used.

Each embeds one text, the canary, once for each kind of request. The first in the operator's order that answers gives
the reference; the others are compared with it. That of a later kind is given by none that has not shown itself for the
first. Knows who was asked; knows no vectors and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from .backoff import doubled
from .endpoint import Endpoint
from .pool import Lease

MAX_KINDS: Final = 1000  #: of requests; a caller who makes them up fills no memory
POLL_S: Final = 0.01  #: how often is looked whether another call's canary is back: once for each endpoint, at the start
CANARY_S: Final = 5.0  #: for one short text; an endpoint that takes longer is slow to wake, and another is asked
LONG_S: Final = 2.0  #: for so long all calls wait for the first reference; then the next endpoint may give it
LATE_S: Final = 5.0  #: one whose canary never came back is asked again after that, then ever later
LATE_CAP_S: Final = 60.0


class Canaries:
    """Safe among threads.

    Args:
        is_known: whether there is a reference for a kind of request.
        anchor: the first kind that has one; None before.
        clock: seconds, monotonic.
        make_lock: called again in a child process, whose parent's may be held for ever.
    """

    def __init__(
        self,
        is_known: Callable[[str], bool],
        anchor: Callable[[], str | None],
        *,
        clock: Callable[[], float],
        make_lock: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.has_reference, self._anchor = is_known, anchor
        self._clock, self._make_lock = clock, make_lock
        self._lock = make_lock()
        self._asked: dict[tuple[str, str], float] = {}  # name and kind, since when
        self._late: dict[str, tuple[int, float]] = {}  # how often in a row, and until when it is left alone

    def asked(self, kind: str) -> frozenset[str]:
        """Names of the endpoints that a call is asking now."""
        with self._lock:
            return frozenset(name for name, of in self._asked if of == kind)

    def must_wait(self, kind: str) -> bool:
        """Whether the first reference is on its way: then another endpoint shall not give it."""
        if self.has_reference(kind):
            return False
        now_s = self._clock()
        with self._lock:
            return any(of == kind and now_s - since_s < LONG_S for (_, of), since_s in self._asked.items())

    def late(self) -> frozenset[str]:
        """Names of those that did not answer their canary lately: to be asked where no other can answer."""
        if not self._late:
            return frozenset()
        now_s = self._clock()
        with self._lock:
            return frozenset(name for name, (_, until_s) in self._late.items() if now_s < until_s)

    def begin(self, lease: Lease, kind: str) -> tuple[str, ...] | None:
        """Kinds of which the endpoint must first answer the canary, to this call; None where another call is at it.

        Where there are some, `shown` follows for each, and `end` after all.
        """
        with self._lock:
            verified, is_known = lease.member.verified, self.has_reference(kind)
            if is_known and kind in verified:
                return ()
            if (lease.endpoint.name, kind) in self._asked:
                return None
            self._asked[lease.endpoint.name, kind] = self._clock()
            anchor = self._anchor()
            return (kind,) if is_known or anchor is None or anchor in verified else (anchor, kind)

    def shown(self, lease: Lease, kind: str, *, has_passed: bool, has_answered: bool) -> None:
        """The endpoint answered as the reference did, or is the reference; or it did not; or nobody waited longer."""
        name, verified = lease.endpoint.name, lease.member.verified
        with self._lock:
            if not has_answered:
                times = self._late.get(name, (0, 0.0))[0]
                self._late[name] = times + 1, self._clock() + doubled(LATE_S, times, cap_s=LATE_CAP_S)
                return
            self._late.pop(name, None)
            if has_passed:
                if len(verified) >= MAX_KINDS:
                    verified.clear()
                verified.add(kind)

    def end(self, lease: Lease, kind: str) -> None:
        """The call that `begin` told to ask has asked."""
        with self._lock:
            self._asked.pop((lease.endpoint.name, kind), None)

    def renew_after_fork(self) -> None:
        """In a child: a lock of its own, and nobody is asked."""
        self._lock = self._make_lock()
        self._asked = {}


def may_differ(endpoints: Sequence[Endpoint]) -> bool:
    """Whether there are two among them that could be of two models."""
    return len({(each.base_url, each.model, each.deployment) for each in endpoints}) > 1
