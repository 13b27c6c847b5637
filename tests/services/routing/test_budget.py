"""Failovers spend tokens; successes and time bring them back."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.budget import Budget, BudgetSpec

from .actors import Clock


def a_budget(clock, **spec):
    return Budget(BudgetSpec(**spec), clock=clock, make_lock=threading.Lock)


def spent(budget):
    """How many failovers it pays for now."""
    count = 0
    while budget.spend():
        count += 1
    return count


def test_by_default_a_lane_may_fail_over_two_hundred_times_at_once(clock):
    assert spent(a_budget(clock)) == 200


def test_an_empty_budget_pays_for_nothing_and_owes_nothing(clock):
    budget = a_budget(clock, tokens=1)
    spent(budget)

    assert not budget.spend()
    assert budget.tokens == 0


def test_five_successes_bring_one_failover(clock):
    budget = a_budget(clock, tokens=10)
    spent(budget)

    for _ in range(4):
        budget.earn()
    assert not budget.spend()

    budget.earn()
    assert budget.spend()


def test_a_second_brings_one_failover(clock):
    budget = a_budget(clock)
    spent(budget)

    clock.advance(3)

    assert spent(budget) == 3


def test_it_is_never_more_than_full(clock):
    budget = a_budget(clock, tokens=3)
    clock.advance(100)
    budget.earn()
    assert budget.tokens == 3

    budget.spend()
    clock.advance(100)
    budget.earn()

    assert budget.tokens == 3


def test_time_that_goes_back_takes_nothing(clock):
    budget = a_budget(clock, tokens=3)
    budget.spend()

    clock.advance(-100)

    assert budget.tokens == 2


def test_without_tokens_nothing_is_ever_failed_over(clock):
    budget = a_budget(clock, tokens=0)

    budget.earn()
    clock.advance(10)

    assert not budget.spend()


@given(steps=st.lists(st.sampled_from(["spend", "earn", "second"])), tokens=st.integers(0, 5))
def test_it_is_never_negative_nor_more_than_full(steps, tokens):
    clock = Clock()
    budget = a_budget(clock, tokens=tokens)

    for step in steps:
        clock.advance(1) if step == "second" else getattr(budget, step)()

        assert 0 <= budget.tokens <= tokens


def test_a_child_process_has_a_lock_of_its_own(clock):
    budget = a_budget(clock)
    budget._lock.acquire()  # by a thread of the parent, that the child does not have

    budget.renew_after_fork()

    assert budget.spend()


def test_threads_cannot_spend_a_token_twice(clock):
    budget = a_budget(clock, tokens=1000, per_second=0)
    counts = []
    threads = [threading.Thread(target=lambda: counts.append(spent(budget))) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(counts) == 1000


@pytest.mark.parametrize(("field", "value"), [("tokens", 200.0), ("per_success", 0.2), ("per_second", 1.0)])
def test_the_defaults_are_those_that_were_simulated(field, value):
    assert getattr(BudgetSpec(), field) == value
