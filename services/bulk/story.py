"""The story of a bulk run: take texts, ask the cache, send, wait, keep, hand on. Told once, played in threads or tasks.

Each step is yielded, and what came of it is sent back. Knows caches and limits; knows no threads and no loop.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from ..errors import LLMWireError
from .plan import Plan
from .request import Request
from .results import Answer, Block
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


class Tale:
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
        """From the first text to the last block."""
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
