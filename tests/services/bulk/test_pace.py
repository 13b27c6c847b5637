"""How many requests may be under way: fewer where servers are busy, and back to all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.bulk.pace import Pace


def test_a_run_begins_with_all_that_are_wanted():
    pace = Pace(3)

    for _ in range(3):
        assert pace.has_room
        pace.sent()

    assert not pace.has_room


def test_a_busy_answer_halves_what_is_allowed():
    pace = Pace(8)

    pace.busy(pace.sent())

    assert pace.allowed == 4


def test_busy_answers_to_what_was_sent_before_a_decrease_change_nothing_more():
    pace = Pace(8)
    eras = [pace.sent() for _ in range(8)]

    for era in eras:
        pace.ended()
        pace.busy(era)

    assert pace.allowed == 4


def test_a_busy_answer_to_what_was_sent_after_a_decrease_halves_again():
    pace = Pace(8)
    pace.busy(pace.sent())

    pace.busy(pace.sent())

    assert pace.allowed == 2


def test_a_round_of_successes_allows_one_more():
    pace = Pace(8)
    pace.busy(pace.sent())

    for _ in range(5):  # the fifth makes up for what the others' growing divisor left
        pace.served()

    assert pace.allowed == 5


@given(most=st.integers(1, 40), results=st.lists(st.booleans(), max_size=200))
def test_never_fewer_than_one_and_never_more_than_wanted(most, results):
    pace = Pace(most)

    for is_served in results:
        if is_served:
            pace.served()
        else:
            pace.busy(pace.era)
        assert 1 <= pace.allowed <= most


@given(most=st.integers(1, 40), decreases=st.integers(0, 10))
def test_whatever_was_lost_comes_back(most, decreases):
    pace = Pace(most)
    for _ in range(decreases):
        pace.busy(pace.era)

    for _ in range(most * (most + 1)):
        pace.served()

    assert pace.allowed == most


def test_none_at_all_is_no_pace():
    with pytest.raises(ValueError, match="above 0"):
        Pace(0)
