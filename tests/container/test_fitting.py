"""Routes, pools and endpoints of a function fit together, or the settings are refused."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from llmwire.container import ConfigError, LLMContainer
from llmwire.container.resolution import FunctionSettings
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.endpoint import UNSAID, Abilities
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import NamedPool

URL = {"base_url": "http://localhost:1"}
ENDPOINTS: dict[str, dict[str, Any]] = {
    "small": {**URL, "model": "s"},
    "big": {**URL, "model": "b", "pools": ["long", "vision"], "trust": "eu"},
    "mine": {**URL, "model": "m", "pools": "default, long", "trust": "local"},
}


def settled(function: str = "completion", *, predicates: Any = None, **settings: Any) -> FunctionSettings:
    container = LLMContainer(
        config={function: {"endpoints": ENDPOINTS, **settings}}, env={}, predicates=predicates or {}
    )
    found: FunctionSettings = getattr(container, function).settings()
    return found


def refused(function: str = "completion", **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        settled(function, **settings)
    return str(caught.value)


def test_what_is_said_of_routing_is_settled():
    settings = settled(
        pools={"long": {"strategy": "in-order", "deadline_s": 300}},
        routes=[{"pool": "long", "min_tokens": 8000}],
        routing="shadow",
        tokenizer="estimate",
        routing_timeout_s=0.3,
    )

    assert settings.pools == (NamedPool(name="long", strategy=Strategy.IN_ORDER, deadline_s=300.0),)
    assert settings.routes == (Route(pool="long", min_tokens=8000),)
    assert (settings.routing, settings.tokenizer, settings.routing_timeout_s) == (Mode.SHADOW, "estimate", 0.3)


@pytest.mark.parametrize("function", ["completion", "embedding"])
def test_without_routes_there_is_nothing_to_settle(function):
    settings = LLMContainer(env={"OPENAI_API_KEY": "key"})

    found = getattr(settings, function).settings()

    assert (found.pools, found.routes, found.routing, found.tokenizer) == ((), (), Mode.ON, "auto")
    assert (found.endpoint.pools, found.endpoint.trust) == (("default",), None)
    assert found.endpoint.abilities is UNSAID


def test_an_endpoint_lists_the_pools_that_it_serves():
    small, big, mine = settled().endpoints

    assert (small.pools, big.pools, mine.pools) == (("default",), ("long", "vision"), ("default", "long"))
    assert (small.trust, big.trust, mine.trust) == (None, "eu", "local")


def test_the_environment_says_the_same_of_an_endpoint():
    env = {
        "COMPLETION_ENDPOINTS": "small,big",
        "COMPLETION_BASE_URL": "http://localhost:1",
        "COMPLETION_BIG_POOLS": "long,vision",
        "COMPLETION_BIG_TRUST": "eu",
        "COMPLETION_BIG_CONTEXT_LENGTH": "128000",
        "COMPLETION_BIG_MODALITIES": "text,image",
        "COMPLETION_TOOLS": "no",
        "COMPLETION_BIG_STRUCTURED_OUTPUT": "yes",
    }

    small, big = LLMContainer(env=env).completion.settings().endpoints

    assert (big.pools, big.trust) == (("long", "vision"), "eu")
    assert big.abilities == Abilities(
        context_length=128_000, modalities=frozenset({"image"}), tools=False, structured_output=True
    )
    assert (small.pools, small.abilities) == (("default",), Abilities(tools=False))


def test_an_endpoint_that_takes_text_alone_is_said_to_take_nothing_else():
    (endpoint,) = (
        LLMContainer(config={"completion": {**URL, "modalities": "text"}}, env={}).completion.settings().endpoints
    )

    assert endpoint.abilities == Abilities(modalities=frozenset())


def test_of_an_embedding_endpoint_the_length_of_a_text_may_be_said():
    (endpoint,) = (
        LLMContainer(config={"embedding": {**URL, "context_length": 512}}, env={}).embedding.settings().endpoints
    )

    assert endpoint.abilities == Abilities(context_length=512)


@pytest.mark.parametrize(
    ("pools", "first_bytes"),
    [
        ({}, [60, 120, 60]),  # big alone serves vision, where it has all of the time
        ({"long": {"deadline_s": 600}}, [60, 300, 300]),
        ({"vision": {"deadline_s": 30}}, [60, 60, 60]),
        ({"default": {"deadline_s": 10}}, [5, 120, 60]),
    ],
)
def test_who_answers_for_a_pool_that_waits_longer_may_begin_later(pools, first_bytes):
    settings = settled(pools=pools)

    assert [each.timeouts.first_byte_s for each in settings.endpoints] == first_bytes


# What does not fit


@pytest.mark.parametrize(
    ("settings", "at", "told"),
    [
        (
            {"pools": {"huge": {}}},
            "pools.huge",
            "is served by no endpoint. Add huge to the pools of an endpoint, or remove the table.",
        ),
        (
            {"pools": {"vision": {"trust": "local"}}},
            "pools.vision.trust",
            "demands local, and no endpoint of the pool vision is that: big is eu. Give one of them that trust, or ",
        ),
        (
            {"routes": [{"pool": "long"}, {"pool": "lng"}]},
            "routes[2].pool",
            "is lng, a pool that no endpoint serves (known: default, long, vision). Correct it, or add lng to the ",
        ),
        (
            {"routes": [{"pool": "default", "on_context_length": "huge"}]},
            "routes[1].on_context_length",
            "is huge, a pool that no endpoint serves ",
        ),
        (
            {"routes": [{"pool": "default", "trust": "eu,vendor"}]},
            "routes[1].trust",
            "demands eu or vendor, and no endpoint of the pool default is that: small is without a label, mine is loc",
        ),
        (
            {"routes": [{"pool": "long", "trust": "local", "on_context_length": "vision"}]},
            "routes[1].on_context_length",
            "demands local, and no endpoint of the pool vision is that: big is eu. ",
        ),
        (
            {"pools": {"long": {"trust": "eu"}}, "routes": [{"pool": "long", "trust": "local"}]},
            "routes[1].trust",
            "demands what excludes the trust of the pool itself, ",
        ),
        (
            {"pools": {"long": {"trust": "local"}}, "routes": [{"pool": "long", "on_context_length": "vision"}]},
            "routes[1].on_context_length",
            "demands local, and no endpoint of the pool vision is that: big is eu. ",
        ),
        (
            {
                "routes": [
                    {"pool": "long", "trust": "eu", "examples": ["a"]},
                    {"pool": "long", "examples": ["b"]},
                    {"pool": "long", "trust": "local", "examples": ["c"]},
                ]
            },
            "routes[3].trust",
            "excludes what other routes with examples demand: no endpoint may embed a text for all of them. Give them",
        ),
        (
            {"routes": [{"pool": "long", "min_inputs": 5}]},
            "routes[1].min_inputs",
            "is a condition that no request for completions can meet. Remove it.",
        ),
        (
            {"routes": [{"pool": "long", "predicate": "is_vip"}], "predicates": {"is_long": len, "is_odd": len}},
            "routes[1].predicate",
            "names is_vip, which is none of the predicates (is_long, is_odd). Give it to the container, as in ",
        ),
        (
            {"routes": [{"pool": "long", "predicate": "is_vip"}]},
            "routes[1].predicate",
            "names is_vip, which is none of the predicates (there are none). ",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_where_it_stands(settings, at, told):
    assert refused(**settings).startswith(f"completion.{at} (from config.completion.{at}): {told}")


def test_a_function_needs_an_endpoint_for_what_no_route_matches():
    assert refused(endpoints={"big": ENDPOINTS["big"]}) == (
        "completion.endpoints (from config.completion.endpoints): leave the pool default empty, where everything goes "
        "that no route matches. Add default to the pools of one of them."
    )


def test_what_only_completions_have_is_no_condition_for_embeddings():
    endpoints = {"one": URL, "two": {**URL, "api_key": "k", "pools": "long"}}

    message = refused("embedding", endpoints=endpoints, routes=[{"pool": "long", "has_images": True}])

    assert message.startswith("embedding.routes[1].has_images (from config.embedding.routes[1].has_images): ")
    assert settled("embedding", endpoints=endpoints, routes=[{"pool": "long", "min_inputs": 5}]).routes


def test_a_predicate_that_is_there_may_be_named():
    assert settled(routes=[{"pool": "long", "predicate": "is_vip"}], predicates={"is_vip": bool}).routes


@pytest.mark.parametrize("off", [{"routing": "off"}, {}])
def test_a_route_that_is_off_may_name_what_is_not_there_at_present(off):
    mode = {} if off else {"mode": "off"}

    assert settled(routes=[{"pool": "huge", "predicate": "is_vip", **mode}], **off).routes


def test_a_language_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid", None)

    assert refused(routes=[{"pool": "long", "language": "de"}]) == (
        "completion.routes[1].language (from config.completion.routes[1].language): needs the package py3langid. "
        "Install it with pip install 'llmwire[language]'."
    )


def test_an_encoding_needs_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tiktoken", None)

    assert refused(tokenizer="cl100k_base") == (
        "completion.tokenizer (from config.completion.tokenizer): is cl100k_base, which needs the package tiktoken. "
        "Install it with pip install 'llmwire[tiktoken]', or write auto or estimate."
    )
    assert settled(tokenizer="auto").tokenizer == "auto"


# What is odd

SEMANTIC = {"pool": "long", "name": "parcels", "examples": ["Where is my parcel?"]}


@pytest.mark.parametrize("boundary", [{"pool": "long", "trust": "local"}, {"pool": "vision"}])
def test_a_boundary_below_a_route_that_embeds_texts_is_a_warning(boundary):
    settings = settled(routes=[SEMANTIC, {**boundary, "tags": "secret"}], pools={"vision": {"trust": "eu"}})

    (warning,) = settings.warnings
    assert (warning.key, warning.origin) == ("completion.routes[2]", "config.completion.routes[2]")
    assert warning.message == (
        "route 2 demands trust, and texts are embedded for parcels before it is looked at: move it above that one"
    )


@pytest.mark.parametrize(
    "routes",
    [
        [{"pool": "long", "trust": "local", "tags": "secret"}, SEMANTIC],
        [SEMANTIC, {"pool": "long", "tags": "secret"}],
        [{**SEMANTIC, "mode": "off"}, {"pool": "long", "trust": "local"}],
        [SEMANTIC, {"pool": "long", "trust": "local", "mode": "off"}],
    ],
)
def test_a_boundary_above_it_is_none(routes):
    assert settled(routes=routes).warnings == ()
