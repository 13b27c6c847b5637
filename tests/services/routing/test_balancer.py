"""Which of several equally healthy endpoints is chosen."""

import math
import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.balancer import Load, Strategy, choose, cost

from .actors import Drawn

NOW_S = 1000.0


@dataclass
class Server:
    """Something with a name and a load."""

    name: str
    load: Load


def a_server(name, *, ewma_s=None, in_flight=0, at_s=NOW_S, **fields):
    load = Load(**fields)
    load.in_flight = in_flight
    if ewma_s is not None:
        load.ewma_s, load.at_s = ewma_s, at_s
    return Server(name, load)


def shares(strategy, *servers, randomness, picks=3000, now_s=NOW_S):
    """How often each is chosen."""
    return Counter(choose(strategy, servers, now_s, randomness).name for _ in range(picks))


@pytest.mark.parametrize("strategy", list(Strategy))
def test_one_alone_is_chosen(strategy, randomness):
    alone = a_server("a")

    assert choose(strategy, [alone], NOW_S, randomness) is alone


@given(strategy=st.sampled_from(Strategy), seed=st.integers(), size=st.integers(1, 6))
def test_every_strategy_chooses_one_of_the_candidates(strategy, seed, size):
    servers = [a_server(str(number), ewma_s=number or None, in_flight=number % 2) for number in range(size)]

    assert choose(strategy, servers, NOW_S, random.Random(seed)) in servers


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"ewma_s": 0.5}, {"ewma_s": 0.6}),
        ({"ewma_s": 1, "in_flight": 1}, {"ewma_s": 1, "in_flight": 2}),
        ({"ewma_s": 1, "in_flight": 2, "weight": 2}, {"ewma_s": 1, "in_flight": 1}),
        ({"in_flight": 1}, {"in_flight": 2}),  # before anything is known too
        ({"weight": 2}, {"weight": 1}),
    ],
)
@pytest.mark.parametrize("draw", [0.0, 0.99])
def test_of_two_the_cheaper_is_chosen(better, worse, draw):
    servers = [a_server("better", **better), a_server("worse", **worse)]

    assert choose(Strategy.P2C, servers, NOW_S, Drawn(draw)).name == "better"


def test_the_dearest_of_three_is_never_chosen_and_the_others_are(randomness):
    servers = [a_server("a", ewma_s=1), a_server("b", ewma_s=1), a_server("dear", ewma_s=10)]

    assert set(shares(Strategy.P2C, *servers, randomness=randomness)) == {"a", "b"}


def test_equals_are_chosen_equally_often(randomness):
    servers = [a_server(name) for name in "abc"]

    assert all(
        count == pytest.approx(1000, rel=0.1) for count in shares("p2c", *servers, randomness=randomness).values()
    )


def test_an_endpoint_that_nobody_measured_has_a_cost():
    assert 0 < cost(a_server("a").load, NOW_S) < cost(a_server("a", in_flight=1).load, NOW_S)


def test_idleness_forgives_a_bad_time():
    load = a_server("a", ewma_s=8, at_s=NOW_S).load

    assert cost(load, NOW_S) == 8
    assert cost(load, NOW_S + 10) == pytest.approx(8 / math.e)
    assert cost(load, NOW_S + 100) < 0.001


def test_an_endpoint_that_still_owes_answers_is_not_idle_and_nothing_is_forgiven():
    frozen = a_server("a", ewma_s=1, in_flight=3, at_s=NOW_S).load

    assert cost(frozen, NOW_S + 60) == cost(frozen, NOW_S) == 4


def test_the_first_sample_is_the_mean():
    load = Load()

    load.sample(3, NOW_S)

    assert (load.ewma_s, load.at_s) == (3, NOW_S)


@pytest.mark.parametrize(("passed_s", "kept"), [(10, 1 / math.e), (20, 1 / math.e**2), (1, math.exp(-0.1))])
def test_a_mean_loses_weight_with_time(passed_s, kept):
    load = a_server("a", ewma_s=1).load

    load.sample(2, NOW_S + passed_s)

    assert load.ewma_s == pytest.approx(kept + 2 * (1 - kept))


def test_many_samples_at_one_moment_count():
    load = a_server("a", ewma_s=1).load

    for _ in range(100):
        load.sample(2, NOW_S)

    assert load.ewma_s == pytest.approx(2, rel=0.01)


def test_one_slow_answer_is_no_peak():
    load = a_server("a", ewma_s=1).load

    load.sample(10, NOW_S + 0.1)

    assert load.ewma_s < 1.5


def test_a_failure_counts_as_twice_the_mean_where_it_was_fast():
    failed, slow = a_server("a", ewma_s=1).load, a_server("a", ewma_s=1).load

    failed.sample_failure(0.001, NOW_S + 1)
    slow.sample(2, NOW_S + 1)

    assert failed.ewma_s == slow.ewma_s > 1


def test_a_failure_counts_as_its_time_where_it_was_slow():
    failed, slow = a_server("a", ewma_s=1).load, a_server("a", ewma_s=1).load

    failed.sample_failure(60, NOW_S + 1)
    slow.sample(60, NOW_S + 1)

    assert failed.ewma_s == slow.ewma_s


def test_a_fast_failure_as_the_first_result_does_not_look_like_a_fast_endpoint():
    load = Load()

    load.sample_failure(0.001, NOW_S)

    assert load.ewma_s is None


@given(fails_s=st.lists(st.floats(0, 100), min_size=1), ewma_s=st.floats(0.001, 100))
def test_failures_never_make_an_endpoint_cheaper(fails_s, ewma_s):
    load = a_server("a", ewma_s=ewma_s).load

    for took_s in fails_s:
        before_s = load.ewma_s
        load.sample_failure(took_s, NOW_S)
        assert load.ewma_s >= before_s * 0.999999


def test_weighted_random_gives_shares_by_weight(randomness):
    servers = [a_server("a", weight=1), a_server("b", weight=2), a_server("c", weight=3)]

    counts = shares(Strategy.WEIGHTED_RANDOM, *servers, randomness=randomness, picks=6000)

    assert [counts[name] for name in "abc"] == pytest.approx([1000, 2000, 3000], rel=0.1)


def test_round_robin_is_smooth_and_weighted(randomness):
    servers = [a_server("a", weight=5), a_server("b", weight=1), a_server("c", weight=1)]

    picks = "".join(choose(Strategy.ROUND_ROBIN, servers, NOW_S, randomness).name for _ in range(14))

    assert picks == "aabacaa" * 2  # the example of nginx


@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_round_robin_keeps_exact_shares(weights):
    servers = [a_server(str(number), weight=weight) for number, weight in enumerate(weights)]

    counts = shares(Strategy.ROUND_ROBIN, *servers, randomness=Drawn(0.5), picks=3 * sum(weights))

    assert [counts[server.name] for server in servers] == [3 * weight for weight in weights]


def test_least_in_flight_goes_by_weight_too(randomness):
    servers = [a_server("a", in_flight=3), a_server("b", in_flight=5, weight=2), a_server("c", in_flight=4)]

    assert set(shares(Strategy.LEAST_IN_FLIGHT, *servers, randomness=randomness)) == {"b"}


def test_lowest_latency_looks_at_nothing_else(randomness):
    servers = [a_server("fast", ewma_s=1, in_flight=50), a_server("slow", ewma_s=2)]

    assert set(shares(Strategy.LOWEST_LATENCY, *servers, randomness=randomness)) == {"fast"}


def test_lowest_latency_looks_at_a_slow_one_again_after_a_while(randomness):
    servers = [a_server("fast", ewma_s=1, at_s=NOW_S + 60), a_server("slow", ewma_s=20, at_s=NOW_S)]

    assert set(shares(Strategy.LOWEST_LATENCY, *servers, randomness=randomness, now_s=NOW_S + 60)) == {"slow"}


def test_lowest_price_takes_an_unknown_price_last(randomness):
    servers = [a_server("unknown"), a_server("dear", price=3.0), a_server("cheap", price=2.0)]

    assert set(shares(Strategy.LOWEST_PRICE, *servers, randomness=randomness)) == {"cheap"}
    assert set(shares(Strategy.LOWEST_PRICE, *servers[:2], randomness=randomness)) == {"dear"}


@pytest.mark.parametrize("strategy", [Strategy.LEAST_IN_FLIGHT, Strategy.LOWEST_LATENCY, Strategy.LOWEST_PRICE])
def test_ties_are_broken_at_random(strategy, randomness):
    servers = [a_server(name) for name in "abc"]

    counts = shares(strategy, *servers, randomness=randomness)

    assert all(counts[name] == pytest.approx(1000, rel=0.1) for name in "abc")


def test_in_order_is_the_operators_order(randomness):
    servers = [a_server("second", position=1, ewma_s=0.1), a_server("first", position=0, ewma_s=9, in_flight=9)]

    assert set(shares(Strategy.IN_ORDER, *servers, randomness=randomness)) == {"first"}


def test_a_server_that_was_frozen_for_a_minute_is_asked_again_within_half_a_minute():
    frozen = a_server("frozen", ewma_s=60, at_s=NOW_S)
    well = a_server("well", ewma_s=0.1, at_s=NOW_S + 24)

    assert choose(Strategy.P2C, [frozen, well], NOW_S + 24, Drawn(0.0)).name == "frozen"
    assert choose(Strategy.P2C, [frozen, well], NOW_S + 20, Drawn(0.0)).name == "well"
