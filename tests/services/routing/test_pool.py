"""Who is picked, what a lease is, and what a pool keeps through reloads and forks."""

import gc
import random
import threading
from collections import Counter
from dataclasses import replace

import pytest

from llmwire.services.events import BreakerChanged, EndpointDisabled, EndpointPaused, EndpointsChanged
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health
from llmwire.services.routing.outcome import CANCELLED
from llmwire.services.routing.pool import DRAIN_S, LATE_S, Lease, Pool, Selection, Unavailable
from llmwire.services.secrets import Secret

from .actors import BAD_GATEWAY, BAD_KEY, CALLERS, CERTIFICATE, NO_MODEL, SERVED, an_endpoint, busy


def have(pool, name, *outcomes, took_s=1.0, model=None):
    """Let attempts at one endpoint end so, one after the other."""
    for outcome in outcomes:
        pool.lease(only=name, model=model).settle(outcome, took_s)


def among(*names, **fields):
    """A selection of endpoints."""
    return Selection(names=frozenset(names), **fields)


def tripped(pool, *names):
    for name in names:
        have(pool, name, *[BAD_GATEWAY] * 5)


def state(pool, name):
    return next(one for one in pool.snapshot() if one.name == name)


def picks(pool, count=300, **wish):
    """How often each endpoint is picked by calls that are served at once."""
    counts = Counter()
    for _ in range(count):
        lease = pool.lease(**wish)
        counts[lease.endpoint.name] += 1
        lease.settle(SERVED, 1.0)
    return counts


class TestPicking:
    def test_equal_endpoints_share_the_load(self, a_pool):
        assert all(count == pytest.approx(100, rel=0.4) for count in picks(a_pool("a", "b", "c")).values())

    def test_before_the_first_answer_the_load_is_shared_by_what_is_in_flight(self, a_pool):
        pool = a_pool("a", "b", "c")

        leases = [pool.lease() for _ in range(300)]

        assert all(one.in_flight == pytest.approx(100, abs=5) for one in pool.snapshot())
        del leases

    def test_the_lowest_tier_serves_and_the_others_stand_by(self, a_pool):
        pool = a_pool(an_endpoint("spare", tier=1), an_endpoint("a"), an_endpoint("b"))

        assert set(picks(pool)) == {"a", "b"}
        assert not pool.lease().is_degraded

    @pytest.mark.parametrize("outcomes", [[busy(9)], [BAD_KEY], [BAD_GATEWAY] * 5], ids=["paused", "disabled", "open"])
    def test_a_higher_tier_serves_where_the_lowest_cannot_and_the_answer_is_degraded(self, a_pool, outcomes):
        pool = a_pool(an_endpoint("a"), an_endpoint("spare", tier=1), an_endpoint("last", tier=2))

        have(pool, "a", *outcomes)

        assert set(picks(pool)) == {"spare"}
        assert pool.lease().is_degraded

    def test_an_endpoint_that_a_call_has_tried_is_not_picked_for_it(self, a_pool):
        pool = a_pool("a", "b", "c")

        assert set(picks(pool, tried={"a", "b"})) == {"c"}
        assert pool.lease(tried={"a", "b", "c"}) == Unavailable(wait_s=None, reasons={}, status=None)

    def test_the_strategy_of_the_settings_holds(self, a_pool):
        pool = a_pool("a", "b", "c", strategy=Strategy.IN_ORDER)
        assert set(picks(pool)) == {"a"}

        have(pool, "a", busy(9))

        assert set(picks(pool)) == {"b"}

    def test_a_new_endpoint_starts_at_its_peers_median(self, a_pool):
        pool = a_pool("a", "b", "c")
        for name, took_s in (("a", 1), ("b", 2), ("c", 9)):
            have(pool, name, *[SERVED] * 99, took_s=took_s)

        pool.swap([*pool.endpoints, an_endpoint("new")])

        assert state(pool, "new").ewma_s == pytest.approx(2, rel=0.05)

    def test_the_first_answer_of_all_says_what_to_expect_of_the_others(self, a_pool):
        pool = a_pool("a", "b", "c")

        have(pool, "b", SERVED, took_s=3)

        assert [one.ewma_s for one in pool.snapshot()] == [3, 3, 3]

    def test_an_endpoint_whose_first_result_is_a_fast_failure_attracts_no_load(self, a_pool):
        pool = a_pool("dead", "b")

        have(pool, "dead", BAD_GATEWAY, took_s=0.001)
        have(pool, "b", SERVED, took_s=1)

        assert state(pool, "dead").ewma_s >= state(pool, "b").ewma_s

    def test_a_failure_feeds_its_time_or_twice_the_mean(self, a_pool):
        pool = a_pool("fast", "slow")
        for name in ("fast", "slow"):
            have(pool, name, SERVED, took_s=1)

        have(pool, "fast", *[BAD_GATEWAY] * 2, took_s=0.001)
        have(pool, "slow", *[BAD_GATEWAY] * 2, took_s=60)

        assert 1 < state(pool, "fast").ewma_s < 1.2 < 5 < state(pool, "slow").ewma_s


class TestLease:
    def test_it_holds_a_place_until_it_is_settled(self, a_pool):
        pool = a_pool("a", "b")

        lease = pool.lease(only="a")
        assert (lease.endpoint.name, state(pool, "a").in_flight) == ("a", 1)

        lease.settle(SERVED, 1.0)
        assert state(pool, "a").in_flight == 0

    @pytest.mark.parametrize("outcome", [SERVED, BAD_GATEWAY, CANCELLED, busy(3)], ids=lambda one: one.label)
    def test_it_is_settled_once_and_no_later_settlement_changes_a_thing(self, a_pool, outcome):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")
        lease.settle(SERVED, 1.0)
        before = pool.snapshot()

        lease.settle(outcome, 9.0)

        assert pool.snapshot() == before

    def test_one_that_is_lost_gives_its_place_back_and_counts_for_nothing(self, a_pool):
        pool = a_pool("a", "b")
        before = pool.snapshot()

        lease = pool.lease(only="a")
        del lease
        gc.collect()

        assert pool.snapshot() == before

    def test_one_that_is_settled_by_what_is_collected_with_it_gives_its_place_back_once(self, a_pool):
        class Holder:
            def __init__(self, lease):
                self.lease, self.itself = lease, self  # a cycle: of those all are finalised before one is gone

            def __del__(self):
                self.lease.settle(CANCELLED, 1.0)

        pool = a_pool("a", "b")

        Holder(pool.lease(only="a"))
        gc.collect()

        assert state(pool, "a").in_flight == 0

    def test_one_that_is_lost_gives_its_probe_back(self, a_pool, clock):
        pool = a_pool("a", "b")
        have(pool, "a", busy(1))
        clock.advance(1)

        lease = pool.lease()
        assert lease.is_probe
        del lease

        assert pool.lease().is_probe

    def test_a_story_that_is_collected_while_its_pool_is_at_work_settles_its_lease(self, clock, events):
        class Collecting(random.Random):
            """Collects garbage under the lock of its pool."""

            def random(self):
                gc.collect()
                return super().random()

        pool = Pool(
            [an_endpoint("a"), an_endpoint("b")],
            clock=clock,
            randomness=Collecting(1),
            make_lock=threading.RLock,
            listener=events.append,
        )

        def story():
            lease = pool.lease(only="a")
            try:
                yield
            finally:
                lease.settle(CANCELLED, 0.0)

        abandoned = story()
        next(abandoned)
        circle = [abandoned]
        circle.append(circle)
        del abandoned, circle

        pool.lease().settle(SERVED, 1.0)

        assert [one.in_flight for one in pool.snapshot()] == [0, 0]

    def test_what_happens_is_told_outside_of_the_lock(self, clock, randomness):
        told = []
        pool = Pool(
            [an_endpoint("a"), an_endpoint("b")],
            clock=clock,
            randomness=randomness,
            make_lock=threading.Lock,  # asking the pool under its own lock would hang
            listener=lambda event: told.append((event, state(pool, "a").health)),
        )

        have(pool, "a", busy(3))

        assert told == [(EndpointPaused(function="completion", endpoint="a", for_s=3), Health.PAUSED)]

    def test_a_listener_that_fails_harms_no_call(self, clock, randomness):
        def broken(event):
            raise RuntimeError

        pool = Pool(
            [an_endpoint("a"), an_endpoint("b")],
            clock=clock,
            randomness=randomness,
            make_lock=threading.Lock,
            listener=broken,
        )

        have(pool, "a", busy(3))

        assert state(pool, "a").health is Health.PAUSED

    def test_threads_lose_no_place(self, a_pool):
        pool = a_pool("a", "b", "c")

        def work(seed):
            chance = random.Random(seed)
            for _ in range(300):
                lease = pool.lease()
                if isinstance(lease, Lease) and chance.random() < 0.9:
                    lease.settle(chance.choice([SERVED, BAD_GATEWAY, CALLERS, CANCELLED]), 0.1)

        threads = [threading.Thread(target=work, args=[seed]) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()

        assert [one.in_flight for one in pool.snapshot()] == [0, 0, 0]


class TestBreakers:
    def test_an_open_endpoint_is_left_alone(self, a_pool, clock, events):
        pool = a_pool("a", "b", "c")

        tripped(pool, "a")

        assert state(pool, "a").health is Health.OPEN
        assert set(picks(pool)) == {"b", "c"}
        assert [type(event) for event in events] == [BreakerChanged]

    def test_half_open_lets_one_probe_through_at_a_time(self, a_pool, clock):
        pool = a_pool("a", "b")
        tripped(pool, "a")
        clock.advance(6)

        probe = pool.lease()

        assert (probe.endpoint.name, probe.is_probe) == ("a", True)
        assert set(picks(pool)) == {"b"}
        probe.settle(SERVED, 1.0)
        assert pool.lease().is_probe

    def test_two_successes_close_it(self, a_pool, clock, events):
        pool = a_pool("a", "b")
        tripped(pool, "a")
        clock.advance(6)

        for _ in range(2):
            assert state(pool, "a").breaker is BreakerState.HALF_OPEN
            pool.lease().settle(SERVED, 1.0)

        assert state(pool, "a").breaker is BreakerState.CLOSED
        assert events[-1] == BreakerChanged(function="completion", endpoint="a", state="closed")
        assert set(picks(pool)) == {"a", "b"}

    @pytest.mark.parametrize("outcome", [CALLERS, CANCELLED], ids=lambda one: one.label)
    def test_a_probe_with_a_neutral_end_gives_its_slot_back(self, a_pool, clock, outcome):
        pool = a_pool("a", "b")
        tripped(pool, "a")
        clock.advance(6)

        pool.lease().settle(outcome, 1.0)

        assert state(pool, "a").breaker is BreakerState.HALF_OPEN
        assert pool.lease().is_probe

    def test_a_failed_probe_opens_it_for_longer(self, a_pool, clock):
        pool = a_pool("a", "b")
        tripped(pool, "a")
        clock.advance(6)

        pool.lease().settle(BAD_GATEWAY, 1.0)
        clock.advance(7)

        assert state(pool, "a").breaker is BreakerState.OPEN
        clock.advance(6)
        assert state(pool, "a").breaker is BreakerState.HALF_OPEN

    def test_calls_that_began_before_it_tripped_do_not_open_it_again(self, a_pool, clock):
        pool = a_pool("a", "b")
        old = [pool.lease(only="a") for _ in range(50)]
        tripped(pool, "a")
        clock.advance(6)
        for _ in range(2):
            pool.lease().settle(SERVED, 1.0)

        for lease in old:
            lease.settle(BAD_GATEWAY, 60.0)

        assert state(pool, "a").breaker is BreakerState.CLOSED
        assert state(pool, "a").in_flight == 0
        assert state(pool, "a").ewma_s == 1.0

    def test_there_is_one_probe_also_where_its_health_changes_meanwhile(self, a_pool, clock):
        pool = a_pool("a", "b")
        late = pool.lease(only="a")
        have(pool, "a", busy(1))
        clock.advance(1)
        probe = pool.lease()
        assert probe.is_probe
        late.settle(busy(2), 1.0)
        clock.advance(2)

        assert set(picks(pool)) == {"b"}

        probe.settle(CANCELLED, 1.0)
        assert pool.lease().is_probe

    def test_where_none_is_closed_an_open_one_is_asked(self, a_pool):
        pool = a_pool("a", "b")
        tripped(pool, "a", "b")

        lease = pool.lease()

        assert (lease.is_degraded, lease.is_probe) == (True, False)

    def test_open_ones_are_picked_by_cost(self, a_pool):
        pool = a_pool("a", "b")
        tripped(pool, "a")
        have(pool, "b", *[BAD_GATEWAY] * 5, took_s=60)

        assert set(picks(pool, count=1)) == {"a"}

    @pytest.mark.parametrize("outcome", [busy(60), BAD_KEY], ids=["paused", "disabled"])
    def test_a_paused_or_disabled_endpoint_is_never_asked_however_bad_the_others_are(self, a_pool, outcome):
        pool = a_pool("a", "b")
        have(pool, "a", outcome)
        tripped(pool, "b")

        assert {pool.lease().endpoint.name for _ in range(50)} == {"b"}

    def test_an_open_one_that_serves_after_all_is_well(self, a_pool):
        pool = a_pool("a", "b")
        tripped(pool, "a", "b")

        have(pool, "a", SERVED, SERVED)

        assert state(pool, "a").health is Health.OK

    def test_a_pool_of_one_is_never_short_circuited(self, a_pool):
        pool = a_pool("a")

        have(pool, "a", *[BAD_GATEWAY] * 50)

        assert state(pool, "a").breaker is BreakerState.OPEN
        assert all(isinstance(pool.lease(), Lease) for _ in range(50))

    @pytest.mark.parametrize("outcome", [BAD_KEY, CERTIFICATE, NO_MODEL], ids=lambda one: one.label)
    def test_a_pool_of_one_is_never_disabled(self, a_pool, outcome, events):
        pool = a_pool("a")

        have(pool, "a", *[outcome] * 3, model="m")

        assert isinstance(pool.lease(model="m"), Lease)
        assert events == []

    def test_a_disabled_endpoint_that_is_left_alone_in_its_pool_is_asked(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)

        pool.swap([an_endpoint("a")])

        assert isinstance(pool.lease(), Lease)


class TestPauses:
    def test_a_busy_answer_pauses_the_endpoint_but_does_not_trip_its_breaker(self, a_pool):
        pool = a_pool("a", "b")

        have(pool, "a", busy(3))

        seen = state(pool, "a")
        assert (seen.health, seen.breaker, seen.paused_for_s) == (Health.PAUSED, BreakerState.CLOSED, 3)
        assert set(picks(pool)) == {"b"}

    def test_after_a_pause_there_is_one_probe(self, a_pool, clock):
        pool = a_pool("a", "b")
        have(pool, "a", busy(3))
        clock.advance(3)

        probe = pool.lease()
        assert (probe.endpoint.name, probe.is_probe) == ("a", True)
        assert set(picks(pool)) == {"b"}

        probe.settle(SERVED, 1.0)
        assert set(picks(pool)) == {"a", "b"}

    def test_a_late_busy_answer_pauses_an_endpoint_that_is_well_again(self, a_pool, clock):
        pool = a_pool("a", "b")
        late = pool.lease(only="a")
        have(pool, "a", busy(1))
        clock.advance(1)
        pool.lease().settle(SERVED, 1.0)

        late.settle(busy(10), 2.0)

        assert set(picks(pool)) == {"b"}

    def test_where_all_are_paused_it_says_when_the_first_may_be_asked(self, a_pool):
        pool = a_pool("a", "b", "c")
        have(pool, "a", busy(30))
        have(pool, "b", busy(3))
        have(pool, "c", BAD_KEY)

        found = pool.lease()

        assert isinstance(found, Unavailable)
        assert found.wait_s == 3
        assert found.reasons == {
            "a": "paused after 429 for 30.0 s",
            "b": "paused after 429 for 3.0 s",
            "c": "disabled after 401, asked again in 300 s",
        }
        assert found.status is None

    def test_where_all_gave_the_same_answer_it_says_which(self, a_pool):
        pool = a_pool("a", "b")
        for name in ("a", "b"):
            have(pool, name, BAD_KEY)

        assert pool.lease().status == 401
        assert pool.lease().wait_s is None

    def test_an_endpoint_that_stays_disabled_after_its_pause_is_not_waited_for(self, a_pool):
        pool = a_pool("a", "b")
        late = [pool.lease(only=name) for name in ("a", "b")]
        for name in ("a", "b"):
            have(pool, name, BAD_KEY)
        for lease in late:
            lease.settle(busy(3), 1.0)

        assert pool.lease().wait_s is None


class TestDisabled:
    def test_a_disabled_endpoint_gets_one_probe_when_its_time_is_over(self, a_pool, clock, events):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)
        assert isinstance(events[0], EndpointDisabled)
        assert set(picks(pool)) == {"b"}

        clock.advance(300)

        probe = pool.lease()
        assert (probe.endpoint.name, probe.is_probe) == ("a", True)
        assert set(picks(pool)) == {"b"}

    def test_another_credential_is_tried_at_once(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)

        pool.swap([an_endpoint("a", credential=Secret("new")), an_endpoint("b")])

        assert state(pool, "a").health is Health.PROBING
        assert pool.lease().endpoint.name == "a"

    def test_the_same_credential_is_not(self, a_pool):
        pool = a_pool(an_endpoint("a", credential=Secret("old")), an_endpoint("b"))
        have(pool, "a", BAD_KEY)

        pool.swap([an_endpoint("a", credential=Secret("old")), an_endpoint("b")])

        assert state(pool, "a").health is Health.DISABLED

    def test_a_late_answer_to_the_former_credential_does_not_disable_the_new_one(self, a_pool):
        pool = a_pool("a", "b")
        late = pool.lease(only="a")
        have(pool, "a", BAD_KEY)
        pool.swap([an_endpoint("a", credential=Secret("new")), an_endpoint("b")])

        late.settle(BAD_KEY, 1.0)

        assert state(pool, "a").health is Health.PROBING

    def test_the_former_credential_does_not_disable_a_new_one_of_an_endpoint_that_is_well(self, a_pool):
        pool = a_pool("a", "b")
        late = pool.lease(only="a")
        pool.swap([an_endpoint("a", credential=Secret("new")), an_endpoint("b")])

        late.settle(BAD_KEY, 1.0)

        assert state(pool, "a").health is Health.OK

    def test_another_credential_begins_at_five_minutes_again(self, a_pool, clock):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)
        clock.advance(300)
        have(pool, "a", BAD_KEY)
        pool.swap([an_endpoint("a", credential=Secret("new")), an_endpoint("b")])

        have(pool, "a", BAD_KEY)

        assert state(pool, "a").disabled_for_s == 300


class TestModels:
    def test_an_endpoint_that_does_not_know_a_model_is_asked_for_others_only(self, a_pool, events):
        pool = a_pool("a", "b")

        have(pool, "a", NO_MODEL, model="m")

        assert set(picks(pool, model="m")) == {"b"}
        assert set(picks(pool, model="other")) == set(picks(pool)) == {"a", "b"}
        assert [(event.endpoint, event.model) for event in events] == [("a", "m")]

    def test_it_is_asked_again_after_five_minutes(self, a_pool, clock):
        pool = a_pool("a", "b")
        have(pool, "a", NO_MODEL, model="m")

        clock.advance(300)

        assert set(picks(pool, model="m")) == {"a", "b"}

    def test_where_all_refuse_a_model_they_are_asked_all_the_same(self, a_pool):
        pool = a_pool("a", "b")
        for name in ("a", "b"):
            have(pool, name, NO_MODEL, model="m")

        assert {pool.lease(model="m").endpoint.name for _ in range(50)} == {"a", "b"}

    @pytest.mark.parametrize("outcome", [busy(9), BAD_KEY], ids=["paused", "disabled"])
    def test_where_one_that_may_know_it_cannot_be_asked_now_the_others_are_not(self, a_pool, outcome):
        pool = a_pool("a", "b")
        have(pool, "a", NO_MODEL, model="m")
        have(pool, "b", outcome)

        found = pool.lease(model="m")

        assert isinstance(found, Unavailable)
        assert found.reasons["a"] == "without the model"
        assert isinstance(pool.lease(model="other"), Lease)

    def test_a_refusal_is_no_reason_to_wait_for_its_endpoint(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", NO_MODEL, model="m")
        have(pool, "a", busy(1))
        have(pool, "b", busy(9))

        assert pool.lease(model="m").wait_s == 9

    def test_an_endpoint_that_may_know_the_model_but_is_open_comes_first(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", NO_MODEL, model="m")
        tripped(pool, "b")

        assert {pool.lease(model="m").endpoint.name for _ in range(50)} == {"b"}

    def test_a_call_that_has_failed_elsewhere_does_not_ask_where_its_model_is_unknown(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", NO_MODEL, model="m")

        assert isinstance(pool.lease(model="m", tried={"b"}), Unavailable)

    def test_a_model_that_was_answered_is_known(self, a_pool):
        pool = a_pool("a", "b")
        for name in ("a", "b"):
            have(pool, name, NO_MODEL, model="m")

        have(pool, "a", SERVED, model="m")

        assert set(picks(pool, model="m")) == {"a"}

    def test_another_credential_may_know_the_model(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", NO_MODEL, model="m")

        pool.swap([an_endpoint("a", credential=Secret("new")), an_endpoint("b")])

        assert set(picks(pool, model="m")) == {"a", "b"}


class TestSelection:
    ILL = pytest.mark.parametrize(
        "outcomes", [[busy(9)], [BAD_KEY], [BAD_GATEWAY] * 5], ids=["paused", "disabled", "open"]
    )

    @pytest.mark.parametrize("strategy", Strategy)
    @pytest.mark.parametrize("its_own", [None, *Strategy])
    def test_nobody_outside_of_it_is_asked_whatever_the_strategy(self, a_pool, strategy, its_own):
        pool = a_pool("a", "b", "c", "d", strategy=strategy)

        assert set(picks(pool, 60, among=among("b", "d", strategy=its_own))) <= {"b", "d"}

    @ILL
    def test_nobody_outside_of_it_is_asked_where_all_of_it_are_ill(self, a_pool, outcomes):
        pool = a_pool("a", "b", "c")
        for name in ("a", "b"):
            have(pool, name, *outcomes)

        found = pool.lease(among=among("a", "b"))

        if isinstance(found, Unavailable):
            assert set(found.reasons) == {"a", "b"}
        else:
            assert found.endpoint.name in {"a", "b"}
        assert isinstance(pool.lease(), Lease)

    @pytest.mark.parametrize("now", [{"base_url": "http://elsewhere/v1"}, {"trust": "vendor"}])
    def test_a_name_that_stands_for_another_server_or_trust_by_now_is_not_meant(self, a_pool, now, clock):
        pool = a_pool("a", "b")
        one, other = pool.endpoints
        chosen = replace(among("a"), places={"a": (one.server, one.trust)})
        assert pool.lease(among=chosen).endpoint is one

        pool.swap([replace(one, **now), other])

        assert getattr(pool.lease(among=chosen), "endpoint", one) is one
        clock.advance(LATE_S)
        assert isinstance(pool.lease(among=chosen), Unavailable)

    def test_it_shares_the_load_among_its_own(self, a_pool):
        counts = picks(a_pool("a", "b", "c"), among=among("a", "c"))

        assert set(counts) == {"a", "c"}
        assert counts["a"] == pytest.approx(150, rel=0.4)

    def test_its_strategy_holds_for_it_and_for_nobody_else(self, a_pool):
        pool = a_pool("a", "b", "c", strategy=Strategy.IN_ORDER)

        assert picks(pool, 30, among=among("b", "c", strategy=Strategy.ROUND_ROBIN)) == {"b": 15, "c": 15}
        assert picks(pool, 30, among=among("b", "c")) == {"b": 30}
        assert picks(pool, 30) == {"a": 30}

    def test_an_order_that_is_asked_for_comes_before_it(self, a_pool):
        pool = a_pool("a", "b", "c")

        assert picks(pool, 30, in_order=True, among=among("b", "c", strategy=Strategy.ROUND_ROBIN)) == {"b": 30}

    def test_what_a_call_has_tried_is_left_out_of_it(self, a_pool):
        pool = a_pool("a", "b", "c")

        assert set(picks(pool, 30, tried={"a"}, among=among("a", "b"))) == {"b"}
        assert pool.lease(tried={"a", "b"}, among=among("a", "b")) == Unavailable(wait_s=None, reasons={}, status=None)

    def test_the_one_endpoint_that_is_wanted_must_be_of_it(self, a_pool):
        pool = a_pool("a", "b", "c")

        assert pool.lease(only="b", among=among("a", "b")).endpoint.name == "b"
        assert isinstance(pool.lease(only="c", among=among("a", "b")), Unavailable)

    def test_of_nobody_there_is_nobody_to_ask(self, a_pool):
        assert a_pool("a", "b").lease(among=among()) == Unavailable(wait_s=None, reasons={}, status=None)

    def test_one_that_left_by_a_reload_is_not_replaced_by_another(self, a_pool, clock):
        pool = a_pool("a", "b")

        pool.swap([an_endpoint("b"), an_endpoint("c")])

        assert pool.lease(among=among("a", "b")).endpoint.name == "b"
        clock.advance(LATE_S)
        assert isinstance(pool.lease(among=among("a")), Unavailable)

    @pytest.mark.parametrize("wish", [{"among": among("a")}, {"only": "a"}])
    def test_a_call_that_was_decided_before_they_left_may_still_begin_there(self, a_pool, clock, wish):
        pool = a_pool("a", "b")
        pool.swap([an_endpoint("b")])

        clock.advance(LATE_S - 1)
        lease = pool.lease(**wish)

        assert lease.endpoint.name == "a"
        assert pool.in_use() == {"http://a:8000", "http://b:8000"}
        lease.settle(SERVED, 1.0)
        assert pool.in_use() == {"http://b:8000"}

    def test_its_endpoints_are_those_of_the_function_with_their_health_and_load(self, a_pool):
        pool = a_pool("a", "b", "c")
        pool.lease(among=among("a", "b"), only="b").settle(busy(9), 1.0)
        lease = pool.lease(among=among("a"))

        assert set(picks(pool, 60, among=among("b", "c"))) == {"c"}
        assert state(pool, "a").in_flight == 1
        lease.settle(SERVED, 1.0)

    def test_a_probe_that_is_due_in_it_goes_first(self, a_pool, clock):
        pool = a_pool("a", "b", "c")
        for name in ("a", "c"):
            have(pool, name, busy(1))
        clock.advance(1)

        probe = pool.lease(among=among("b", "c"))

        assert (probe.endpoint.name, probe.is_probe) == ("c", True)
        assert pool.lease(among=among("b", "c")).endpoint.name == "b"

    def test_its_lowest_tier_is_no_makeshift_though_another_selection_has_a_lower_one(self, a_pool):
        pool = a_pool(an_endpoint("a"), an_endpoint("b", tier=1), an_endpoint("c", tier=2))
        lease = pool.lease(among=among("b", "c"))
        assert (lease.endpoint.name, lease.is_degraded) == ("b", False)

        have(pool, "b", busy(9))

        lease = pool.lease(among=among("b", "c"))
        assert (lease.endpoint.name, lease.is_degraded) == ("c", True)
        assert pool.lease(tried={"a"}).is_degraded

    def test_whether_there_is_nowhere_else_to_go_is_a_matter_of_it(self, a_pool):
        pool = a_pool("a", "b")

        assert pool.is_single(among("a"))
        assert not pool.is_single(among("a", "b"))
        assert not pool.is_single()

    @ILL
    def test_nobody_of_it_may_be_asked_though_others_may(self, a_pool, outcomes):
        pool = a_pool("a", "b", "c")
        for name in ("a", "b"):
            have(pool, name, *outcomes)

        unavailable = pool.unavailable(among=among("a", "b"))

        if outcomes[0] == BAD_GATEWAY:  # of those that are open one may be asked where no other is well
            assert unavailable is None
        else:
            assert set(unavailable.reasons) == {"a", "b"}
        assert pool.unavailable(among=among("b", "c")) is None
        assert pool.unavailable() is None


class TestAloneInASelection:
    def test_one_that_is_disabled_shows_its_own_error_as_nobody_can_stand_for_it(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)

        lease = pool.lease(among=among("a"))

        assert (lease.endpoint.name, lease.is_degraded, lease.is_probe) == ("a", True, False)
        assert set(picks(pool, 30)) == {"b"}

    def test_while_it_fails_it_stays_disabled_for_the_others_and_is_reported_no_second_time(self, a_pool, events):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)

        for _ in range(3):
            pool.lease(among=among("a")).settle(BAD_KEY, 0.1)

        assert (state(pool, "a").health, state(pool, "a").disabled_for_s) == (Health.DISABLED, 300)
        assert len(events) == 1

    def test_once_it_serves_everybody_trusts_it_again(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)

        pool.lease(among=among("a")).settle(SERVED, 0.1)

        assert (state(pool, "a").health, state(pool, "a").disabled_for_s) == (Health.OK, 0)
        assert set(picks(pool)) == {"a", "b"}

    def test_an_answer_to_what_was_sent_before_it_was_disabled_makes_nobody_trust_it(self, a_pool):
        pool = a_pool("a", "b")
        late = pool.lease(among=among("a"))
        have(pool, "a", BAD_KEY)

        late.settle(SERVED, 1.0)

        assert state(pool, "a").health is Health.DISABLED

    def test_one_that_is_paused_is_not_asked_but_waited_for(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", busy(3))

        found = pool.lease(among=among("a"))

        assert found == Unavailable(wait_s=3, reasons={"a": "paused after 429 for 3.0 s"}, status=429)

    def test_one_that_is_both_is_not_asked_while_it_is_paused(self, a_pool, clock):
        pool = a_pool("a", "b")
        late = pool.lease(only="a")
        have(pool, "a", BAD_KEY)
        late.settle(busy(3), 1.0)
        assert isinstance(pool.lease(among=among("a")), Unavailable)

        clock.advance(3)

        assert pool.lease(among=among("a")).endpoint.name == "a"

    def test_a_hedge_does_not_ask_one_that_is_disabled(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)

        assert isinstance(pool.lease(among=among("a"), fails_open=False), Unavailable)

    def test_one_that_is_alone_as_the_others_left_is_alone(self, a_pool):
        pool = a_pool("a", "b", "c")
        have(pool, "a", BAD_KEY)

        pool.swap([an_endpoint("a"), an_endpoint("c")])

        assert pool.lease(among=among("a", "b")).endpoint.name == "a"

    def test_of_two_that_are_disabled_neither_is_asked(self, a_pool):
        pool = a_pool("a", "b", "c")
        for name in ("a", "b"):
            have(pool, name, BAD_KEY)

        assert set(pool.lease(among=among("a", "b")).reasons) == {"a", "b"}

    def test_one_that_is_left_after_the_others_were_tried_is_not_alone(self, a_pool):
        pool = a_pool("a", "b", "c")
        have(pool, "b", BAD_KEY)

        assert isinstance(pool.lease(tried={"a"}, among=among("a", "b")), Unavailable)

    def test_one_whose_breaker_is_open_is_asked(self, a_pool):
        pool = a_pool("a", "b")
        tripped(pool, "a")

        lease = pool.lease(among=among("a"))

        assert (lease.endpoint.name, lease.is_degraded) == ("a", True)


class TestModelsInASelection:
    def test_one_that_does_not_know_the_model_leaves_it_to_the_others_of_it(self, a_pool):
        pool = a_pool("a", "b", "c")
        have(pool, "a", NO_MODEL, model="m")

        assert set(picks(pool, 60, model="m", among=among("a", "b"))) == {"b"}

    def test_where_all_of_it_refuse_a_model_they_are_asked_all_the_same_though_others_know_it(self, a_pool):
        pool = a_pool("a", "b", "c")
        for name in ("a", "b"):
            have(pool, name, NO_MODEL, model="m")

        leases = [pool.lease(model="m", among=among("a", "b")) for _ in range(50)]

        assert {lease.endpoint.name for lease in leases} == {"a", "b"}

    def test_one_that_is_alone_is_asked_and_shows_its_own_error(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", NO_MODEL, model="m")

        assert pool.lease(model="m", among=among("a")).endpoint.name == "a"

    def test_where_one_of_it_that_may_know_it_is_paused_the_others_are_not_asked(self, a_pool):
        pool = a_pool("a", "b", "c")
        have(pool, "a", NO_MODEL, model="m")
        have(pool, "b", busy(9))

        found = pool.lease(model="m", among=among("a", "b"))

        assert found.reasons == {"a": "without the model", "b": "paused after 429 for 9.0 s"}
        assert found.wait_s == 9


class TestSwap:
    def test_unchanged_endpoints_keep_their_statistics_and_health(self, a_pool):
        pool = a_pool("a", "b", "c")
        have(pool, "a", SERVED, took_s=3)
        have(pool, "b", busy(30))
        tripped(pool, "c")
        before = pool.snapshot()

        pool.swap([an_endpoint(name) for name in "abc"])

        assert pool.snapshot() == before
        assert pool.version == 2

    def test_how_they_are_chosen_may_change_with_them(self, a_pool):
        pool = a_pool("a", "b", strategy=Strategy.ROUND_ROBIN)

        pool.swap(pool.endpoints, strategy=Strategy.IN_ORDER)

        assert set(picks(pool, 30)) == {"a"}

    def test_unless_that_is_said_they_are_chosen_as_before(self, a_pool):
        pool = a_pool("a", "b", strategy=Strategy.IN_ORDER)

        pool.swap(pool.endpoints)

        assert set(picks(pool, 30)) == {"a"}

    def test_a_pool_with_a_strategy_of_its_own_keeps_it(self, a_pool):
        pool = a_pool("a", "b", "c")

        pool.swap(pool.endpoints, strategy=Strategy.IN_ORDER)

        assert picks(pool, 30, among=among("b", "c", strategy=Strategy.ROUND_ROBIN)) == {"b": 15, "c": 15}

    def test_who_left_long_ago_and_owes_nothing_is_forgotten(self, a_pool, clock):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")
        for number in range(50):
            pool.swap([an_endpoint("b"), an_endpoint(f"n{number}")])
        clock.advance(LATE_S)

        pool.swap([an_endpoint("b")])

        assert [gone.endpoint.name for gone, _ in pool._leaving] == ["a", "n49"]
        lease.settle(SERVED, 1.0)

    def test_a_call_under_way_keeps_its_endpoint(self, a_pool):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")

        pool.swap([an_endpoint("a", weight=3), an_endpoint("b")])

        assert lease.endpoint.weight == 1
        assert pool.lease(only="a").endpoint.weight == 3

    @pytest.mark.parametrize("change", [{"base_url": "http://other/v1"}, {"model": "m"}, {"deployment": "d"}])
    def test_another_server_or_model_under_the_same_name_is_a_new_endpoint(self, a_pool, change):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)

        pool.swap([an_endpoint("a", **change), an_endpoint("b")])

        assert state(pool, "a").health is Health.OK

    def test_a_removed_endpoint_drains(self, a_pool):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")

        pool.swap([an_endpoint("b")])

        assert set(picks(pool)) == {"b"}
        assert [(one.name, one.health, one.in_flight) for one in pool.snapshot()] == [
            ("b", Health.OK, 0),
            ("a", Health.DRAINING, 1),
        ]
        lease.settle(SERVED, 1.0)

    def test_its_connections_are_in_use_until_its_last_call_ends(self, a_pool):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")
        pool.swap([an_endpoint("b")])
        assert pool.in_use() == {"http://a:8000", "http://b:8000"}

        lease.settle(SERVED, 1.0)

        assert pool.in_use() == {"http://b:8000"}
        assert [one.name for one in pool.snapshot()] == ["b"]

    def test_a_lost_call_does_not_keep_them_open(self, a_pool):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")
        pool.swap([an_endpoint("b")])

        del lease
        gc.collect()

        assert pool.in_use() == {"http://b:8000"}

    def test_after_two_minutes_they_are_closed_all_the_same(self, a_pool, clock):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")
        pool.swap([an_endpoint("b")])

        clock.advance(DRAIN_S - 1)
        assert "http://a:8000" in pool.in_use()
        clock.advance(1)

        assert pool.in_use() == {"http://b:8000"}
        lease.settle(SERVED, 1.0)

    def test_an_idle_endpoint_is_closed_at_once(self, a_pool):
        pool = a_pool("a", "b")

        pool.swap([an_endpoint("b")])

        assert pool.in_use() == {"http://b:8000"}

    def test_an_endpoint_that_comes_back_while_it_drains_is_new(self, a_pool):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")
        pool.swap([an_endpoint("b")])

        pool.swap([an_endpoint("b"), an_endpoint("a")])
        assert [(one.name, one.in_flight) for one in pool.snapshot()] == [("b", 0), ("a", 0), ("a", 1)]
        lease.settle(BAD_KEY, 1.0)

        assert set(picks(pool)) == {"a", "b"}

    def test_an_older_call_does_not_pause_its_new_server(self, a_pool):
        pool = a_pool("a", "b")
        lease = pool.lease(only="a")
        pool.swap([an_endpoint("a", base_url="http://other/v1"), an_endpoint("b")])

        lease.settle(busy(60), 1.0)

        assert set(picks(pool)) == {"a", "b"}

    @pytest.mark.parametrize("names", [[], ["a", "a"]], ids=["none", "twice"])
    def test_an_impossible_set_is_refused_and_the_last_good_one_stays(self, a_pool, names):
        pool = a_pool("a", "b")
        before = pool.snapshot()

        with pytest.raises(ValueError, match="names of their own"):
            pool.swap([an_endpoint(name) for name in names])

        assert pool.snapshot() == before
        assert pool.version == 1

    def test_weights_and_tiers_hold_from_the_swap_on(self, a_pool):
        pool = a_pool("a", "b", strategy=Strategy.ROUND_ROBIN)

        pool.swap([an_endpoint("a", weight=3), an_endpoint("b"), an_endpoint("spare", tier=1)])
        assert picks(pool, count=400) == {"a": 300, "b": 100}

        pool.swap([an_endpoint("a", tier=1), an_endpoint("b", tier=1), an_endpoint("spare")])
        assert set(picks(pool)) == {"spare"}

    def test_its_endpoints_are_one_object_until_they_are_swapped(self, a_pool):
        pool = a_pool("a", "b")
        before = pool.endpoints
        assert pool.endpoints is before

        pool.swap([an_endpoint("a"), an_endpoint("b")])

        assert pool.endpoints is not before
        assert pool.endpoints == before

    def test_whether_there_is_nowhere_else_to_go(self, a_pool):
        pool = a_pool("a")
        assert pool.is_single()

        pool.swap([an_endpoint("a"), an_endpoint("b")])

        assert not pool.is_single()
        assert [endpoint.name for endpoint in pool.endpoints] == ["a", "b"]


class TestFork:
    def test_a_child_has_a_lock_of_its_own_and_nothing_under_way(self, a_pool):
        pool = a_pool("a", "b")
        leases = [pool.lease() for _ in range(10)]
        pool._make_lock = threading.Lock
        pool._lock = threading.Lock()
        pool._lock.acquire()  # by a thread of the parent, that the child does not have

        pool.renew_after_fork()

        assert [one.in_flight for one in pool.snapshot()] == [0, 0]
        del leases

    @pytest.mark.parametrize("outcome", [SERVED, BAD_KEY, busy(9), CANCELLED], ids=lambda one: one.label)
    def test_what_the_parent_had_under_way_changes_nothing_in_the_child(self, a_pool, outcome):
        pool = a_pool("a", "b")
        settled, lost = pool.lease(only="a"), pool.lease(only="a")
        pool.renew_after_fork()
        before = pool.snapshot()

        settled.settle(outcome, 1.0)
        del lost
        gc.collect()

        assert pool.snapshot() == before

    def test_a_child_may_probe_what_its_parent_was_probing(self, a_pool, clock):
        pool = a_pool("a", "b")
        have(pool, "a", busy(1))
        clock.advance(1)
        probe = pool.lease()
        assert probe.is_probe

        pool.renew_after_fork()

        assert pool.lease().is_probe

    def test_it_keeps_what_was_known(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", BAD_KEY)
        have(pool, "b", SERVED, took_s=3)

        pool.renew_after_fork()

        assert state(pool, "a").health is Health.DISABLED
        assert state(pool, "b").ewma_s == 3


def test_a_snapshot_says_all_of_an_endpoint_and_no_secret(a_pool):
    pool = a_pool(an_endpoint("a", credential=Secret("sk-secret"), tier=2), an_endpoint("b"))
    have(pool, "a", SERVED, BAD_KEY, took_s=2)

    seen = state(pool, "a")

    assert (seen.name, seen.server, seen.tier) == ("a", "http://a:8000", 2)
    assert (seen.health, seen.breaker, seen.reason) == (Health.DISABLED, BreakerState.CLOSED, "401")
    assert (seen.served, seen.failed, seen.last_error, seen.ewma_s) == (1, 1, "401", 2)
    assert (seen.paused_for_s, seen.disabled_for_s) == (0, 300)
    assert "sk-secret" not in repr(pool.snapshot())


class TestBudgets:
    def test_an_endpoint_that_has_spent_its_budget_is_left_alone_for_so_long_and_told_once(self, a_pool, clock, events):
        pool = a_pool("a", "b")

        pool.spent("a", 60.0)
        pool.spent("a", 60.0)

        assert set(picks(pool)) == {"b"}
        assert [(type(event), event.endpoint, event.for_s) for event in events] == [(EndpointPaused, "a", 60.0)]
        clock.advance(60)
        assert set(picks(pool)) == {"a", "b"}

    def test_where_each_has_spent_its_budget_that_is_why_and_until_when(self, a_pool):
        pool = a_pool("a")

        pool.spent("a", 60.0)
        unavailable = pool.lease()

        assert (unavailable.is_over_budget, unavailable.wait_s) == (True, 60.0)
        assert unavailable.reasons == {"a": "over its budget for 60 s"}

    def test_a_pause_that_lasts_longer_than_the_budget_is_a_pause_again(self, a_pool, clock):
        pool = a_pool("a")
        have(pool, "a", busy(100.0))

        pool.spent("a", 10.0)
        clock.advance(50)
        unavailable = pool.lease()

        assert not unavailable.is_over_budget
        assert "over its budget" not in unavailable.reasons["a"]

    def test_where_more_may_be_spent_it_is_asked_at_once(self, a_pool, events):
        pool = a_pool("a", "b")
        pool.spent("a", 60.0)
        have(pool, "b", busy(100.0))

        pool.may_spend_again()

        assert set(picks(pool)) == {"a"}
        assert state(pool, "a").paused_for_s == 0

    def test_until_it_is_spent_again_which_is_told_again(self, a_pool, events):
        pool = a_pool("a", "b")
        pool.spent("a", 60.0)

        pool.may_spend_again()
        pool.spent("a", 50.0)

        assert set(picks(pool)) == {"b"}
        assert [event.for_s for event in events] == [60.0, 50.0]

    def test_a_longer_pause_of_its_own_stays_and_so_does_what_else_is_wrong_with_it(self, a_pool):
        pool = a_pool("a", "b", "c", "d")
        have(pool, "a", busy(100.0))
        have(pool, "b", BAD_KEY)
        tripped(pool, "c")
        for name in "abc":
            pool.spent(name, 10.0)

        pool.may_spend_again()

        assert [one.health for one in pool.snapshot()] == [Health.PAUSED, Health.DISABLED, Health.OPEN, Health.OK]
        assert "over its budget" not in str(pool.lease(only="a"))

    def test_where_nobody_was_over_a_budget_nothing_changes(self, a_pool):
        pool = a_pool("a", "b")
        have(pool, "a", busy(9))
        before = pool.snapshot()

        pool.may_spend_again()

        assert pool.snapshot() == before


def test_endpoints_that_are_swapped_are_told_by_their_names(a_pool, events):
    pool = a_pool("a", "b")
    a, b = pool.endpoints

    pool.swap([b, a])
    assert events == []
    pool.swap([replace(b, weight=3.0), replace(a, name="c")])

    assert events == [EndpointsChanged(function=a.function, added=("c",), removed=("a",), changed=("b",))]


def test_what_is_exchanged_beside_the_endpoints_is_so_before_a_lease_is_given(a_pool):
    pool = a_pool("a", "b")
    seen = []

    changed = pool.exchange([an_endpoint("c")], beside=lambda: seen.append([one.name for one in pool.endpoints]))

    assert seen == [["c"]]
    assert (changed.added, changed.removed) == (("c",), ("a", "b"))
