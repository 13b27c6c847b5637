"""Plays a story: sends what it says, rests when it says. Knows no HTTP and no decisions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing

from ..routing.failover import Ending, Rest, Send, Story
from ..routing.outcome import Outcome


def drive(story: Story, send: Callable[[Send], Outcome]) -> Ending:
    """Play to the end, blocking. What `send` raises ends the story, with its lease settled as cancelled."""
    with closing(story):  # an exception settles the lease now, not when garbage is collected
        outcome: Outcome | None = None
        while True:
            try:  # nothing but this line: a StopIteration of anybody else's is no answer
                step = story.send(outcome)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # a story returns an Ending
            if isinstance(step, Rest):
                time.sleep(step.seconds)
                outcome = None
            else:
                outcome = send(step)


async def drive_async(story: Story, send: Callable[[Send], Awaitable[Outcome]]) -> Ending:
    """The same for asyncio; a cancellation settles the lease at once."""
    with closing(story):
        outcome: Outcome | None = None
        while True:
            try:
                step = story.send(outcome)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # a story returns an Ending
            if isinstance(step, Rest):
                await asyncio.sleep(step.seconds)
                outcome = None
            else:
                outcome = await send(step)
