"""What may be written of pools and routes, and what becomes of it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from llmwire.container import ConfigError, LLMContainer
from llmwire.container.configuration import Unfit
from llmwire.container.routes import _ROUTE, names_of, pools, routes
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import NamedPool


def is_long(facts: Any) -> bool:
    return len(facts.user) > 100


def refused(parse: Any, raw: Any) -> str:
    with pytest.raises(Unfit) as caught:
        parse(raw)
    return f"{caught.value.at}: {caught.value.problem}. {caught.value.remedy}"


# Pools


def test_a_table_of_tables_holds_the_options_of_pools():
    table = {
        "Long": {"strategy": "lowest-price", "deadline_s": "300", "trust": "eu,local"},
        "private": {"trust": ["local"]},
        "vision": {},
        "fast": None,
    }

    assert pools(table) == (
        NamedPool(name="long", strategy=Strategy.LOWEST_PRICE, deadline_s=300.0, trust=frozenset({"eu", "local"})),
        NamedPool(name="private", trust=frozenset({"local"})),
        NamedPool(name="vision"),
        NamedPool(name="fast"),
    )


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ("long", ": must be a table of pools. Write a pool's options below its name"),
        (["long"], ": must be a table of pools. "),
        ({"long": 5}, ".long: is no table. "),
        ({"1st": {}}, ".1st: is no name for a pool: '1st'. "),
        ({5: {}}, ".5: must be text, not int. "),
        ({"long": {}, "Long": {}}, ".Long: is there twice"),
        ({"long": {"deadline": 5}}, ".long.deadline: is no setting. Did you mean deadline_s?"),
        ({"long": {"zzz": 5}}, ".long.zzz: is no setting. Known are deadline_s, strategy, trust."),
        ({"long": {"deadline_s": 0}}, ".long.deadline_s: must be a number of seconds above 0"),
        ({"long": {"strategy": "best"}}, ".long.strategy: must be one of p2c"),
        ({"long": {"trust": ""}}, ".long.trust: names nothing. Name one, or leave it out."),
        ({"long": {"trust": []}}, ".long.trust: names nothing. "),
    ],
)
def test_impossible_options_of_pools_are_refused_where_they_stand(raw, told):
    assert refused(pools, raw).startswith(told)


# Routes


def test_a_table_and_a_route_of_code_mean_the_same():
    table = {
        "pool": "Long",
        "name": "big ones",
        "min_tokens": "8000",
        "has_images": "no",
        "model": "gpt-*, o3",
        "script": "cyrillic",
        "language": "DE,fr",
        "keywords": ["refund policy", "invoice, overdue"],
        "tags": "eu,cheap",
        "predicate": is_long,
        "examples": "Where is my parcel, please?",
        "threshold": 1,
        "top_k": 2,
        "trust": "local",
        "on_context_length": "huge",
        "mode": "shadow",
    }
    route = Route(
        pool="long",
        name="big ones",
        min_tokens=8000,
        has_images=False,
        model=("gpt-*", "o3"),
        script=("Cyrillic",),
        language=("de", "fr"),
        keywords=("refund policy", "invoice, overdue"),
        tags=("eu", "cheap"),
        predicate=is_long,
        examples=("Where is my parcel, please?",),
        threshold=1.0,
        top_k=2,
        trust=("local",),
        on_context_length="huge",
        mode=Mode.SHADOW,
    )

    assert routes([table]) == routes((route,)) == (route,)


def test_whatever_a_route_has_can_be_written():
    assert set(_ROUTE) == {field.name for field in fields(Route)}


def test_what_code_makes_is_read_as_what_a_file_says():
    route = Route(pool="Long", keywords="refund,invoice", min_tokens="5")  # type: ignore[arg-type]  # as one might

    assert routes([route]) == (Route(pool="long", keywords=("refund", "invoice"), min_tokens=5),)


@pytest.mark.parametrize("code", [{"pool": "a"}, Route(pool="a")])
def test_a_route_without_a_name_is_called_by_its_place(code):
    made = routes([code, {"pool": "a", "name": "other"}, code])

    assert names_of(made) == ("route 1", "other", "route 3")
    assert [route.name for route in made] == ["", "other", ""]


def test_no_routes_are_none():
    assert routes([]) == ()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"pool": "a"}, ": must be a list of routes. Write each below a line of its own, as in [[completion.routes]]."),
        ("long", ": must be a list of routes. "),
        (["long"], "[1]: is no table, and no Route, but str. "),
        ([{"pool": "a"}, {}], "[2].pool: is not set. Name the pool that the route leads to"),
        ([{"pool": None}], "[1].pool: is not set. "),
        ([{"pool": ""}], "[1].pool: is no name for a pool: ''. "),
        ([{"pool": "a", "min_token": 5}], "[1].min_token: is no setting. Did you mean min_tokens?"),
        ([{"pool": "a", 5: 5}], "[1].5: is no setting. Known are any_keywords, "),
        ([{"pool": "a", "min_tokens": "many"}], "[1].min_tokens: must be a whole number above 0"),
        ([{"pool": "a", "max_inputs": 0}], "[1].max_inputs: must be a whole number above 0"),
        ([{"pool": "a", "min_tokens": 9, "max_tokens": 5}], "[1].min_tokens: is 9, which is more than max_tokens, 5. "),
        ([{"pool": "a", "has_tools": "maybe"}], "[1].has_tools: must be true or false"),
        ([{"pool": "a", "keywords": []}], "[1].keywords: names nothing. "),
        ([{"pool": "a", "trust": ""}], "[1].trust: names nothing. "),
        ([{"pool": "a", "tags": {"eu": 1}}], "[1].tags: must be a list of words. "),
        ([{"pool": "a", "script": "Cyrilic"}], "[1].script: holds 'Cyrilic', which no letter is of. Did you mean Cyr"),
        ([{"pool": "a", "script": "zzz"}], "[1].script: holds 'Zzz', which no letter is of. Write it as Unicode does"),
        ([{"pool": "a", "language": "german"}], "[1].language: holds 'german', which is no code of a language. "),
        ([{"pool": "a", "predicate": 5}], "[1].predicate: must be a function, or the name of one, not int. "),
        ([{"pool": "a", "predicate": " "}], "[1].predicate: is blank. "),
        ([{"pool": "a", "examples": []}], "[1].examples: names nothing. "),
        ([{"pool": "a", "examples": ["x", " "]}], "[1].examples: must be a list of texts. "),
        ([{"pool": "a", "threshold": 2}], "[1].threshold: must be a cosine from -1 to 1"),
        ([{"pool": "a", "top_k": 0}], "[1].top_k: must be a whole number above 0"),
        ([{"pool": "a", "mode": "dry"}], "[1].mode: must be one of on, shadow, off, not 'dry'"),
        ([{"pool": "a", "on_context_length": "A"}], "[1].on_context_length: is the route's own pool. "),
        ([{"pool": "a", "pattern": " "}], "[1].pattern: is blank. "),
        ([{"pool": "a", "pattern": 5}], "[1].pattern: must be text, not int. "),
        ([{"pool": "a", "name": "x"}, {"pool": "b", "name": "x"}], "[2].name: is 'x', as is that of route 1. "),
        ([{"pool": "a"}, {"pool": "b", "name": "route 1"}], "[2].name: is 'route 1', as is that of route 1. "),
    ],
)
def test_impossible_routes_are_refused_where_they_stand(raw, told):
    assert refused(routes, raw).startswith(told)


@pytest.mark.parametrize("condition", ["pattern", "system_pattern"])
def test_a_bad_regular_expression_is_refused_where_it_stands(condition):
    assert refused(routes, [{"pool": "a"}, {"pool": "b", condition: "(unclosed"}]).startswith(
        f"[2].{condition}: is no regular expression: "
    )


def test_a_regular_expression_is_kept_as_it_is_written():
    (route,) = routes([{"pool": "a", "pattern": r" \bSELECT\b "}])

    assert route.pattern == r" \bSELECT\b "


@pytest.mark.parametrize("script", ["Latin", "han", "CYRILLIC", "Hiragana", "Arabic", "Greek", "Hangul", "Thai"])
def test_scripts_are_known_by_the_names_of_unicode_in_any_case(script):
    (route,) = routes([{"pool": "a", "script": script}])

    assert route.script == (script.capitalize(),)


def test_the_error_names_the_place_and_the_file(tmp_path):
    file = tmp_path / "llm.toml"
    file.write_text(
        """
        [completion]
        base_url = "http://localhost:1"
        [[completion.routes]]
        pool = "default"
        [[completion.routes]]
        pool = "default"
        min_tokens = "many"
        """
    )

    with pytest.raises(ConfigError) as caught:
        LLMContainer.from_toml(file, env={}).completion.settings()

    assert caught.value.key == "completion.routes[2].min_tokens"
    assert caught.value.origin == f"config.completion.routes[2].min_tokens ({file})"


def test_routes_may_be_overridden():
    container = LLMContainer(env={"COMPLETION_BASE_URL": "http://localhost:1"})
    container.completion.routes.override([Route(pool="default", name="all")])

    assert container.completion.settings().routes == (Route(pool="default", name="all"),)
