import math

import pytest

from benchmarks.concurrency import load_of
from benchmarks.figures import GOALS, Goal, percentile, ratio, written
from benchmarks.kill import aftermath_of


def test_a_percentile_is_a_sample_that_so_large_a_share_does_not_exceed():
    samples = [float(number) for number in range(100, 0, -1)]

    assert percentile(samples, 0.99) == 99
    assert percentile(samples, 0.5) == 50
    assert percentile(samples, 1) == 100
    assert percentile([7.0], 0.01) == 7
    assert math.isnan(percentile([], 0.99))


@pytest.mark.parametrize("share", [0, -0.1, 1.1, 99])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="a share is above 0 and at most 1"):
        percentile([1.0], share)


def test_a_ratio_of_what_was_not_measured_is_not_known():
    assert ratio(3.0, 2.0) == 1.5
    assert ratio(None, 2.0) is None
    assert ratio(3.0, None) is None
    assert ratio(3.0, 0.0) is None


def test_a_figure_that_is_not_known_is_a_dash():
    assert [written(None), written(math.nan), written(1234.4), written(0.805, 2)] == ["-", "-", "1,234", "0.81"]


def test_a_goal_is_reached_missed_or_not_measured():
    goal = Goal(says="", key="x", most=1.05)

    assert goal.is_met({"x": 1.05}) is True
    assert goal.is_met({"x": 1.06}) is False
    assert goal.is_met({}) is None
    assert goal.is_met({"x": math.nan}) is None
    assert Goal(says="", key="x", least=3.5).is_met({"x": 3.4}) is False


def test_every_goal_has_a_limit_and_a_figure_of_its_own():
    assert len({goal.key for goal in GOALS}) == len(GOALS)
    assert all((goal.most is None) != (goal.least is None) for goal in GOALS)


def test_a_call_counts_by_the_share_of_its_time_that_lies_in_the_window_and_an_error_always():
    calls = [(10.5, 1.0), (11.0, 0.25), (12.0, 0.5)]
    told = {"opened_at": 10.0, "closed_at": 12.0, "cpu_s": 0.5, "calls": calls, "errors": [(9.0, 1.0, "E: x")]}

    load = load_of(told)

    assert (load.per_s, load.p99_ms, load.cpu_us, load.core) == (1.25, 1000.0, 200_000.0, 0.25)
    assert (load.errors, load.error) == (1, "E: x")


def test_what_ends_after_the_kill_counts_as_after_it_whether_it_failed_or_not():
    told = {"calls": [(1.0, 0.1), (3.0, 0.4)], "errors": [(3.5, 2.0, "ReadError")]}

    after = aftermath_of(told, killed_at=2.0, survivors_saw=9)

    assert (after.calls, after.failed, after.survivors_saw) == (3, 1, 9)
    assert (after.p99_before_ms, after.p99_after_ms, after.slowest_ms) == (100.0, 2000.0, 2000.0)
