"""Threads that send. Knows what is given to them; decides nothing."""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from .request import Request
from .results import Answer
from .story import Keeper, Result

MOMENT_S: Final = 0.5  #: a Ctrl-C that comes just before a wait is seen after it only: Python looks between two steps

_Task: TypeAlias = tuple[contextvars.Context, Request, list[str]]


class Workers:
    """Threads that send, one request at a time each. They know the run's queues and not the run, so that it can go.

    A queue's `put` is one step that no interrupt can cut in two, as starting a thread can be: all are started before
    the first request is sent, and that is how the end of all that was sent is known.
    """

    def __init__(self, count: int, send: Callable[[list[str]], Answer], keeper: Keeper, arrived: deque[Result]) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        arguments = (self._tasks, self._bell, send, keeper, arrived)
        # Daemons: what is left to itself must not keep a process from ending.
        self._threads = [
            threading.Thread(target=_work, args=arguments, name="llmwire-bulk", daemon=True) for _ in range(count)
        ]
        self.left = 0  #: that have not gone home yet

    def start(self) -> None:
        """All of them."""
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.dismiss()
            raise
        self.left = len(self._threads)

    def give(self, request: Request) -> None:
        """To the first that is free."""
        self._tasks.put((contextvars.copy_context(), request, request.texts))

    def wait(self, for_s: float | None) -> None:
        """Until a result arrives or one goes home; for a moment at most."""
        with contextlib.suppress(queue.Empty):
            self.left -= self._bell.get(timeout=MOMENT_S if for_s is None else min(for_s, MOMENT_S))

    def dismiss(self) -> None:
        """Each goes home when it has done what it was given."""
        self._tasks.put(None)

    def join(self) -> None:
        """The last steps of those that have gone home."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join()


def _work(
    tasks: queue.SimpleQueue[_Task | None],
    bell: queue.SimpleQueue[bool],
    send: Callable[[list[str]], Answer],
    keeper: Keeper,
    arrived: deque[Result],
) -> None:
    while (task := tasks.get()) is not None:
        arrived.append(_result(send, keeper, *task))
        del task  # its texts are not needed while it waits for the next
        bell.put(False)
    tasks.put(None)  # for the next one
    bell.put(True)


def _result(
    send: Callable[[list[str]], Answer],
    keeper: Keeper,
    context: contextvars.Context,
    request: Request,
    texts: list[str],
) -> Result:
    try:
        answer = context.run(send, texts)
    except BaseException as error:
        return Result(request, error=error)
    return keeper.result(request, answer)
