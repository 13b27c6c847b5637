"""A bulk run from texts to blocks of vectors, in threads or in tasks: the two players of one story.

Only `send` runs elsewhere; the plan is touched by who iterates.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ..errors import InvalidInput
from ..routing.balancer import Randomness
from .plan import BulkSpec, Plan
from .request import Request
from .results import Answer, Block, Summary
from .story import Cache, Call, Keeper, Limit, Result, Start, Story, Tale, Wait
from .workers import Workers

__all__ = ["AsyncRun", "BulkSpec", "Cache", "Limit", "Run"]

Sent = TypeVar("Sent")


class _Bulk(Generic[Sent]):
    """What both players keep."""

    def __init__(
        self,
        texts: Iterable[str],
        send: Callable[[list[str]], Sent],
        *,
        spec: BulkSpec | None = None,
        cache: Cache | None = None,
        limit: Limit | None = None,
        dimensions: int | None = None,
        before: Callable[[], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        randomness: Randomness = random,
    ) -> None:
        if isinstance(texts, str | bytes):
            raise InvalidInput("a bulk run takes many texts, not one: put it into a list", position=0)
        self._send: Callable[[list[str]], Sent] = send
        self._cache, self._before, self._clock = cache, before, clock
        self._plan = Plan(spec or BulkSpec(), randomness, dimensions=dimensions)
        self._began_s = clock()
        self._ended_s: float | None = None
        self._keeper = Keeper(cache, dimensions)
        self._tale = Tale(self._plan, iter(texts), keeper=self._keeper, limit=limit, clock=clock)
        self._story = self._tale.told()
        weakref.finalize(self, self._story.close)  # the tale and its story hold each other
        self._is_closed = False

    @property
    def summary(self) -> Summary:
        """What was done so far; it grows with the run."""
        summary = self._plan.summary
        summary.seconds = (self._clock() if self._ended_s is None else self._ended_s) - self._began_s
        return summary

    def _is_any_under_way(self) -> bool:
        raise NotImplementedError

    def _first(self) -> Callable[[], Any] | None:
        """What is to be done before the first text is taken, once."""
        before, self._before = self._before, None
        return before

    def _end_story(self) -> None:
        self._is_closed = True
        self._story.close()

    def _finish(self) -> None:
        self._ended_s = self._clock()
        if self._tale.not_kept is not None:
            raise self._tale.not_kept


class Run(_Bulk[Answer]):
    """Blocks of vectors in the order of the texts, as an iterator.

    Ended early, by `close`, an exception or Ctrl-C, it sends nothing more. With a cache it waits for what is under way
    and keeps it, which a second Ctrl-C ends; without one it leaves it to itself.

    Args:
        texts: are taken as far as needed.
        send: what it raises is judged by `trouble_of`. Runs in threads, each in a copy of the caller's context.
        cache: None keeps nothing.
        limit: None waits for no permission.
        dimensions: of the vectors; None learns it of the first.
        before: is called once, before the first text is taken; what it raises ends the run.
        clock: seconds, monotonic.
    Raises:
        Exception: while iterating, what stopped the run, as `send`, `texts`, `cache`, `limit` or `before` raised it.
    """

    _workers: Workers | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Block:
        if self._is_closed:
            raise StopIteration
        try:
            if (before := self._first()) is not None:
                before()
            block = self._play(self._story)
        except BaseException as error:
            self._close_after(error)
            raise
        if block is None:
            self.close()
            raise StopIteration
        return block

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._close_after(error)

    def close(self) -> None:
        """Send nothing more, and keep what is under way where there is a cache. Raises what the cache raised."""
        if self._is_closed:
            return
        self._end_story()
        if (workers := self._workers) is not None:
            workers.dismiss()
            if self._cache is not None or not self._plan.pace.under_way:
                self._play(self._tale.settled(self._is_any_under_way))
                workers.join()
        self._finish()

    def _close_after(self, error: BaseException) -> None:
        try:
            self.close()
        except Exception as second:
            error.add_note(f"what was under way could not be kept: {second!r}")

    def _play(self, story: Story) -> Block | None:
        """Tell it until it hands a block on; None at its end."""
        reply: Any = None
        while True:
            try:
                step = story.send(reply)
            except StopIteration:
                return None
            reply = None
            match step:
                case Block():
                    return step
                case Start():
                    self._staff().give(step.request)
                case Wait():
                    self._wait(step.for_s)
                case Call():
                    reply = step.function(*step.arguments)

    def _staff(self) -> Workers:
        if self._workers is None:
            self._workers = Workers(self._plan.parallel, self._send, self._keeper, self._tale.arrived)
            weakref.finalize(self, self._workers.dismiss)  # of a run that is dropped without being closed
            self._workers.start()
        return self._workers

    def _wait(self, for_s: float | None) -> None:
        if self._workers is not None:
            self._workers.wait(for_s)
        elif for_s:
            time.sleep(for_s)

    def _is_any_under_way(self) -> bool:
        return self._workers is not None and self._workers.left > 0


class AsyncRun(_Bulk[Awaitable[Answer]]):
    """The same for asyncio, as an asynchronous iterator: `send` is awaited, each time in a task of its own.

    A cancellation is to it what Ctrl-C is to `Run`. `cache` and `limit` are called in threads; `before` is awaited.
    """

    @cached_property
    def _bell(self) -> asyncio.Event:
        return asyncio.Event()

    @cached_property
    def _tasks(self) -> dict[Request, asyncio.Task[Result]]:
        return {}

    def _is_any_under_way(self) -> bool:
        return bool(self._tasks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        if self._is_closed:
            raise StopAsyncIteration
        try:
            if (before := self._first()) is not None:
                await before()
            block = await self._play(self._story)
        except BaseException as error:
            await self._close_after(error)
            raise
        if block is None:
            await self.aclose()
            raise StopAsyncIteration
        return block

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            await self._close_after(error)

    async def aclose(self) -> None:
        """Send nothing more, and keep what is under way where there is a cache. Raises what the cache raised."""
        if self._is_closed:
            return
        self._end_story()
        try:
            if self._cache is not None:
                await self._play(self._tale.settled(self._is_any_under_way))
        finally:
            await self._abandon()
        self._finish()

    async def _close_after(self, error: BaseException) -> None:
        try:
            await self.aclose()
        except Exception as second:
            error.add_note(f"what was under way could not be kept: {second!r}")

    async def _abandon(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _play(self, story: Story) -> Block | None:
        """Tell it until it hands a block on; None at its end."""
        reply: Any = None
        while True:
            try:
                step = story.send(reply)
            except StopIteration:
                return None
            reply = None
            match step:
                case Block():
                    return step
                case Start():
                    self._start(step.request)
                case Wait():
                    await self._wait(step.for_s)
                case Call():
                    reply = await _undisturbed(step.function, step.arguments)

    def _start(self, request: Request) -> None:
        task = asyncio.create_task(self._awaited(request), name="llmwire-bulk")
        task.add_done_callback(lambda ended: self._brought(request, ended))
        self._tasks[request] = task

    async def _awaited(self, request: Request) -> Result:
        answer = await self._send(request.texts)
        if self._cache is None:
            return self._keeper.result(request, answer)
        kept: Result = await _undisturbed(self._keeper.result, (request, answer))
        return kept

    def _brought(self, request: Request, task: asyncio.Task[Result]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._tale.arrived.append(task.result() if error is None else Result(request, error=error))
        del self._tasks[request]
        self._bell.set()

    async def _wait(self, for_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._bell.wait()
        self._bell.clear()


async def _undisturbed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Its result, from a thread. A cancellation waits for its end: what is to be kept must not be lost."""
    call = functools.partial(contextvars.copy_context().run, function, *arguments)
    # No task of its own, as `asyncio.to_thread` would need: a loop that ends cancels those before a thread is free.
    future = asyncio.get_running_loop().run_in_executor(None, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # is of no interest any more, and nobody shall be warned of it
        raise
