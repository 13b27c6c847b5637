"""When a breaker trips, for how long it is open, and what it forgets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.breaker import Breaker, BreakerSpec, BreakerState

from .actors import MIDDLE, Drawn


def a_breaker(**spec):
    return Breaker(BreakerSpec(**spec))


def fed(breaker, results, *, now_s=1000.0):
    """Feed results in, `.` a success and `x` a failure, until it trips. Returns how many it took, or None."""
    for count, result in enumerate(results, start=1):
        if result == ".":
            breaker.succeeded(now_s)
        elif breaker.failed(now_s):
            return count
    return None


@pytest.mark.parametrize(
    ("results", "trips_at"),
    [
        ("xxxx", None),
        ("xxxxx", 5),
        (".....xxxxx", 10),
        ("......xxxxxx", 12),  # five in a row, but most were well; with the sixth half of all failed
        ("x." * 9 + "x", None),
        (".x" * 10, 20),  # twenty results, half of them failed
        ("..x" * 20, None),  # a third of any number is not enough
        ("." * 1000 + "x" * 19, None),
        ("." * 1000 + "x" * 20, 1020),  # so many in a row are a kill, whatever was before
        ("xxxx.xxxx.xxxx.", None),
        ("", None),
    ],
)
def test_it_trips_at_five_in_a_row_and_half_or_at_twenty_results_and_half_or_at_twenty_in_a_row(results, trips_at):
    assert fed(a_breaker(), results) == trips_at


def test_what_is_older_than_its_window_is_forgotten():
    breaker = a_breaker()
    fed(breaker, ".x" * 9 + ".", now_s=1000)

    assert fed(breaker, "x", now_s=1061) is None


def test_what_is_within_its_window_is_not_forgotten():
    breaker = a_breaker()
    fed(breaker, ".x" * 9 + ".", now_s=1000)

    assert fed(breaker, "x", now_s=1054) == 1


def test_its_window_is_forgotten_in_steps_and_not_at_once():
    breaker = a_breaker()
    for second in range(0, 55, 5):
        fed(breaker, "." * 10, now_s=1000 + second)

    assert fed(breaker, "x" * 10, now_s=1059) is None  # of 120 results 110 served
    assert fed(breaker, "x" * 6, now_s=1114) is not None  # the last ten of those are left


def test_a_row_of_failures_ends_with_a_window_without_results():
    breaker = a_breaker()
    fed(breaker, "xxxx", now_s=1000)

    assert fed(breaker, "x", now_s=4600) is None


def test_a_slow_row_of_failures_is_a_row():
    breaker = a_breaker()

    assert [fed(breaker, "x", now_s=1000 + 30 * number) for number in range(5)] == [None] * 4 + [1]


@pytest.mark.parametrize(("openings", "open_s"), list(enumerate([5, 10, 20, 40, 60, 60, 60])))
def test_it_is_open_for_five_seconds_doubling_to_sixty(openings, open_s):
    breaker = a_breaker()

    for _ in range(openings + 1):
        for_s = breaker.open(1000.0, MIDDLE)

    assert for_s == open_s


def test_its_time_is_spread_by_a_fifth():
    assert a_breaker().open(0.0, Drawn(0.0)) == pytest.approx(4)
    assert a_breaker().open(0.0, Drawn(1 - 2**-53)) == pytest.approx(6)


def test_it_is_closed_then_open_then_half_open():
    breaker = a_breaker()
    assert breaker.state(1000) is BreakerState.CLOSED

    breaker.open(1000, MIDDLE)

    assert breaker.is_tripped
    assert breaker.state(1004.9) is BreakerState.OPEN
    assert breaker.state(1005.0) is BreakerState.HALF_OPEN


def test_once_closed_it_has_forgotten_all():
    breaker = a_breaker()
    fed(breaker, "xxxxx")
    breaker.open(1000, MIDDLE)
    breaker.open(1000, MIDDLE)

    breaker.close()

    assert breaker.state(1000) is BreakerState.CLOSED
    assert fed(breaker, "xxxx") is None
    assert breaker.open(1000, MIDDLE) == 5


@given(results=st.lists(st.tuples(st.sampled_from(".x"), st.floats(0, 40)), max_size=200))
def test_a_breaker_trips_only_where_half_of_its_window_failed_or_twenty_in_a_row(results):
    breaker, now_s = a_breaker(), 1000.0
    history = []
    for result, passed_s in results:
        now_s += passed_s
        history.append((now_s, result))

        has_tripped = fed(breaker, result, now_s=now_s) is not None

        step = int(now_s / 5)
        window = [what for at_s, what in history if int(at_s / 5) > step - 12]
        in_a_row = len(window) - 1 - max((at for at, what in enumerate(window) if what == "."), default=-1)
        is_bad = window.count("x") >= 0.5 * len(window)
        if result == "x" and (in_a_row >= 20 or (is_bad and (in_a_row >= 5 or len(window) >= 20))):
            assert has_tripped
        if has_tripped:
            assert is_bad or breaker.in_a_row >= 20
