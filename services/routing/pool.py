"""The endpoints that may answer one request, and the leases on them.

Knows load and health; knows nothing of HTTP, and no clock, randomness or lock of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from statistics import median

from ..events import EndpointsChanged, Event, Listener, tell
from .balancer import Randomness, Strategy, choose
from .breaker import BreakerSpec, BreakerState
from .endpoint import Endpoint
from .member import Health, HealthSpec, Member, Verdicts
from .outcome import Outcome

DRAIN_S = 120.0  #: an endpoint that left the settings may finish its calls for so long
LATE_S = 5.0  #: a call that was decided on before it left may still begin there: deciding and waiting takes less


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """How a pool chooses, and how long it leaves endpoints alone."""

    strategy: Strategy = Strategy.P2C
    breaker: BreakerSpec = field(default_factory=BreakerSpec)
    health: HealthSpec = field(default_factory=HealthSpec)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """What a pool knows of one endpoint at one moment. Times are in seconds.

    Attributes:
        health: whether it may be asked, in one word.
        in_flight: attempts under way.
        ewma_s: recent time to an answer, or to a stream's first content; None before the first.
        paused_for_s, disabled_for_s: what remains, 0 where nothing does.
        reason: why it is disabled.
        served, failed: attempts since the start; a caller's fault or a cancellation is in neither.
        last_error: of the latest failure, as in `503` or `ConnectError`; empty before the first.
    """

    name: str
    server: str
    tier: int
    health: Health
    breaker: BreakerState
    in_flight: int
    ewma_s: float | None
    paused_for_s: float
    disabled_for_s: float
    reason: str
    served: int
    failed: int
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """No endpoint may be asked now.

    Attributes:
        wait_s: until the first of those that are paused may be asked; None where none is.
        reasons: why each endpoint that was not tried yet is left alone, by its name.
        status: of the latest HTTP answer of those, where they all gave the same.
        is_over_budget: each is left alone as what may be spent there is spent.
    """

    wait_s: float | None
    reasons: dict[str, str]
    status: int | None
    is_over_budget: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which endpoints of a function one call may go to: those of the pool that was chosen for it.

    Attributes:
        strategy: how one of them is chosen; None: as in the function.
        left_out: why others of that pool may not have the call, by their names.
        places: server and trust of each as they were when that was decided: a name that stands for another server now,
            or for another trust, is not meant.
    """

    names: frozenset[str]
    strategy: Strategy | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, tuple[str, str | None]] = field(default_factory=dict)

    def has(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint is one of them."""
        name = endpoint.name
        place = (endpoint.server, endpoint.trust)
        return name in self.names and self.places.get(name, place) == place


class Lease:
    """Permission for one attempt at one endpoint. Settled exactly once; a later settlement changes nothing.

    Attributes:
        is_degraded: it was given where no endpoint was well, or none of the first tier.
    """

    __slots__ = (
        "_epoch",
        "_is_settled",
        "_pool",
        "endpoint",
        "generation",
        "is_degraded",
        "is_probe",
        "member",
        "model",
    )

    def __init__(
        self, pool: Pool, member: Member, model: str | None, epoch: int, *, is_probe: bool, is_degraded: bool
    ) -> None:
        self._pool, self._epoch, self._is_settled = pool, epoch, False
        self.member, self.endpoint, self.model = member, member.endpoint, model
        self.generation = member.generation
        self.is_probe, self.is_degraded = is_probe, is_degraded

    def settle(self, outcome: Outcome, took_s: float) -> None:
        """Say how the attempt ended, and after how many seconds; of a stream, until its first content."""
        self._pool._settle(self, outcome, took_s)  # noqa: SLF001  # one thing in two classes

    def __del__(self) -> None:
        # Whoever held it is gone. Garbage may be collected while this thread holds the pool's lock: only remember it.
        if not self._is_settled:
            self._is_settled = True  # what else is collected with it may settle it still
            self._pool._orphans.append((self.member, self._epoch, self.is_probe))  # noqa: SLF001


class Pool:
    """The endpoints of one function, with their health and load. Safe among threads.

    They stand for each other, unless a call is given a Selection of them.

    Args:
        endpoints: at least one, with names of their own.
        clock: seconds, monotonic.
        make_lock: makes a re-entrant lock, as garbage that is collected under it may settle a lease; called again in a
            child process, whose parent's may be held for ever.
        listener: is told of pauses, disabled endpoints and breakers, outside of the lock.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        spec: PoolSpec | None = None,
        clock: Callable[[], float],
        randomness: Randomness,
        make_lock: Callable[[], AbstractContextManager[object]],
        listener: Listener,
    ) -> None:
        self._spec = spec or PoolSpec()
        self._clock, self._randomness, self._make_lock, self._listener = clock, randomness, make_lock, listener
        self._lock = make_lock()
        self._verdicts = Verdicts(self._spec.health, randomness)
        self._members: tuple[Member, ...] = ()
        self._endpoints: tuple[Endpoint, ...] = ()
        self._leaving: list[tuple[Member, float]] = []
        self._orphans: deque[tuple[Member, int, bool]] = deque()
        self._epoch = 0
        self._is_measured = False
        self._first_tier: tuple[Member, ...] = ()
        self._all_are_well = True
        self.version = 0
        self.swap(endpoints)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those that may be asked, in the operator's order; the same object until they are swapped."""
        return self._endpoints

    def is_single(self, among: Selection | None = None) -> bool:
        """Whether there is nowhere else to go."""
        return len(self._members if among is None else among.names) == 1

    def lease(
        self,
        *,
        tried: Collection[str] = (),
        model: str | None = None,
        only: str | None = None,
        in_order: bool = False,
        fails_open: bool = True,
        among: Selection | None = None,
    ) -> Lease | Unavailable:
        """Choose an endpoint and hold a place on it.

        Args:
            tried: names of endpoints that this call does not want again.
            model: the model that the request asks for: not of a server that said it does not know it.
            only: the one endpoint that is wanted.
            in_order: the first that the operator named, of those that can answer, whatever the strategy says.
            fails_open: where none is well, one whose breaker is open will do.
            among: the endpoints that it may be; None: any.
        """
        now_s = self._clock()
        with self._lock:
            if self._orphans:
                self._bury()
            strategy = (among.strategy if among is not None else None) or self._spec.strategy
            if self._all_are_well and not tried and only is None and not in_order:
                members = self._first_tier if among is None else _lowest_tier(self._selected(among))
                if members:
                    member = choose(strategy, members, now_s, self._randomness)
                    member.load.in_flight += 1
                    return Lease(self, member, model, self._epoch, is_probe=False, is_degraded=False)
            if in_order:
                strategy = Strategy.IN_ORDER
            return self._chosen(tried, model, only, now_s, strategy, fails_open=fails_open, among=among)

    def unavailable(self, *, model: str | None = None, among: Selection | None = None) -> Unavailable | None:
        """Why no endpoint may be asked now, and until when; None where one may."""
        now_s = self._clock()
        with self._lock:
            members = self._selected(among)
            if any(not member.refuses(model, now_s) and not member.is_barred(now_s) for member in members):
                return None
            return _unavailable(members, model, now_s)

    def may_spend_again(self) -> None:
        """What may be spent has changed: nobody is left alone for that, until `spent` says so again."""
        now_s = self._clock()
        with self._lock:
            for member in self._members:
                member.may_spend_again(now_s)
            self._look()

    def spent(self, name: str, for_s: float) -> None:
        """Leave an endpoint alone for so long, as what may be spent there is spent. Of an unknown one nothing comes."""
        now_s, events = self._clock(), list[Event]()
        with self._lock:
            for member in self._members:
                if member.endpoint.name == name:
                    events += self._verdicts.spent(member, for_s, now_s)
            self._look()
        for event in events:
            tell(self._listener, event)

    def snapshot(self) -> tuple[EndpointState, ...]:
        """The state of every endpoint now, in the operator's order; then those that are draining."""
        now_s = self._clock()
        with self._lock:
            self._bury()
            return tuple(_state(member, now_s) for member in (*self._members, *self._draining()))

    def swap(self, endpoints: Sequence[Endpoint], *, strategy: Strategy | None = None) -> None:
        """Have these endpoints from now on. Calls under way keep theirs.

        One that has the same name, server and model keeps its statistics and health, and is asked at once where its
        credential is another; one that is no longer named drains.

        Args:
            strategy: how they are chosen from now on; None: as before.
        Raises:
            ValueError: there is none, or two have one name.
        """
        if (event := self.exchange(endpoints, strategy=strategy)) is not None:
            tell(self._listener, event)

    def exchange(
        self,
        endpoints: Sequence[Endpoint],
        *,
        strategy: Strategy | None = None,
        beside: Callable[[], None] = lambda: None,
    ) -> EndpointsChanged | None:
        """The same, told to nobody: what is to be told is returned.

        Args:
            beside: exchanges what belongs to them, under the lock: no lease is given between the two.
        """
        names = [endpoint.name for endpoint in endpoints]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a pool needs endpoints with names of their own, not {', '.join(names) or 'none'}")
        now_s, former_endpoints = self._clock(), self._endpoints
        with self._lock:
            former = {member.endpoint.name: member for member in self._members}
            self._members = tuple(
                self._kept_or_new(former, endpoint, position, now_s) for position, endpoint in enumerate(endpoints)
            )
            self._endpoints = tuple(endpoints)
            kept = set(self._members)
            gone = [member for member in former.values() if member not in kept]
            for member in gone:
                member.is_draining = True
            self._leaving = [*self._still_leaving(now_s), *((member, now_s + DRAIN_S) for member in gone)]
            if strategy is not None:
                self._spec = replace(self._spec, strategy=strategy)
            if self.is_single() and self._members[0].health(now_s) is Health.DISABLED:
                self._members[0].trust_again()
            lowest = min(endpoint.tier for endpoint in endpoints)
            self._first_tier = tuple(member for member in self._members if member.endpoint.tier == lowest)
            self.version += 1
            self._look()
            beside()
        return _changed(former_endpoints, self._endpoints) if former_endpoints else None

    def in_use(self) -> frozenset[str]:
        """Names of servers that may still be spoken to: their connections stay open."""
        now_s = self._clock()
        with self._lock:
            self._bury()
            self._leaving = self._still_leaving(now_s)
            return frozenset(member.endpoint.server for member in (*self._members, *self._draining()))

    def renew_after_fork(self) -> None:
        """In a child: a lock of its own, and nothing under way."""
        self._lock = self._make_lock()
        self._epoch += 1
        for member in (*self._members, *(gone for gone, _ in self._leaving)):
            member.forget_attempts()

    def _chosen(
        self,
        tried: Collection[str],
        model: str | None,
        only: str | None,
        now_s: float,
        strategy: Strategy,
        *,
        fails_open: bool,
        among: Selection | None,
    ) -> Lease | Unavailable:
        members = self._selected(among, only)
        untried = [member for member in members if member.endpoint.name not in tried]
        # Where nobody knows the model, everybody is asked: a server may have loaded it since.
        known = None if all(member.refuses(model, now_s) for member in members) else model
        knowing = [member for member in untried if not member.refuses(known, now_s)]
        lowest_tier = min((member.endpoint.tier for member in members), default=0)
        if healthy := [member for member in knowing if member.may_be_asked(now_s)]:
            return self._leased(_lowest_tier(healthy), model, now_s, strategy, lowest_tier)
        # Fail open: an endpoint whose breaker is open is better than none. One that stands alone among these, and is
        # disabled for the sake of others, shows its own error.
        is_alone = among is not None and len(members) == 1
        open_ones = [member for member in knowing if not member.is_barred(now_s, though_disabled=is_alone)]
        if fails_open and open_ones:
            return self._leased(open_ones, model, now_s, strategy, lowest_tier, fails_open=True)
        return _unavailable(untried, known, now_s)

    def _selected(self, among: Selection | None, only: str | None = None) -> Sequence[Member]:
        """The endpoints that a call was decided for. Where all of them have left since, they still are."""
        if among is None and only is None:
            return self._members

        def is_meant(member: Member) -> bool:
            its = member.endpoint
            return (among is None or among.has(its)) and only in (None, its.name)

        meant = [member for member in self._members if is_meant(member)]
        return meant or [gone for gone, until_s in self._leaving if is_meant(gone) and self._has_just_left(until_s)]

    def _has_just_left(self, until_s: float) -> bool:
        return self._clock() < until_s - DRAIN_S + LATE_S

    def _draining(self) -> list[Member]:
        """Those that left and still owe an answer."""
        return [gone for gone, _ in self._leaving if gone.load.in_flight]

    def _still_leaving(self, now_s: float) -> list[tuple[Member, float]]:
        return [
            (gone, until_s)
            for gone, until_s in self._leaving
            if now_s < until_s and (gone.load.in_flight or self._has_just_left(until_s))
        ]

    def _leased(
        self,
        candidates: Sequence[Member],
        model: str | None,
        now_s: float,
        strategy: Strategy,
        lowest_tier: int,
        *,
        fails_open: bool = False,
    ) -> Lease:
        # A probe that is due goes first: by its cost alone an endpoint that was slow to fail would wait for a minute.
        due = [member for member in candidates if member.probes_due] if not fails_open else []
        member = choose(strategy, due or candidates, now_s, self._randomness)
        is_probe = bool(due)
        if is_probe:
            member.is_probing = True
        member.load.in_flight += 1
        is_degraded = fails_open or member.endpoint.tier > lowest_tier
        return Lease(self, member, model, self._epoch, is_probe=is_probe, is_degraded=is_degraded)

    def _settle(self, lease: Lease, outcome: Outcome, took_s: float) -> None:
        now_s = self._clock()
        with self._lock:
            if lease._is_settled:  # noqa: SLF001  # one thing in two classes
                return
            lease._is_settled = True  # noqa: SLF001
            events = self._settled(lease, outcome, took_s, now_s) if lease._epoch == self._epoch else []  # noqa: SLF001
        for event in events:
            tell(self._listener, event)

    def _settled(self, lease: Lease, outcome: Outcome, took_s: float, now_s: float) -> list[Event]:
        member = lease.member
        is_current = lease.generation == member.generation
        self._give_back(member, is_probe=lease.is_probe)
        if outcome.has_served:
            self._measure(took_s, now_s)
            if member.refused:
                member.refused.pop(lease.model or "", None)
            events = self._verdicts.served(member, took_s, now_s, is_current=is_current)
        else:
            is_alone = len(self._members) == 1
            events = self._verdicts.missed(member, outcome, took_s, now_s, is_current=is_current, is_alone=is_alone)
            if outcome.is_model_unknown and is_current and lease.model is not None and not is_alone:
                events += self._verdicts.refuse_model(member, lease.model, outcome, now_s)
        if not self._all_are_well or events:
            self._look()
        return events

    @staticmethod
    def _give_back(member: Member, *, is_probe: bool) -> None:
        member.load.in_flight -= 1
        if is_probe:
            member.is_probing = False

    def _measure(self, took_s: float, now_s: float) -> None:
        """The first answer of all says what to expect of the others too."""
        if not self._is_measured:
            self._is_measured = True
            for member in self._members:
                if member.load.ewma_s is None:
                    member.load.ewma_s, member.load.at_s = took_s, now_s

    def _bury(self) -> None:
        """Settle leases whose holders are gone, as cancelled."""
        while self._orphans:
            member, epoch, is_probe = self._orphans.popleft()
            if epoch == self._epoch:
                self._give_back(member, is_probe=is_probe)

    def _look(self) -> None:
        """Whether every pick can be made among the whole first tier."""
        self._all_are_well = all(member.is_well and not member.refused for member in self._members)

    def _kept_or_new(self, former: dict[str, Member], endpoint: Endpoint, position: int, now_s: float) -> Member:
        member = former.get(endpoint.name)
        if member is not None and _is_same(member.endpoint, endpoint):
            if member.endpoint.credential != endpoint.credential:
                member.trust_again()
            member.place(endpoint, position)
            return member
        new = Member(endpoint, breaker=self._spec.breaker, position=position)
        if known := [other.load.ewma_s for other in former.values() if other.load.ewma_s is not None]:
            new.load.ewma_s, new.load.at_s = median(known), now_s
        return new


def _changed(former: Sequence[Endpoint], endpoints: Sequence[Endpoint]) -> EndpointsChanged | None:
    before, after = ({each.name: each for each in some} for some in (former, endpoints))
    event = EndpointsChanged(
        function=endpoints[0].function,
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed=tuple(name for name in after if name in before and after[name] != before[name]),
    )
    return event if event.added or event.removed or event.changed else None


def _is_same(one: Endpoint, other: Endpoint) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in ("base_url", "dialect", "model", "deployment"))


def _lowest_tier(members: Sequence[Member]) -> Sequence[Member]:
    lowest = min((member.endpoint.tier for member in members), default=0)
    return [member for member in members if member.endpoint.tier == lowest]


def _unavailable(members: Sequence[Member], model: str | None, now_s: float) -> Unavailable:
    waits = [
        member.paused_until_s - now_s
        for member in members
        if member.health(now_s) is Health.PAUSED and not member.refuses(model, now_s)
    ]
    statuses = {member.last_status for member in members}
    return Unavailable(
        wait_s=min(waits, default=None),
        reasons={member.endpoint.name: _why(member, model, now_s) for member in members},
        status=statuses.pop() if len(statuses) == 1 else None,
        is_over_budget=bool(members) and not any(member.may_spend(now_s) for member in members),
    )


def _why(member: Member, model: str | None, now_s: float) -> str:
    if member.refuses(model, now_s):
        return "without the model"
    health = member.health(now_s)
    if health is Health.DISABLED:
        return f"disabled after {member.reason}, asked again in {member.disabled_until_s - now_s:.0f} s"
    if health is Health.PAUSED:
        if not member.may_spend(now_s):
            return f"over its budget for {member.budget_until_s - now_s:.0f} s"
        return f"paused after {member.last_error or 'a failure'} for {member.paused_until_s - now_s:.1f} s"
    return str(health)


def _state(member: Member, now_s: float) -> EndpointState:
    return EndpointState(
        name=member.endpoint.name,
        server=member.endpoint.server,
        tier=member.endpoint.tier,
        health=member.health(now_s),
        breaker=member.breaker_state(now_s),
        in_flight=member.load.in_flight,
        ewma_s=member.load.ewma_s,
        paused_for_s=max(member.paused_until_s - now_s, 0.0),
        disabled_for_s=max(member.disabled_until_s - now_s, 0.0),
        reason=member.reason,
        served=member.served,
        failed=member.failed,
        last_error=member.last_error,
    )
