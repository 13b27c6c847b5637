"""A bulk run from texts to blocks of vectors, in threads or in tasks.

Knows how to send, wait and keep; what is sent, and when, the plan decides. Both players are told the same story: each
step is yielded, and what came of it is sent back. Only `send` runs elsewhere: the plan is touched by who iterates.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import queue
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, TypeAlias, TypeVar

from ..errors import InvalidInput, LLMWireError
from ..routing.balancer import Randomness
from .plan import BulkSpec, Plan
from .request import Request
from .results import Answer, Block, Summary
from .trouble import trouble_of

if TYPE_CHECKING:
    from .request import Matrix, Vector


LONGEST_WAIT_S: Final = 3600.0  #: a lock cannot wait for ever so many seconds; it is asked again after that


class Cache(Protocol):
    """Vectors that were paid for before. Used by one thread at a time, not always the same."""

    def get(self, keys: Sequence[bytes], /) -> Mapping[bytes, Vector]:
        """What is there of these keys: float32, (dimensions,) each."""

    def put(self, keys: Sequence[bytes], vectors: Matrix, /) -> None:
        """Keep vectors: float32, (keys, dimensions). May be called again with the same."""


class Limit(Protocol):
    """Permission to send, as of a rate limit that many processes share."""

    def delay_s(self, texts: int, tokens: int, /) -> float:
        """0.0 where a request may go now, and is counted; else seconds after which to ask again. May block."""


@dataclass(frozen=True, slots=True)
class Start:
    """Send it, and do not wait for it."""

    request: Request


@dataclass(frozen=True, slots=True)
class Wait:
    """Until a result arrives, for so many seconds at most."""

    for_s: float | None


@dataclass(frozen=True, slots=True)
class Call:
    """Call this, which may block; what it returns is sent back."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a request brought: an answer or an error."""

    request: Request
    answer: Answer | None = None
    error: BaseException | None = None


Story: TypeAlias = Generator[Start | Wait | Call | Block, Any, None]
Sent = TypeVar("Sent")


class _Tale:
    """The story, for both players. It does not know its player, so that one that is dropped is gone at once."""

    def __init__(
        self,
        plan: Plan,
        texts: Iterator[str],
        *,
        cache: Cache | None,
        limit: Limit | None,
        clock: Callable[[], float],
    ) -> None:
        self.plan, self._texts = plan, texts
        self._cache, self._limit, self._clock = cache, limit, clock
        self.arrived: deque[Result] = deque()  # one leaves it when it was dealt with: an interrupt loses none
        self.not_kept: Exception | None = None

    def told(self) -> Story:
        plan = self.plan
        while not plan.is_done:
            yield Wait(0.0)
            yield from self._take_in()
            yield from self._send_more()
            if (block := plan.block()) is not None:
                yield block
            elif not (plan.is_done or self.arrived):
                wait_s = plan.wait_s(self._clock())
                yield Wait(None if wait_s is None else min(wait_s, LONGEST_WAIT_S))

    def _take_in(self) -> Story:
        while self.arrived:
            result = self.arrived[0]
            answer, error = self._checked(result)
            if answer is None:
                assert error is not None  # noqa: S101  # for the type checker: it is one or the other
                self.plan.failed(result.request, trouble_of(error), self._clock())
            else:
                if self._cache is not None:
                    yield Call(self._cache.put, (result.request.keys, answer.vectors))
                self.plan.answered(result.request, answer)
            self.arrived.popleft()

    def _send_more(self) -> Story:
        plan = self.plan
        while True:
            while (request := plan.next(self._clock())) is not None:
                delay_s = 0.0
                if self._limit is not None:
                    delay_s = yield Call(self._limit.delay_s, (len(request), request.tokens))
                if delay_s > 0:
                    plan.postpone(request, self._clock() + delay_s)
                    break
                yield Start(request)
            count = plan.wants_texts()
            if not count:
                return
            yield from self._take_texts(count)

    def _take_texts(self, count: int) -> Story:
        texts = list(itertools.islice(self._texts, count))
        if len(texts) < count:
            self.plan.exhausted()
        keys = self.plan.add(texts)
        has_cache = keys and self._cache is not None
        found = (yield Call(self._cache.get, (keys,))) if has_cache and self._cache is not None else {}
        self.plan.found(found)

    def settled(self, is_any_under_way: Callable[[], bool]) -> Story:
        """What is under way was paid for: wait for it, and keep it."""
        while is_any_under_way() or self.arrived:
            if not self.arrived:
                yield Wait(None)
                continue
            result = self.arrived[0]
            answer, _ = self._checked(result)
            if answer is not None:
                yield Call(self._keep, (result.request.keys, answer.vectors))
                self.plan.paid(result.request, answer)
            self.arrived.popleft()

    def _keep(self, keys: Sequence[bytes], vectors: Matrix) -> None:
        """One that cannot be kept must not lose the others."""
        try:
            if self._cache is not None:
                self._cache.put(keys, vectors)
        except Exception as error:
            self.not_kept = self.not_kept or error

    def _checked(self, result: Result) -> tuple[Answer | None, BaseException | None]:
        if result.answer is None:
            return None, result.error
        try:
            self.plan.check(result.request, result.answer)
        except LLMWireError as error:
            return None, error
        return result.answer, None


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
        clock: Callable[[], float] = time.monotonic,
        randomness: Randomness = random,
    ) -> None:
        if isinstance(texts, str | bytes):
            raise InvalidInput("a bulk run takes many texts, not one: put it into a list", position=0)
        self._send: Callable[[list[str]], Sent] = send
        self._cache, self._clock = cache, clock
        self._plan = Plan(spec or BulkSpec(), randomness, dimensions=dimensions)
        self._began_s = clock()
        self._ended_s: float | None = None
        self._tale = _Tale(self._plan, iter(texts), cache=cache, limit=limit, clock=clock)
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

    def _end_story(self) -> None:
        self._is_closed = True
        self._story.close()

    def _finish(self) -> None:
        self._ended_s = self._clock()
        if self._tale.not_kept is not None:
            raise self._tale.not_kept


class _Workers:
    """Threads that send, one request at a time each. They know the run's queues and not the run, so that it can go.

    A queue's `put` is one step that no interrupt can cut in two, as starting a thread can be: all are started before
    the first request is sent, and that is how the end of all that was sent is known.
    """

    def __init__(self, count: int, send: Callable[[list[str]], Answer], arrived: deque[Result]) -> None:
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        arguments = (self._tasks, self._bell, send, arrived)
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
        """Until a result arrives or one goes home."""
        with contextlib.suppress(queue.Empty):
            self.left -= self._bell.get(timeout=for_s)

    def dismiss(self) -> None:
        """Each goes home when it has done what it was given."""
        self._tasks.put(None)

    def join(self) -> None:
        """The last steps of those that have gone home."""
        for thread in self._threads:
            if thread.is_alive():
                thread.join()


_Task: TypeAlias = tuple[contextvars.Context, Request, list[str]]


def _work(
    tasks: queue.SimpleQueue[_Task | None],
    bell: queue.SimpleQueue[bool],
    send: Callable[[list[str]], Answer],
    arrived: deque[Result],
) -> None:
    while (task := tasks.get()) is not None:
        arrived.append(_result(send, *task))
        del task  # its texts are not needed while it waits for the next
        bell.put(False)
    tasks.put(None)  # for the next one
    bell.put(True)


def _result(
    send: Callable[[list[str]], Answer], context: contextvars.Context, request: Request, texts: list[str]
) -> Result:
    try:
        return Result(request, answer=context.run(send, texts))
    except BaseException as error:
        return Result(request, error=error)


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
        clock: seconds, monotonic.
    Raises:
        Exception: while iterating, what stopped the run, as `send`, `texts`, `cache` or `limit` raised it.
    """

    _workers: _Workers | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Block:
        if self._is_closed:
            raise StopIteration
        try:
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

    def _staff(self) -> _Workers:
        if self._workers is None:
            self._workers = _Workers(self._plan.parallel, self._send, self._tale.arrived)
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

    A cancellation is to it what Ctrl-C is to `Run`. `cache` and `limit` are called in threads, one at a time.
    """

    @cached_property
    def _bell(self) -> asyncio.Event:
        return asyncio.Event()

    @cached_property
    def _tasks(self) -> dict[Request, asyncio.Task[Answer]]:
        return {}

    def _is_any_under_way(self) -> bool:
        return bool(self._tasks)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        if self._is_closed:
            raise StopAsyncIteration
        try:
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
        task = asyncio.create_task(self._awaited(request.texts), name="llmwire-bulk")
        task.add_done_callback(lambda ended: self._brought(request, ended))
        self._tasks[request] = task

    async def _awaited(self, texts: list[str]) -> Answer:
        return await self._send(texts)

    def _brought(self, request: Request, task: asyncio.Task[Answer]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        answer = task.result() if error is None else None
        self._tale.arrived.append(Result(request, answer=answer, error=error))
        del self._tasks[request]
        self._bell.set()

    async def _wait(self, for_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                await self._bell.wait()
        self._bell.clear()


async def _undisturbed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Its result, from a thread. A cancellation waits for its end: a cache must not be used by two threads at once."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # is of no interest any more, and nobody shall be warned of it
        raise
