"""What must be new in a child process. Knows who asked; knows nothing of locks or sockets.

A lock that another thread held at the moment of `fork` stays locked for ever in the child, and a connection that two
processes share answers one with the other's replies. So their owners are told, before the child runs anything else.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Owns something that a child process must not inherit."""

    def renew_after_fork(self) -> None:
        """Replace locks and forget connections, without closing what is the parent's."""


_owners: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(owner: Renewable) -> None:
    """Call `owner.renew_after_fork()` in every child that is forked while the owner lives."""
    _owners.add(owner)


def _renew() -> None:
    for owner in list(_owners):
        owner.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
