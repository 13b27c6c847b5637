"""What is told of two states of settings, and what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import LLMContainer
from llmwire.container.difference import difference, moved, shown

ONE = {"endpoints": {"a": {"base_url": "http://a:1", "weight": 1, "tags": ["fast"]}, "b": {"base_url": "http://b:1"}}}


def lines(before, after, *, function="completion"):
    """What is told where a function's table becomes another; None: it says nothing."""
    states = [shown(function, [] if table is None else [{function: table}]) for table in (before, after)]
    return [str(change) for change in difference(*states)]


def with_a(**options):
    return {"endpoints": {"a": {"base_url": "http://a:1", **options}}}


def test_of_a_first_document_all_is_new():
    told = lines(None, ONE)

    assert told == [
        "+ completion.endpoints.a: http://a:1",
        '+ completion.endpoints.a.tags: ["fast"]',
        "+ completion.endpoints.a.weight: 1",
        "+ completion.endpoints.b: http://b:1",
    ]


def test_a_value_that_changes_is_told_as_it_was_and_as_it_is():
    assert lines(with_a(weight=1), with_a(weight=3)) == ["~ completion.endpoints.a.weight: 1 -> 3"]


def test_a_server_that_moves_is_told_under_the_name_of_its_endpoint():
    told = lines({"endpoints": {"a": {"base_url": "http://a:1"}}}, {"endpoints": {"a": {"base_url": "http://a:2"}}})

    assert told == ["~ completion.endpoints.a: http://a:1 -> http://a:2"]


def test_of_an_endpoint_that_is_gone_only_that_is_told():
    assert lines(ONE, {"endpoints": {"b": {"base_url": "http://b:1"}}}) == ["- completion.endpoints.a: http://a:1"]


def test_what_an_endpoint_alone_gives_up_is_told():
    assert lines(with_a(weight=3), with_a()) == ["- completion.endpoints.a.weight: 3"]


def test_an_endpoint_is_the_same_in_whatever_case_its_name_is_written():
    assert lines({"endpoints": {"A": {"weight": 1}}}, {"endpoints": {"a": {"weight": 1}}}) == []


def test_what_belongs_together_stands_together():
    table = {"endpoints": {name: {"base_url": f"http://{name}", "weight": 2} for name in ("b-2", "b", "a")}}

    told = lines(None, table)

    assert [line.split(":")[0].removeprefix("+ completion.endpoints.") for line in told] == [
        *("a", "a.weight", "b", "b.weight", "b-2", "b-2.weight"),
    ]


def test_a_value_that_is_blank_is_not_set():
    assert lines({"model": " "}, None) == []


def test_one_and_true_are_two_values():
    assert lines({"tools": 1}, {"tools": True}) == ["~ completion.tools: 1 -> true"]


def test_a_route_is_known_by_its_name_at_whatever_place():
    long, short = {"name": "long", "pool": "big", "min_tokens": 9}, {"name": "short", "pool": "small"}

    told = lines({"routes": [long]}, {"routes": [short, {**long, "min_tokens": 10}]})

    assert told == [
        '~ completion.routes: ["long"] -> ["short", "long"]',
        "~ completion.routes.long.min_tokens: 9 -> 10",
        "+ completion.routes.short.pool: small",
    ]


def test_a_route_without_a_name_is_known_by_its_place():
    told = lines({"routes": [{"pool": "a"}]}, {"routes": [{"pool": "b"}]})

    assert told == ["~ completion.routes.1.pool: a -> b"]


def test_tables_of_a_setting_are_told_part_by_part():
    price, pools = {"input": 1, "output": 2}, {"long": {"strategy": "p2c"}}

    told = lines({"price": price, "pools": pools}, {"price": {**price, "output": 3}})

    assert told == ["- completion.pools.long.strategy: p2c", "~ completion.price.output: 2 -> 3"]


def test_the_first_of_several_documents_wins_value_by_value():
    first, second = {"model": "a", "endpoints": {"x": {"weight": 1}}}, {"model": "b", "endpoints": {"x": {"tier": 1}}}

    told = shown("completion", [{"completion": first}, {"completion": second}])

    assert told == {"completion.model": "a", "completion.endpoints.x.weight": "1", "completion.endpoints.x.tier": "1"}


def test_routes_of_two_documents_are_not_mixed():
    trees = [{"completion": {"routes": [{"name": name, "pool": "x"}]}} for name in ("a", "b")]

    assert shown("completion", trees) == {"completion.routes": '["a"]', "completion.routes.a.pool": "x"}


def test_tables_of_the_other_function_play_no_part_and_shared_ones_do():
    tree = {"embedding": {"model": "bert"}, "openai": {"base_url": "http://a:1"}}

    assert shown("completion", [tree]) == {"openai.base_url": "http://a:1"}


# Secrets.


@pytest.mark.parametrize(
    "table",
    [
        {"api_key": "sk-secret"},
        with_a(api_key="sk-secret"),
        {"azure": {"api_key": "sk-secret", "ad_token": "sk-secret"}},
        {"headers": {"X-Key": "sk-secret"}},
        {"base_url": "https://user:sk-secret@a"},
        {"endpoints": {"a": {"base_url": "https://a/?key=sk-secret"}}},
        {"azure": {"endpoint": "https://u:sk-secret@a"}},
        {"apikey": "sk-secret"},
        {"credentials": {"vendor": {"api_key": "sk-secret"}}},
        {"pools": {"long": {"token": "sk-secret"}}},
        {"routes": [{"name": "a", "api_key": "sk-secret"}]},
        {"price": {"key": "sk-secret"}},
        {"weight": {"api_key": "sk-secret"}},
        {"tags": [{"api_key": "sk-secret"}]},
    ],
)
def test_what_may_be_a_secret_is_masked(table):
    told = " ".join(lines(None, table))

    assert "********" in told
    assert "sk-secret" not in told


def test_shared_keys_of_a_file_are_masked():
    tree = {"openai": {"api_key": "sk-secret", "base_url": "https://u:sk-secret@a"}}

    assert set(shown("completion", [tree]).values()) == {"********"}


def test_a_key_that_changes_is_not_compared():
    assert lines(with_a(api_key="sk-one"), with_a(api_key="sk-two")) == []


def test_nothing_that_a_document_says_controls_the_terminal():
    told = lines(None, {"model": "\x1b[2Ja\nb", "\x1b[2J": 1, "tags": ["\x1b", "ü"], "trust": "ü"})

    assert told == [
        '+ completion."\\u001b[2J": ********',
        '+ completion.model: "\\u001b[2Ja\\nb"',
        '+ completion.tags: ["\\u001b", "ü"]',
        "+ completion.trust: ü",
    ]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
NAMES = st.sampled_from(["endpoints", "a", "model", "base_url", "api_key", "routes", "pools", "azure", "name", "\x1b"])
TREES = st.dictionaries(
    NAMES,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)),
    max_size=4,
)


@given(TREES, TREES)
def test_any_two_documents_can_be_told_apart_and_each_line_is_one(before, after):
    told = lines(before, after)

    assert lines(before, before) == []
    assert all(line.isprintable() for line in told)
    assert bool(told) == (shown("completion", [{"completion": before}]) != shown("completion", [{"completion": after}]))


@given(TREES)
def test_what_a_document_says_can_be_read_from_json_and_back_without_a_change(table):
    assert lines(table, json.loads(json.dumps(table))) == []


# Embeddings.


def settled(function="embedding", **options):
    container = LLMContainer(env={}, config={function: {"base_url": "http://a:1", "model": "bert", **options}})
    return container.providers[function].settings()


@pytest.mark.parametrize("options", [{"model": "other"}, {"dimensions": 3}, {"revision": "2"}, {"space": "s"}])
def test_vectors_of_another_embedding_are_told_of(options):
    assert "until they are started anew" in moved(settled(), settled(**options))


@pytest.mark.parametrize("options", [{}, {"base_url": "http://b:1"}, {"weight": 2}])
def test_the_same_embedding_elsewhere_is_nothing_to_tell_of(options):
    assert moved(settled(), settled(**options)) is None


def test_another_model_of_completions_is_nothing_to_tell_of():
    assert moved(settled("completion"), settled("completion", model="other")) is None
