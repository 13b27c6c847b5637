"""The conditions of a route, each of them both ways, and what a route refuses to be."""

import re

import pytest

from llmwire.services.routing.facts import Facts
from llmwire.services.routing.route import CONDITIONS, OF_COMPLETIONS, OF_EMBEDDINGS, Mode, Route, checks_of
from llmwire.services.wanted import Wanted


def searching(pattern):
    """As the real one searches, but without a limit."""
    search = re.compile(pattern).search
    return lambda text: search(text) is not None


def facts_of(**said):
    return Facts(**{"function": "completion", **said})


def checks(predicate=None, compile_pattern=searching, **conditions):
    route = Route(pool="big", **conditions)
    return checks_of(route, compile_pattern=compile_pattern, predicate=predicate or route.predicate)


def holds(facts, **conditions):
    """Whether a request meets the only condition of a route."""
    [(name, check)] = checks(**conditions)
    assert [name] == list(conditions)
    return check(facts)


TOKENS = {"texts": ["a"] * 10}  # one each
LONG = {"texts": ["a", "a" * 40], "inputs": 2}
GERMAN = {"user": "Guten Morgen", "detect_language": lambda text: "de"}


class TestEveryCondition:
    #: a condition, and what a request says that meets it, and what one says that does not
    CASES = (
        ({"min_tokens": 10}, TOKENS, {"texts": ["a"] * 9}),
        ({"max_tokens": 10}, TOKENS, {"texts": ["a"] * 11}),
        ({"min_input_tokens": 10}, LONG, {"texts": ["a" * 36] * 9, "inputs": 9}),
        ({"max_input_tokens": 10}, LONG, {"texts": ["a", "a" * 41], "inputs": 2}),
        ({"min_inputs": 2}, {"inputs": 2}, {"inputs": 1}),
        ({"max_inputs": 2}, {"inputs": 2}, {"inputs": 3}),
        ({"has_images": True}, {"images": 2}, {"audio": 1}),
        ({"has_images": False}, {}, {"images": 1}),
        ({"has_audio": True}, {"audio": 2}, {"files": 1}),
        ({"has_audio": False}, {}, {"audio": 1}),
        ({"has_files": True}, {"files": 2}, {"images": 1}),
        ({"has_files": False}, {}, {"files": 1}),
        ({"has_tools": True}, {"has_tools": True}, {}),
        ({"has_tools": False}, {}, {"has_tools": True}),
        ({"wants_structured_output": True}, {"wants_structured_output": True}, {}),
        ({"wants_structured_output": False}, {}, {"wants_structured_output": True}),
        ({"is_streamed": True}, {"is_streamed": True}, {}),
        ({"is_streamed": False}, {}, {"is_streamed": True}),
        ({"model": ("gpt-4o",)}, {"model": "gpt-4o"}, {"model": "gpt-4o-mini"}),
        ({"model": ("gpt-*",)}, {"model": "gpt-4o"}, {"model": "o1"}),
        ({"model": ("*",)}, {"model": ""}, {"model": None}),
        ({"script": ("Cyrillic",)}, {"user": "доброе утро"}, {"user": "good morning"}),
        ({"language": ("de", "fr")}, GERMAN, {"user": "Guten Morgen"}),
        ({"keywords": ("urgent",)}, {"user": "It is URGENT!"}, {"system": "urgent"}),
        ({"system_keywords": ("lawyer",)}, {"system": "You are a Lawyer."}, {"user": "lawyer"}),
        (
            {"any_keywords": ("secret",)},
            {"texts": ["no", "a Secret"], "user": "no"},
            {"texts": ["no"], "system": "secret"},
        ),
        ({"any_pattern": r"\d{4}"}, {"texts": ["in 2024", "no"]}, {"texts": ["20", "24"], "user": "2024"}),
        ({"pattern": r"\d{4}"}, {"user": "in 2024"}, {"system": "2024", "user": "in May"}),
        ({"system_pattern": r"^You"}, {"system": "You are"}, {"user": "You are"}),
        ({"tags": ("eu", "cheap")}, {"wanted": Wanted(tags=frozenset({"eu", "cheap", "a"}))}, {}),
        ({"predicate": lambda facts: facts.messages}, {"messages": 3}, {"messages": 0}),
    )

    @pytest.mark.parametrize(
        ("conditions", "met", "missed"),
        CASES,
        ids=[f"{next(iter(case[0]))} {place}" for place, case in enumerate(CASES)],
    )
    def test_holds_where_the_request_is_so_and_else_it_does_not(self, conditions, met, missed):
        assert holds(facts_of(**met), **conditions) is True
        assert holds(facts_of(**missed), **conditions) is False

    def test_is_among_these_but_for_likeness_which_is_no_matter_of_the_request_alone(self):
        assert {name for given, *_ in self.CASES for name in given} == set(CONDITIONS) - {"examples"}
        assert checks(examples=("Sue them.",)) == ()


class TestModel:
    @pytest.mark.parametrize("model", ["GPT-4o", "gpt-4", "a gpt-4o"])
    def test_its_name_is_compared_as_a_whole_and_in_its_case(self, model):
        assert not holds(facts_of(model=model), model=("gpt-4o",))

    @pytest.mark.parametrize(
        ("pattern", "model"), [("gpt-?", "gpt-4"), ("gpt-[45]*", "gpt-5-mini"), ("*/llama", "meta/llama")]
    )
    def test_a_pattern_is_a_glob(self, pattern, model):
        assert holds(facts_of(model=model), model=("other", pattern))

    def test_one_of_several_names_is_enough(self):
        assert holds(facts_of(model="b"), model=("a", "b"))


class TestKeywords:
    @pytest.mark.parametrize(
        ("word", "text"),
        [
            ("art", "art"),
            ("art", "the art of"),
            ("art", "Modern ART, please"),
            ("art", "start with art"),
            ("art", "(art)"),
            ("art", "state_of_the-art?"),
            ("c++", "in C++ or C"),
            (".net", "ASP.NET"),
            ("new york", "to New York!"),
            ("STRASSE", "in der Straße"),
            ("退款", "我要退款。"),
            ("退款", "请立即退款给我"),
            ("払い戻し", "今すぐ払い戻しをお願いします"),
            ("환불", "환불을 원해요"),
        ],
    )
    def test_a_word_is_found_where_it_stands_alone(self, word, text):
        assert holds(facts_of(user=text), keywords=("nothing of it", word))

    @pytest.mark.parametrize(
        ("word", "text"),
        [
            ("art", "start"),
            ("art", "party"),
            ("art", "arts"),
            ("art", "art2"),
            ("art", ""),
            ("refund", "refunds, refunded"),
            ("退款", "我要付款。"),
            ("кот", "который"),
            ("кофеи", "кофеи\u0306"),  # of a mark upon its last letter
            ("हिन्द", "हिन्दी"),
            ("हिन्दी", "हिन्दीभाषी"),
        ],
    )
    def test_inside_of_another_word_it_is_not_found(self, word, text):
        assert not holds(facts_of(user=text), keywords=(word,))

    @pytest.mark.parametrize("text", ["请用python写", "用Python写一个", "python是什么", "我要学Python"])
    def test_a_word_between_chinese_characters_stands_alone(self, text):
        assert holds(facts_of(user=text), keywords=("python",))

    def test_one_inside_of_a_longer_word_between_chinese_characters_does_not(self):
        assert not holds(facts_of(user="请用pythonic写"), keywords=("python",))


class TestScript:
    def test_its_name_is_compared_in_any_case(self):
        assert holds(facts_of(user="早上好"), script=("latin", "HAN"))

    def test_a_text_without_letters_is_of_none(self):
        assert not holds(facts_of(user="42"), script=("Latin",))


class TestTags:
    def test_all_of_them_must_be_there(self):
        assert not holds(facts_of(wanted=Wanted(tags=frozenset({"eu"}))), tags=("eu", "cheap"))


class TestPredicate:
    @pytest.mark.parametrize("answer", [1, "yes", [0]])
    def test_what_it_says_is_taken_as_yes_or_no(self, answer):
        assert holds(facts_of(), predicate=lambda facts: answer) is True

    def test_what_it_raises_is_raised(self):
        with pytest.raises(ZeroDivisionError):
            holds(facts_of(), predicate=lambda facts: 1 / 0)


class TestPattern:
    def test_it_is_compiled_once_and_searched_in_time(self):
        compiled = []

        def compile_pattern(pattern):
            compiled.append(pattern)

            def search(text):
                raise TimeoutError

            return search

        [(_, check)] = checks(pattern="(a+)+b", compile_pattern=compile_pattern)

        for _ in range(2):
            with pytest.raises(TimeoutError):
                check(facts_of(user="aaa"))
        assert compiled == ["(a+)+b"]

    def test_what_is_no_regular_expression_is_refused_with_the_route(self):
        with pytest.raises(re.error):
            checks(pattern="(")


class TestCost:
    def test_cheap_conditions_are_looked_at_first(self):
        given = {
            "predicate": lambda facts: True,
            "system_pattern": "a",
            "pattern": "a",
            "language": ("de",),
            "script": ("Latin",),
            "keywords": ("a",),
            "min_tokens": 1,
            "model": ("m",),
            "is_streamed": True,
        }

        assert [name for name, _ in checks(**given)] == [
            "is_streamed",
            "model",
            "min_tokens",
            "keywords",
            "script",
            "language",
            "pattern",
            "system_pattern",
            "predicate",
        ]

    @pytest.mark.parametrize("name", ["min_tokens", "max_tokens", "min_input_tokens", "max_input_tokens"])
    def test_a_route_that_asks_for_tokens_says_so(self, name):
        assert Route(pool="big", **{name: 1}).needs_tokens

    def test_one_that_does_not_says_so_too(self):
        assert not Route(pool="big", min_inputs=1, keywords=("tokens",)).needs_tokens


class TestConditions:
    def test_of_a_bare_route_there_are_none_and_it_always_holds(self):
        route = Route(pool="big", name="all", trust=("eu",), on_context_length="huge", mode=Mode.SHADOW)

        assert route.conditions == ()
        assert checks() == ()

    def test_a_condition_is_given_also_where_it_is_false_or_zero(self):
        assert Route(pool="big", has_tools=False, max_tokens=0).conditions == ("max_tokens", "has_tools")

    def test_those_of_one_function_only_are_conditions_and_of_no_other_function(self):
        assert set(CONDITIONS) >= OF_COMPLETIONS | OF_EMBEDDINGS
        assert not OF_COMPLETIONS & OF_EMBEDDINGS

    def test_a_route_with_examples_is_semantic(self):
        assert Route(pool="big", examples=("Sue them.",)).is_semantic
        assert not Route(pool="big", keywords=("sue",)).is_semantic


class TestRefused:
    @pytest.mark.parametrize(
        ("given", "key", "problem"),
        [
            ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "is 5, which is more than max_tokens, 4"),
            ({"min_input_tokens": 5, "max_input_tokens": 4}, "min_input_tokens", "is 5, which is more than"),
            ({"min_inputs": 5, "max_inputs": 4}, "min_inputs", "is 5, which is more than max_inputs, 4"),
            ({"threshold": 1.5}, "threshold", "is 1.5, and a cosine is from -1 to 1"),
            ({"threshold": float("nan")}, "threshold", "is nan, and a cosine"),
            ({"top_k": 0}, "top_k", "is 0, and at least one example must count"),
            ({"on_context_length": "big"}, "on_context_length", "is the route's own pool"),
        ],
        ids=str,
    )
    def test_what_can_never_be_meant_is_refused_with_the_key_that_is_wrong(self, given, key, problem):
        with pytest.raises(ValueError) as caught:
            Route(pool="big", **given)

        assert caught.value.args[1] == key
        assert caught.value.args[0].startswith(problem)

    def test_a_range_of_one_number_is_none_of_these(self):
        assert holds(facts_of(inputs=4), max_inputs=4)
        assert Route(pool="big", min_tokens=4, max_tokens=4, threshold=-1, top_k=1).conditions
