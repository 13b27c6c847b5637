"""The story of one call: whom to ask, for how long, and what to do with what became of it.

A generator. It yields `Send` or `Rest` to a player, is sent the `Outcome`, and returns an `Ending`. Knows decisions;
sends nothing, sleeps never, reads no clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from ..provenance import Attempt
from .backoff import BackoffSpec
from .balancer import Randomness
from .budget import Budget, BudgetSpec
from .canary import CANARY_S, POLL_S, Canaries
from .outcome import CANCELLED, Blame, Outcome
from .pool import Lease, Pool, Selection, Unavailable


class AfterSend(StrEnum):
    """Whether another endpoint may be asked when the first may have begun to work on the request."""

    BUDGETED = "budgeted"
    NEVER = "never"
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSpec:
    """The limits of one call, all of its attempts included."""

    deadline_s: float = 120.0  #: a long completion takes a minute or two
    max_attempts: int = 3  #: what three endpoints cannot answer, a fourth seldom can
    after_send: AfterSend = AfterSend.BUDGETED
    longest_wait_s: float = 5.0  #: for an endpoint that is paused: a caller who waits longer would rather be told
    poisoned: int = 2  #: endpoints that one request may bring down; the next one is spared
    backoff: BackoffSpec = field(default_factory=BackoffSpec)
    budget: BudgetSpec = field(default_factory=BudgetSpec)


class Tally:
    """What a call has met so far, in all of its stories: a hedged one has two, on two threads.

    Args:
        lock: for these; None where there is one story only.

    Attributes:
        suspicions: endpoints that the request itself may have brought down.
        counted: attempts that count against the most that there may be.
        is_of_one: a story has ended, or has to: the call is the other's, which stands by nobody any more.
    """

    __slots__ = ("_lock", "_under_way", "counted", "is_of_one", "suspicions")

    def __init__(self, lock: AbstractContextManager[object] | None = None) -> None:
        self.suspicions = self.counted = self._under_way = 0
        self.is_of_one = False
        self._lock = lock or _NO_LOCK

    def begins(self, spec: CallSpec) -> bool:
        """An attempt is to begin; False where those under way may be all that the call may make."""
        with self._lock:
            is_too_many = self.suspicions + self._under_way >= spec.poisoned
            if is_too_many or self.counted + self._under_way >= spec.max_attempts:
                self.is_of_one = True
                return False
            self._under_way += 1
            return True

    def ends(self, *, is_suspicious: bool) -> int:
        """It is over. How many suspicions there are."""
        with self._lock:
            self._under_way -= 1
            self.suspicions += is_suspicious
            return self.suspicions

    def counts(self) -> int:
        """An attempt counts. How many do."""
        with self._lock:
            self.counted += 1
            return self.counted


_NO_LOCK: Final = nullcontext()


@dataclass(slots=True, kw_only=True)
class Wish:
    """What a call wants, as far as it decides where it goes.

    Attributes:
        model: the name that it asks for.
        ends_at_s: on the pool's clock; the call is over then, whatever comes.
        is_replayable: its body can be sent again.
        is_stateful: it changes or needs something that one server keeps; then it is never sent twice.
        only: the name of the one endpoint that is to be asked, once.
        canary: the kind of request for which an endpoint must first show that its vectors are of the pool's space; None
            where no two endpoints could differ, or there are no vectors.
        avoid: names of endpoints that are not wanted, as another story of the same call has asked them. Read before
            each attempt; another thread may replace it.
        among: the endpoints that it may go to; None: any.
        renewed: gives those that it may go to now, where the pool's were swapped since; None where it is as it was.
        larger: those that it may go to where it is too long for the first one that says so; None: nowhere else.
        larger_ends_at_s: when the call is over there.
        is_hedge: it only stands by another story: it asks nobody who is not well, and waits for nobody.
        tally: is that of the other story too.
    """

    model: str | None = None
    ends_at_s: float
    is_replayable: bool = True
    is_stateful: bool = False
    only: str | None = None
    canary: str | None = None
    avoid: frozenset[str] = frozenset()
    among: Selection | None = None
    renewed: Callable[[], Selection | None] | None = None
    larger: Selection | None = None
    larger_ends_at_s: float = 0.0
    is_hedge: bool = False
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Send:
    """Send the request, or its canary, to the lease's endpoint, and tell the story what became of it by `ends_at_s`."""

    lease: Lease
    ends_at_s: float
    canary: str | None = None  #: of which kind of request, where it is one
    is_hedge: bool = False  #: it is made beside another one, as that is slow
    has_moved: bool = False  #: it goes to the larger endpoints

    @property
    def is_canary(self) -> bool:
        """Whether the canary is to be sent, and not the request."""
        return self.canary is not None


@dataclass(slots=True)
class Rest:
    """Wait so many seconds."""

    seconds: float


@dataclass(slots=True)
class Ending:
    """How the call ended.

    Attributes:
        outcome: of the last attempt; None where none was made.
        lease: of the last attempt. It is settled, unless the outcome is open.
        unavailable: why no further endpoint was asked, where that was for want of one.
        is_overdue: its time was over.
        is_hedged: a second endpoint was asked while the first had not answered.
        left_out: why some endpoints could not or might not have the request, by their names.
        has_moved: it was too long for the endpoints that it was meant for, and went to larger ones.
        is_denied: another endpoint might have answered, but the budget of failovers is used up.
    """

    outcome: Outcome | None
    lease: Lease | None
    attempts: list[Attempt]
    unavailable: Unavailable | None = None
    is_overdue: bool = False
    is_hedged: bool = False
    left_out: Mapping[str, str] = field(default_factory=dict)
    has_moved: bool = False
    is_denied: bool = False


Story = Generator[Send | Rest, Outcome | None, Ending]


def failover(
    pool: Pool,
    wish: Wish,
    *,
    spec: CallSpec,
    budget: Budget,
    clock: Callable[[], float],
    randomness: Randomness,
    canaries: Canaries | None = None,
) -> Story:
    """Play one call: at most `max_attempts`, each at another endpoint, until one serves or the time is over.

    Every lease is settled, also where the story is closed in the middle; only that of an open outcome is the player's.
    """
    call = _Call(pool, wish, spec, budget, canaries)
    while True:
        lease = call.leased()
        if isinstance(lease, Unavailable):
            rest_s = call.may_wait(lease, clock())
            if rest_s is None:
                return call.ending(unavailable=lease)
            yield Rest(rest_s)
            continue
        if isinstance(lease, _BeingChecked):
            if clock() >= call.ends_at_s:
                return call.ending(unavailable=lease.unavailable, is_overdue=True)
            yield Rest(POLL_S)
            continue
        if not call.begins(lease):
            return call.ending()
        outcome = CANCELLED
        try:
            outcome = yield from _attempt(call, lease, clock)
        finally:
            # Here, and not after: a story that is closed while its attempt is under way has no after.
            took_s = clock() - call.sent_at_s
            outcome = call.weighed(outcome)
            if not outcome.is_open:
                lease.settle(outcome, took_s)
        call.note(lease, outcome, took_s)
        if outcome.has_served:
            budget.earn()
            return call.ending()
        now_s = clock()
        rest_s = call.rest_before_next(outcome, now_s, randomness)
        if rest_s is None:
            return call.ending(unavailable=call.busy(outcome), is_overdue=now_s >= call.ends_at_s)
        if rest_s:
            yield Rest(rest_s)


def _attempt(call: _Call, lease: Lease, clock: Callable[[], float]) -> Generator[Send, Outcome | None, Outcome]:
    """Have the endpoint answer; before its first answer it shows that its vectors are of the pool's space."""
    call.sent_at_s, ends_at_s = clock(), call.ends_at_s
    if call.to_show:
        try:
            for kind in call.to_show:
                outcome = CANCELLED
                try:
                    outcome = (yield call.send(lease, min(ends_at_s, clock() + CANARY_S), kind)) or CANCELLED
                finally:
                    call.has_shown(lease, kind, outcome)
                if not outcome.has_served:
                    return replace(outcome, may_be_poison=False)  # it was no text of the caller's
        finally:
            call.has_shown_all(lease)
        call.sent_at_s = clock()  # the canary's time says nothing of how fast it is: it is the first of all, and short
    return (yield call.send(lease, ends_at_s)) or CANCELLED


@dataclass(slots=True)
class _BeingChecked:
    """No endpoint may be asked until another call's canary is back."""

    names: frozenset[str]

    @property
    def unavailable(self) -> Unavailable:
        reasons = dict.fromkeys(sorted(self.names), "being checked for its embedding space")
        return Unavailable(wait_s=None, reasons=reasons, status=None)


class _Call:
    """What a story remembers of its attempts.

    Attributes:
        to_show: kinds of requests for which the endpoint that was leased must first answer a canary.
        sent_at_s: when the attempt under way began.
    """

    __slots__ = (
        "_again",
        "_among",
        "_attempts",
        "_budget",
        "_canaries",
        "_has_been_again",
        "_is_denied",
        "_lease",
        "_outcome",
        "_pool",
        "_spec",
        "_tally",
        "_tried",
        "_waited_s",
        "_wish",
        "ends_at_s",
        "has_moved",
        "sent_at_s",
        "to_show",
    )

    def __init__(self, pool: Pool, wish: Wish, spec: CallSpec, budget: Budget, canaries: Canaries | None) -> None:
        self._pool, self._wish, self._spec, self._budget = pool, wish, spec, budget
        self._canaries, self._among, self.has_moved = canaries, wish.among, False
        self.to_show: tuple[str, ...] = ()
        self.sent_at_s, self.ends_at_s = 0.0, wish.ends_at_s
        self._tried: set[str] = set()
        self._attempts: list[Attempt] = []
        self._lease: Lease | None = None
        self._outcome: Outcome | None = None
        self._tally = wish.tally
        self._waited_s = 0.0
        self._again: str | None = None
        self._has_been_again = self._is_denied = False

    def send(self, lease: Lease, ends_at_s: float, canary: str | None = None) -> Send:
        """The step that asks an endpoint."""
        return Send(lease, ends_at_s, canary, is_hedge=self._wish.is_hedge, has_moved=self.has_moved)

    def leased(self) -> Lease | Unavailable | _BeingChecked:
        self._look_who_is_there()
        only, self._again = self._again or self._wish.only, None
        if self._canaries is not None and self._wish.canary is not None:
            return self._leased_of_space(self._canaries, self._wish.canary, only)
        tried, fails_open = self._unwanted(), not self._stands_by
        model, among = self._wish.model, self._among
        return self._pool.lease(tried=tried, model=model, only=only, fails_open=fails_open, among=among)

    def _look_who_is_there(self) -> None:
        """A call keeps the rules that it began with; who stands for its pool may be others by now."""
        wish = self._wish
        if wish.renewed is not None and not self.has_moved and (among := wish.renewed()) is not None:
            self._among = among

    @property
    def _stands_by(self) -> bool:
        return self._wish.is_hedge and not self._tally.is_of_one

    def _unwanted(self) -> set[str]:
        return self._tried | self._wish.avoid if self._wish.avoid else self._tried

    def has_shown(self, lease: Lease, kind: str, outcome: Outcome) -> None:
        """What became of a canary."""
        if self._canaries is not None:
            has_answered = not outcome.is_timeout and outcome.blame is not Blame.CANCELLED
            self._canaries.shown(lease, kind, has_passed=outcome.has_served, has_answered=has_answered)

    def has_shown_all(self, lease: Lease) -> None:
        """No further canary is sent there by this call."""
        self.to_show = ()
        if self._canaries is not None and self._wish.canary is not None:
            self._canaries.end(lease, self._wish.canary)

    def _leased_of_space(self, canaries: Canaries, kind: str, only: str | None) -> Lease | Unavailable | _BeingChecked:
        """An endpoint that has shown its space, or that this call is to ask for it."""
        asked, is_first = canaries.asked(kind), not canaries.has_reference(kind)
        if self._among is not None:  # nobody waits for one that this call may never ask
            asked &= self._among.names
        if canaries.must_wait(kind):
            return _BeingChecked(asked)
        unwanted = self._unwanted()
        lease = self._of_space(unwanted | asked | canaries.late(), only, in_order=is_first)
        if isinstance(lease, Unavailable):
            lease = self._of_space(unwanted | asked, only, in_order=is_first)
        if isinstance(lease, Unavailable):
            return _BeingChecked(asked) if asked - unwanted else lease
        to_show = canaries.begin(lease, kind)
        if to_show is None:  # another call was quicker
            lease.settle(CANCELLED, 0.0)
            return _BeingChecked(frozenset([lease.endpoint.name]))
        self.to_show = to_show
        return lease

    def _of_space(self, tried: Collection[str], only: str | None, *, in_order: bool) -> Lease | Unavailable:
        fails_open = not self._stands_by
        return self._pool.lease(
            tried=tried,
            model=self._wish.model,
            only=only,
            in_order=in_order,
            fails_open=fails_open,
            among=self._among,
        )

    def may_wait(self, unavailable: Unavailable, now_s: float) -> float | None:
        """How long to rest until an endpoint may be asked again; None where that is not worth it."""
        wait_s = unavailable.wait_s
        if self._stands_by or wait_s is None or self._waited_s + wait_s > self._spec.longest_wait_s:
            return None
        if now_s + wait_s >= self.ends_at_s:
            return None
        self._waited_s += wait_s
        return wait_s

    def begins(self, lease: Lease) -> bool:
        """Whether the lease may be used; else it is given back, and what the other story brings is the call's."""
        if self._tally.begins(self._spec):
            return True
        if self.to_show:
            self.has_shown_all(lease)
        lease.settle(CANCELLED, 0.0)
        return False

    def weighed(self, outcome: Outcome) -> Outcome:
        """The outcome as it counts: the request that brings down a second endpoint is the one to blame."""
        is_to_blame = self._tally.ends(is_suspicious=outcome.may_be_poison) >= self._spec.poisoned
        return outcome.without_penalty() if is_to_blame and outcome.may_be_poison else outcome

    def note(self, lease: Lease, outcome: Outcome, took_s: float) -> None:
        endpoint = lease.endpoint
        self._lease, self._outcome = lease, outcome
        self._attempts.append(
            Attempt(
                endpoint=endpoint.name,
                server=endpoint.server,
                blame=None if outcome.blame is None else outcome.blame.value,
                label=outcome.label,
                status=outcome.status,
                took_s=took_s,
            )
        )

    def rest_before_next(self, outcome: Outcome, now_s: float, randomness: Randomness) -> float | None:
        """How long to rest before the next attempt, mostly 0; None where there is to be none."""
        if outcome.is_too_long and self._moves(now_s):
            return 0.0
        if outcome.blame in _HOPELESS or now_s >= self.ends_at_s or self._wish.only is not None:
            return None
        if self._tally.suspicions >= self._spec.poisoned or not self._may_be_sent_again(outcome):
            return None
        if outcome.again_s is not None:
            return self._once_more(outcome.again_s, now_s)
        self._look_who_is_there()
        is_single = self._pool.is_single(self._among)
        if is_single and (outcome.blame is Blame.KEY or outcome.is_lasting):  # it would say the same again
            return None
        if (outcome.was_sent or is_single) and self._tally.counts() >= self._spec.max_attempts:
            return None
        if outcome.was_sent and not self._may_be_afforded():
            self._is_denied = True
            return None
        if outcome.blame is Blame.LOAD:  # it is paused, and well: it may be asked when that is over
            return 0.0
        if not is_single:
            self._tried.add(self._attempts[-1].endpoint)
            return 0.0
        rest_s = self._spec.backoff.wait_s(self._tally.counted, randomness)
        return rest_s if now_s + rest_s < self.ends_at_s else None

    def _moves(self, now_s: float) -> bool:
        """Whether it goes to the larger endpoints from now on: once, and where it can be sent again."""
        wish = self._wish
        if self.has_moved or wish.larger is None or wish.only is not None or not wish.is_replayable:
            return False
        if now_s >= wish.larger_ends_at_s:
            return False
        self.has_moved, self._among, self.ends_at_s = True, wish.larger, wish.larger_ends_at_s
        self._tried.add(self._attempts[-1].endpoint)
        return True

    def ending(self, *, unavailable: Unavailable | None = None, is_overdue: bool = False) -> Ending:
        self._tally.is_of_one = True
        left_out = self._among.left_out if self._among is not None else {}
        return Ending(
            self._outcome,
            self._lease,
            self._attempts,
            unavailable,
            is_overdue,
            left_out=left_out,
            has_moved=self.has_moved,
            is_denied=self._is_denied,
        )

    def busy(self, outcome: Outcome) -> Unavailable | None:
        """After a busy server's answer: why nobody else may be asked either; None where somebody may."""
        if outcome.pause_s is None:
            return None
        return self._pool.unavailable(model=self._wish.model, among=self._among)

    def _once_more(self, rest_s: float, now_s: float) -> float | None:
        if self._has_been_again or now_s + rest_s >= self.ends_at_s:
            return None
        self._has_been_again = True
        self._again = self._attempts[-1].endpoint
        return rest_s

    def _may_be_sent_again(self, outcome: Outcome) -> bool:
        if not outcome.was_sent:
            return True
        if not self._wish.is_replayable:
            return False
        never = self._wish.is_stateful or self._spec.after_send is AfterSend.NEVER
        return outcome.is_refusal or not never

    def _may_be_afforded(self) -> bool:
        return self._spec.after_send is AfterSend.ALWAYS or self._budget.spend()


#: nobody else could do better, or nobody waits any longer
_HOPELESS = frozenset({Blame.CALLER, Blame.LOCAL, Blame.CANCELLED})
