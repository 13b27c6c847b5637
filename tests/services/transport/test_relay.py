"""An answer that is handed on while it comes, and given up in the midst of it."""

from __future__ import annotations

import asyncio

from llmwire.services.transport.deadline import Watch
from llmwire.services.transport.relay import AsyncRelay, Relay


class Told:
    """Stands for the answer and for its course, and remembers what they were told, in order."""

    def __init__(self):
        self.calls = []

    def completes(self):
        return False

    def given_up(self):
        self.calls.append("given up")

    def lost(self):
        self.calls.append("lost")

    def close(self):
        self.calls.append("closed")


def test_an_answer_is_given_up_before_its_connection_is_closed():
    # A thread that reads meanwhile wakes when the connection is closed: it must not blame the server for that.
    told = Told()

    Relay(b"", iter([]), told, Watch(None), told).close()

    assert told.calls[:2] == ["given up", "closed"]


def test_so_it_is_in_asyncio():
    told = Told()

    async def main():
        await AsyncRelay(b"", aiter(nothing()), told, Watch(None), told).aclose()

    asyncio.run(main())

    assert told.calls[:2] == ["given up", "closed"]


async def nothing():
    for part in ():
        yield part
