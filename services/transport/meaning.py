"""How like the meaning of a text is to the examples of routes, found out within a limit, whatever the embedder does.

Knows what embeds, and how long anybody waits; knows no endpoints. What comes too late is there for the next question.
"""

from __future__ import annotations

import asyncio
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Final

from ..forking import no_fork_meanwhile
from ..provenance import recorded
from ..routing.backoff import doubled
from ..routing.facts import SAMPLE_CHARS
from ..routing.route import Route
from ..routing.router import Scores
from ..wanted import routing
from .errands import Promise, Tasks, Threads
from .likeness import Examples, Layout, Remembered, Unusable, directions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

Embed = Callable[[list[str]], "Matrix"]  #: blocks; (len(texts), dimensions)
AsyncEmbed = Callable[[list[str]], Awaitable["Matrix"]]

RETRY_S: Final = 5.0  #: from a failure to embed the examples to the next attempt: a restart takes about so long
RETRY_CAP_S: Final = 60.0  #: a server that is back is found within a minute
MAX_THREADS: Final = 8  #: that embed at the same time; a server that hangs holds no more
MAX_WAITING: Final = 256  #: callers whose text waits for a thread: more find none within any sensible limit
MAX_LATE: Final = 8  #: tasks that go on after the limit
MAX_LATER: Final = 32  #: texts that nobody waits for; reports of a shadow may have gaps
LATER_THREADS: Final = 2  #: that take them: they must not crowd out those that somebody waits for

_Found = Callable[["Matrix | str | None"], None]  #: is given directions, or what is wrong, or that it was given up
_Send = Callable[[list[str], "frozenset[str] | None", _Found], Callable[[], object]]  #: gives what ends the wait


class Meaning:
    """Compares texts with the examples of routes. For many threads, event loops and children of a fork.

    The examples are embedded at the first question, all together, and kept; and so are the texts that came last. A
    text goes only where the trust allows that its request demands; the examples, which are the operator's, anywhere.

    Args:
        routes: those with examples, by their names.
        embed, async_embed: what embeds texts. They may hang: the former holds up one of few threads, until it ends.
        limit_s: how long a question may take at most; also an attribute.
        clock: monotonic, in seconds; says when the examples are tried again.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        embed: Embed,
        async_embed: AsyncEmbed,
        limit_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        with no_fork_meanwhile():  # and not at the first question, of whose limit the import would take the most
            import numpy  # noqa: F401
        self._embed, self._async_embed, self.limit_s = embed, async_embed, limit_s
        self._examples = _SharedExamples(Layout(routes), clock)
        self._remembered = Remembered()
        self._threads = Threads("llmwire meaning", most=MAX_THREADS, most_waiting=MAX_WAITING)
        self._later = Threads("llmwire shadow", most=LATER_THREADS, most_waiting=MAX_LATER)
        self._late_tasks, self._later_tasks = Tasks(most=MAX_LATE), Tasks(most=MAX_LATER)

    def scores(self, text: str, trust: frozenset[str] | None, *, limit_s: float | None = None) -> Scores:
        """How like the text is to the examples of each route; or why that is not known. Blocks, at most to the limit.

        Args:
            trust: what its embedding demands.
            limit_s: in the place of the usual one, where no request waits.
        """
        limit_s = self.limit_s if limit_s is None else limit_s
        ends_at_s = time.monotonic() + limit_s
        direction, examples = self._sought(text, trust, self._send, None)
        try:
            if not isinstance(direction.wait(ends_at_s - time.monotonic()), str):
                examples.wait(ends_at_s - time.monotonic())
        finally:
            _stop(direction)
        return self._compared(direction.value, examples.value, limit_s)

    async def async_scores(self, text: str, trust: frozenset[str] | None, *, limit_s: float | None = None) -> Scores:
        """As `scores`."""
        limit_s = self.limit_s if limit_s is None else limit_s
        direction, examples = self._sought(text, trust, self._async_send, asyncio.get_running_loop())
        try:
            # Never waits for the embedder itself, which may swallow a cancellation.
            async with asyncio.timeout(limit_s):
                if not isinstance(await direction.wait_async(), str):
                    await examples.wait_async()
        except TimeoutError:
            pass
        finally:
            _stop(direction)
        return self._compared(direction.value, examples.value, limit_s)

    def scored_later(self, text: str, trust: frozenset[str] | None, then: Callable[[Scores], object]) -> None:
        """Have the scores told when they are there, on a thread. Forgotten where too many wait."""
        self._later.run(partial(copy_context().run, lambda: then(self.scores(text, trust))))

    def async_scored_later(self, text: str, trust: frozenset[str] | None, then: Callable[[Scores], object]) -> None:
        """The same for asyncio: a task of the loop that runs, which ends with it."""

        async def told() -> None:
            then(await self.async_scores(text, trust))

        self._later_tasks.hold(asyncio.create_task(told(), name="llmwire shadow"))

    def renew_after_fork(self) -> None:
        """In a child: locks of its own, and nothing on its way; what is known stays."""
        for owner in (
            self._examples,
            self._remembered,
            self._threads,
            self._later,
            self._late_tasks,
            self._later_tasks,
        ):
            owner.renew_after_fork()

    def _sought(
        self, text: str, trust: frozenset[str] | None, send: _Send, loop: AbstractEventLoop | None
    ) -> tuple[Promise[Matrix | str], Promise[Examples | str]]:
        # The examples belong to no caller: neither does its context, with its deadline and what it traces.
        examples = Context().run(self._examples.promised, send, loop)
        sample = text[:SAMPLE_CHARS]
        direction: Promise[Matrix | str] = Promise(self._remembered.get(sample))
        if isinstance(examples.value, str):  # there is nothing to compare it with: it need not be sent
            direction.keep(examples.value)
        elif direction.value is None:

            def found(vectors: Matrix | str | None) -> None:
                if vectors is None or isinstance(vectors, str):
                    direction.keep(f"the embedding {vectors or _GIVEN_UP}")
                    return
                self._remembered.put(sample, vectors[0])
                direction.keep(vectors[0])

            direction.stop = send([sample], trust, found)
        return direction, examples

    def _compared(self, direction: Matrix | str | None, examples: Examples | str | None, limit_s: float) -> Scores:
        for each in (direction, examples):
            if isinstance(each, str):
                return Scores(problem=each)
        if direction is None or examples is None or isinstance(direction, str) or isinstance(examples, str):
            return Scores(problem=f"no embedding within {limit_s:g} s")
        if len(direction) != examples.dimensions:  # another model answers now: nothing that is known is of its space
            self._examples.forget(examples)
            self._remembered.forget()
            return Scores(problem=f"its vector has {len(direction)} dimensions, and an example's {examples.dimensions}")
        return Scores(by_route=examples.scores(direction))

    def _send(self, texts: list[str], trust: frozenset[str] | None, found: _Found) -> Callable[[], object]:
        """Embed on a thread."""
        errand = partial(_own_context(trust).run, self._fetch, texts, found)
        if not self._threads.run(errand):
            found("found no thread: too many wait for one")
        return partial(self._threads.drop, errand)

    def _fetch(self, texts: list[str], found: _Found) -> None:
        try:
            vectors = self._embed(texts)
        except BaseException as error:  # whoever waits must be told of it
            found(_failed(error))
        else:
            found(_checked(vectors, len(texts)))

    def _async_send(self, texts: list[str], trust: frozenset[str] | None, found: _Found) -> Callable[[], object]:
        """Embed as a task, which goes on after the wait."""
        task = _own_context(trust).run(partial(asyncio.create_task, self._async_fetch(texts, found)))
        return partial(self._late_tasks.hold, task)

    async def _async_fetch(self, texts: list[str], found: _Found) -> None:
        try:
            vectors = await self._async_embed(texts)
        except Exception as error:
            found(_failed(error))
        except BaseException:
            found(None)
            raise
        else:
            found(_checked(vectors, len(texts)))


_GIVEN_UP: Final = "was cancelled"  #: as its event loop ended


def _own_context(trust: frozenset[str] | None) -> Context:
    """The caller's, but that the call inside is llmwire's own: it demands that trust, and nobody's record has it."""
    with routing(trust), recorded():
        return copy_context()


def _failed(error: BaseException) -> str:
    # The class alone: what an error says may quote the text.
    return f"failed: {type(error).__name__}"


def _checked(vectors: object, count: int) -> Matrix | str:
    try:
        return directions(vectors, count)
    except Unusable as error:
        return str(error)


def _stop(promise: Promise[Matrix | str]) -> None:
    if promise.value is None and promise.stop is not None:
        promise.stop()


class _SharedExamples:
    """The directions of the examples: sought once for all who ask, and after a failure again, later and later."""

    def __init__(self, layout: Layout, clock: Callable[[], float]) -> None:
        self._layout, self._clock = layout, clock
        self._lock = threading.Lock()
        self._promise: Promise[Examples | str] | None = None
        self._loop: AbstractEventLoop | None = None
        self._problem = ""
        self._failures = 0
        self._sought_at_s = self._again_at_s = -float("inf")

    def renew_after_fork(self) -> None:
        """In a child: a lock of its own, and nothing on its way."""
        self._lock = threading.Lock()
        if self._promise is not None and self._promise.value is None:
            self._promise = None

    def promised(self, send: _Send, loop: AbstractEventLoop | None) -> Promise[Examples | str]:
        """What is there or on its way; otherwise sends for it, or says why not yet.

        Args:
            loop: that the work is to belong to; None: to a thread.
        """
        with self._lock:
            if self._promise is not None and not self._is_lost(self._promise):
                return self._promise
            now_s = self._clock()
            if now_s < self._again_at_s:
                return Promise(self._problem)
            promise = self._promise = Promise[Examples | str]()
            self._loop, self._sought_at_s = loop, now_s
        promise.stop = send(self._layout.texts, None, partial(self._found, promise))
        return promise

    def forget(self, examples: Examples) -> None:
        """They are another model's. Sought again at once, but not more often than after a failure."""
        with self._lock:
            if self._promise is not None and self._promise.value is examples:
                self._promise = None
                self._problem = "the embedding model has changed: the examples are embedded again"
                self._again_at_s = self._sought_at_s + RETRY_S

    def _is_lost(self, promise: Promise[Examples | str]) -> bool:
        """Whether the loop has ended that would have kept it."""
        return promise.value is None and self._loop is not None and not self._loop.is_running()

    def _found(self, promise: Promise[Examples | str], vectors: Matrix | str | None) -> None:
        value: Examples | str
        if vectors is None or isinstance(vectors, str):
            value = f"the embedding of the examples {vectors or _GIVEN_UP}"
        else:
            value = Examples(self._layout, vectors)
        with self._lock:
            if promise is self._promise:
                self._settle(value, is_failure=isinstance(vectors, str))
        promise.keep(value)

    def _settle(self, value: Examples | str, *, is_failure: bool) -> None:
        self._loop = None
        if isinstance(value, str):
            self._promise = None  # not the promise itself: the next question begins anew
        if is_failure:
            self._problem = str(value)
            self._again_at_s = self._clock() + doubled(RETRY_S, self._failures, cap_s=RETRY_CAP_S)
            self._failures += 1
        elif not isinstance(value, str):
            self._failures = 0
