"""A listener that may take its time: events wait for it in a queue with an end. Knows threads; keeps no event."""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from ..events import Event, Listener, tell
from ..forking import renew_in_child

MOST: Final = 10_000  #: some megabytes; at a thousand calls a second a listener may stand still for some seconds
GOODBYE_S: Final = 5.0  #: how long `close` waits for what is still in the queue


class Queued:
    """Tells a listener on a thread of its own, for one that writes to a disk or a network.

    A call only adds its event to the queue. Where that is full, the event is dropped and counted: a listener that
    stands still costs its own events, and no call's time and no memory. Events arrive in their order.

    Args:
        listener: is told of one event after another, never on two threads at once.
        most: events that may wait.

    Attributes:
        dropped: events that the listener will never hear of.
    """

    def __init__(self, listener: Listener, *, most: int = MOST) -> None:
        if most < 1:
            raise ValueError(f"at least one event must be able to wait, not {most}")
        self._listener, self._most = listener, most
        self.dropped = 0
        self._begin()
        renew_in_child(self)

    def __call__(self, event: Event, /) -> None:
        """Be told of an event."""
        if self._is_closed or len(self._waiting) >= self._most:
            self.dropped += 1
            return
        self._waiting.append(event)
        if self._thread is None:
            self._start()
        self._has_come.set()

    def close(self) -> None:
        """Have the listener told of what waits, for at most five seconds; what comes later is dropped."""
        self._is_closed = True
        if self._thread is not None:
            self._has_come.set()
            self._thread.join(GOODBYE_S)

    def renew_after_fork(self) -> None:
        """In a child process: a thread of its own. What waits is told of by the parent."""
        self._begin()

    def _begin(self) -> None:
        self._waiting: deque[Event] = deque()
        self._has_come, self._starting = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def _start(self) -> None:
        # Not waited for: garbage that is collected meanwhile may tell of an event on this very thread.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="llmwire listener", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:  # there is no thread to be had now; the next event tries again
            pass
        finally:
            self._starting.release()

    def _work(self) -> None:
        while True:
            self._has_come.wait()
            self._has_come.clear()
            while self._waiting:
                tell(self._listener, self._waiting.popleft())
            if self._is_closed:
                return
