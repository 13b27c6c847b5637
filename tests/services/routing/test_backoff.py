"""Rests double, are spread, and have an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.backoff import BackoffSpec, doubled, jittered

from .actors import MIDDLE, Drawn

ALMOST_ALL = Drawn(1 - 2**-53)  # the most that random() gives


@pytest.mark.parametrize(("attempt", "most_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 8.0), (9, 8.0)])
def test_a_rest_is_anything_from_nothing_to_half_a_second_doubled_at_most_eight(attempt, most_s):
    assert BackoffSpec().wait_s(attempt, Drawn(0.0)) == 0
    assert BackoffSpec().wait_s(attempt, MIDDLE) == most_s / 2
    assert BackoffSpec().wait_s(attempt, ALMOST_ALL) == pytest.approx(most_s)


@pytest.mark.parametrize("attempt", [0, -1])
def test_the_first_repetition_is_number_one(attempt):
    with pytest.raises(ValueError, match="at least 1"):
        BackoffSpec().wait_s(attempt, MIDDLE)


@given(base_s=st.floats(0.001, 100), times=st.integers(0, 10**9), cap_s=st.floats(0.001, 10_000))
def test_any_number_of_doublings_stays_below_the_cap(base_s, times, cap_s):
    assert doubled(base_s, times, cap_s=cap_s) <= cap_s


@given(seconds=st.floats(0, 10_000), share=st.floats(0, 1), number=st.floats(0, 1, exclude_max=True))
def test_jitter_keeps_within_its_share(seconds, share, number):
    spread = jittered(seconds, share, Drawn(number))

    assert seconds * (1 - share) * 0.999999 <= spread <= seconds * (1 + share) * 1.000001


def test_jitter_spreads_both_ways():
    assert jittered(10, 0.2, Drawn(0.0)) == 8
    assert jittered(10, 0.2, MIDDLE) == 10
    assert jittered(10, 0.2, ALMOST_ALL) == pytest.approx(12)
