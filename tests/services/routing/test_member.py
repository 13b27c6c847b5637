"""What outcomes do to the health of one endpoint."""

import pytest

from llmwire.services.events import BreakerChanged, EndpointDisabled, EndpointPaused
from llmwire.services.routing.breaker import BreakerSpec, BreakerState
from llmwire.services.routing.endpoint import Price
from llmwire.services.routing.member import Health, HealthSpec, Member, Verdicts
from llmwire.services.routing.outcome import CANCELLED

from .actors import (
    BAD_GATEWAY,
    BAD_KEY,
    CALLERS,
    CERTIFICATE,
    CONFLICT,
    LOCAL,
    MIDDLE,
    NO_MODEL,
    SERVED,
    WRONG_URL,
    an_endpoint,
    busy,
    unavailable,
)


class Patient:
    """A member and what is done to it."""

    def __init__(self, clock, *, is_alone=False):
        self.clock, self.is_alone = clock, is_alone
        self.member = Member(an_endpoint(), breaker=BreakerSpec(), position=0)
        self._verdicts = Verdicts(HealthSpec(), MIDDLE)

    def has(self, *outcomes, took_s=1.0, generation=None):
        """Let outcomes happen to it, of attempts that began now or in an older generation. Returns the events."""
        events = []
        for outcome in outcomes:
            is_current = generation is None or generation == self.member.generation
            if outcome.has_served:
                events += self._verdicts.served(self.member, took_s, self.clock(), is_current=is_current)
            else:
                events += self._verdicts.missed(
                    self.member, outcome, took_s, self.clock(), is_current=is_current, is_alone=self.is_alone
                )
        return events

    @property
    def health(self):
        return self.member.health(self.clock())

    @property
    def facts(self):
        """All that decides whether and when it is asked."""
        member, breaker = self.member, self.member.breaker
        return (
            self.health,
            breaker.state(self.clock()),
            breaker.in_a_row,
            breaker._results,
            breaker.open_until_s,
            member.generation,
            member.probes_due,
            member.paused_until_s,
            member.disabled_until_s,
            member.wrong_urls,
            member.pauses,
            member.disables,
            member.load.ewma_s,
        )


@pytest.fixture
def patient(clock):
    return Patient(clock)


def test_a_new_endpoint_is_well(patient):
    assert patient.health is Health.OK
    assert patient.member.is_well
    assert patient.member.may_be_asked(0)


@pytest.mark.parametrize(
    "outcome", [CALLERS, LOCAL, CANCELLED, CONFLICT, BAD_GATEWAY.without_penalty()], ids=lambda one: one.label
)
@pytest.mark.parametrize("before", [[], [BAD_GATEWAY] * 4, [busy(9)], [BAD_KEY], [BAD_GATEWAY] * 5], ids=len)
def test_a_neutral_outcome_changes_nothing_but_the_counts(patient, outcome, before):
    patient.has(SERVED, *before)
    facts = patient.facts

    events = patient.has(outcome)

    assert patient.facts == facts
    assert events == []


@pytest.mark.parametrize(
    ("outcome", "served", "failed", "last_error"),
    [
        (SERVED, 1, 0, ""),
        (CALLERS, 0, 0, ""),
        (LOCAL, 0, 0, ""),
        (CANCELLED, 0, 0, ""),
        (CONFLICT, 0, 1, "409"),
        (busy(1), 0, 1, "429"),
        (BAD_KEY, 0, 1, "401"),
        (BAD_GATEWAY, 0, 1, "502"),
    ],
    ids=str,
)
def test_what_is_not_its_own_fault_is_in_no_count(patient, outcome, served, failed, last_error):
    patient.has(outcome)

    member = patient.member
    assert (member.served, member.failed, member.last_error) == (served, failed, last_error)


class TestBreaker:
    def test_five_failures_in_a_row_open_it_and_are_reported_once(self, patient):
        events = patient.has(*[BAD_GATEWAY] * 5)

        assert events == [BreakerChanged(function="completion", endpoint="a", state="open", for_s=5.0)]
        assert patient.health is Health.OPEN
        assert not patient.member.may_be_asked(patient.clock())
        assert not patient.member.is_barred(patient.clock())

    def test_a_success_ends_a_row_of_failures(self, patient):
        patient.has(*[BAD_GATEWAY] * 4, SERVED, *[BAD_GATEWAY] * 4)

        assert patient.health is Health.OK

    def test_successes_count_against_failures(self, patient):
        patient.has(*[SERVED] * 20, *[BAD_GATEWAY] * 19)

        assert patient.health is Health.OK

    def test_after_five_seconds_it_is_half_open_and_two_successes_close_it(self, patient):
        patient.has(*[BAD_GATEWAY] * 5)
        patient.clock.advance(5)
        assert patient.health is Health.PROBING

        assert patient.has(SERVED) == []
        assert patient.health is Health.PROBING
        assert patient.has(SERVED) == [BreakerChanged(function="completion", endpoint="a", state="closed")]

        assert patient.health is Health.OK
        assert patient.member.breaker_state(patient.clock()) is BreakerState.CLOSED

    def test_a_failure_in_half_open_opens_it_for_longer_and_wants_two_successes_again(self, patient):
        patient.has(*[BAD_GATEWAY] * 5)
        patient.clock.advance(5)

        events = patient.has(SERVED, BAD_GATEWAY)

        assert events == [BreakerChanged(function="completion", endpoint="a", state="open", for_s=10.0)]
        patient.clock.advance(10)
        patient.has(SERVED)
        assert patient.health is Health.PROBING

    def test_a_failure_while_it_is_open_says_nothing_new(self, patient):
        patient.has(*[BAD_GATEWAY] * 5)
        facts = patient.facts[:-1]

        assert patient.has(BAD_GATEWAY) == []

        assert patient.facts[:-1] == facts

    def test_of_its_bad_time_nothing_is_left_in_its_mean(self, patient):
        patient.has(SERVED, *[BAD_GATEWAY] * 5, took_s=60)
        patient.clock.advance(5)

        patient.has(SERVED, SERVED, took_s=0.5)

        assert patient.member.load.ewma_s == 0.5

    @pytest.mark.parametrize("outcome", [SERVED, BAD_GATEWAY, BAD_KEY, WRONG_URL, busy()], ids=lambda one: one.label)
    def test_results_of_an_older_generation_change_nothing(self, patient, outcome):
        old = patient.member.generation
        patient.has(SERVED, *[BAD_GATEWAY] * 5)
        facts = patient.facts

        events = patient.has(*[outcome] * 30, generation=old)

        assert patient.facts == facts
        assert events == []

    def test_failures_from_before_it_was_closed_change_nothing(self, patient):
        old = patient.member.generation
        patient.has(*[BAD_GATEWAY] * 5)
        patient.clock.advance(5)
        patient.has(SERVED, SERVED, took_s=0.5)

        patient.has(*[BAD_GATEWAY] * 30, took_s=60, generation=old)

        assert patient.health is Health.OK
        assert patient.member.load.ewma_s == 0.5


class TestPause:
    def test_a_busy_answer_pauses_it_but_does_not_trip_its_breaker(self, patient):
        events = []
        for _ in range(30):
            events += patient.has(busy(3))
            assert patient.health is Health.PAUSED
            patient.clock.advance(3)

        assert events == [EndpointPaused(function="completion", endpoint="a", for_s=3)] * 30
        assert patient.member.breaker_state(patient.clock()) is BreakerState.CLOSED
        assert patient.member.load.ewma_s is None

    def test_it_is_barred_until_the_pause_ends_and_then_a_probe_is_due(self, patient):
        patient.has(busy(3))
        patient.clock.advance(2.9)
        assert patient.member.is_barred(patient.clock())

        patient.clock.advance(0.2)

        assert patient.health is Health.PROBING
        assert patient.member.probes_due == 1
        assert patient.member.may_be_asked(patient.clock())

    def test_one_success_after_a_pause_is_enough(self, patient):
        patient.has(busy(3))
        patient.clock.advance(3)

        patient.has(SERVED)

        assert patient.member.is_well

    def test_without_a_hint_it_is_paused_for_a_second_doubling_until_it_serves(self, patient):
        paused_s = []
        for _ in range(4):
            [event] = patient.has(busy())
            paused_s.append(event.for_s)
            patient.clock.advance(event.for_s)
        patient.has(SERVED)
        [event] = patient.has(busy())

        assert [*paused_s, event.for_s] == [1, 2, 4, 8, 1]

    def test_many_busy_answers_without_a_hint_at_one_moment_are_one(self, patient):
        old = patient.member.generation
        patient.has(busy())

        assert patient.has(*[busy()] * 50, generation=old) == []

        patient.clock.advance(1)
        assert patient.health is Health.PROBING

    @pytest.mark.parametrize("asked_s", [301, 86400])
    def test_nobody_is_left_alone_for_more_than_five_minutes(self, patient, asked_s):
        [event] = patient.has(busy(asked_s))

        assert event.for_s == 300

    def test_a_hint_only_ever_lengthens(self, patient):
        old = patient.member.generation
        patient.has(busy(30))

        assert patient.has(busy(3), unavailable(retry_after_s=1), generation=old) == []
        patient.clock.advance(10)
        assert patient.member.paused_until_s - patient.clock() == 20

        patient.has(busy(30), generation=old)
        assert patient.member.paused_until_s - patient.clock() == 30

    def test_what_a_late_answer_asks_for_pauses_it_even_where_it_is_well_again(self, patient):
        old = patient.member.generation
        patient.has(busy(1))
        patient.clock.advance(1)
        patient.has(SERVED)

        patient.has(busy(10), generation=old)

        assert patient.health is Health.PAUSED
        assert not patient.member.is_well
        patient.clock.advance(10)
        assert patient.health is Health.PROBING

    def test_a_503_with_a_hint_pauses_and_fails(self, patient):
        patient.has(unavailable(retry_after_s=2))

        assert patient.health is Health.PAUSED
        assert patient.member.breaker.in_a_row == 1

    def test_a_pause_does_not_end_the_time_that_a_breaker_is_open(self, patient):
        patient.has(*[unavailable()] * 4, unavailable(retry_after_s=1))
        patient.clock.advance(1)

        assert patient.health is Health.OPEN
        assert patient.member.probes_due == 2


class TestDisabled:
    def test_a_refused_key_disables_it_for_five_minutes_doubling_to_an_hour(self, patient):
        disabled_s = []
        for _ in range(6):
            [event] = patient.has(BAD_KEY)
            disabled_s.append(event.for_s)
            patient.clock.advance(event.for_s - 1)
            assert patient.health is Health.DISABLED
            patient.clock.advance(1)
            assert patient.health is Health.PROBING

        assert disabled_s == [300, 600, 1200, 2400, 3600, 3600]
        assert isinstance(event, EndpointDisabled)
        assert (event.endpoint, event.reason, event.model) == ("a", "401", None)

    def test_a_success_ends_the_doubling(self, patient):
        patient.has(BAD_KEY)
        patient.clock.advance(300)
        patient.has(SERVED)
        assert patient.member.is_well
        assert patient.member.reason == ""

        [event] = patient.has(BAD_KEY)

        assert event.for_s == 300

    def test_it_does_not_trip_the_breaker(self, patient):
        patient.has(*[BAD_KEY] * 30)

        assert patient.member.breaker_state(patient.clock()) is BreakerState.CLOSED

    def test_while_it_is_disabled_it_is_reported_no_second_time(self, patient):
        assert len(patient.has(*[BAD_KEY] * 30)) == 1

    def test_a_refused_certificate_disables_for_a_minute(self, patient):
        [event] = patient.has(CERTIFICATE)

        assert (event.for_s, event.reason) == (60, "certificate")

    def test_one_that_is_alone_is_never_disabled(self, clock):
        alone = Patient(clock, is_alone=True)

        alone.has(BAD_KEY, CERTIFICATE, WRONG_URL, WRONG_URL, WRONG_URL)

        assert alone.health is Health.OK

    def test_it_is_barred_unless_that_it_is_disabled_is_no_reason(self, patient):
        patient.has(BAD_KEY)

        assert patient.member.is_barred(patient.clock())
        assert not patient.member.is_barred(patient.clock(), though_disabled=True)

    def test_a_pause_bars_it_also_where_that_it_is_disabled_is_no_reason(self, patient):
        old = patient.member.generation
        patient.has(BAD_KEY)
        patient.has(busy(9), generation=old)

        assert patient.member.is_barred(patient.clock(), though_disabled=True)

    def test_one_that_was_asked_all_the_same_and_served_is_disabled_no_more(self, patient):
        patient.has(BAD_KEY)

        assert patient.has(SERVED) == []

        assert patient.member.is_well
        assert patient.health is Health.OK
        assert patient.member.reason == ""
        assert [event.for_s for event in patient.has(BAD_KEY)] == [300]

    def test_one_whose_breaker_is_open_too_is_probed_before_it_is_well(self, patient):
        patient.has(*[BAD_GATEWAY] * 5, BAD_KEY)

        patient.has(SERVED)

        assert not patient.member.is_well
        assert patient.health is Health.OPEN

    def test_what_an_older_generation_served_does_not_end_it(self, patient):
        old = patient.member.generation
        patient.has(BAD_KEY)

        patient.has(SERVED, generation=old)

        assert patient.health is Health.DISABLED

    def test_three_wrong_urls_in_a_row_disable_it(self, patient):
        patient.has(WRONG_URL, WRONG_URL)
        assert patient.health is Health.OK

        [event] = patient.has(WRONG_URL)

        assert isinstance(event, EndpointDisabled)
        assert (event.reason, event.for_s) == ("301", 300)

    @pytest.mark.parametrize("between", [SERVED, BAD_GATEWAY, CALLERS, busy(1)], ids=lambda one: one.label)
    def test_a_right_answer_ends_a_row_of_wrong_urls(self, patient, between):
        patient.has(WRONG_URL, WRONG_URL, between, WRONG_URL, WRONG_URL)

        assert patient.health is not Health.DISABLED

    @pytest.mark.parametrize("between", [CANCELLED, LOCAL], ids=lambda one: one.label)
    def test_what_says_nothing_of_the_server_does_not_end_a_row_of_wrong_urls(self, patient, between):
        patient.has(WRONG_URL, between, WRONG_URL, between, WRONG_URL)

        assert patient.health is Health.DISABLED


class TestModels:
    def refused(self, patient, model="m"):
        verdicts = Verdicts(HealthSpec(), MIDDLE)
        return verdicts.refuse_model(patient.member, model, NO_MODEL, patient.clock())

    def test_a_model_that_is_unknown_there_is_refused_and_no_other(self, patient):
        events = self.refused(patient)

        assert [(event.model, event.for_s, event.reason) for event in events] == [("m", 300, "404")]
        assert patient.member.refuses("m", patient.clock())
        assert not patient.member.refuses("other", patient.clock())
        assert not patient.member.refuses(None, patient.clock())
        assert patient.has(NO_MODEL) == []
        assert patient.health is Health.OK

    def test_it_is_reported_once_and_believed_for_five_minutes(self, patient):
        self.refused(patient)
        assert self.refused(patient) == []

        patient.clock.advance(300)

        assert not patient.member.refuses("m", patient.clock())
        assert len(self.refused(patient)) == 1

    def test_made_up_models_fill_no_memory(self, patient):
        for number in range(1000):
            self.refused(patient, f"m{number}")
            patient.clock.advance(30)

        assert len(patient.member.refused) <= 10


def test_a_child_process_has_nothing_under_way(patient):
    patient.member.load.in_flight, patient.member.is_probing = 3, True

    patient.member.forget_attempts()

    assert (patient.member.load.in_flight, patient.member.is_probing) == (0, False)


def test_settings_that_changed_are_taken_over(patient):
    patient.member.place(an_endpoint(weight=3, price=Price(input=1, output=5)), 7)

    load = patient.member.load
    assert (load.weight, load.price, load.position) == (3, 2, 7)


def test_draining_comes_before_all_else(patient):
    patient.has(BAD_KEY)
    patient.member.is_draining = True

    assert patient.health is Health.DRAINING
    assert not patient.member.is_well
