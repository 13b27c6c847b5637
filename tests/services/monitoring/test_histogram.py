"""Times are counted in buckets that can be added and taken apart again; a quantile is at most 4.5 % off."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.monitoring.histogram import HIGHEST, LOWEST, Histogram, bucket_of

TIMES = st.lists(st.floats(1e-6, 4096.0), max_size=200)


def of(*times):
    histogram = Histogram()
    for seconds in times:
        histogram.add(seconds)
    return histogram


@given(TIMES.filter(bool), st.floats(0.0, 1.0))
def test_a_quantile_is_within_its_bucket(times, share):
    exact = sorted(times)[max(math.ceil(share * len(times)), 1) - 1]

    assert of(*times).quantile_s(share) == pytest.approx(exact, rel=0.0455)


def test_of_nothing_there_is_no_quantile_and_no_mean():
    assert (Histogram().quantile_s(0.5), Histogram().mean_s) == (None, None)


def test_the_mean_is_exact():
    assert of(1.0, 2.0, 6.0).mean_s == pytest.approx(3.0)


@given(TIMES, TIMES)
def test_two_together_are_as_if_one_had_counted_all(some, others):
    assert of(*some).plus(of(*others)) == of(*some, *others)


@given(TIMES, TIMES)
def test_what_came_since_an_earlier_copy_is_what_was_counted_since(some, others):
    histogram = of(*some)
    earlier = histogram.copy()
    for seconds in others:
        histogram.add(seconds)

    since = histogram.minus(earlier)

    assert (since.count, since.buckets) == (len(others), of(*others).buckets)
    assert since.sum_s == pytest.approx(sum(others), abs=1e-6)
    assert earlier == of(*some)


@given(TIMES, st.integers(-20, 12))
def test_how_many_were_at_most_a_power_of_two_is_exact(times, power):
    bound_s = 2.0**power

    assert of(*times).up_to(bound_s) == sum(seconds <= bound_s for seconds in times)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_time_makes_a_bucket_beyond_the_last(seconds):
    assert LOWEST <= bucket_of(seconds) <= HIGHEST


@given(TIMES)
def test_it_can_be_written_and_read(times):
    histogram = of(*times)

    assert Histogram.from_dict(json.loads(json.dumps(histogram.as_dict()))) == histogram
