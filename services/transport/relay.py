"""An answer that is handed on while it comes: the bytes on their way from a connection to the caller.

Knows bodies and their time; what they mean is the course's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final

import httpcore2
import httpx2

from .blocking import SyncAnswer
from .course import BROKEN, Course
from .deadline import Watch, watched
from .nonblocking import AsyncAnswer
from .verdict import without_frames

END_S: Final = 0.1  #: for what ends a body after its last event; the SDK's own time where it is asynchronous


class Relay(httpx2.SyncByteStream):
    """The bytes of an answer that is handed on while it comes."""

    def __init__(self, first: bytes, parts: Iterator[bytes], answer: SyncAnswer, watch: Watch, course: Course) -> None:
        self._first, self._parts, self._answer, self._watch, self._course = first, parts, answer, watch, course

    def __iter__(self) -> Iterator[bytes]:
        if self._first:
            yield self._first
        while True:
            try:
                with watched(self._watch):
                    part = next(self._parts, None)
                handed_on = b"" if part is None else self._course.take(part)
            except BROKEN as error:
                part = None  # a traceback with its variables shows nothing of what came
                without_frames(error)
                self._answer.close()
                if (problem := self._course.broke(error)) is None:
                    return
                raise problem from error
            if part is None:
                self._course.ended()
                return
            if handed_on:
                yield handed_on

    def close(self) -> None:
        # First of all: a thread that reads meanwhile would blame the server for the end.
        if self._course.completes():
            # The SDK stops at the last event, or its caller before that; what ends the body comes behind it.
            self._course.closed(self._answer.finish(END_S))
        else:
            self._course.given_up()
        self._answer.close()

    def __del__(self) -> None:
        # Whoever read it is gone. Its lease settles itself; its connection must not stay open.
        self._course.lost()
        self._answer.close()


class AsyncRelay(httpx2.AsyncByteStream):
    """The same for asyncio."""

    def __init__(
        self,
        first: bytes,
        parts: AsyncIterator[bytes],
        answer: AsyncAnswer,
        watch: Watch,
        course: Course,
    ) -> None:
        self._first, self._parts, self._answer, self._watch, self._course = first, parts, answer, watch, course
        self._loop = asyncio.get_running_loop()
        self._is_open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._first:
            yield self._first
        while True:
            try:
                part = await self._next()
                handed_on = b"" if part is None else self._course.take(part)
            except BROKEN as error:
                part = None  # a traceback with its variables shows nothing of what came
                without_frames(error)
                self._close()
                if (problem := self._course.broke(error)) is None:
                    return
                raise problem from error
            if part is None:
                self._course.ended()
                return
            if handed_on:
                yield handed_on

    async def aclose(self) -> None:
        if self._course.completes():
            self._course.closed(self._answer.come)
        else:
            self._course.given_up()
        self._close()

    async def _next(self) -> bytes | None:
        try:
            async with asyncio.timeout(self._watch.remaining_s(self._watch.chunk_s)):
                return await anext(self._parts, None)
        except TimeoutError as error:
            raise read_timeout(error) from error

    def _close(self) -> None:
        self._is_open = False
        self._answer.close()

    def __del__(self) -> None:
        self._course.lost()
        if self._is_open and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._answer.close)


def read_timeout(error: BaseException) -> httpcore2.ReadTimeout:
    """asyncio's timeout in the terms of all connections here."""
    timeout = httpcore2.ReadTimeout("no answer in time")
    timeout.__cause__ = error
    return timeout
