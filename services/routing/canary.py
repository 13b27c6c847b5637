"""Which endpoints of a pool have shown that their vectors are of one space, before any other vector of theirs is used.

Each embeds one text, the canary, once for each kind of request. The first in the operator's order that answers gives
the reference; the others are compared with it. Knows who was asked; knows no vectors and no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final

from .endpoint import Endpoint
from .pool import Lease

MAX_KINDS: Final = 1000  #: of requests; a caller who makes them up fills no memory
POLL_S: Final = 0.01  #: how often is looked whether another call's canary is back: once for each endpoint, at the start


class Canaries:
    """Safe among threads.

    Args:
        make_lock: called again in a child process, whose parent's may be held for ever.
    """

    def __init__(self, make_lock: Callable[[], AbstractContextManager[object]]) -> None:
        self._make_lock = make_lock
        self._lock = make_lock()
        self._known: dict[str, None] = {}  # kinds that have a reference, the oldest first
        self._asked: set[tuple[str, str]] = set()

    def has_reference(self, kind: str) -> bool:
        """Whether some endpoint has answered for this kind of request."""
        return kind in self._known

    def asked(self, kind: str) -> frozenset[str]:
        """Names of the endpoints that a call is asking now."""
        with self._lock:
            return frozenset(name for name, of in self._asked if of == kind)

    def begin(self, lease: Lease, kind: str) -> bool | None:
        """Whether the endpoint must be asked first, and by this call; None where another call is at it.

        After True, `end` must follow.
        """
        with self._lock:
            if kind in lease.member.verified and kind in self._known:
                return False
            name = lease.endpoint.name
            is_first = kind not in self._known
            if any(of == kind and (is_first or its == name) for its, of in self._asked):
                return None
            self._asked.add((name, kind))
            return True

    def end(self, lease: Lease, kind: str, *, has_passed: bool) -> None:
        """The endpoint answered as the reference did, or is the reference; or it did not."""
        with self._lock:
            self._asked.discard((lease.endpoint.name, kind))
            if not has_passed:
                return
            lease.member.verified.add(kind)
            self._known[kind] = None
            while len(self._known) > MAX_KINDS:
                del self._known[next(iter(self._known))]

    def renew_after_fork(self) -> None:
        """In a child: a lock of its own, and nobody is asked."""
        self._lock = self._make_lock()
        self._asked = set()


def may_differ(endpoints: Sequence[Endpoint]) -> bool:
    """Whether there are two among them that could be of two models."""
    return len({(each.base_url, each.model, each.deployment) for each in endpoints}) > 1
