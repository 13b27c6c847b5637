"""What may be spent in a minute, an hour or a day is held against what was; a limit is told once when it is reached."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.endpoint import Price
from llmwire.services.routing.spending import Period, Spending, SpendingLimit, Unit
from llmwire.services.usage import Usage

HOUR = 3600


class Clock:
    def __init__(self, now_s=1000 * HOUR):
        self.now_s = now_s

    def __call__(self):
        return self.now_s

    def advance(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


def limit(amount, unit=Unit.COST, per=Period.HOUR, **of):
    return SpendingLimit(limit=amount, unit=unit, per=per, **of)


def spending(clock, *limits):
    return Spending("completion", limits, wall_clock=clock, make_lock=nullcontext)


def spent(of, *, endpoint="a", tags=(), tokens=None, cost=None):
    return of.spent(endpoint, tags, tokens=tokens, cost=cost)


# Limits.


def test_calls_are_refused_when_the_budget_of_the_function_is_spent_until_its_period_ends(clock):
    budget = spending(clock, limit(5.0))
    clock.advance(600)

    assert spent(budget, cost=4.5) == ()
    assert budget.refusal(()) is None
    [event] = spent(budget, cost=0.5)
    assert (event.budget, event.endpoint, event.tag, event.spent, event.for_s) == ("5/hour", None, None, 5.0, 3000.0)
    refusal = budget.refusal(())
    assert (refusal.spent, refusal.limit, refusal.ends_in_s) == (5.0, 5.0, 3000.0)

    clock.advance(3000)
    assert budget.refusal(()) is None
    assert spent(budget, cost=4.9) == ()


def test_a_limit_is_told_once_in_its_period(clock):
    budget = spending(clock, limit(1.0))

    told = [len(spent(budget, cost=0.6)) for _ in range(4)]
    clock.advance(HOUR)
    told += [len(spent(budget, cost=0.6)) for _ in range(4)]

    assert told == [0, 1, 0, 0] * 2


def test_tokens_are_counted_as_money_is(clock):
    budget = spending(clock, limit(100, Unit.TOKENS, Period.MINUTE))

    assert spent(budget, tokens=99) == ()
    assert [str(event.budget) for event in spent(budget, tokens=1)] == ["100 tokens/minute"]


def test_the_budget_of_a_tag_is_that_of_its_calls_alone(clock):
    budget = spending(clock, limit(1.0, tag="night"))

    assert spent(budget, cost=5.0) == ()
    assert [event.tag for event in spent(budget, cost=1.0, tags=("night", "other"))] == ["night"]
    assert budget.refusal(()) is budget.refusal(("other",)) is None
    assert budget.refusal(("night",)).tag == "night"


def test_the_budget_of_an_endpoint_is_what_is_spent_there_and_refuses_no_call(clock):
    budget = spending(clock, limit(1.0, endpoint="a"))

    assert spent(budget, endpoint="b", cost=5.0) == ()
    assert [event.endpoint for event in spent(budget, endpoint="a", cost=1.0)] == ["a"]
    assert budget.refusal(()) is None
    assert [(state.endpoint, state.ends_in_s) for state in budget.exhausted()] == [("a", 3600.0)]
    clock.advance(HOUR)
    assert budget.exhausted() == ()


def test_what_is_not_known_is_not_booked(clock):
    budget = spending(clock, limit(1.0), limit(10, Unit.TOKENS))

    spent(budget, tokens=5)
    spent(budget, cost=0.5)

    assert [state.spent for state in budget.state()] == [0.5, 5.0]


def test_of_several_limits_the_one_that_ends_last_is_the_reason(clock):
    budget = spending(clock, limit(1.0, per=Period.MINUTE), limit(1.0, per=Period.DAY), limit(1.0, tag="x"))

    spent(budget, cost=1.0, tags=("x",))

    assert budget.refusal(("x",)).budget == "1/day"


@pytest.mark.parametrize(
    ("amount", "unit", "written"),
    [
        (5.0, Unit.COST, "5/hour"),
        (0.25, Unit.COST, "0.25/hour"),
        (200000, Unit.TOKENS, "200000 tokens/hour"),
        (1234567890.0, Unit.TOKENS, "1234567890 tokens/hour"),
    ],
)
def test_a_limit_is_written_as_an_operator_writes_it(amount, unit, written):
    assert str(limit(amount, unit)) == written


def test_many_small_costs_add_up_exactly(clock):
    budget = spending(clock, limit(1.0))

    reached = [event for _ in range(10_000_000 // 1000) for event in spent(budget, cost=0.0001)]

    assert [event.spent for event in reached] == [1.0]


STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from([(), ("x",), ("x", "y")]),
        st.none() | st.integers(0, 50),
        st.none() | st.integers(0, 50).map(lambda cents: cents / 100),
        st.integers(0, 2000),
    ),
    max_size=60,
)
LIMITS = [
    limit(3.0),
    limit(100, Unit.TOKENS, Period.MINUTE),
    limit(1.0, per=Period.DAY, tag="x"),
    limit(60, Unit.TOKENS, endpoint="a"),
]


@given(STEPS)
def test_it_agrees_with_a_list_of_all_that_was_spent(steps):
    clock = Clock()
    budget, all_spent = spending(clock, *LIMITS), []
    for endpoint, tags, tokens, cost, seconds in steps:
        spent(budget, endpoint=endpoint, tags=tags, tokens=tokens, cost=cost)
        all_spent.append((clock.now_s, endpoint, tags, tokens, cost))
        clock.advance(seconds)

        for state, of in zip(budget.state(), LIMITS, strict=True):
            period = int(clock.now_s // of.per.seconds)
            amounts = [
                tokens if of.unit is Unit.TOKENS else cost
                for at_s, endpoint, tags, tokens, cost in all_spent
                if int(at_s // of.per.seconds) == period
                and of.endpoint in (None, endpoint)
                and (of.tag is None or of.tag in tags)
            ]
            assert state.spent == pytest.approx(sum(amount or 0 for amount in amounts))
            is_refused = budget.refusal((of.tag,) if of.tag else ()) is not None
            assert not (state.spent >= of.limit + 1e-6 and of.endpoint is None) or is_refused


class Waiting:
    """A lock that a thread had to wait for: what happens meanwhile is `meanwhile`."""

    meanwhile = None

    def __enter__(self):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()

    def __exit__(self, *_):
        pass


def test_who_waited_for_the_lock_until_the_next_period_began_takes_nothing_from_it(clock):
    lock = Waiting()
    budget = Spending("completion", [limit(5.0)], wall_clock=clock, make_lock=lambda: lock)

    def another():
        clock.advance(HOUR)
        spent(budget, cost=4.0)

    lock.meanwhile = another
    [event] = spent(budget, cost=1.0)

    assert event.spent == 5.0


def test_many_threads_lose_nothing(clock):
    budget = Spending("completion", [limit(1e6)], wall_clock=clock, make_lock=threading.Lock)

    def work():
        for _ in range(2000):
            spent(budget, cost=0.001)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert budget.state()[0].spent == 16.0


# Sharing.


def test_what_others_have_spent_counts_too_and_a_limit_that_it_reaches_is_told(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=2.0)

    [share] = budget.shares()
    [event] = budget.learnt(share, 6_000_000_000)

    assert (share.amount, event.spent) == (2_000_000_000, 6.0)
    assert budget.refusal(()).spent == 6.0
    assert [each.amount for each in budget.shares()] == [0]


def test_what_is_on_its_way_counts_and_comes_again_where_it_did_not_arrive(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=2.0)

    [share] = budget.shares()
    spent(budget, cost=1.0)
    assert budget.state()[0].spent == 3.0
    budget.give_back(share)

    assert [each.amount for each in budget.shares()] == [3_000_000_000]


def test_a_share_of_a_period_that_is_over_changes_nothing(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=2.0)
    [share] = budget.shares()
    clock.advance(HOUR)
    spent(budget, cost=1.0)

    assert budget.learnt(share, 9_000_000_000) == ()
    budget.give_back(share)

    assert budget.state()[0].spent == 1.0


def test_all_who_share_know_a_limit_by_one_name_and_each_period_by_its_own(clock):
    one, other = spending(clock, limit(5.0, tag="x")), spending(clock, limit(7.0, tag="x"))
    [first], [second] = one.shares(), other.shares()
    clock.advance(HOUR)
    [later] = one.shares()

    assert first.key == second.key != later.key
    assert first.key.startswith("completion/tag x/cost/hour/")


def test_a_child_process_goes_by_what_its_parent_spent_and_does_not_tell_it_again(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=2.0)

    budget.renew_after_fork()
    spent(budget, cost=1.0)

    assert budget.state()[0].spent == 3.0
    assert [share.amount for share in budget.shares()] == [1_000_000_000]


def test_a_child_process_counts_what_its_parent_spent_also_before_the_parent_has_told_it(clock):
    parent, child = spending(clock, limit(5.0)), spending(clock, limit(5.0))
    for process in (parent, child):  # the child is a copy
        spent(process, cost=6.0)
    child.renew_after_fork()

    [share] = child.shares()
    child.learnt(share, 0)
    assert child.refusal(()).spent == 6.0
    [share] = child.shares()
    child.learnt(share, parent.shares()[0].amount)

    assert child.refusal(()).spent == 6.0


def test_a_store_that_has_forgotten_what_it_knew_makes_nothing_unspent(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=2.0)
    [share] = budget.shares()
    budget.learnt(share, 4_000_000_000)

    spent(budget, cost=0.5)
    [share] = budget.shares()
    budget.learnt(share, 500_000_000)  # it began at nothing
    assert budget.state()[0].spent == 4.5
    [share] = budget.shares()
    [event] = budget.learnt(share, 1_000_000_000)

    assert event.spent == 5.0
    assert budget.refusal(()).spent == 5.0


#: what happens to two processes and the store that they share
EVENTS = st.lists(
    st.tuples(st.just("spend"), st.integers(0, 1), st.integers(0, 300))
    | st.tuples(st.sampled_from(["share", "fail"]), st.integers(0, 1), st.none())
    | st.tuples(st.just("forget"), st.none(), st.none()),
    max_size=40,
)


@given(EVENTS)
def test_what_is_spent_is_all_of_ones_own_and_what_was_learnt_of_others_and_never_less_than_before(events):
    processes = [spending(Clock(), limit(1000, Unit.TOKENS)) for _ in range(2)]
    own, told, before, store = [0, 0], [0, 0], [0, 0], 0
    for what, who, amount in events:
        if what == "forget":
            store = 0
            continue
        process = processes[who]
        if what == "spend":
            spent(process, tokens=amount)
            own[who] += amount
        else:
            [share] = process.shares()
            if what == "fail":
                process.give_back(share)
            else:
                store, told[who] = store + share.amount, own[who]
                process.learnt(share, store)

        now = process.state()[0].spent
        assert max(own[who], before[who]) <= now <= own[who] + told[1 - who]
        assert (process.refusal(()) is not None) == (now >= 1000)
        before[who] = now


# Limits that are exchanged while the program runs.


def amounts(of):
    return {(state.endpoint, state.tag, state.budget): state.spent for state in of.state()}


def test_of_a_limit_that_is_another_what_was_spent_stays_spent(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=3.0)

    budget.swap([limit(2.0)])

    assert amounts(budget) == {(None, None, "2/hour"): 3.0}
    assert budget.refusal(()).limit == 2.0


def test_a_limit_that_is_raised_lets_calls_pass_at_once_and_is_told_when_it_is_reached_again(clock):
    budget = spending(clock, limit(5.0))
    [told] = spent(budget, cost=5.0)

    budget.swap([limit(6.0)])

    assert budget.refusal(()) is None
    [again] = spent(budget, cost=1.0)
    assert (told.budget, again.budget) == ("5/hour", "6/hour")


def test_a_limit_that_is_cut_below_what_was_spent_is_told_at_once_and_once(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=3.0)

    [event] = budget.swap([limit(2.0)])

    assert (event.budget, event.spent) == ("2/hour", 3.0)
    assert spent(budget, cost=1.0) == ()


def test_the_same_limits_are_no_change_and_a_reached_one_is_not_told_again(clock):
    budget = spending(clock, limit(5.0), limit(7, Unit.TOKENS))
    assert len(spent(budget, cost=5.0)) == 1

    assert budget.swap([limit(5.0), limit(7, Unit.TOKENS)]) is None

    assert spent(budget, cost=1.0) == ()


def test_their_order_alone_takes_nothing_from_what_was_spent(clock):
    budget = spending(clock, limit(5.0), limit(7, Unit.TOKENS))
    spent(budget, cost=5.0, tokens=2)

    budget.swap([limit(7, Unit.TOKENS), limit(5.0)])

    assert amounts(budget) == {(None, None, "7 tokens/hour"): 2, (None, None, "5/hour"): 5.0}
    assert spent(budget, cost=1.0) == ()


@pytest.mark.parametrize(
    "other",
    [{"unit": Unit.TOKENS}, {"per": Period.DAY}, {"tag": "night"}, {"endpoint": "a"}],
    ids=lambda other: next(iter(other)),
)
def test_a_limit_of_another_unit_period_tag_or_endpoint_begins_at_nothing(clock, other):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=5.0, tokens=5, tags=("night",))

    budget.swap([limit(5.0, **other)])

    assert list(amounts(budget).values()) == [0.0]
    assert budget.refusal(("night",)) is None


def test_a_limit_that_is_gone_refuses_nothing(clock):
    budget = spending(clock, limit(5.0), limit(1.0, endpoint="a"))
    spent(budget, cost=5.0)

    budget.swap([])

    assert (budget.refusal(()), budget.exhausted(), budget.state()) == (None, (), ())
    assert spent(budget, cost=5.0) == ()


def test_who_drops_a_limit_and_brings_it_back_has_not_got_his_money_back(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=5.0)

    budget.swap([])
    budget.swap([limit(7, Unit.TOKENS)])
    budget.swap([limit(5.0)])

    assert list(amounts(budget).values()) == [5.0]
    assert budget.refusal(()) is not None


def test_in_another_period_it_has(clock):
    budget = spending(clock, limit(5.0))
    spent(budget, cost=5.0)
    budget.swap([])

    clock.advance(3600)
    budget.swap([limit(5.0)])

    assert list(amounts(budget).values()) == [0.0]


def test_an_endpoints_limit_that_is_cut_leaves_it_alone_at_once(clock):
    budget = spending(clock, limit(5.0, endpoint="a"))
    spent(budget, cost=3.0)
    assert budget.exhausted() == ()

    budget.swap([limit(2.0, endpoint="a")])

    assert [state.endpoint for state in budget.exhausted()] == ["a"]


def test_what_is_on_its_way_to_others_when_limits_change_still_counts_once(clock):
    budget = spending(clock, limit(9, Unit.TOKENS))
    spent(budget, tokens=4)
    [share] = budget.shares()

    budget.swap([limit(20, Unit.TOKENS)])
    budget.learnt(share, 10)

    assert amounts(budget) == {(None, None, "20 tokens/hour"): 10}


def test_a_share_of_a_limit_that_is_gone_is_nobodys(clock):
    budget = spending(clock, limit(9, Unit.TOKENS))
    spent(budget, tokens=4)
    [share] = budget.shares()

    budget.swap([limit(1.0)])

    assert budget.learnt(share, 10) == ()
    budget.give_back(share)
    assert amounts(budget) == {(None, None, "1/hour"): 0.0}


@given(
    steps=st.lists(st.tuples(st.sampled_from(["spend", "swap"]), st.integers(0, 5), st.booleans()), max_size=30),
)
def test_however_limits_change_what_was_spent_under_one_is_never_less(steps):
    budget = spending(Clock(), limit(3, Unit.TOKENS))
    total = 0

    for step, amount, has_other in steps:
        if step == "spend":
            spent(budget, tokens=amount)
            total += amount
        else:
            budget.swap([limit(amount + 1, Unit.TOKENS), *([limit(1.0)] if has_other else [])])

        [state, *_] = budget.state()
        assert state.spent == total
        assert (budget.refusal(()) is not None) == (total >= state.limit)


# Costs.


@pytest.mark.parametrize(
    ("price", "usage", "cost"),
    [
        (Price(input=1, output=2), Usage(input=1_000_000, output=500_000), 2.0),
        (Price(input=1, output=2, cached=0.1), Usage(input=1_000_000, output=0, cached=500_000), 0.55),
        (Price(input=1, output=2), Usage(input=1_000_000, output=0, cached=500_000), 1.0),
        (Price(input=1, output=2, cached=0.1), Usage(input=10, output=0, cached=500_000), 1e-6),
        (Price(input=1, output=2), Usage(input=None, output=3), None),
        (Price(input=1, output=2), Usage(input=3, output=None), None),
        (Price(input=1, output=0), Usage(input=1_000_000, output=None), 1.0),
        (Price(input=0, output=0), Usage(input=None, output=None), 0.0),
    ],
)
def test_an_answer_costs_what_its_tokens_do_and_is_unknown_where_they_are(price, usage, cost):
    assert price.cost(usage) == (cost if cost is None else pytest.approx(cost))
