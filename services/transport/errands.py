"""What goes on beside a call: few daemon threads, few tasks, and what both wait for. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio import Task
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Promise(Generic[T]):
    """What threads, and tasks of any loop, wait for together. None of them can call it off for the others.

    Attributes:
        value: None before it is kept.
        stop: ends the work on it, as far as that goes; held here, so that a task of it is not collected.
    """

    def __init__(self, value: T | None = None) -> None:
        self.value = value
        self.stop: Callable[[], object] | None = None
        self._waiting: set[Callable[[], object]] = set()
        self._lock = threading.Lock()

    def keep(self, value: T) -> None:
        """Wake all that wait. The first value stands."""
        with self._lock:
            if self.value is None:
                self.value, self.stop = value, None
            waiting, self._waiting = self._waiting, set()
        for wake in waiting:
            wake()

    def wait(self, timeout_s: float) -> T | None:
        """The value; None where it does not come in time."""
        if self.value is None and timeout_s > 0:
            event = threading.Event()
            with self._woken(event.set):
                event.wait(timeout_s)
        return self.value

    async def wait_async(self) -> T | None:
        """The value, when it comes."""
        if self.value is None:
            loop, event = asyncio.get_running_loop(), asyncio.Event()

            def wake() -> None:
                with suppress(RuntimeError):  # its loop is closed, and nobody waits any more
                    loop.call_soon_threadsafe(event.set)

            with self._woken(wake):
                await event.wait()
        return self.value

    @contextmanager
    def _woken(self, wake: Callable[[], object]) -> Iterator[None]:
        with self._lock:
            if self.value is None:
                self._waiting.add(wake)
        if self.value is not None:
            wake()
        try:
            yield
        finally:
            with self._lock:
                self._waiting.discard(wake)


class Threads:
    """Runs what may block for ever, on daemon threads: the interpreter's exit waits for none of them.

    A thread ends where nothing waits: to begin one is little beside what it is for, and idle ones would stay for ever.

    Args:
        most: at the same time; hung ones count.
        most_waiting: of further errands, which begin as others end.
    """

    def __init__(self, name: str, *, most: int, most_waiting: int) -> None:
        self._name, self._most, self._most_waiting = name, most, most_waiting
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """A child has none of its parent's threads."""
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[Callable[[], object]] = deque()

    def run(self, errand: Callable[[], object]) -> bool:
        """Have it done, soon; False where too many wait."""
        with self._lock:
            if self._running >= self._most:
                has_room = len(self._waiting) < self._most_waiting
                if has_room:
                    self._waiting.append(errand)
                return has_room
            self._running += 1
        try:
            threading.Thread(target=self._work, args=(errand,), name=self._name, daemon=True).start()
        except RuntimeError:  # no further thread is to be had, as when the interpreter ends
            with self._lock:
                self._running -= 1
            return False
        return True

    def drop(self, errand: Callable[[], object]) -> None:
        """Nobody waits for it any more: where it has not begun, it never does."""
        with self._lock, suppress(ValueError):
            self._waiting.remove(errand)

    def _work(self, first: Callable[[], object]) -> None:
        errand: Callable[[], object] | None = first
        while errand is not None:
            try:
                errand()
            except BaseException:  # shown as if it had ended the thread; but others have their turn
                told = (*sys.exc_info(), threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(told))
            errand = self._next()

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._running -= 1
            return None


class Tasks:
    """Holds tasks that nobody waits for, as a loop itself may lose them. For tasks of any loop.

    Args:
        most: at the same time, of loops that are not closed.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self.renew_after_fork()

    def renew_after_fork(self) -> None:
        """In a child no loop of its parent runs."""
        self._lock = threading.Lock()
        self._held: set[Task[Any]] = set()

    def hold(self, task: Task[Any]) -> None:
        """Let it go on to its end; cancel it where too many do."""
        if task.get_loop().is_closed():
            return
        with self._lock:
            self._held = {held for held in self._held if not held.get_loop().is_closed()}
            has_room = len(self._held) < self._most
            if has_room:
                self._held.add(task)
        if has_room:
            task.add_done_callback(self._let_go)
        else:
            task.cancel()

    def _let_go(self, task: Task[Any]) -> None:
        with self._lock:
            self._held.discard(task)
