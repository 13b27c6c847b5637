"""What a bulk run does next: which texts are sent, again, in halves or not at all, and what is handed on. Pure.

Knows texts and their fate; it is told the time, and sends, waits and stores nothing. One thread at a time.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, assert_never

from ..errors import InvalidInput
from ..routing.backoff import BackoffSpec
from ..routing.balancer import Randomness
from .batches import BatchSpec, check
from .pace import Pace
from .request import Request, Seen, Text
from .results import Answer, Block, Refused, Summary, key_of
from .trouble import Kind, Trouble

if TYPE_CHECKING:
    from .request import Matrix, Vector

BACKOFF: Final = BackoffSpec(base_s=1.0, cap_s=30.0)  #: nobody waits at a screen; a restart takes some seconds
SUSPECT: Final = 3  #: failures of one request, while others are served: two may be chance
HOPELESS: Final = 50  #: texts refused and none embedded: it is the request that is wrong, not each of them
REMEMBERED: Final = 100_000  #: refused texts that would not be sent again: some 50 MB of keys and reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSpec:
    """How much a run does at once, and how long it hopes."""

    parallel: int = 8  #: keeps a GPU server's queue filled; a busy server is asked less by itself
    window: int | None = None  #: texts held at once; None: four rounds, as one slow request must not stop the others
    patience_s: float = 600.0  #: without one answer; a server is restarted or replaced within minutes
    batches: BatchSpec = field(default_factory=BatchSpec)

    def __post_init__(self) -> None:
        for name in ("parallel", "window"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be above 0, not {limit}")
        if not self.patience_s >= 0:  # nan is neither
            raise ValueError(f"patience_s must not be below 0, but is {self.patience_s}")

    @property
    def held(self) -> int:
        """Texts that are held at once: from the first that is missing to the last that was taken."""
        return self.window or 4 * self.parallel * self.batches.max_inputs


class Plan:
    """The state of a run. Its player asks what to do, does it, and tells what came of it.

    Args:
        randomness: for the rests between repetitions.
        dimensions: of the vectors; None learns it of the first.
    """

    def __init__(self, spec: BulkSpec, randomness: Randomness, *, dimensions: int | None = None) -> None:
        self._spec, self._randomness, self._dimensions = spec, randomness, dimensions
        self.pace = Pace(spec.parallel)
        self.summary = Summary()
        self._held: deque[Text] = deque()  #: one a position, those of a text that repeats are the same
        self._start = 0  #: the position of the first of them
        self._known: dict[bytes, Text] = {}
        self._past: dict[bytes, None] = {}  #: the keys of refused ones that were handed on, the oldest first
        self._new: list[Text] = []  #: whether the cache has them is not known yet
        self._group: list[Text] = []  #: of the next request
        self._group_tokens = 0
        self._ready: deque[Request] = deque()
        self._resting: list[tuple[float, int, Request]] = []
        self._under_way: set[Request] = set()
        self._numbers = itertools.count()
        self._rest_until_s = float("-inf")  #: no server, or the limit, takes anything before
        self._answers = self._refusals = 0
        self._first_served = self._first_failed = 0  #: requests by what their first try met
        self._trouble_since_s: float | None = None
        self._is_exhausted = self._was_idle = False
        self._has_any = False  #: a vector, of a server or of the cache

    @property
    def parallel(self) -> int:
        """Requests that are under way at most."""
        return self._spec.parallel

    # What to take.

    def wants_texts(self) -> int:
        """How many texts are to be taken now: 0 where there is enough to send, to hand on or to hold."""
        if self._is_exhausted or self._ready or not self.pace.has_room or (self._was_idle and self._is_first_done()):
            return 0
        return min(self._spec.batches.max_inputs - len(self._group), self._room)

    def add(self, texts: Sequence[object]) -> list[bytes]:
        """Take the next texts. Returns the keys of those that are new, for `found`, which must be called next."""
        for place, text in enumerate(texts, self._start + len(self._held)):
            known = self._of(text, place)
            known.uses += 1
            self._held.append(known)
        return [text.key for text in self._new]

    def exhausted(self) -> None:
        """There are no more texts."""
        self._is_exhausted = True

    def found(self, vectors: Mapping[bytes, Vector]) -> None:
        """What the cache has of the keys that `add` returned; what it has not will be sent."""
        self._was_idle = True
        for text in self._new:
            vector = vectors.get(text.key)
            if vector is not None and self._fits(vector.shape[-1]):
                text.vector, text.is_cached = vector, True
                self._has_any = True
            else:
                self._was_idle = False
                self._put_into_group(text)
        self._new.clear()

    # What to send.

    def next(self, now_s: float) -> Request | None:
        """The request to be sent now, which counts as under way from here on; None where there is none."""
        while self._resting and self._resting[0][0] <= now_s:
            self._ready.appendleft(heapq.heappop(self._resting)[2])
        if not self._ready and self._is_group_due():
            self._close_group()
        if not self._ready or not self.pace.has_room or now_s < self._rest_until_s:
            return None
        request = self._ready.popleft()
        request.era = self.pace.sent()
        self._under_way.add(request)
        return request

    def postpone(self, request: Request, until_s: float) -> None:
        """What `next` gave may not be sent yet, and nothing else either."""
        self._end(request)
        self._ready.appendleft(request)
        self._rest_until_s = max(self._rest_until_s, until_s)

    def never_goes(self, request: Request) -> None:
        """What `next` gave is more than the limit ever lets go: it is cut, and a single text of it is refused."""
        self._end(request)
        if len(request) > 1:
            self._bisect(request)
        else:  # it says nothing of what a server would refuse
            request.refuse(
                f"may have {request.tokens:,} tokens, more than the limit ever lets go: split it, or raise that"
            )

    def wait_s(self, now_s: float) -> float | None:
        """How long nothing is to be sent, unless a request ends before; None: until one ends."""
        if not self.pace.has_room:
            return None
        times = [self._resting[0][0]] if self._resting else []
        if self._ready:
            times.append(now_s)
        return max(min(times), self._rest_until_s, now_s) - now_s if times else None

    # What came of it.

    def answered(self, request: Request, answer: Answer) -> None:
        """A request brought vectors: one for each text, as wide as all others."""
        self._end(request)
        self._dimensions = self._dimensions or answer.vectors.shape[1]
        self.pace.served()
        self.summary.count(answer)
        self._answers += 1
        self._has_any = True
        self._first_served += not request.failures
        self._trouble_since_s = None
        request.settle(answer.vectors)

    def paid(self, request: Request, answer: Answer) -> None:
        """A request was answered after the end of the run, or just at it: it counts once."""
        if request in self._under_way:
            self.answered(request, answer)

    def failed(self, request: Request, trouble: Trouble, now_s: float) -> None:
        """A request brought nothing.

        Raises:
            BaseException: the error of the trouble, where the run cannot go on.
        """
        self._end(request)
        match trouble.kind:
            case Kind.FATAL:
                raise trouble.error
            case Kind.REFUSED:
                self._refused(request, trouble)
            case Kind.BUSY:
                self._impatient(trouble, now_s)
                self._busy(request, trouble, now_s)
            case Kind.DOWN:
                self._impatient(trouble, now_s)
                self._down(request, trouble, now_s)
            case _:
                assert_never(trouble.kind)

    # What to hand on.

    @property
    def is_done(self) -> bool:
        """Whether all was handed on."""
        return self._is_exhausted and not self._held

    def block(self) -> Block | None:
        """The next texts, in order, of which all is known; None where the first is still missing.

        Without any vector until now it waits for one as long as it can: a block that was refused whole shall be as
        wide as the others. Where there is none, it has no columns.
        """
        done = itertools.takewhile(lambda text: not text.is_open, self._held)
        texts = list(itertools.islice(done, self._spec.batches.max_inputs))
        if not texts or not self._is_width_known():
            return None
        vectors = self._matrix(texts)
        refused = tuple(
            Refused(position=place, reason=text.reason)
            for place, text in enumerate(texts, self._start)
            if text.reason is not None
        )
        block = Block(start=self._start, vectors=vectors, refused=refused)
        for text in texts:
            self._hand_on(text)
        return block

    # Private.

    @property
    def _room(self) -> int:
        return self._spec.held - len(self._held)

    def _is_first_done(self) -> bool:
        return bool(self._held) and not self._held[0].is_open and self._is_width_known()

    def _of(self, text: object, place: int) -> Text:
        """The text of this position: one that is held already, a new one, or one that is refused at once."""
        batches = self._spec.batches
        try:
            check(text, place, batches)
        except InvalidInput as error:
            refused = Text("", b"", place=place, tokens=0)
            refused.reason = str(error)
            return refused
        assert isinstance(text, str)  # noqa: S101  # for the type checker: `check` has seen to it
        key = key_of(text)
        if (known := self._known.get(key)) is not None:
            return known
        new = self._known[key] = Text(text, key, place=place, tokens=batches.most(text))
        self._new.append(new)
        return new

    def _put_into_group(self, text: Text) -> None:
        batches = self._spec.batches
        if not batches.fits(len(self._group) + 1, self._group_tokens + text.tokens):
            self._close_group()
        self._group.append(text)
        self._group_tokens += text.tokens
        if len(self._group) == batches.max_inputs:
            self._close_group()

    def _close_group(self) -> None:
        self._ready.append(Request(self._group))
        self._group, self._group_tokens = [], 0

    def _is_group_due(self) -> bool:
        """Whether a request that could carry more goes all the same: there is no more, or no room for it."""
        if not self._group:
            return False
        if self._is_exhausted:
            return True
        is_awaited = self._held[0] is self._group[0] or not self._under_way
        return self._room <= 0 and is_awaited

    def _end(self, request: Request) -> None:
        self._under_way.remove(request)
        self.pace.ended()

    def _fits(self, width: int) -> bool:
        self._dimensions = self._dimensions or width
        return self._dimensions == width

    def _impatient(self, trouble: Trouble, now_s: float) -> None:
        if self._trouble_since_s is None:
            self._trouble_since_s = now_s
        if now_s - self._trouble_since_s >= self._spec.patience_s:
            self._give_up(trouble, f"nothing was embedded for {now_s - self._trouble_since_s:.0f} s")

    def _give_up(self, trouble: Trouble, why: str) -> None:
        missing = [place for place, text in enumerate(self._held, self._start) if text.is_open]
        some = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        trouble.error.add_note(f"{why}; missing are the texts at {some}")
        raise trouble.error

    def _refused(self, request: Request, trouble: Trouble) -> None:
        self._trouble_since_s = None  # the server is well enough to refuse
        if len(request) > 1:
            self._bisect(request)
            return
        self._refuse(request, trouble.words)
        if not self._has_any and self._refusals >= HOPELESS:
            self._give_up(trouble, f"{self._refusals} texts were refused, and none embedded")

    def _refuse(self, request: Request, reason: str) -> None:
        self._refusals += 1
        request.refuse(reason)

    def _bisect(self, request: Request) -> None:
        """Halves go first: who waits for the first missing position waits for them."""
        for half in reversed(request.halves()):
            half.seen = self._so_far  # what its other half is served speaks against it, and no older answer
            self._ready.appendleft(half)

    def _busy(self, request: Request, trouble: Trouble, now_s: float) -> None:
        self.pace.busy(request.era)
        request.busy += 1
        wish_s = trouble.retry_after_s
        if wish_s:
            self._rest_until_s = max(self._rest_until_s, now_s + min(wish_s, self._spec.patience_s))
            self._ready.appendleft(request)
        else:
            self._rest(request, now_s + BACKOFF.wait_s(request.busy, self._randomness))

    def _down(self, request: Request, trouble: Trouble, now_s: float) -> None:
        if not request.failures:
            self._first_failed += 1
            of_halves = request.seen
            request.seen = self._so_far if of_halves is None else of_halves.but_for_its_own()
        request.failures += 1
        assert request.seen is not None  # noqa: S101  # for the type checker: set with the first failure
        are_others_served = self._are_served_since(request.seen)
        if request.failures >= SUSPECT and len(request) > 1 and (are_others_served or self._is_last_hope(request)):
            self._bisect(request)
        elif request.failures >= SUSPECT and len(request) == 1 and are_others_served:
            self._refuse(request, f"no server could embed it: {trouble.words}")
        else:
            wait_s = BACKOFF.wait_s(request.failures, self._randomness)
            wish_s = min(trouble.retry_after_s or 0.0, self._spec.patience_s)
            self._rest(request, now_s + max(wait_s, wish_s))

    @property
    def _so_far(self) -> Seen:
        return Seen(self._answers, self._first_served, self._first_failed)

    def _are_served_since(self, seen: Seen) -> bool:
        """Whether something was answered, and most of what was new: in a brown-out a few answers prove nothing."""
        served, failed = self._first_served - seen.first_served, self._first_failed - seen.first_failed
        return self._answers > seen.answers and served >= failed

    def _rest(self, request: Request, until_s: float) -> None:
        heapq.heappush(self._resting, (until_s, next(self._numbers), request))

    def _is_last_hope(self, request: Request) -> bool:
        """Whether no other request can show that the servers are well: all have failed as often, and none is new.

        Of several the first is cut; were it all of them, an outage would leave single texts.
        """
        if self._group or not (self._is_exhausted or self._room <= 0):
            return False
        others = list(self._others())
        is_first = all(request.place < other.place for other in others if len(other) > 1)
        return is_first and all(other.failures >= SUSPECT for other in others)

    def _others(self) -> Iterator[Request]:
        return itertools.chain(self._ready, self._under_way, (resting for _, _, resting in self._resting))

    def _is_width_known(self) -> bool:
        if self._dimensions is not None:
            return True
        return self._room <= 0 or (self._is_exhausted and not any(text.is_open for text in self._held))

    def _matrix(self, texts: Sequence[Text]) -> Matrix:
        import numpy as np

        matrix = np.full((len(texts), self._dimensions or 0), np.nan, dtype=np.float32)
        for row, text in enumerate(texts):
            if text.vector is not None:
                matrix[row] = text.vector
        return matrix

    def _hand_on(self, text: Text) -> None:
        self._held.popleft()
        self._start += 1
        text.uses -= 1
        if not text.uses:
            self._let_go(text)
        summary = self.summary
        summary.texts += 1
        if text.reason is not None:
            summary.refused += 1
        elif text.is_cached:
            summary.cached += 1
        elif text.is_counted:
            summary.repeated += 1
        text.is_counted = True

    def _let_go(self, text: Text) -> None:
        """Forget it; but a text that was refused lately is not asked for again."""
        if text.reason is None:
            self._known.pop(text.key, None)
        elif text.key in self._known:
            self._past[text.key] = None
            if len(self._past) > REMEMBERED:
                self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        key = next(iter(self._past))
        del self._past[key]
        if not self._known[key].uses:  # else it is held again, and comes back here
            del self._known[key]
