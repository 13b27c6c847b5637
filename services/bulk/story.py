"""The story of a bulk run: take texts, ask the cache, send, wait, keep, hand on. Told once, played in threads or tasks.

Each step is yielded, and what came of it is sent back. Knows caches and limits; knows no threads and no loop.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from ..errors import InvalidReply, SpaceMismatch
from .plan import Plan
from .rate import NeverGoes
from .request import Request
from .results import Answer, Block
from .trouble import trouble_of

if TYPE_CHECKING:
    from .request import Matrix, Vector

LONGEST_WAIT_S: Final = 3600.0  #: a lock cannot wait for ever so many seconds; it is asked again after that


class Cache(Protocol):
    """Vectors that were paid for before. Used by one thread at a time, not always the same.

    Where it has an attribute `space`, the fingerprint of what its vectors are of, a service sees that its own are too.
    """

    def get(self, keys: Sequence[bytes], /) -> Mapping[bytes, Vector]:
        """What is there of these keys: float32, (dimensions,) each."""

    def put(self, keys: Sequence[bytes], vectors: Matrix, /) -> None:
        """Keep vectors: float32, (keys, dimensions). May be called again with the same."""


class Limit(Protocol):
    """Permission to send, as of a rate limit that many processes share."""

    def delay_s(self, texts: int, tokens: int, /) -> float:
        """0.0 where a request may go now, and is counted; else seconds after which to ask again. May block.

        Raises:
            NeverGoes: it is more than is ever let go at once.
        """


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
    """What a request brought: an answer that can be used, or an error."""

    request: Request
    answer: Answer | None = None
    error: BaseException | None = None
    not_kept: BaseException | None = None  #: what the cache raised


class Keeper:
    """Judges each answer and puts it into the cache as soon as it is there, by whoever brought it.

    Safe among threads; the cache meets one at a time. All vectors that it lets pass are of one width, which it learns
    of the first: nothing wrong is kept, and nothing is handed on that was not kept.
    """

    def __init__(self, cache: Cache | None, dimensions: int | None) -> None:
        self._cache, self._dimensions, self._lock = cache, dimensions, threading.Lock()

    def result(self, request: Request, answer: Answer) -> Result:
        """What came of the request. Raises nothing: an error is part of it."""
        with self._lock:
            try:
                self._check(request, answer)
            except Exception as error:
                return Result(request, error=error)
            try:
                if self._cache is not None:
                    self._cache.put(request.keys, answer.vectors)
            except BaseException as error:  # or else the thread would end, and the run wait for it
                return Result(request, answer=answer, not_kept=error)
        return Result(request, answer=answer)

    def found(self, keys: Sequence[bytes]) -> Mapping[bytes, Vector]:
        """What the cache has of them; what is of another width will be embedded again."""
        if self._cache is None:
            return {}
        with self._lock:
            vectors = self._cache.get(keys)
            return {key: vectors[key] for key in keys if key in vectors and self._fits(vectors[key].shape[-1])}

    def _check(self, request: Request, answer: Answer) -> None:
        shape = answer.vectors.shape
        if len(shape) != 2 or shape[0] != len(request):
            raise InvalidReply(f"the answer has vectors of shape {shape} for {len(request)} texts")
        if not self._fits(shape[1]):
            raise SpaceMismatch(
                f"a vector of {answer.endpoint or 'an endpoint'} has {shape[1]} dimensions where the others have "
                f"{self._dimensions}: let all endpoints of embedding serve the same model",
                expected=f"{self._dimensions} dimensions",
                found=f"{shape[1]} dimensions",
            )

    def _fits(self, width: int) -> bool:
        self._dimensions = self._dimensions or width
        return self._dimensions == width


Story: TypeAlias = Generator[Start | Wait | Call | Block, Any, None]


class Tale:
    """The story, for both players. It does not know its player, so that one that is dropped is gone at once."""

    def __init__(
        self,
        plan: Plan,
        texts: Iterator[str],
        *,
        keeper: Keeper,
        limit: Limit | None,
        clock: Callable[[], float],
    ) -> None:
        self.plan, self._texts = plan, texts
        self._keeper, self._limit, self._clock = keeper, limit, clock
        self.arrived: deque[Result] = deque()  # one leaves it when it was dealt with: an interrupt loses none
        self.not_kept: BaseException | None = None

    def told(self) -> Story:
        """From the first text to the last block."""
        plan = self.plan
        while not plan.is_done:
            yield Wait(0.0)
            self._take_in()
            yield from self._send_more()
            if (block := plan.block()) is not None:
                yield block
            elif not (plan.is_done or self.arrived):
                wait_s = plan.wait_s(self._clock())
                yield Wait(None if wait_s is None else min(wait_s, LONGEST_WAIT_S))

    def _take_in(self) -> None:
        while self.arrived:
            result = self.arrived[0]
            if result.answer is not None:
                self.plan.answered(result.request, result.answer)
            else:
                assert result.error is not None  # noqa: S101  # for the type checker: it is one or the other
                self.plan.failed(result.request, trouble_of(result.error), self._clock())
            self.arrived.popleft()
            if result.not_kept is not None:
                raise result.not_kept

    def _send_more(self) -> Story:
        plan = self.plan
        while True:
            while (request := plan.next(self._clock())) is not None:
                delay_s = (yield Call(_asked, (self._limit, request))) if self._limit is not None else 0.0
                if delay_s is None:
                    plan.never_goes(request)
                    continue
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
        self.plan.found((yield Call(self._keeper.found, (keys,))) if keys else {})

    def settled(self, is_any_under_way: Callable[[], bool]) -> Story:
        """What is under way was paid for: wait for it, and keep it."""
        while is_any_under_way() or self.arrived:
            if not self.arrived:
                yield Wait(None)
                continue
            result = self.arrived[0]
            self.not_kept = self.not_kept or result.not_kept  # one that cannot be kept must not lose the others
            if result.answer is not None:
                self.plan.paid(result.request, result.answer)
            self.arrived.popleft()


def _asked(limit: Limit, request: Request) -> float | None:
    """The limit's answer; None where the request will never go."""
    try:
        return limit.delay_s(len(request), request.tokens)
    except NeverGoes:
        return None
