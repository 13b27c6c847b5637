"""Why a request goes where it goes, told route by route; and that it is told as it is decided."""

import json

import pytest
from hypothesis import given, settings

from llmwire.services.errors import NoRoute
from llmwire.services.routing.explanation import RuleExplanation, explained
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import Scores

from .test_router import SLOW, a_router, facts_of, fails, one_each, one_in, some_case

ENDPOINTS = one_each("default", "big", "small")
LAW = Route(pool="big", name="law", examples=("Sue them.",), threshold=0.4)


def explain(*routes, endpoints=ENDPOINTS, scores=None, health=None, **said):
    """What becomes of a request that says so."""
    options = {key: said.pop(key) for key in ("mode", "predicates") if key in said}
    return explained(
        a_router(*routes, **options), facts_of(**said), endpoints, scores=scores or Scores(), health=health or {}
    )


def never(facts):
    return False


def verdicts(explanation):
    """What each route said, and why."""
    return [(rule.verdict, rule.reason) for rule in explanation.rules]


class TestDecision:
    def test_the_pool_and_the_route_that_decided_are_told(self):
        explanation = explain(Route(pool="small", is_streamed=True), Route(pool="big"), texts=["a" * 40])

        assert (explanation.function, explanation.tokens) == ("completion", 10)
        assert (explanation.pool, explanation.route, explanation.is_named) == ("big", "route 2", False)
        assert (explanation.larger, explanation.problem) == (None, None)
        assert explanation.decided_by == "by route 2"
        assert explanation.headline == "pool big (by route 2), about 10 tokens"

    def test_where_no_route_holds_none_is_told(self):
        explanation = explain(Route(pool="big", has_tools=True))

        assert (explanation.pool, explanation.route) == ("default", None)
        assert explanation.headline == "pool default (no route holds), about 0 tokens"

    def test_a_pool_that_the_request_names_is_no_routes_doing(self):
        explanation = explain(Route(pool="small"), model="big")

        assert (explanation.pool, explanation.route, explanation.is_named) == ("big", None, True)
        assert explanation.headline == "pool big (the request names it), about 0 tokens"
        assert verdicts(explanation) == [("holds", "")]

    def test_those_that_may_have_it_are_told_in_the_operators_order_with_their_health(self):
        endpoints = (one_in("big", "z"), one_in("default"), one_in("big", "a"), one_in("big", "m", tools=False))
        health = {"a": "ok", "z": "open", "default": "ok", "m": "ok"}

        explanation = explain(Route(pool="big"), endpoints=endpoints, health=health, has_tools=True)

        assert list(explanation.candidates.items()) == [("z", "open"), ("a", "ok")]
        assert explanation.left_out == {"m": "unable to call tools"}

    def test_one_whose_health_nobody_knows_is_told_too(self):
        assert explain().candidates == {"default": ""}

    def test_the_pool_is_told_that_is_asked_where_it_turns_out_to_be_too_long(self):
        assert explain(Route(pool="small", on_context_length="big")).larger == "big"

    def test_where_it_is_too_long_at_once_that_pool_is_the_one(self):
        endpoints = (one_in("small", context_length=10), one_in("big"))

        explanation = explain(Route(pool="small", on_context_length="big"), endpoints=endpoints, texts=["a" * 44])

        assert (explanation.pool, explanation.route, explanation.larger) == ("big", "route 1", None)
        assert verdicts(explanation) == [("chosen", "")]


class TestNobody:
    ENDPOINTS = (one_in("default", "a", tools=False), one_in("default", "b", trust="eu"), one_in("big", tools=False))

    def test_it_is_told_why_each_endpoint_may_not_have_it_and_what_to_do(self):
        explanation = explain(endpoints=self.ENDPOINTS, has_tools=True, trust=["local"])

        assert (explanation.pool, explanation.route, explanation.is_named) == (None, None, False)
        assert explanation.candidates == {}
        assert explanation.left_out == {
            "a": "outside of the trust that is demanded (local): it is without a label",
            "b": "outside of the trust that is demanded (local): it is eu",
        }
        assert explanation.problem.startswith("no completion endpoint of the pool default may have this request: ")
        assert explanation.problem.endswith("Ask for less, or name an endpoint that takes it.")
        assert explanation.headline == "nobody, about 0 tokens"

    def test_routes_that_were_passed_over_are_told_all_the_same(self):
        routes = (Route(pool="big"), Route(pool="small", predicate=fails, trust=("local",)), Route(pool="small"))

        explanation = explain(*routes, endpoints=self.ENDPOINTS, has_tools=True)

        assert explanation.pool is None
        assert verdicts(explanation) == [
            ("passed over", "big is unable to call tools"),
            ("undecided", "its predicate raised KeyError"),
            ("passed over", "it has none"),
        ]

    def test_where_the_pool_that_the_request_names_has_nobody_it_is_not_told_as_the_pool(self):
        explanation = explain(endpoints=self.ENDPOINTS, model="big", has_tools=True)

        assert (explanation.pool, explanation.is_named) == (None, False)
        assert explanation.left_out == {"big": "unable to call tools"}


class TestRules:
    def test_each_is_told_in_the_operators_order_with_its_pool_by_its_name_or_its_place(self):
        explanation = explain(
            Route(pool="big", has_tools=True), Route(pool="small", name="rest"), Route(pool="default", mode=Mode.SHADOW)
        )

        assert explanation.rules == (
            RuleExplanation(route="route 1", pool="big", verdict="missed", reason="has_tools = True"),
            RuleExplanation(route="rest", pool="small", verdict="chosen"),
            RuleExplanation(route="route 3", pool="default", verdict="holds", is_shadow=True),
        )

    def test_one_after_the_chosen_one_is_told_by_itself(self):
        routes = (Route(pool="big"), Route(pool="nowhere"), Route(pool="small", has_tools=True))

        assert verdicts(explain(*routes)) == [("chosen", ""), ("holds", ""), ("missed", "has_tools = True")]

    def test_one_whose_pool_cannot_have_it_is_passed_over_and_not_missed(self):
        endpoints = (one_in("big", tools=False), one_in("default"))

        explanation = explain(Route(pool="big"), endpoints=endpoints, has_tools=True)

        assert explanation.pool == "default"
        assert verdicts(explanation) == [("passed over", "big is unable to call tools")]

    def test_one_that_is_off_is_none(self):
        assert explain(Route(pool="big", mode=Mode.OFF)).rules == ()
        assert explain(Route(pool="big"), mode=Mode.OFF).rules == ()

    def test_all_of_a_function_in_shadow_mode_are_only_reported(self):
        explanation = explain(Route(pool="big"), mode=Mode.SHADOW)

        assert explanation.pool == "default"
        assert explanation.rules == (RuleExplanation(route="route 1", pool="big", verdict="holds", is_shadow=True),)

    @pytest.mark.parametrize(
        ("conditions", "reason"),
        [
            ({"has_tools": True}, "has_tools = True"),
            ({"min_tokens": 100, "predicate": fails}, "min_tokens = 100"),
            ({"model": ("gpt-*", "o1")}, "model = gpt-*, o1"),
            ({"pattern": r"\d{4}"}, r"pattern = \d{4}"),
            ({"tags": ("eu",)}, "tags = eu"),
            ({"predicate": never}, "predicate = never"),
            ({"predicate": "by its name"}, "predicate = by its name"),
        ],
        ids=["flag", "first of two", "models", "pattern", "tags", "predicate", "named predicate"],
    )
    def test_of_one_that_is_missed_the_first_condition_is_told_that_does_not_hold(self, conditions, reason):
        [(verdict, told)] = verdicts(
            explain(Route(pool="big", **conditions), predicates={"by its name": never}, user="hello")
        )

        assert (verdict, told) == ("missed", reason)

    @pytest.mark.parametrize(
        ("conditions", "problem"),
        [({"predicate": fails}, "its predicate raised KeyError"), ({"pattern": SLOW}, "its pattern took too long")],
        ids=["predicate", "pattern"],
    )
    def test_of_one_that_cannot_be_decided_the_problem_is_told(self, conditions, problem):
        assert verdicts(explain(Route(pool="big", **conditions), user="aaa")) == [("undecided", problem)]

    def test_one_that_was_chosen_or_passed_over_is_told_so_though_its_predicate_changes_its_mind(self):
        answers = iter([True, True, False, False])
        routes = [Route(pool=pool, predicate=lambda facts: next(answers)) for pool in ("nowhere", "big")]

        explanation = explain(*routes)

        assert explanation.pool == "big"
        assert verdicts(explanation) == [("passed over", "it has none"), ("chosen", "")]


class TestMeaning:
    MEDICINE = Route(pool="small", name="medicine", examples=("It hurts.",), threshold=0.6)

    def test_the_likeness_of_each_is_told_and_one_below_its_threshold_is_missed(self):
        scores = Scores(by_route={"law": 0.5, "medicine": 0.55})

        explanation = explain(LAW, self.MEDICINE, scores=scores, user="?")

        assert verdicts(explanation) == [("chosen", ""), ("missed", "threshold = 0.6")]
        assert [rule.score for rule in explanation.rules] == [0.5, 0.55]

    def test_one_at_its_threshold_holds(self):
        explanation = explain(Route(pool="small"), LAW, scores=Scores(by_route={"law": 0.4}), user="?")

        assert verdicts(explanation) == [("chosen", ""), ("holds", "")]

    def test_of_two_that_hold_the_nearest_is_chosen_and_their_order_stays(self):
        scores = Scores(by_route={"law": 0.7, "medicine": 0.8})

        explanation = explain(LAW, self.MEDICINE, scores=scores, user="?")

        assert [rule.route for rule in explanation.rules] == ["law", "medicine"]
        assert verdicts(explanation) == [("holds", ""), ("chosen", "")]

    def test_without_scores_it_is_undecided_and_the_problem_is_told(self):
        explanation = explain(LAW, scores=Scores(problem="no vector in 150 ms"), user="?")

        assert explanation.rules == (
            RuleExplanation(route="law", pool="big", verdict="undecided", reason="no vector in 150 ms"),
        )

    def test_where_another_condition_of_it_does_not_hold_that_is_told(self):
        route = Route(pool="big", name="law", examples=("Sue them.",), has_tools=True)

        assert verdicts(explain(route, scores=Scores(problem="too slow"), user="?")) == [("missed", "has_tools = True")]

    @pytest.mark.parametrize("scores", [Scores(), Scores(problem="too slow")], ids=["none", "a problem"])
    @pytest.mark.parametrize("threshold", [0.4, -1.0])
    def test_a_request_without_a_text_misses_it_whatever_the_threshold(self, scores, threshold):
        route = Route(pool="big", examples=("Sue them.",), threshold=threshold)

        explanation = explain(route, scores=scores, user=" ")

        assert explanation.pool == "default"
        assert verdicts(explanation) == [("missed", "there is no text whose meaning could decide")]

    def test_one_that_has_no_examples_has_no_score(self):
        [law, rest] = explain(LAW, Route(pool="big"), scores=Scores(by_route={"law": 0.9}), user="?").rules

        assert (law.score, rest.score) == (0.9, None)


class TestText:
    def test_every_line_says_what_became_of_one_thing(self):
        endpoints = (
            one_in("big", "near", trust="eu"),
            one_in("big", "far"),
            one_in("default", trust="eu", tools=False),
            one_in("huge", trust="eu"),
        )
        explanation = explain(
            Route(pool="default", name="streamed", is_streamed=True),
            Route(pool="default", name="odd", predicate=fails, trust=("eu",)),
            Route(pool="default", name="small"),
            Route(pool="huge", name="new", mode=Mode.SHADOW),
            LAW,
            Route(pool="big", name="rest", on_context_length="huge"),
            endpoints=endpoints,
            scores=Scores(by_route={"law": 0.1234}),
            health={"near": "ok"},
            user="?",
            texts=["a" * 44],
            has_tools=True,
        )

        assert str(explanation).splitlines() == [
            "completion: pool big (by rest), about 11 tokens",
            "  route streamed -> default: missed: is_streamed = True",
            "  route odd      -> default: undecided: its predicate raised KeyError",
            "  route small    -> default: passed over: default is unable to call tools",
            "  route new      -> huge: holds, in shadow mode",
            "  route law      -> big: missed: threshold = 0.4 (score 0.123)",
            "  route rest     -> big: chosen",
            "  candidate near: ok",
            "  not far: it is outside of the trust that is demanded (eu): it is without a label",
            "  too long for it: pool huge",
        ]

    def test_without_routes_there_is_the_pool_and_who_may_have_it(self):
        assert str(explain(health={"default": "ok"})).splitlines() == [
            "completion: pool default (no route holds), about 0 tokens",
            "  candidate default: ok",
        ]

    def test_where_nobody_may_have_it_the_error_is_the_last_line(self):
        explanation = explain(endpoints=(one_in("default", tools=False),), has_tools=True)

        assert str(explanation).splitlines() == [
            "completion: nobody, about 0 tokens",
            "  not default: it is unable to call tools",
            f"  error: {explanation.problem}",
        ]


class TestDict:
    def test_it_is_fit_for_json_and_nothing_is_lost(self):
        endpoints = (*ENDPOINTS, one_in("big", "b", tools=False))

        explanation = explain(
            Route(pool="small", model=("o1",)),
            Route(pool="big", on_context_length="small"),
            endpoints=endpoints,
            health={"big": "ok"},
            has_tools=True,
        )

        assert json.loads(json.dumps(explanation.as_dict())) == {
            "function": "completion",
            "pool": "big",
            "route": "route 2",
            "is_named": False,
            "tokens": 0,
            "rules": [
                {
                    "route": "route 1",
                    "pool": "small",
                    "verdict": "missed",
                    "reason": "model = o1",
                    "score": None,
                    "is_shadow": False,
                },
                {
                    "route": "route 2",
                    "pool": "big",
                    "verdict": "chosen",
                    "reason": "",
                    "score": None,
                    "is_shadow": False,
                },
            ],
            "candidates": {"big": "ok"},
            "left_out": {"b": "unable to call tools"},
            "larger": "small",
            "problem": None,
        }


def decided_at_once(case):
    """As `explained` has it decided: the meaning of the text is known before."""
    try:
        return case.router.decide(case.facts, case.endpoints, scores=case.scores)
    except NoRoute as error:
        return error


@settings(max_examples=150)
@given(case=some_case())
def test_whatever_the_rules_it_tells_what_is_decided(case):
    decided = decided_at_once(case)

    explanation = explained(case.router, case.facts, case.endpoints, scores=case.scores, health={})

    told = {rule.route: rule for rule in explanation.rules}
    chosen = [rule.route for rule in explanation.rules if rule.verdict == "chosen"]
    passed = {rule.route: rule.reason for rule in explanation.rules if rule.verdict == "passed over"}
    undecided = {rule.route: rule.reason for rule in explanation.rules if rule.verdict == "undecided"}
    assert [rule.route for rule in explanation.rules] == [rule.name for rule in case.router.rules]
    assert passed == decided.passed
    assert not any(told[route].is_shadow for route in (*chosen, *passed))
    if isinstance(decided, NoRoute):
        assert (explanation.pool, explanation.problem, chosen) == (None, str(decided), [])
        assert (explanation.candidates, explanation.left_out) == ({}, decided.reasons)
        assert undecided.items() >= decided.undecided.items()
        return
    assert (explanation.pool, explanation.problem) == (decided.choice.pool.name, None)
    assert explanation.route == decided.route
    assert chosen == [route for route in (decided.route,) if route is not None]
    assert explanation.is_named is decided.is_named
    assert set(explanation.candidates) == decided.choice.among.names
    assert explanation.left_out == decided.choice.among.left_out
    assert explanation.larger == (decided.larger and decided.larger.pool.name)
    assert undecided.items() >= {(trouble.route, trouble.problem) for trouble in decided.troubles}
    if decided.route is None and not decided.is_named:
        followed = {rule.verdict for rule in explanation.rules if not rule.is_shadow}
        assert followed <= {"missed", "undecided", "passed over"}
