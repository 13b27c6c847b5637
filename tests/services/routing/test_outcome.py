"""What an outcome says of itself."""

import pytest

from llmwire.services.routing.outcome import CANCELLED, Blame, Outcome

from .actors import BAD_GATEWAY, BAD_KEY, CERTIFICATE, LOST, NO_MODEL, SERVED, WRONG_URL, busy, unavailable


def test_an_outcome_without_a_blame_has_served():
    assert SERVED.has_served
    assert not any(Outcome(blame=blame).has_served for blame in Blame)


@pytest.mark.parametrize("outcome", [LOST, BAD_KEY, WRONG_URL, unavailable(retry_after_s=3)], ids=lambda one: one.label)
def test_a_withdrawn_penalty_leaves_nothing_that_harms_the_endpoint_and_all_that_the_caller_is_told(outcome):
    neutral = outcome.without_penalty()

    assert not neutral.is_failure
    assert not neutral.is_wrong_url
    assert neutral.pause_s is neutral.disable_s is None
    assert (neutral.blame, neutral.label, neutral.status) == (outcome.blame, outcome.label, outcome.status)


def test_a_cancellation_is_neutral():
    assert CANCELLED.without_penalty() == CANCELLED
    assert CANCELLED.blame is Blame.CANCELLED


def test_an_outcome_does_not_show_what_the_server_said():
    assert "a prompt" not in repr(Outcome(result="a prompt"))


def test_a_wrong_setting_lasts_and_a_bad_moment_does_not():
    assert all(outcome.is_lasting for outcome in (BAD_KEY, NO_MODEL, CERTIFICATE, WRONG_URL))
    assert not any(outcome.is_lasting for outcome in (SERVED, BAD_GATEWAY, LOST, busy(300)))
