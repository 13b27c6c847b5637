"""Whatever happens to a pool and its budget, in whatever order: what always holds."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.budget import Budget, BudgetSpec
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.failover import CallSpec, Wish, failover
from llmwire.services.routing.member import Health, Member
from llmwire.services.routing.outcome import CANCELLED, Blame, Outcome
from llmwire.services.routing.pool import DRAIN_S, LATE_S, Lease, Pool, PoolSpec, Selection
from llmwire.services.secrets import Secret

from ..services.routing.actors import (
    BAD_GATEWAY,
    BAD_KEY,
    CALLERS,
    CERTIFICATE,
    CONFLICT,
    LOCAL,
    LOST,
    NO_MODEL,
    REFUSED,
    SERVED,
    WRONG_URL,
    Clock,
    an_endpoint,
    busy,
    play,
    unavailable,
)

TOO_LONG = Outcome(blame=Blame.CALLER, label="400", status=400, is_too_long=True)
NEUTRAL = [TOO_LONG, CALLERS, LOCAL, CANCELLED, CONFLICT, LOST.without_penalty()]
OUTCOMES = [
    *NEUTRAL,
    SERVED,
    BAD_GATEWAY,
    BAD_GATEWAY,  # so that breakers trip
    REFUSED,
    LOST,
    BAD_KEY,
    CERTIFICATE,
    WRONG_URL,
    NO_MODEL,
    busy(),
    busy(2),
    busy(30),
    unavailable(1),
]
TOKENS = 5
BARRED = {Health.DISABLED, Health.PAUSED, Health.DRAINING}

some_outcome = st.sampled_from(OUTCOMES)
some_names = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True)
some_model = st.sampled_from([None, "m"])
some_strategy = st.none() | st.sampled_from(Strategy)
some_selection = st.builds(
    Selection, names=st.sets(st.sampled_from("abcd"), max_size=3).map(frozenset), strategy=some_strategy
)


def facts_of(member: Member, now_s: float) -> tuple[Any, ...]:
    """All that decides whether and when a member is asked, but what is in flight and what is merely counted.

    Not its row of wrong URLs, which every answer of the right API ends, also one that is neutral.
    """
    breaker, load = member.breaker, member.load
    return (
        member.health(now_s),
        (breaker.state(now_s), breaker.in_a_row, breaker._results, breaker._failures, breaker.openings),
        (member.generation, member.probes_due, member.pauses, member.disables),
        (member.paused_until_s, member.disabled_until_s, breaker.open_until_s, dict(member.refused)),
        (load.ewma_s, load.at_s),
    )


def untouched(pool: Pool, names: set[str] | frozenset[str], now_s: float) -> dict[str, tuple[Any, ...]]:
    """All of the endpoints that are not named, but how fast they are: the first answer of all says that of all."""
    return {
        member.endpoint.name: (*facts_of(member, now_s)[:-1], member.load.in_flight, member.served, member.failed)
        for member in pool._members
        if member.endpoint.name not in names
    }


def bars(member: Member, now_s: float, *, is_alone: bool) -> bool:
    """Whether it must not be asked within a selection: that it is disabled is no reason where it stands alone."""
    if member.is_draining or (is_alone and member.health(now_s) is Health.DISABLED):
        is_disabled = now_s < member.disabled_until_s and not is_alone
        return now_s < member.paused_until_s or is_disabled
    return member.health(now_s) in BARRED


class PoolMachine(RuleBasedStateMachine):
    """Callers who lease, settle and forget; time, reloads and forks between."""

    @initialize(names=some_names, strategy=st.sampled_from(Strategy), seed=st.integers(0, 999))
    def begin(self, names: list[str], strategy: Strategy, seed: int) -> None:
        self.clock = Clock()
        self.leases: list[Lease] = []
        self.parents: list[Lease] = []
        self.generations: dict[int, int] = {}
        self.members: dict[int, Member] = {}  # also those that left: their ids are not given again
        self.pool = Pool(
            [an_endpoint(name) for name in names],
            spec=PoolSpec(strategy=strategy),
            clock=self.clock,
            randomness=random.Random(seed),
            make_lock=threading.RLock,
            listener=lambda event: None,
        )
        self.budget = Budget(BudgetSpec(tokens=TOKENS), clock=self.clock, make_lock=threading.Lock)

    @rule(tried=st.sets(st.sampled_from("abcd"), max_size=2), model=some_model)
    def lease(self, tried: set[str], model: str | None) -> None:
        now_s = self.clock()
        before = {member.endpoint.name: member.health(now_s) for member in self.pool._members}
        untried = [member for member in self.pool._members if member.endpoint.name not in tried]
        knowing = [member for member in untried if not member.refuses(model, now_s)]
        if all(member.refuses(model, now_s) for member in self.pool._members):
            knowing = untried

        found = self.pool.lease(tried=tried, model=model)

        if not isinstance(found, Lease):
            assert all(before[member.endpoint.name] in BARRED for member in knowing)
            assert set(found.reasons) == {member.endpoint.name for member in untried}
            return
        name = found.endpoint.name
        assert name not in tried
        assert name in {member.endpoint.name for member in knowing}
        assert before[name] not in BARRED
        if any(before[member.endpoint.name] is Health.OK for member in knowing):
            assert before[name] is not Health.OPEN
        self.leases.append(found)

    @rule(among=some_selection, tried=st.sets(st.sampled_from("abcd"), max_size=1), model=some_model)
    def lease_within(self, among: Selection, tried: set[str], model: str | None) -> None:
        now_s = self.clock()
        self.pool.snapshot()  # gives back the places of lost leases
        members = [member for member in self.pool._members if member.endpoint.name in among.names]
        if not members:  # those that have just left are still there for the calls that were meant for them
            members = [gone for gone, until_s in self.pool._leaving if now_s < until_s - DRAIN_S + LATE_S]
            members = [gone for gone in members if gone.endpoint.name in among.names]
        untried = [member for member in members if member.endpoint.name not in tried]
        knowing = [member for member in untried if not member.refuses(model, now_s)]
        if all(member.refuses(model, now_s) for member in members):
            knowing = untried
        askable = {m.endpoint.name for m in knowing if not bars(m, now_s, is_alone=len(members) == 1)}
        well = {member.endpoint.name for member in knowing if member.health(now_s) is Health.OK}
        others = untouched(self.pool, among.names, now_s)

        found = self.pool.lease(tried=tried, model=model, among=among)

        assert untouched(self.pool, among.names, now_s) == others
        if not isinstance(found, Lease):
            assert askable == set()
            assert set(found.reasons) == {member.endpoint.name for member in untried}
            return
        assert found.endpoint.name in askable
        lowest = min(member.endpoint.tier for member in members)
        if found.endpoint.name in well:
            assert found.is_degraded is (found.endpoint.tier > lowest)
        elif well:
            assert found.is_probe
        self.leases.append(found)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), outcome=some_outcome, took_s=st.sampled_from([0.001, 0.5, 60.0]))
    def settle(self, data: st.DataObject, outcome: Outcome, took_s: float) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        member, now_s = lease.member, self.clock()
        before, in_flight = facts_of(member, now_s), member.load.in_flight
        is_current, paused_until_s = lease.generation == member.generation, member.paused_until_s
        others = untouched(self.pool, {lease.endpoint.name}, now_s)

        lease.settle(outcome, took_s)

        assert untouched(self.pool, {lease.endpoint.name}, now_s) == others
        assert member.load.in_flight == in_flight - 1
        if outcome in NEUTRAL:
            assert facts_of(member, now_s) == before
        if not is_current and member.paused_until_s == paused_until_s and not outcome.has_served:
            assert facts_of(member, now_s) == before
        assert member.paused_until_s >= paused_until_s

        after = (facts_of(member, now_s), self.pool.snapshot())
        lease.settle(SERVED, took_s)
        assert (facts_of(member, now_s), self.pool.snapshot()) == after

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        lease = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        member = lease.member
        before = facts_of(member, self.clock())

        del lease
        self.pool.snapshot()

        assert facts_of(member, self.clock()) == before

    @rule(seconds=st.sampled_from([0.01, 1.0, 6.0, 70.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(names=some_names, key=st.sampled_from(["one", "other"]), tier=st.integers(0, 1), host=st.integers(0, 1))
    def reload(self, names: list[str], key: str, tier: int, host: int) -> None:
        """The first of them differs from the others: by its key, its tier or its server."""
        first = an_endpoint(names[0], credential=Secret(key), tier=tier, base_url=f"http://{names[0]}{host}:8000/v1")

        self.pool.swap([first, *(an_endpoint(name) for name in names[1:])])

        assert [endpoint.name for endpoint in self.pool.endpoints] == names

    @rule()
    def fork(self) -> None:
        self.parents += self.leases
        self.leases = []
        self.members.clear()  # one that has drained stays as it is, but nobody knows it any longer
        self.generations.clear()

        self.pool.renew_after_fork()
        self.budget.renew_after_fork()

    @precondition(lambda self: self.parents)
    @rule(outcome=some_outcome)
    def settle_what_the_parent_leased(self, outcome: Outcome) -> None:
        before = self.pool.snapshot()

        self.parents.pop().settle(outcome, 1.0)

        assert self.pool.snapshot() == before

    @rule(is_spent=st.booleans())
    def use_budget(self, is_spent: bool) -> None:
        tokens = self.budget.tokens
        if not is_spent:
            self.budget.earn()
            assert self.budget.tokens == min(TOKENS, tokens + 0.2)
        else:
            assert self.budget.spend() is (tokens >= 1)

    @rule()
    def look_who_is_in_use(self) -> None:
        names = self.pool.in_use()

        assert {endpoint.server for endpoint in self.pool.endpoints} <= names

    @invariant()
    def every_place_is_accounted_for(self) -> None:
        self.pool.snapshot()  # gives back the places of lost leases
        held = Counter(id(lease.member) for lease in self.leases)
        for lease in self.leases:
            self.members[id(lease.member)] = lease.member
        for member in self.pool._members:
            self.members[id(member)] = member
        for key, member in self.members.items():
            assert member.load.in_flight == held[key] >= 0

    @invariant()
    def one_probe_at_most_is_under_way_at_each_endpoint(self) -> None:
        probes = Counter(id(lease.member) for lease in self.leases if lease.is_probe)
        assert all(count == 1 for count in probes.values())
        assert all(member.is_probing == bool(probes[id(member)]) for member in self.pool._members)

    @invariant()
    def generations_only_grow(self) -> None:
        for key, member in self.members.items():
            assert member.generation >= self.generations.get(key, 0)
            self.generations[key] = member.generation

    @invariant()
    def some_endpoint_is_pickable_while_any_is_not_barred(self) -> None:
        now_s = self.clock()
        if all(member.health(now_s) in BARRED for member in self.pool._members):
            return
        # Asks without leaving a trace: the lease is lost at once, and what it drew is drawn in every replay.
        assert isinstance(self.pool.lease(), Lease)

    @invariant()
    def one_that_is_alone_in_its_selection_is_pickable_unless_it_is_paused(self) -> None:
        now_s = self.clock()
        for member in self.pool._members:
            found = self.pool.lease(among=Selection(names=frozenset({member.endpoint.name})))
            assert isinstance(found, Lease) is (now_s >= member.paused_until_s)

    @invariant()
    def one_that_is_alone_is_never_disabled(self) -> None:
        if self.pool.is_single():
            assert self.pool.snapshot()[0].health is not Health.DISABLED

    @invariant()
    def what_is_not_well_is_probed_before_it_is_well(self) -> None:
        now_s = self.clock()
        for member in self.pool._members:
            if member.health(now_s) is not Health.OK or member.breaker_state(now_s) is not BreakerState.CLOSED:
                assert member.probes_due > 0

    @invariant()
    def the_budget_is_never_overdrawn(self) -> None:
        assert 0 <= self.budget.tokens <= TOKENS

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for lease in self.leases[::2]:
            lease.settle(SERVED, 1.0)
        self.leases.clear()
        self.parents.clear()
        assert all(one.in_flight == 0 for one in self.pool.snapshot())
        assert all(member.load.in_flight == 0 for member in self.members.values())


PoolMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestPoolMachine = PoolMachine.TestCase


def endpoints(count: int) -> list[Endpoint]:
    return [an_endpoint(name) for name in "abcdef"[:count]]


@settings(max_examples=300)
@given(
    size=st.integers(1, 5),
    script=st.lists(st.tuples(some_outcome, st.sampled_from([0.01, 1.0, 9.0])), min_size=40, max_size=40),
    before=st.lists(st.tuples(st.integers(0, 4), some_outcome), max_size=12),
    strategy=st.sampled_from(Strategy),
    lasts_s=st.sampled_from([0.5, 10.0, 120.0]),
    wish=st.fixed_dictionaries(
        {"model": some_model, "is_replayable": st.booleans(), "is_stateful": st.sampled_from([False, False, True])}
    ),
    tokens=st.sampled_from([0, 1, 200]),
    seed=st.integers(0, 99),
)
def test_a_call_asks_no_endpoint_twice_but_one_that_is_alone_or_busy_or_has_a_conflict(
    size, script, before, strategy, lasts_s, wish, tokens, seed
):
    clock, chance = Clock(), random.Random(seed)
    pool = Pool(
        endpoints(size),
        spec=PoolSpec(strategy=strategy),
        clock=clock,
        randomness=chance,
        make_lock=threading.RLock,
        listener=lambda event: None,
    )
    for number, outcome in before:
        lease = pool.lease(only="abcdef"[number], model=wish["model"])
        if isinstance(lease, Lease):
            lease.settle(outcome, 0.1)
    budget = Budget(BudgetSpec(tokens=tokens, per_second=0), clock=clock, make_lock=threading.Lock)
    spec = CallSpec()
    ends_at_s = clock() + lasts_s
    given_out = iter(script)
    told: list[Outcome] = []

    def answer(send):
        assert clock() < ends_at_s + 1e-6 or not told
        assert send.ends_at_s == ends_at_s
        outcome, took_s = next(given_out)
        clock.advance(took_s)
        told.append(outcome)
        return outcome

    story = failover(pool, Wish(ends_at_s=ends_at_s, **wish), spec=spec, budget=budget, clock=clock, randomness=chance)
    played = play(story, dict.fromkeys("abcdef", answer), clock=clock, takes_s=0)

    for at, name in enumerate(played.asked):
        if name in played.asked[:at]:
            last = told[max(earlier for earlier in range(at) if played.asked[earlier] == name)]
            assert size == 1 or last.blame is Blame.LOAD or last is CONFLICT
    conflicts = sum(outcome is CONFLICT for outcome in told)
    sent = sum(outcome.was_sent for outcome in told) - conflicts
    assert sent <= spec.max_attempts
    assert conflicts <= 2
    assert sum(outcome.may_be_poison for outcome in told) <= 2
    assert all(not outcome.has_served for outcome in told[:-1])
    assert sum(played.rests_s) <= 5 + 0.5 + 2 * 8
    if wish["is_stateful"] or not wish["is_replayable"]:
        assert all(not outcome.was_sent or outcome.is_refusal for outcome in told[:-1])
    assert [attempt.endpoint for attempt in played.ending.attempts] == played.asked
    assert [one.in_flight for one in pool.snapshot()] == [0] * size
    assert 0 <= budget.tokens <= tokens


@settings(max_examples=150)
@given(
    among=some_selection,
    larger=st.none() | some_selection,
    script=st.lists(
        st.tuples(some_outcome | st.just(TOO_LONG), st.sampled_from([0.01, 1.0, 9.0])), min_size=40, max_size=40
    ),
    before=st.lists(st.tuples(st.sampled_from("abcd"), some_outcome), max_size=12),
    reloads=st.lists(st.sampled_from([None, None, "abcd", "abcdef", "bce"]), min_size=40, max_size=40),
    larger_lasts_s=st.sampled_from([1.5, 300.0]),
    wish=st.fixed_dictionaries(
        {"model": some_model, "is_replayable": st.booleans(), "only": st.sampled_from([None, None, None, "a"])}
    ),
    strategy=st.sampled_from(Strategy),
    seed=st.integers(0, 99),
)
def test_a_call_never_leaves_its_selection_but_once_for_the_larger_one_whatever_comes(
    among, larger, script, before, reloads, larger_lasts_s, wish, strategy, seed
):
    clock, chance = Clock(), random.Random(seed)
    pool = Pool(
        endpoints(4),
        spec=PoolSpec(strategy=strategy),
        clock=clock,
        randomness=chance,
        make_lock=threading.RLock,
        listener=lambda event: None,
    )
    for name, outcome in before:
        lease = pool.lease(only=name, model=wish["model"])
        if isinstance(lease, Lease):
            lease.settle(outcome, 0.1)
    budget = Budget(BudgetSpec(tokens=200, per_second=0), clock=clock, make_lock=threading.Lock)
    ends_at_s, larger_ends_at_s = clock() + 10.0, clock() + larger_lasts_s
    given_out, named = iter(script), iter(reloads)
    told: list[Outcome] = []
    ends: list[float] = []

    def answer(send):
        ends.append(send.ends_at_s)
        if (names := next(named)) is not None:
            pool.swap([an_endpoint(name) for name in names])
        outcome, took_s = next(given_out)
        clock.advance(took_s)
        told.append(outcome)
        return outcome

    story = failover(
        pool,
        Wish(ends_at_s=ends_at_s, among=among, larger=larger, larger_ends_at_s=larger_ends_at_s, **wish),
        spec=CallSpec(),
        budget=budget,
        clock=clock,
        randomness=chance,
    )
    played = play(story, dict.fromkeys("abcdef", answer), clock=clock, takes_s=0)

    may_move = larger is not None and wish["is_replayable"] and wish["only"] is None
    first_too_long = next((at for at, outcome in enumerate(told) if outcome.is_too_long), len(told) - 1)
    here, there = played.asked[: first_too_long + 1], played.asked[first_too_long + 1 :]
    assert set(here) <= among.names
    assert set(there) <= (larger.names if larger is not None else set())
    assert played.asked.count("a") == len(played.asked) or wish["only"] is None
    assert not there or (may_move and played.ending.has_moved)
    if played.ending.has_moved:
        assert may_move
        assert here[-1] not in there
    assert ends == [ends_at_s] * len(here) + [larger_ends_at_s] * len(there)
    assert sum(outcome.is_too_long for outcome in told) <= 2
    assert all(one.in_flight == 0 for one in pool.snapshot())
