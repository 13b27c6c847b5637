"""Which pool a request goes to and who of it may have the request; and that whatever the rules, nobody else may."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwire.services.errors import NoRoute
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.endpoint import DEFAULT_POOL, Abilities
from llmwire.services.routing.facts import Facts
from llmwire.services.routing.route import MOST_SLOW, Mode, Route
from llmwire.services.routing.router import (
    Decision,
    NamedPool,
    Router,
    Scores,
    Trouble,
    Unscored,
    shortcoming,
)
from llmwire.services.wanted import Wanted

from .actors import an_endpoint

SLOW = "(a+)+b"  #: a pattern that is never done


def searching(pattern):
    """As the real one searches; of the slow pattern it has enough at once."""
    search = re.compile(pattern).search

    def found(text):
        if pattern == SLOW:
            raise TimeoutError
        return search(text) is not None

    return found


def a_router(*routes, **options):
    return Router(routes, compile_pattern=searching, **options)


def facts_of(**said):
    """A request; what its caller demands is written beside it."""
    trust = said.pop("trust", None)
    wanted = Wanted(trust=None if trust is None else frozenset(trust), is_for_routing=said.pop("is_for_routing", False))
    return Facts(**{"function": "completion", "wanted": wanted, **said})


def one_in(pool, name=None, **said):
    """An endpoint that serves one pool, by its name."""
    abilities = {key: said.pop(key) for key in tuple(said) if key in Abilities.__dataclass_fields__}
    return an_endpoint(name or pool, pools=(pool,), abilities=Abilities(**abilities), **said)


def one_each(*pools):
    return tuple(one_in(pool) for pool in pools)


def fails(facts):
    raise KeyError("no such thing")


def always(facts):
    return True


def goes(router, endpoints, scores=None, *, with_shadows=False, **said):
    """What is decided of a request, whose meaning is known where it matters."""
    decision = router.decide(facts_of(**said), endpoints, scores=scores, with_shadows=with_shadows)
    assert isinstance(decision, Decision)
    return decision


def where(router, endpoints, scores=None, **said):
    """The pool and the endpoints that a request goes to."""
    choice = goes(router, endpoints, scores, **said).choice
    return choice.pool.name, set(choice.among.names)


class TestOrder:
    ENDPOINTS = one_each("default", "big", "small")

    def test_the_first_route_that_holds_names_the_pool(self):
        router = a_router(Route(pool="big", has_tools=True), Route(pool="small"), Route(pool="default"))

        assert where(router, self.ENDPOINTS, has_tools=True) == ("big", {"big"})
        assert where(router, self.ENDPOINTS) == ("small", {"small"})

    def test_it_is_named_in_the_decision_by_its_name_or_its_place(self):
        router = a_router(Route(pool="big", has_tools=True, name="tools"), Route(pool="small"))

        assert goes(router, self.ENDPOINTS, has_tools=True).route == "tools"
        assert goes(router, self.ENDPOINTS).route == "route 2"

    def test_every_condition_of_a_route_must_hold(self):
        router = a_router(Route(pool="big", has_tools=True, is_streamed=True))

        assert where(router, self.ENDPOINTS, has_tools=True, is_streamed=True)[0] == "big"
        assert where(router, self.ENDPOINTS, has_tools=True)[0] == "default"
        assert where(router, self.ENDPOINTS, is_streamed=True)[0] == "default"

    def test_where_none_holds_it_is_the_pool_default_and_no_route_decided(self):
        decision = goes(a_router(Route(pool="big", has_tools=True)), self.ENDPOINTS)

        assert (decision.choice.pool.name, decision.route, decision.is_named) == ("default", None, False)

    def test_conditions_after_the_first_that_fails_are_not_looked_at(self):
        router = a_router(Route(pool="big", has_tools=True, predicate=fails))

        assert goes(router, self.ENDPOINTS).troubles == ()

    def test_a_predicate_may_be_named(self):
        router = a_router(Route(pool="big", predicate="always"), predicates={"always": always})

        assert where(router, self.ENDPOINTS)[0] == "big"

    def test_a_predicate_that_is_not_there_is_refused_with_its_routes(self):
        with pytest.raises(KeyError, match="nowhere"):
            a_router(Route(pool="big", predicate="nowhere"))

    def test_an_endpoint_may_serve_several_pools(self):
        both = an_endpoint("both", pools=("default", "big"))
        router = a_router(Route(pool="big", has_tools=True))

        assert where(router, (both, one_in("big", "b")), has_tools=True) == ("big", {"both", "b"})
        assert where(router, (both, one_in("big", "b"))) == ("default", {"both"})

    def test_routes_and_pools_are_shown_as_they_were_given(self):
        routes = (Route(pool="big", has_tools=True), Route(pool="small"))
        pools = (NamedPool(name="big", deadline_s=9.0), NamedPool(name="small"))

        router = a_router(*routes, pools=pools)

        assert (router.routes, router.pools) == (routes, pools)


class TestPassingOver:
    def test_a_route_none_of_whose_endpoints_can_have_the_request_is_passed_over(self):
        endpoints = (one_in("big", tools=False), one_in("small"), one_in("default"))
        router = a_router(Route(pool="big", name="first"), Route(pool="small", name="second"))

        decision = goes(router, endpoints, has_tools=True)

        assert (decision.choice.pool.name, decision.route) == ("small", "second")
        assert decision.passed == {"first": "big is unable to call tools"}

    def test_one_endpoint_that_can_is_enough_and_the_others_are_left_out(self):
        endpoints = (one_in("big", "a", tools=False), one_in("big", "b"), one_in("default"))

        decision = goes(a_router(Route(pool="big")), endpoints, has_tools=True)

        assert decision.choice.among.names == {"b"}
        assert decision.choice.among.left_out == {"a": "unable to call tools"}
        assert decision.passed == {}

    def test_a_pool_that_has_no_endpoint_is_passed_over(self):
        decision = goes(a_router(Route(pool="big", name="big")), one_each("default"))

        assert (decision.choice.pool.name, decision.route) == ("default", None)
        assert decision.passed == {"big": "it has none"}

    def test_its_demand_of_trust_stays_in_force(self):
        endpoints = (
            one_in("big", trust="eu", tools=False),
            one_in("default", "abroad", trust="vendor"),
            one_in("default", "here", trust="eu"),
        )
        router = a_router(Route(pool="big", trust=("eu",)))

        assert where(router, endpoints, has_tools=True) == ("default", {"here"})
        assert where(router, endpoints[:2], has_tools=False) == ("big", {"big"})
        with pytest.raises(NoRoute):
            goes(router, endpoints[:2], has_tools=True)

    def test_it_holds_together_with_that_of_the_next_route(self):
        endpoints = (
            one_in("big", trust="eu", tools=False),
            one_in("small", "a", trust="local"),
            one_in("small", "b", trust="eu"),
            one_in("small", "c", trust="vendor"),
        )
        router = a_router(Route(pool="big", trust=("eu", "local")), Route(pool="small", trust=("local", "vendor")))

        assert where(router, endpoints, has_tools=True) == ("small", {"a"})


class TestTrust:
    ENDPOINTS = (
        one_in("default", "local", trust="local"),
        one_in("default", "eu", trust="eu"),
        one_in("default", "vendor", trust="vendor"),
        one_in("default", "unlabelled"),
    )

    def test_who_demands_nothing_may_go_everywhere(self):
        assert where(a_router(), self.ENDPOINTS)[1] == {"local", "eu", "vendor", "unlabelled"}

    def test_one_of_the_labels_that_a_call_demands_is_enough(self):
        assert where(a_router(), self.ENDPOINTS, trust=["local", "eu"])[1] == {"local", "eu"}

    def test_an_endpoint_without_a_label_satisfies_no_demand(self):
        decision = goes(a_router(), self.ENDPOINTS, trust=["eu"])

        assert decision.choice.among.left_out["unlabelled"] == (
            "outside of the trust that is demanded (eu): it is without a label"
        )

    def test_call_route_and_pool_may_demand_and_all_of_it_must_hold(self):
        pool = NamedPool(name="default", trust=frozenset({"local", "eu"}))
        router = a_router(Route(pool="default", trust=("eu", "vendor")), pools=[pool])

        assert where(router, self.ENDPOINTS)[1] == {"eu"}
        assert where(router, self.ENDPOINTS, trust=["eu"])[1] == {"eu"}
        with pytest.raises(NoRoute):
            goes(router, self.ENDPOINTS, trust=["local"])

    def test_what_a_pool_demands_holds_also_where_no_route_led_there(self):
        pool = NamedPool(name="default", trust=frozenset({"local"}))

        assert where(a_router(pools=[pool]), self.ENDPOINTS)[1] == {"local"}

    def test_what_another_pool_demands_does_not(self):
        pool = NamedPool(name="big", trust=frozenset({"local"}))

        assert len(where(a_router(pools=[pool]), self.ENDPOINTS)[1]) == 4

    def test_a_demand_of_no_label_is_met_by_nobody(self):
        with pytest.raises(NoRoute, match="demands that exclude each other"):
            goes(a_router(), self.ENDPOINTS, trust=[])

    def test_a_route_that_does_not_hold_demands_nothing(self):
        router = a_router(Route(pool="default", has_tools=True, trust=("local",)))

        assert len(where(router, self.ENDPOINTS)[1]) == 4

    def test_a_route_after_the_one_that_decides_demands_nothing(self):
        router = a_router(Route(pool="default"), Route(pool="default", trust=("local",)))

        assert len(where(router, self.ENDPOINTS)[1]) == 4


class TestAlias:
    ENDPOINTS = (
        one_in("default", trust="vendor"),
        one_in("big", "big1", trust="vendor"),
        one_in("big", "big2", trust="eu"),
        one_in("small", trust="eu"),
    )

    def test_a_request_whose_model_is_the_name_of_a_pool_goes_there_whatever_the_routes_say(self):
        decision = goes(a_router(Route(pool="small")), self.ENDPOINTS, model="big")

        assert decision.choice.pool.name == "big"
        assert (decision.route, decision.is_named) == (None, True)

    def test_a_model_of_another_name_is_no_pool(self):
        assert where(a_router(), self.ENDPOINTS, model="Big")[0] == "default"

    def test_a_pool_with_settings_but_without_endpoints_is_a_name_too(self):
        router = a_router(pools=[NamedPool(name="empty")])

        with pytest.raises(NoRoute, match="of the pool empty may have this request: it has none"):
            goes(router, self.ENDPOINTS, model="empty")

    def test_default_is_no_alias_as_many_servers_call_a_model_so(self):
        decision = goes(a_router(Route(pool="small")), self.ENDPOINTS, model="default")

        assert (decision.choice.pool.name, decision.is_named) == ("small", False)

    def test_the_trust_of_the_first_route_that_holds_holds_all_the_same(self):
        router = a_router(
            Route(pool="small", has_tools=True, trust=("local",)),
            Route(pool="small", trust=("eu",)),
            Route(pool="default", trust=("nobody",)),
        )

        assert where(router, self.ENDPOINTS, model="big") == ("big", {"big2"})

    def test_where_that_leaves_nobody_it_does_not_go_elsewhere(self):
        router = a_router(Route(pool="small", trust=("local",)))

        with pytest.raises(NoRoute) as caught:
            goes(router, self.ENDPOINTS, model="big")

        assert set(caught.value.reasons) == {"big1", "big2"}

    def test_the_trust_of_the_call_and_of_the_pool_hold_too(self):
        router = a_router(pools=[NamedPool(name="big", trust=frozenset({"eu"}))])

        assert where(router, self.ENDPOINTS, model="big") == ("big", {"big2"})
        with pytest.raises(NoRoute):
            goes(router, self.ENDPOINTS, model="big", trust=["vendor"])

    def test_a_route_that_cannot_be_decided_is_reported_and_its_trust_holds(self):
        router = a_router(Route(pool="small", name="odd", predicate=fails, trust=("eu",)))

        decision = goes(router, self.ENDPOINTS, model="big")

        assert decision.choice.among.names == {"big2"}
        assert [trouble.route for trouble in decision.troubles] == ["odd"]

    def test_no_route_moves_it_to_a_larger_pool(self):
        router = a_router(Route(pool="small", on_context_length="default"))

        assert goes(router, self.ENDPOINTS, model="big").larger is None


class TestSemantic:
    ENDPOINTS = one_each("default", "law", "medicine", "tools")
    LAW = Route(pool="law", name="law", examples=("Sue them.",), threshold=0.4)
    MEDICINE = Route(pool="medicine", name="medicine", examples=("It hurts.",), threshold=0.6)

    def test_where_meaning_decides_it_is_asked_for_first(self):
        router = a_router(self.LAW)

        asked = router.decide(facts_of(user="Can I sue?", trust=["eu"]), self.ENDPOINTS)

        assert asked == Unscored(text="Can I sue?", trust=frozenset({"eu"}))

    def test_where_a_route_before_it_decides_it_is_not(self):
        router = a_router(Route(pool="tools", has_tools=True), self.LAW)

        assert where(router, self.ENDPOINTS, has_tools=True, user="Can I sue?")[0] == "tools"

    def test_where_another_condition_of_it_does_not_hold_it_is_not(self):
        router = a_router(replace(self.LAW, has_tools=True))

        assert where(router, self.ENDPOINTS, user="Can I sue?")[0] == "default"

    @pytest.mark.parametrize("blank", ["", " \n"])
    def test_a_request_without_a_text_is_like_nothing(self, blank):
        assert where(a_router(self.LAW), self.ENDPOINTS, user=blank)[0] == "default"

    def test_a_request_that_is_made_for_routing_is_never_routed_by_meaning(self):
        assert where(a_router(self.LAW), self.ENDPOINTS, user="Can I sue?", is_for_routing=True)[0] == "default"

    @pytest.mark.parametrize(("score", "pool"), [(0.4, "law"), (0.9, "law"), (0.399, "default"), (-1.0, "default")])
    def test_it_holds_from_its_threshold_on(self, score, pool):
        assert where(a_router(self.LAW), self.ENDPOINTS, Scores(by_route={"law": score}), user="?")[0] == pool

    def test_a_route_that_has_no_score_is_like_nothing(self):
        assert where(a_router(self.LAW), self.ENDPOINTS, Scores(), user="?")[0] == "default"

    @pytest.mark.parametrize(
        ("law", "medicine", "pool"), [(0.7, 0.8, "medicine"), (0.8, 0.7, "law"), (0.7, 0.7, "law")]
    )
    def test_of_those_that_stand_one_after_another_the_nearest_wins(self, law, medicine, pool):
        scores = Scores(by_route={"law": law, "medicine": medicine})

        assert where(a_router(self.LAW, self.MEDICINE), self.ENDPOINTS, scores, user="?")[0] == pool

    def test_each_has_a_threshold_of_its_own(self):
        scores = Scores(by_route={"law": 0.5, "medicine": 0.55})

        assert where(a_router(self.LAW, self.MEDICINE), self.ENDPOINTS, scores, user="?")[0] == "law"

    def test_those_with_another_route_between_do_not_compete(self):
        router = a_router(self.LAW, Route(pool="tools", has_tools=True), self.MEDICINE)
        scores = Scores(by_route={"law": 0.7, "medicine": 0.9})

        assert where(router, self.ENDPOINTS, scores, user="?")[0] == "law"

    def test_the_nearest_that_nobody_can_serve_leaves_it_to_the_next(self):
        endpoints = (one_in("default"), one_in("law"), one_in("medicine", tools=False))
        scores = Scores(by_route={"law": 0.7, "medicine": 0.9})

        decision = goes(a_router(self.LAW, self.MEDICINE), endpoints, scores, user="?", has_tools=True)

        assert (decision.route, set(decision.passed)) == ("law", {"medicine"})

    def test_where_meaning_is_not_to_be_had_in_time_they_do_not_hold_and_that_is_told(self):
        decision = goes(a_router(self.LAW), self.ENDPOINTS, Scores(problem="no vector in 150 ms"), user="?")

        assert decision.choice.pool.name == "default"
        assert decision.troubles == (Trouble(route="law", problem="no vector in 150 ms"),)

    def test_then_their_demands_of_trust_hold(self):
        endpoints = (one_in("default", "a", trust="eu"), one_in("default", "b"), one_in("law", trust="eu"))
        router = a_router(replace(self.LAW, trust=("eu",)))

        assert where(router, endpoints, Scores(problem="too slow"), user="?") == ("default", {"a"})
        assert where(router, endpoints, Scores(by_route={"law": 0.0}), user="?") == ("default", {"a", "b"})

    def test_a_text_is_embedded_only_where_the_call_and_every_semantic_route_allow(self):
        router = a_router(
            replace(self.LAW, trust=("eu", "local")),
            Route(pool="tools", trust=("vendor",), has_tools=True),
            replace(self.MEDICINE, trust=("local", "vendor")),
            replace(self.LAW, name="shadow", trust=("nobody",), mode=Mode.SHADOW),
        )

        assert router.decide(facts_of(user="?"), self.ENDPOINTS).trust == {"local"}
        assert router.decide(facts_of(user="?", trust=["local", "eu"]), self.ENDPOINTS).trust == {"local"}

    def test_where_a_route_demands_what_the_call_excludes_what_the_call_demands_is_enough(self):
        router = a_router(replace(self.LAW, trust=("local",)))
        endpoints = (one_in("default", trust="eu"), one_in("law", trust="local"))

        assert router.decide(facts_of(user="?", trust=["eu"]), endpoints).trust == {"eu"}
        assert where(router, endpoints, Scores(by_route={"law": 0.1}), user="?", trust=["eu"])[0] == "default"
        with pytest.raises(NoRoute):
            goes(router, endpoints, Scores(by_route={"law": 0.9}), user="?", trust=["eu"])

    def test_and_where_a_route_that_was_passed_over_allows(self):
        router = a_router(Route(pool="empty", trust=("local",)), self.LAW)

        assert router.decide(facts_of(user="?"), self.ENDPOINTS).trust == {"local"}

    def test_an_alias_asks_for_meaning_only_for_the_sake_of_trust_that_may_hold(self):
        router = a_router(replace(self.LAW, trust=("eu",)))

        assert isinstance(router.decide(facts_of(user="?", model="tools"), self.ENDPOINTS), Unscored)
        with pytest.raises(NoRoute):
            goes(router, self.ENDPOINTS, Scores(by_route={"law": 0.9}), user="?", model="tools")


class TestShadow:
    ENDPOINTS = one_each("default", "big", "small")

    def test_a_route_in_shadow_mode_is_not_followed_but_may_be_looked_at(self):
        router = a_router(Route(pool="big", mode=Mode.SHADOW), Route(pool="small"))

        assert where(router, self.ENDPOINTS)[0] == "small"
        assert goes(router, self.ENDPOINTS, with_shadows=True).choice.pool.name == "big"
        assert router.has_shadows

    def test_a_function_in_shadow_mode_follows_no_route(self):
        router = a_router(Route(pool="big"), Route(pool="small"), mode=Mode.SHADOW)

        assert where(router, self.ENDPOINTS)[0] == "default"
        assert goes(router, self.ENDPOINTS, with_shadows=True).choice.pool.name == "big"
        assert router.has_shadows

    def test_its_trust_demands_nothing_and_its_troubles_are_not_told(self):
        router = a_router(
            Route(pool="big", trust=("eu",), mode=Mode.SHADOW), Route(pool="big", predicate=fails, mode=Mode.SHADOW)
        )

        decision = goes(router, self.ENDPOINTS)

        assert (decision.choice.among.names, decision.troubles) == ({"default"}, ())

    def test_looked_at_it_demands_what_it_would(self):
        router = a_router(Route(pool="big", trust=("eu",), mode=Mode.SHADOW))

        with pytest.raises(NoRoute):
            goes(router, self.ENDPOINTS, with_shadows=True)

    def test_meaning_is_not_asked_for_on_behalf_of_a_shadow_until_it_is_looked_at(self):
        router = a_router(Route(pool="big", examples=("a",), trust=("eu",), mode=Mode.SHADOW))

        assert isinstance(router.decide(facts_of(user="?"), self.ENDPOINTS), Decision)
        looked = router.decide(facts_of(user="?"), self.ENDPOINTS, with_shadows=True)
        assert looked == Unscored(text="?", trust=frozenset({"eu"}))

    def test_one_that_stands_between_two_semantic_routes_does_not_keep_them_from_competing(self):
        law, medicine = (Route(pool=pool, name=pool, examples=("a",)) for pool in ("small", "big"))
        router = a_router(law, Route(pool="default", has_tools=True, mode=Mode.SHADOW), medicine)
        scores = Scores(by_route={"small": 0.7, "big": 0.9})

        assert where(router, self.ENDPOINTS, scores, user="?")[0] == "big"
        assert goes(router, self.ENDPOINTS, scores, user="?", with_shadows=True).choice.pool.name == "small"

    def test_where_no_route_is_in_shadow_mode_there_are_none(self):
        assert not a_router(Route(pool="big")).has_shadows


class TestOff:
    ENDPOINTS = one_each("default", "big", "small")

    def test_a_route_that_is_off_is_not_looked_at_not_even_by_a_shadow(self):
        router = a_router(Route(pool="big", mode=Mode.OFF, predicate=fails), Route(pool="small"))

        decision = goes(router, self.ENDPOINTS, with_shadows=True)

        assert (decision.choice.pool.name, decision.troubles) == ("small", ())

    def test_the_names_of_others_stay_those_of_their_places(self):
        assert goes(a_router(Route(pool="big", mode=Mode.OFF), Route(pool="small")), self.ENDPOINTS).route == "route 2"

    def test_a_function_that_is_off_follows_no_route_and_has_no_shadows(self):
        router = a_router(Route(pool="big"), Route(pool="big", mode=Mode.SHADOW), mode=Mode.OFF)

        assert where(router, self.ENDPOINTS)[0] == "default"
        assert not router.has_shadows

    def test_a_route_that_is_off_stays_off_where_its_function_is_in_shadow_mode(self):
        router = a_router(Route(pool="big", mode=Mode.OFF), mode=Mode.SHADOW)

        assert goes(router, self.ENDPOINTS, with_shadows=True).choice.pool.name == "default"

    def test_a_pool_may_be_named_all_the_same(self):
        assert where(a_router(Route(pool="small"), mode=Mode.OFF), self.ENDPOINTS, model="big")[0] == "big"


class TestUndecided:
    ENDPOINTS = (one_in("default", "a", trust="eu"), one_in("default", "b"), one_in("big", trust="eu"))

    @pytest.mark.parametrize(
        ("conditions", "problem"),
        [
            ({"predicate": fails}, "its predicate raised KeyError"),
            ({"pattern": SLOW}, "its pattern took too long"),
            ({"system_pattern": SLOW}, "its system_pattern took too long"),
            ({"any_pattern": SLOW}, "its any_pattern took too long"),
            ({"language": ("de",)}, "its language raised ValueError"),
        ],
        ids=["predicate", "pattern", "system_pattern", "any_pattern", "language"],
    )
    def test_a_route_that_cannot_be_decided_does_not_hold_and_that_is_told(self, conditions, problem):
        router = a_router(Route(pool="big", name="odd", **conditions), Route(pool="nowhere", has_tools=True))

        def detect(text):
            raise ValueError(text)

        decision = goes(router, self.ENDPOINTS, user="aaa", detect_language=detect)

        assert (decision.choice.pool.name, decision.choice.among.names) == ("default", {"a", "b"})
        assert decision.troubles == (Trouble(route="odd", problem=problem),)

    def test_a_predicate_that_is_out_of_time_itself_is_no_slow_pattern(self):
        def late(facts):
            raise TimeoutError

        [trouble] = goes(a_router(Route(pool="big", predicate=late)), self.ENDPOINTS).troubles

        assert trouble.problem == "its predicate raised TimeoutError"

    def test_its_demand_of_trust_holds_as_its_boundary_must_not_open(self):
        router = a_router(Route(pool="big", predicate=fails, trust=("eu",)))

        assert where(router, self.ENDPOINTS) == ("default", {"a"})

    def test_it_holds_for_the_routes_after_it_too(self):
        endpoints = (*self.ENDPOINTS, one_in("small", "c", trust="vendor"), one_in("small", "d", trust="eu"))
        router = a_router(Route(pool="big", pattern=SLOW, trust=("eu",)), Route(pool="small"))

        assert where(router, endpoints, user="aaa") == ("small", {"d"})

    def test_where_that_leaves_nobody_there_is_no_route_and_it_says_why(self):
        router = a_router(Route(pool="big", name="odd", predicate=fails, trust=("local",)))

        with pytest.raises(NoRoute) as caught:
            goes(router, self.ENDPOINTS)

        assert caught.value.undecided == {"odd": "its predicate raised KeyError"}
        assert "the route odd could not be decided: its predicate raised KeyError" in str(caught.value)

    def test_a_condition_that_certainly_fails_before_it_settles_the_matter(self):
        router = a_router(Route(pool="big", has_tools=True, predicate=fails, trust=("eu",)))

        decision = goes(router, self.ENDPOINTS)

        assert (decision.choice.among.names, decision.troubles) == ({"a", "b"}, ())

    def test_a_semantic_route_that_cannot_be_decided_asks_for_no_meaning(self):
        router = a_router(Route(pool="big", examples=("a",), predicate=fails, trust=("eu",)))

        assert where(router, self.ENDPOINTS, user="?") == ("default", {"a"})

    def test_several_are_told_in_their_order(self):
        router = a_router(Route(pool="big", predicate=fails), Route(pool="big", pattern=SLOW), Route(pool="big"))

        decision = goes(router, self.ENDPOINTS, user="aaa")

        assert [trouble.route for trouble in decision.troubles] == ["route 1", "route 2"]
        assert decision.route == "route 3"

    def test_what_ends_the_process_is_no_trouble_of_a_route(self):
        def interrupted(facts):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            goes(a_router(Route(pool="big", predicate=interrupted)), self.ENDPOINTS)


class TestOnContextLength:
    ROUTE = Route(pool="short", name="chat", on_context_length="long")
    ENDPOINTS = (one_in("short", context_length=10), one_in("long", context_length=100), one_in("default"))

    def test_a_request_that_fits_may_move_to_the_larger_pool_later(self):
        decision = goes(a_router(self.ROUTE), self.ENDPOINTS, texts=["a" * 40])

        assert (decision.choice.pool.name, decision.larger.pool.name) == ("short", "long")
        assert decision.larger.among.names == {"long"}

    def test_one_that_exceeds_the_declared_context_goes_there_directly(self):
        decision = goes(a_router(self.ROUTE), self.ENDPOINTS, texts=["a" * 41])

        assert (decision.choice.pool.name, decision.route, decision.larger) == ("long", "chat", None)

    def test_where_the_larger_pool_is_too_small_as_well_the_route_is_passed_over(self):
        decision = goes(a_router(self.ROUTE), self.ENDPOINTS, texts=["a" * 404])

        assert (decision.choice.pool.name, decision.route) == ("default", None)
        assert decision.passed == {"chat": "short is too small: it holds 10 tokens, and the request is about 101"}

    def test_where_somebody_cannot_for_another_reason_it_does_not_go_there(self):
        endpoints = (one_in("short", tools=False), *self.ENDPOINTS[1:])

        assert where(a_router(self.ROUTE), endpoints, has_tools=True, texts=["a"])[0] == "default"

    def test_where_no_route_says_so_there_is_no_larger_pool(self):
        router = a_router(replace(self.ROUTE, on_context_length=None))

        assert goes(router, self.ENDPOINTS, texts=["a"]).larger is None
        assert where(router, self.ENDPOINTS, texts=["a" * 41])[0] == "default"

    def test_a_larger_pool_that_may_not_have_it_is_none(self):
        router = a_router(replace(self.ROUTE, trust=("eu",)))
        endpoints = (one_in("short", trust="eu"), one_in("long", trust="vendor"))

        assert goes(router, endpoints).larger is None

    def test_of_the_larger_pool_only_those_may_have_it_who_can_and_may(self):
        endpoints = (
            one_in("short", trust="eu"),
            one_in("long", "a", trust="eu", tools=False),
            one_in("long", "b", trust="eu"),
            one_in("long", "c", trust="vendor"),
        )

        larger = goes(a_router(replace(self.ROUTE, trust=("eu",))), endpoints, has_tools=True).larger

        assert larger.among.names == {"b"}
        assert set(larger.among.left_out) == {"a", "c"}

    def test_what_the_first_pool_demands_holds_in_the_larger_one_too(self):
        pools = [NamedPool(name="short", trust=frozenset({"eu"}))]
        endpoints = (one_in("short", trust="eu"), one_in("long", "a"), one_in("long", "b", trust="eu"))

        larger = goes(a_router(self.ROUTE, pools=pools), endpoints).larger

        assert larger.among.names == {"b"}

    def test_what_the_larger_pool_demands_holds_there(self):
        pools = [NamedPool(name="long", trust=frozenset({"eu"}), deadline_s=99.0, strategy=Strategy.IN_ORDER)]
        endpoints = (one_in("short"), one_in("long", "a"), one_in("long", "b", trust="eu"))

        larger = goes(a_router(self.ROUTE, pools=pools), endpoints).larger

        assert larger.among.names == {"b"}
        assert (larger.pool.deadline_s, larger.among.strategy) == (99.0, Strategy.IN_ORDER)


class TestAbilities:
    @pytest.mark.parametrize(
        ("abilities", "within", "beyond", "why"),
        [
            (
                {"context_length": 10},
                {"texts": ["a" * 40]},
                {"texts": ["a" * 41]},
                "too small: it holds 10 tokens, and the request is about 11",
            ),
            (
                {"context_length": 10},
                {"texts": ["a" * 20], "max_output_tokens": 5},
                {"texts": ["a" * 20], "max_output_tokens": 6},
                "too small: it holds 10 tokens, and the request is about 5 and 6 for the answer",
            ),
            (
                {"context_length": 10},
                {"max_output_tokens": 10},
                {"max_output_tokens": 11},
                "too small: it holds 10 tokens, and the request is about 0 and 11 for the answer",
            ),
            (
                {"context_length": 10},
                {"texts": ["a" * 40] * 3, "inputs": 3},
                {"texts": ["a" * 41, "a"], "inputs": 2},
                "too small: it holds 10 tokens, and the request is about 11 in its longest text",
            ),
            ({"modalities": frozenset({"audio"})}, {"audio": 1}, {"images": 1}, "unable to take an image"),
            ({"modalities": frozenset({"image"})}, {"images": 2}, {"audio": 1}, "unable to take audio"),
            ({"modalities": frozenset({"image"})}, {}, {"files": 1}, "unable to take a file"),
            ({"modalities": frozenset()}, {}, {"images": 1}, "unable to take an image"),
            ({"tools": False}, {}, {"has_tools": True}, "unable to call tools"),
            ({"structured_output": False}, {}, {"wants_structured_output": True}, "unable to give structured output"),
        ],
        ids=str,
    )
    def test_what_is_declared_is_a_reason_against_requests_that_go_beyond_it(self, abilities, within, beyond, why):
        endpoint = one_in("default", **abilities)

        assert shortcoming(endpoint, facts_of(**within), None) is None
        assert shortcoming(endpoint, facts_of(**beyond), None) == why

    @pytest.mark.parametrize("abilities", [{}, {"tools": True, "structured_output": True}, {"context_length": 10**6}])
    def test_what_is_not_declared_is_none(self, abilities):
        everything = facts_of(images=1, audio=1, files=1, has_tools=True, wants_structured_output=True, texts=["a"])

        assert shortcoming(one_in("default", **abilities), everything, None) is None

    def test_trust_is_looked_at_first(self):
        endpoint = one_in("default", tools=False, trust="vendor")

        assert shortcoming(endpoint, facts_of(has_tools=True), frozenset({"eu", "local"})) == (
            "outside of the trust that is demanded (eu or local): it is vendor"
        )

    def test_a_short_request_is_not_counted_for_a_large_context(self):
        def count(text):
            raise AssertionError(text)

        assert where(a_router(), (one_in("default", context_length=100),), texts=["a"], count_tokens=count)


class TestNoRoute:
    def test_it_says_of_everybody_why_not_and_what_to_do(self):
        endpoints = (one_in("default", "a", tools=False), one_in("default", "b", trust="eu"), one_in("big"))

        with pytest.raises(NoRoute) as caught:
            goes(a_router(), endpoints, has_tools=True, trust=["local"])

        assert caught.value.reasons == {
            "a": "outside of the trust that is demanded (local): it is without a label",
            "b": "outside of the trust that is demanded (local): it is eu",
        }
        assert str(caught.value) == (
            "no completion endpoint of the pool default may have this request: "
            "a is outside of the trust that is demanded (local): it is without a label; "
            "b is outside of the trust that is demanded (local): it is eu. "
            "Ask for less, or name an endpoint that takes it."
        )

    def test_it_names_the_routes_that_were_passed_over(self):
        endpoints = (one_in("default", tools=False), one_in("big", tools=False))

        with pytest.raises(
            NoRoute, match=r"\. the route long was passed over: big is unable to call tools\."
        ) as caught:
            goes(a_router(Route(pool="big", name="long")), endpoints, has_tools=True)

        assert caught.value.passed == {"long": "big is unable to call tools"}

    def test_where_nobody_serves_the_pool_it_says_so(self):
        with pytest.raises(NoRoute, match="of the pool default may have this request: it has none") as caught:
            goes(a_router(), one_each("big"))

        assert caught.value.reasons == {}

    def test_it_is_raised_of_the_pool_default_only_where_no_route_could_be_followed(self):
        router = a_router(Route(pool="big", has_tools=True))

        assert where(router, one_each("big"), has_tools=True)[0] == "big"


class TestChoice:
    def test_of_a_pool_that_takes_whatever_comes_there_is_one_choice_made_once(self):
        router, endpoints = a_router(), one_each("default")

        first = goes(router, endpoints, texts=["a"])
        second = goes(router, endpoints, has_tools=True)

        assert first.choice is second.choice

    def test_where_somebody_declared_something_each_request_has_its_own(self):
        router, endpoints = a_router(), (one_in("default", "a", tools=False), one_in("default", "b"))

        assert where(router, endpoints)[1] == {"a", "b"}
        assert where(router, endpoints, has_tools=True)[1] == {"b"}
        assert where(router, endpoints)[1] == {"a", "b"}

    def test_where_trust_is_demanded_the_one_for_all_is_not_taken(self):
        router, endpoints = a_router(), (one_in("default", "a", trust="eu"), one_in("default", "b"))
        assert where(router, endpoints)[1] == {"a", "b"}

        assert where(router, endpoints, trust=["eu"])[1] == {"a"}
        assert where(router, endpoints)[1] == {"a", "b"}

    def test_after_a_reload_the_choice_is_of_the_new_endpoints(self):
        router = a_router(Route(pool="big", has_tools=True))
        assert where(router, (one_in("default", "a"), one_in("big", "b")), has_tools=True)[1] == {"b"}

        assert where(router, (one_in("default", "b"), one_in("big", "c")), has_tools=True)[1] == {"c"}
        assert where(router, (one_in("default", "b"), one_in("big", "c")))[1] == {"b"}

    def test_it_carries_what_is_settled_of_its_pool(self):
        pool = NamedPool(name="default", strategy=Strategy.ROUND_ROBIN, deadline_s=7.0)

        choice = goes(a_router(pools=[pool]), one_each("default")).choice

        assert (choice.pool, choice.among.strategy) == (pool, Strategy.ROUND_ROBIN)


class TestIdle:
    def test_where_there_is_only_the_default_pool_there_is_nothing_to_decide(self):
        assert a_router().is_idle((one_in("default", "a", trust="eu"), one_in("default", "b")))

    @pytest.mark.parametrize("mode", Mode)
    def test_routes_are_something_unless_they_are_off(self, mode):
        assert a_router(Route(pool="big"), mode=mode).is_idle(one_each("default")) is (mode is Mode.OFF)

    @pytest.mark.parametrize(
        "endpoints",
        [
            one_each("default", "big"),
            (one_in("default", "a"), an_endpoint("b", pools=("default", "big"))),
            (one_in("default", tools=False),),
            (one_in("default", context_length=10),),
        ],
        ids=["another pool", "one of two pools", "an ability", "a context"],
    )
    def test_so_is_what_endpoints_declare(self, endpoints):
        assert not a_router().is_idle(endpoints)

    @pytest.mark.parametrize(
        "pool",
        [
            NamedPool(name="big"),
            NamedPool(name="default", deadline_s=1.0),
            NamedPool(name="default", strategy=Strategy.P2C),
            NamedPool(name="default", trust=frozenset({"eu"})),
        ],
        ids=str,
    )
    def test_so_is_what_is_settled_of_a_pool(self, pool):
        assert not a_router(pools=[pool]).is_idle(one_each("default"))

    def test_a_reload_may_change_it(self):
        router = a_router()
        assert router.is_idle(one_each("default"))

        assert not router.is_idle(one_each("default", "big"))
        assert router.is_idle(one_each("default"))


# Whatever the rules, the endpoints and the request: what follows decides anew, by brute force, and compares.

LABELS = ["local", "eu", "vendor"]
POOLS = [DEFAULT_POOL, "big", "small", "huge"]


@dataclass(frozen=True)
class Condition:
    """One of a route, and what it says of a request by itself: None where nobody can tell."""

    name: str
    value: object = field(repr=False)
    says: bool | None


@dataclass(frozen=True)
class Case:
    """Everything that a decision depends on."""

    endpoints: tuple
    pools: dict
    routes: list
    conditions: list  #: of each route
    mode: Mode
    said: dict
    trust: frozenset | None
    is_for_routing: bool
    scores: Scores
    with_shadows: bool

    @property
    def facts(self):
        wanted = Wanted(tags=frozenset({"eu"}), trust=self.trust, is_for_routing=self.is_for_routing)
        return Facts(function="completion", wanted=wanted, **self.said)

    @property
    def router(self):
        return self.router_of(self.routes)

    def router_of(self, routes):
        return a_router(*routes, pools=self.pools.values(), mode=self.mode)

    def decided(self, router, endpoints=None):
        """The decision, asked for as a call asks for it; the reasons where there is none."""
        endpoints = self.endpoints if endpoints is None else endpoints
        may_embed, facts = Oracle(self, endpoints).labels_that_may_embed(), self.facts
        try:
            asked = router.decide(facts, endpoints, with_shadows=self.with_shadows)
            if isinstance(asked, Unscored):
                assert asked.text == self.said["user"]
                assert labels_that_meet(asked.trust) == may_embed
                asked = router.decide(facts, endpoints, scores=self.scores, with_shadows=self.with_shadows)
            else:
                assert may_embed is None
        except NoRoute as error:
            return error
        assert isinstance(asked, Decision)
        return asked


class Oracle:
    """Decides a case the long way: what is allowed is a list of demands, each of which an endpoint must meet."""

    def __init__(self, case, endpoints=None):
        self.case, self.endpoints = case, case.endpoints if endpoints is None else endpoints
        self.demands = []
        self.searched = {}  #: what each pattern found, by the name of its route
        self.tokens = sum(-(-len(text.encode()) // 4) for text in case.said["texts"])
        self.tokens += 4 * case.said["messages"] + 765 * case.said["images"]

    def is_trusted(self, endpoint, pool):
        demands = [*self.demands, *self.demands_of_pool(pool)]
        return all(endpoint.trust is not None and endpoint.trust in demand for demand in demands)

    def is_too_long_for(self, endpoint):
        length = endpoint.abilities.context_length
        return length is not None and self.tokens + self.case.said["max_output_tokens"] > length

    def can(self, endpoint):
        said, abilities = self.case.said, endpoint.abilities
        attached = {name for name, key in (("image", "images"), ("audio", "audio"), ("file", "files")) if said[key]}
        return not (
            self.is_too_long_for(endpoint)
            or (abilities.modalities is not None and attached - abilities.modalities)
            or (abilities.tools is False and said["has_tools"])
            or (abilities.structured_output is False and said["wants_structured_output"])
        )

    def serving(self, pool):
        return [endpoint for endpoint in self.endpoints if pool in endpoint.pools]

    def may_have_it(self, pool):
        return {one.name for one in self.serving(pool) if self.is_trusted(one, pool) and self.can(one)}

    def is_looked_at(self, route):
        modes = {route.mode, self.case.mode}
        return Mode.OFF not in modes and (self.case.with_shadows or Mode.SHADOW not in modes)

    def looked_at(self):
        """Routes and their conditions, in the operator's order."""
        both = zip(self.case.routes, self.case.conditions, strict=True)
        return [(route, conditions) for route, conditions in both if self.is_looked_at(route)]

    def in_order(self):
        """The same; a run of semantic ones by their scores."""
        looked_at = self.looked_at()
        while looked_at:
            run = 1
            while looked_at[0][0].is_semantic and run < len(looked_at) and looked_at[run][0].is_semantic:
                run += 1
            nearest = sorted(looked_at[:run], key=lambda one: -self.score(one[0]))
            yield from nearest
            looked_at = looked_at[run:]

    def score(self, route):
        return self.case.scores.by_route.get(route.name, -1.0)

    def are_met(self, route, conditions):
        """Whether all are; None where nobody can tell. Patterns and predicates, that may fail, come last."""
        for condition in sorted(
            conditions,
            key=lambda one: ("pattern", "predicate").index(one.name) if one.name in ("pattern", "predicate") else -1,
        ):
            says = self.finds(route, condition) if condition.name == "pattern" else condition.says
            if says is not True:
                return says
        return True

    def finds(self, route, condition):
        """A pattern is looked for once; and after two slow ones no other is."""
        if route.name not in self.searched:
            if list(self.searched.values()).count(None) == MOST_SLOW:
                return None
            self.searched[route.name] = condition.says
        return self.searched[route.name]

    def may_mean(self, route):
        """Whether meaning is asked for on its behalf: of a request that names a pool only where trust hangs on it."""
        is_of_use = self.named() is None or self.demands_of(route)
        return is_of_use and not self.case.is_for_routing and self.case.said["user"].strip() != ""

    def says(self, route, conditions):
        """Whether a route holds; None where nobody can tell."""
        met = self.are_met(route, conditions)
        if met is not True or not route.is_semantic:
            return met
        if not self.may_mean(route):
            return False
        return None if self.case.scores.problem else self.score(route) >= route.threshold

    def demands_of_call(self):
        return [] if self.case.trust is None else [self.case.trust]

    def demands_of_pool(self, name):
        settled = self.case.pools.get(name)
        return [] if settled is None or settled.trust is None else [settled.trust]

    def demands_of(self, route):
        return self.demands_of_pool(route.pool) + ([frozenset(route.trust)] if route.trust else [])

    def named(self):
        """The pool that the request names."""
        served = {*self.case.pools, *(name for endpoint in self.endpoints for name in endpoint.pools)}
        model = self.case.said["model"]
        return model if model in served and model != DEFAULT_POOL else None

    def followed(self, route):
        """The pool that a route that holds leads to, and who may have it, and the same of the larger pool; or None."""
        here, larger = self.may_have_it(route.pool), set()
        if route.on_context_length is not None:
            larger = self.may_have_it(route.on_context_length)
        if here:
            return route.pool, here, (route.on_context_length, larger) if larger else None
        trusted = [one for one in self.serving(route.pool) if self.is_trusted(one, route.pool)]
        if larger and any(map(self.is_too_long_for, trusted)):
            return route.on_context_length, larger, None
        return None

    def decide(self):
        """The route, the pool, who may have it, and the same of the larger pool; None for these where nobody may."""
        named, is_asked = self.named(), self.labels_that_may_embed() is not None
        self.demands = self.demands_of_call()
        for route, conditions in self.in_order() if is_asked else self.looked_at():
            says = self.says(route, conditions)
            if says is False:
                continue
            self.demands += self.demands_of(route)
            if says is None:
                continue
            if named is not None:
                break
            if (followed := self.followed(route)) is not None:
                return route.name, *followed
        pool = named or DEFAULT_POOL
        return None, pool, self.may_have_it(pool), None

    def labels_that_may_embed(self):
        """Of those whose endpoints may have the text before it is known what it means; None where that is not asked."""
        self.demands = self.demands_of_call()
        for route, conditions in self.looked_at():
            met = self.are_met(route, conditions)
            if met is False or (met is True and route.is_semantic and not self.may_mean(route)):
                continue
            if met is True and route.is_semantic:
                own = self.demands + self.demands_of_pool(self.named() or DEFAULT_POOL)
                semantic = [one for one, _ in self.looked_at() if one.is_semantic]
                of_routes = [demand for one in semantic for demand in self.demands_of(one)]
                # A route that excludes all whom the request may be given to has no say: nothing of it goes there.
                return labels_that_meet(*own, *of_routes) or (labels_that_meet(*own) if own else set())
            self.demands += self.demands_of(route)
            if met is True and (self.named() is not None or self.followed(route) is not None):
                return None
        return None


def labels_that_meet(*demands):
    """None stands for an endpoint without a label, which only no demand lets in."""
    demands = [demand for demand in demands if demand is not None]
    return {label for label in (None, *LABELS) if all(label is not None and label in demand for demand in demands)}


def some_subset(values, **size):
    return st.sets(st.sampled_from(values), **size)


@st.composite
def some_endpoint(draw, name):
    return an_endpoint(
        name,
        pools=tuple(sorted(draw(some_subset(POOLS, min_size=1, max_size=3)))),
        trust=draw(st.sampled_from([None, *LABELS])),
        abilities=draw(
            st.just(Abilities())
            | st.builds(
                Abilities,
                context_length=st.sampled_from([None, 4, 8, 12, 800]),
                modalities=st.none() | some_subset(["image", "audio", "file"]).map(frozenset),
                tools=st.sampled_from([None, True, False]),
                structured_output=st.sampled_from([None, True, False]),
            )
        ),
    )


def some_conditions(said):
    """Conditions of each kind with what they say of a request that says so."""
    tokens = sum(-(-len(text.encode()) // 4) for text in said["texts"]) + 4 * said["messages"] + 765 * said["images"]
    flags = {"has_tools": "has_tools", "is_streamed": "is_streamed", "has_images": "images", "has_audio": "audio"}
    return st.one_of(
        st.builds(
            lambda name, wanted: Condition(name, wanted, says=bool(said[flags[name]]) is wanted),
            st.sampled_from(sorted(flags)),
            st.booleans(),
        ),
        st.sampled_from([0, 6, 12, 30, 770]).map(lambda n: Condition("min_tokens", n, says=tokens >= n)),
        st.sampled_from([0, 6, 12, 30, 770]).map(lambda n: Condition("max_tokens", n, says=tokens <= n)),
        st.sampled_from(["gpt-*", "big"]).map(
            lambda glob: Condition("model", (glob,), says=(said["model"] or "").startswith(glob.rstrip("*")))
        ),
        st.just(Condition("keywords", ("sue",), says="sue" in said["user"].split())),
        st.sampled_from([("eu", True), ("cheap", False)]).map(lambda one: Condition("tags", (one[0],), says=one[1])),
        st.just(Condition("pattern", "^can", says=said["user"].startswith("can"))),
        st.just(Condition("pattern", SLOW, says=None)),
        st.sampled_from([True, False]).map(lambda says: Condition("predicate", lambda facts: says, says=says)),
        st.just(Condition("predicate", fails, says=None)),
    )


@st.composite
def some_route(draw, number, said):
    pool = draw(st.sampled_from(POOLS))
    conditions = draw(st.just([]) | st.lists(some_conditions(said), max_size=2, unique_by=lambda one: one.name))
    given = {one.name: one.value for one in conditions}
    if given.get("min_tokens", 0) > given.get("max_tokens", 1000):
        conditions, given = [], {}
    route = Route(
        pool=pool,
        name=f"r{number}",
        examples=draw(st.sampled_from([(), ("Sue them.",), ("It hurts.",)])),
        threshold=draw(st.sampled_from([0.3, 0.6])),
        trust=tuple(draw(st.sampled_from([[], [], ["eu"], ["local", "eu"], ["vendor", "local"]]))),
        on_context_length=draw(st.none() | st.sampled_from([name for name in POOLS if name != pool])),
        mode=draw(st.sampled_from([Mode.ON] * 6 + [Mode.SHADOW, Mode.OFF])),
        **given,
    )
    return route, conditions


@st.composite
def some_case(draw):
    words = st.sampled_from([" ", "can i sue you", "can it hurt", "hello there, it hurts", "aaa " * 20])
    user = draw(words)
    said = {
        "user": user,
        "texts": [user, draw(words)],
        "messages": draw(st.integers(0, 2)),
        "model": draw(st.sampled_from([None, "gpt-4", "default", "big", "huge"])),
        "images": draw(st.sampled_from([0, 0, 1])),
        "audio": draw(st.sampled_from([0, 0, 1])),
        "files": draw(st.sampled_from([0, 0, 1])),
        "has_tools": draw(st.booleans()),
        "is_streamed": draw(st.booleans()),
        "wants_structured_output": draw(st.booleans()),
        "max_output_tokens": draw(st.sampled_from([0, 0, 4])),
    }
    made = [draw(some_route(number, said)) for number in range(draw(st.sampled_from([0, 1, 2, 3, 3, 4, 5])))]
    some_trust = st.none() | some_subset(LABELS, min_size=1).map(frozenset)
    scores = {route.name: draw(st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.9])) for route, _ in made if route.is_semantic}
    return Case(
        endpoints=tuple(draw(some_endpoint(name)) for name in "abcde"[: draw(st.integers(1, 5))]),
        pools={
            name: NamedPool(
                name=name, trust=draw(st.none() | some_trust), strategy=draw(st.none() | st.sampled_from(Strategy))
            )
            for name in draw(some_subset(POOLS))
        },
        routes=[route for route, _ in made],
        conditions=[conditions for _, conditions in made],
        mode=draw(st.sampled_from([Mode.ON] * 8 + [Mode.SHADOW, Mode.OFF])),
        said=said,
        trust=draw(st.none() | some_trust | st.just(frozenset())),
        is_for_routing=draw(st.sampled_from([False] * 7 + [True])),
        scores=draw(st.sampled_from([Scores(by_route=scores)] * 5 + [Scores(problem="no vector in time")])),
        with_shadows=draw(st.sampled_from([False, False, True])),
    )


def outline(decided):
    """What can be compared of a decision or of there being none."""
    if isinstance(decided, NoRoute):
        return str(decided), decided.reasons, decided.passed, decided.undecided
    return decided


@settings(max_examples=400)
@given(case=some_case())
def test_whatever_the_rules_a_request_has_one_pool_whose_endpoints_meet_every_demand_or_there_is_no_route(case):
    oracle = Oracle(case)

    decided = case.decided(case.router)

    route, pool, names, larger = oracle.decide()
    if isinstance(decided, NoRoute):
        assert names == set()
        assert set(decided.reasons) == {one.name for one in oracle.serving(pool)}
        return
    assert names
    chosen = [decided.choice] if decided.larger is None else [decided.choice, decided.larger]
    assert (decided.route, decided.choice.pool.name, decided.choice.among.names) == (route, pool, names)
    assert (decided.larger and (decided.larger.pool.name, decided.larger.among.names)) == larger
    for choice in chosen:
        assert choice.pool == case.pools.get(choice.pool.name, NamedPool(name=choice.pool.name))
        assert choice.among.strategy == choice.pool.strategy
        for endpoint in case.endpoints:
            if endpoint.name in choice.among.names:
                assert choice.pool.name in endpoint.pools
                assert oracle.is_trusted(endpoint, choice.pool.name)
                assert oracle.can(endpoint)
            else:
                assert (endpoint.name in choice.among.left_out) is (choice.pool.name in endpoint.pools)


@settings(max_examples=100)
@given(case=some_case())
def test_the_same_request_is_decided_in_the_same_way_by_the_same_router_and_by_another(case):
    router = case.router
    first = outline(case.decided(router))

    served = sorted({name for endpoint in case.endpoints for name in endpoint.pools})
    others = (an_endpoint("other", pools=tuple(served)),)
    assert outline(case.decided(router, others)) == outline(case.decided(case.router, others))

    assert outline(case.decided(router)) == first
    assert outline(case.decided(case.router)) == first


@settings(max_examples=100)
@given(case=some_case())
def test_routes_that_are_off_or_only_report_change_nothing_of_what_is_done(case):
    case = replace(case, with_shadows=False)
    others = [route for route in case.routes if route.mode is Mode.ON]

    assert outline(case.decided(case.router)) == outline(case.decided(case.router_of(others)))


@settings(max_examples=100)
@given(case=some_case(), label=st.sampled_from(LABELS))
def test_who_demands_more_is_never_given_an_endpoint_that_does_not_have_it(case, label):
    decided = replace(case, trust=frozenset({label})).decided(case.router)

    if isinstance(decided, Decision):
        names = decided.choice.among.names | (decided.larger.among.names if decided.larger else frozenset())
        assert {endpoint.trust for endpoint in case.endpoints if endpoint.name in names} == {label}


class TestWhoMayJudgeAText:
    ENDPOINTS = (one_in("default", "abroad"), one_in("private", "home", trust="local"), one_in("law", "court"))
    LAW = Route(pool="law", name="law", examples=("lease",))

    def test_a_request_that_names_a_pool_is_not_embedded_where_no_trust_depends_on_it(self):
        router = a_router(self.LAW, pools=[NamedPool(name="private", trust=frozenset({"local"}))])

        assert where(router, self.ENDPOINTS, model="private", user="secret")[0] == "private"

    def test_what_the_named_pool_demands_the_embedding_demands_too(self):
        router = a_router(
            replace(self.LAW, trust=("local", "eu")), pools=[NamedPool(name="private", trust=frozenset({"local"}))]
        )

        asked = router.decide(facts_of(model="private", user="secret"), self.ENDPOINTS)

        assert asked == Unscored(text="secret", trust=frozenset({"local"}))

    def test_a_caller_whose_demand_a_route_excludes_says_alone_who_may_have_the_text(self):
        router = a_router(replace(self.LAW, trust=("local",)))

        assert router.decide(facts_of(user="secret", trust=["eu"]), self.ENDPOINTS).trust == {"eu"}


def test_the_name_of_a_pool_that_lost_its_endpoints_is_no_model_of_others():
    router = a_router()
    router.decide(facts_of(model="private"), (one_in("default", "abroad"), one_in("private", "home")))

    with pytest.raises(NoRoute, match="pool private"):
        router.decide(facts_of(model="private"), (one_in("default", "abroad"),))


class TestWhatCannotBeRead:
    ENDPOINTS = (one_in("default", "abroad"), one_in("home", trust="local"))

    @pytest.mark.parametrize("condition", [{"any_keywords": ("patient",)}, {"pattern": "x"}, {"language": ("de",)}])
    def test_a_route_that_looks_for_a_text_cannot_be_decided_and_its_boundary_holds(self, condition):
        router = a_router(Route(pool="home", name="private", trust=("local",), **condition))

        with pytest.raises(NoRoute) as caught:
            router.decide(facts_of(is_unread=True, given_tokens=5), self.ENDPOINTS)

        assert "not all of the request can be read as text" in caught.value.undecided["private"]

    def test_what_is_found_in_the_rest_of_it_decides(self):
        router = a_router(Route(pool="home", any_keywords=("patient",)))

        assert where(router, self.ENDPOINTS, is_unread=True, texts=["a patient"])[0] == "home"

    def test_other_conditions_are_decided(self):
        router = a_router(Route(pool="home", has_tools=True))

        assert where(router, self.ENDPOINTS, is_unread=True)[0] == "default"


def test_after_two_slow_searches_a_request_pays_for_no_further_one():
    searched = []

    def compile_pattern(pattern):
        def search(text):
            searched.append(pattern)
            raise TimeoutError

        return search

    router = Router([Route(pool="default", pattern=f"{n}") for n in range(20)], compile_pattern=compile_pattern)

    decided = router.decide(facts_of(user="x"), (one_in("default"),))

    assert len(searched) == 2
    assert len(decided.troubles) == 20


def test_a_search_is_made_once_however_often_its_request_is_decided():
    searched = []

    def compile_pattern(pattern):
        def search(text):
            searched.append(pattern)
            if pattern == SLOW:
                raise TimeoutError
            return pattern in text

        return search

    routes = [
        Route(pool="big", pattern=SLOW),
        Route(pool="big", examples=("Sue them.",)),
        Route(pool="small", pattern="secret"),
    ]
    router = Router(routes, compile_pattern=compile_pattern)
    facts, endpoints = facts_of(user="a secret"), one_each("default", "big", "small")
    assert isinstance(router.decide(facts, endpoints), Unscored)

    decisions = [router.decide(facts, endpoints, scores=Scores()) for _ in range(3)]

    assert {decision.choice.pool.name for decision in decisions} == {"small"}
    assert searched == [SLOW, "secret"]
