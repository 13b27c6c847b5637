"""Plays a call that may ask a second endpoint while the first is slow. Knows threads and tasks; knows no HTTP.

Two stories of one call, of which one is cut in the end, to nobody's blame. What is decided of them is `Hedge`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

from ..routing.failover import Ending, Send, Story
from ..routing.hedging import Hedge, Track
from ..routing.outcome import CANCELLED, Outcome
from .deadline import Cut, NoLongerWanted
from .drive import drive, drive_async


def drive_hedged(hedge: Hedge, send: Callable[[Send, Cut | None], Outcome]) -> Ending:
    """Play to the end, blocking. What one of the stories raises ends the call.

    Args:
        send: takes with each step what may end it from another thread, if anything does.
    """
    ended = SimpleQueue[Ending | BaseException]()
    first = _Player(hedge.first, send, ended)
    story = hedge.first_story()
    if hedge.delay_s is None or not first.has_begun(story):
        return hedge.ending([drive(story, lambda step: send(step, None))])
    players, another, alone_s = [first], None, hedge.delay_s
    try:
        while another is None and not (endings := _next(ended, alone_s)):
            # Where the budget is empty, later again: by then most of the slow have ended, and earned something.
            another, alone_s = hedge.second_story(), 2 * alone_s
        if another is not None:
            second = _Player(hedge.second, send, ended)
            players += [second] if second.has_begun(another) else []
        while len(endings) < len(players) and not hedge.is_over(endings):
            endings += _next(ended)
        return hedge.ending(endings)
    finally:
        for player in players:
            player.stop()


class _Player:
    """Plays one of two stories on a thread of its own: whoever waits for both can wake at once, whatever they wait for.

    Args:
        ended: is given the ending, or what was raised.
    """

    def __init__(
        self, track: Track, send: Callable[[Send, Cut | None], Outcome], ended: SimpleQueue[Ending | BaseException]
    ) -> None:
        self._track, self._send, self._ended = track, send, ended
        self._cut = Cut()

    def has_begun(self, story: Story) -> bool:
        """Begin; False where there is no further thread to be had, as when the interpreter ends."""
        playing = partial(copy_context().run, self._play, story)
        try:
            Thread(target=playing, name="llmwire hedging", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def stop(self) -> None:
        """Nobody waits for it any more."""
        self._cut.make()
        # Now, as its thread may be held up where nothing wakes it; what it says of the attempt later changes nothing.
        if self._track.lease is not None:
            self._track.lease.settle(CANCELLED, 0.0)

    def _play(self, story: Story) -> None:
        try:
            self._ended.put(drive(story, self._sent))
        except NoLongerWanted:  # nobody waits for it
            return
        except BaseException as error:  # it is the caller's, who does
            self._ended.put(error)

    def _sent(self, step: Send) -> Outcome:
        self._track.asks(step)
        self._cut.check()
        return self._send(step, self._cut)


def _next(ended: SimpleQueue[Ending | BaseException], timeout_s: float | None = None) -> list[Ending]:
    """The next story that ends; nothing where none does in time. Raises what it raised."""
    try:
        end = ended.get(timeout=timeout_s)
    except Empty:
        return []
    if isinstance(end, BaseException):
        raise end
    return [end]


async def drive_hedged_async(hedge: Hedge, send: Callable[[Send], Awaitable[Outcome]]) -> Ending:
    """The same for asyncio; a cancellation settles every lease before it is seen."""
    if hedge.delay_s is None:
        return hedge.ending([await drive_async(hedge.first_story(), send)])

    def playing(track: Track, story: Story) -> asyncio.Task[Ending]:
        return asyncio.create_task(drive_async(story, lambda step: send(track.asks(step))))

    tasks, another, alone_s = [playing(hedge.first, hedge.first_story())], None, hedge.delay_s
    endings: list[Ending] = []
    try:
        while another is None and not (await asyncio.wait(tasks, timeout=alone_s))[0]:
            another, alone_s = hedge.second_story(), 2 * alone_s  # as above
        if another is not None:
            tasks.append(playing(hedge.second, another))
        waiting = list(tasks)
        while waiting and not hedge.is_over(endings):
            if not any(task.done() for task in waiting):
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done = next(task for task in waiting if task.done())
            waiting.remove(done)
            endings.append(done.result())
        return hedge.ending(endings)
    finally:
        for task in tasks:
            task.cancel()
        if len(tasks) > 1 or not tasks[0].done():  # also for what a loser raises, which nobody else takes
            await asyncio.gather(*tasks, return_exceptions=True)
