"""What must be new in a child process. Knows who asked; knows nothing of locks or sockets.

A lock that another thread held at the moment of `fork` stays locked for ever in the child, and a connection that two
processes share answers one with the other's replies. So their owners are told, before the child runs anything else.
What cannot be told, as an import, is waited for.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # see the last lines
import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Protocol

PATIENCE_S = 10.0  #: far more than an import takes; then a fork goes on, as other fork handlers may hold what it needs


class Renewable(Protocol):
    """Owns something that a child process must not inherit."""

    def renew_after_fork(self) -> None:
        """Replace locks and forget connections, without closing what is the parent's."""


_owners: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(owner: Renewable) -> None:
    """Call `owner.renew_after_fork()` in every child that is forked while the owner lives."""
    _owners.add(owner)


@contextlib.contextmanager
def no_fork_meanwhile() -> Iterator[None]:
    """Have every fork wait until the block has ended.

    For the locks of others: a child that is forked in the middle of an import waits for ever for the same module.
    """
    with _undisturbed:
        yield


_undisturbed = threading.RLock()


def _wait() -> None:
    _undisturbed.acquire(timeout=PATIENCE_S)


def _go_on() -> None:
    with contextlib.suppress(RuntimeError):  # it was not to be had in time
        _undisturbed.release()


def _renew() -> None:
    global _undisturbed
    _undisturbed = threading.RLock()
    for owner in list(_owners):
        owner.renew_after_fork()


# After those of the standard library's thread pool and its logging. Handlers that are registered by an import which a
# fork is waiting for would run after that fork only, and those that were registered later run before it first: with
# a lock in hand that the import needs.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait, after_in_parent=_go_on, after_in_child=_renew)
