"""Every setting: where it may be written, in which order that counts, and what it can take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import ConfigError, LLMContainer, routes, values
from llmwire.container.configuration import FirstOf, Unfit
from llmwire.container.endpoints import endpoints_of
from llmwire.container.sources import Kind, Source
from llmwire.container.values import NO_KEY, Startup
from llmwire.services.routing.balancer import Strategy
from llmwire.services.routing.endpoint import Dialect, Price
from llmwire.services.routing.failover import AfterSend
from llmwire.services.routing.route import Mode, Route
from llmwire.services.routing.router import NamedPool
from llmwire.services.routing.spending import Period, SpendingLimit, Unit
from llmwire.services.secrets import Secret

FUNCTIONS = ("completion", "embedding")

#: for each setting its places in their order; `f` and `F` stand for the function
PLACES = {
    "base_url": """
        config.f.base_url  env.F_BASE_URL  env.F_OPENAI_BASE_URL  env.F_OPENAI_API_BASE
        config.openai.base_url  env.OPENAI_BASE_URL  env.OPENAI_API_BASE""",
    "api_key": """
        config.f.api_key  env.F_API_KEY  env.F_OPENAI_API_KEY
        config.openai.api_key  env.OPENAI_API_KEY""",
    "credential": "config.f.credential  env.F_CREDENTIAL",
    "model": "config.f.model  env.F_MODEL  env.F_OPENAI_MODEL",
    "organization": """
        config.f.organization  env.F_ORG_ID  env.F_ORGANIZATION  env.F_OPENAI_ORG_ID
        config.openai.organization  env.OPENAI_ORG_ID""",
    "project": """
        config.f.project  env.F_PROJECT_ID  env.F_PROJECT  env.F_OPENAI_PROJECT_ID
        config.openai.project  env.OPENAI_PROJECT_ID""",
    "headers": """
        config.f.headers  env.F_HEADERS  env.F_CUSTOM_HEADERS  env.F_OPENAI_CUSTOM_HEADERS
        config.openai.headers  env.OPENAI_CUSTOM_HEADERS""",
    "deadline_s": "config.f.deadline_s  env.F_DEADLINE_S",
    "api_path": "config.f.api_path  env.F_API_PATH",
    "dialect": "config.f.dialect  env.F_DIALECT",
    "dimensions": "config.f.dimensions  env.F_DIMENSIONS",
    "azure_endpoint": """
        config.f.azure.endpoint  env.F_AZURE_OPENAI_ENDPOINT
        config.azure.endpoint  env.AZURE_OPENAI_ENDPOINT""",
    "azure_api_key": """
        config.f.azure.api_key  env.F_AZURE_OPENAI_API_KEY  env.F_AZURE_OPENAI_KEY  config.f.api_key  env.F_API_KEY
        config.azure.api_key  env.AZURE_OPENAI_API_KEY  env.AZURE_OPENAI_KEY""",
    "azure_api_version": """
        config.f.azure.api_version  env.F_AZURE_OPENAI_API_VERSION  env.F_OPENAI_API_VERSION
        config.azure.api_version  env.AZURE_OPENAI_API_VERSION  env.OPENAI_API_VERSION""",
    "azure_deployment": "config.f.azure.deployment  env.F_AZURE_OPENAI_DEPLOYMENT",
    "azure_ad_token": """
        config.f.azure.ad_token  env.F_AZURE_OPENAI_AD_TOKEN
        config.azure.ad_token  env.AZURE_OPENAI_AD_TOKEN""",
    "azure_keyless": """
        config.f.azure.keyless  env.F_AZURE_OPENAI_KEYLESS
        config.azure.keyless  env.AZURE_OPENAI_KEYLESS""",
    "key_fallback": "config.key_fallback  env.LLMWIRE_KEY_FALLBACK",
    "source": "config.f.source  env.F_SOURCE  config.source  env.LLMWIRE_SOURCE",
    "startup": "config.f.startup  env.F_STARTUP  config.startup  env.LLMWIRE_STARTUP",
    "source_cache": "config.source_cache  env.LLMWIRE_SOURCE_CACHE",
    "endpoints": "config.f.endpoints  env.F_ENDPOINTS",
    "strategy": "config.f.strategy  env.F_STRATEGY",
    "max_attempts": "config.f.max_attempts  env.F_MAX_ATTEMPTS",
    "failover_after_send": "config.f.failover_after_send  env.F_FAILOVER_AFTER_SEND",
    "weight": "config.f.weight  env.F_WEIGHT",
    "tier": "config.f.tier  env.F_TIER",
    "tags": "config.f.tags  env.F_TAGS",
    "price": "config.f.price  env.F_PRICE",
    "budget": "config.f.budget  env.F_BUDGET",
    "budget_ledger": """
        config.f.budget_ledger  env.F_BUDGET_LEDGER
        config.budget_ledger  env.LLMWIRE_BUDGET_LEDGER""",
    "stream_usage": "config.f.stream_usage  env.F_STREAM_USAGE",
    "pools": "config.f.pools",
    "routes": "config.f.routes",
    "routing": "config.f.routing  env.F_ROUTING",
    "tokenizer": "config.f.tokenizer  env.F_TOKENIZER",
    "routing_timeout_s": "config.f.routing_timeout_s  env.F_ROUTING_TIMEOUT_S",
    "trust": "config.f.trust  env.F_TRUST",
    "context_length": "config.f.context_length  env.F_CONTEXT_LENGTH",
    "modalities": "config.f.modalities  env.F_MODALITIES",
    "tools": "config.f.tools  env.F_TOOLS",
    "structured_output": "config.f.structured_output  env.F_STRUCTURED_OUTPUT",
    "space": "config.f.space  env.F_SPACE",
    "revision": "config.f.revision  env.F_REVISION",
    "canary": "config.f.canary  env.F_CANARY",
    "hedge": "config.f.hedge  env.F_HEDGE",
    "connect_timeout_s": "config.f.connect_timeout_s  env.F_CONNECT_TIMEOUT_S",
    "first_byte_timeout_s": "config.f.first_byte_timeout_s  env.F_FIRST_BYTE_TIMEOUT_S",
    "chunk_timeout_s": "config.f.chunk_timeout_s  env.F_CHUNK_TIMEOUT_S",
}

#: the places that these settings have at an endpoint; `e` and `E` stand for its name
PLACES_AT_ENDPOINT = {
    "base_url": "config.f.endpoints.e.base_url  env.F_E_BASE_URL",
    "api_key": "config.f.endpoints.e.api_key  env.F_E_API_KEY",
    "credential": "config.f.endpoints.e.credential  env.F_E_CREDENTIAL",
    "model": "config.f.endpoints.e.model  env.F_E_MODEL",
    "organization": "config.f.endpoints.e.organization  env.F_E_ORG_ID  env.F_E_ORGANIZATION",
    "project": "config.f.endpoints.e.project  env.F_E_PROJECT_ID  env.F_E_PROJECT",
    "headers": "config.f.endpoints.e.headers  env.F_E_HEADERS  env.F_E_CUSTOM_HEADERS",
    "api_path": "config.f.endpoints.e.api_path  env.F_E_API_PATH",
    "dialect": "config.f.endpoints.e.dialect  env.F_E_DIALECT",
    "azure_endpoint": "config.f.endpoints.e.azure.endpoint  env.F_E_AZURE_OPENAI_ENDPOINT",
    "azure_api_key": """
        config.f.endpoints.e.azure.api_key  env.F_E_AZURE_OPENAI_API_KEY  env.F_E_AZURE_OPENAI_KEY
        config.f.endpoints.e.api_key  env.F_E_API_KEY""",
    "azure_api_version": "config.f.endpoints.e.azure.api_version  env.F_E_AZURE_OPENAI_API_VERSION",
    "azure_deployment": "config.f.endpoints.e.azure.deployment  env.F_E_AZURE_OPENAI_DEPLOYMENT",
    "azure_ad_token": "config.f.endpoints.e.azure.ad_token  env.F_E_AZURE_OPENAI_AD_TOKEN",
    "azure_keyless": "config.f.endpoints.e.azure.keyless  env.F_E_AZURE_OPENAI_KEYLESS",
    "weight": "config.f.endpoints.e.weight  env.F_E_WEIGHT",
    "tier": "config.f.endpoints.e.tier  env.F_E_TIER",
    "tags": "config.f.endpoints.e.tags  env.F_E_TAGS",
    "price": "config.f.endpoints.e.price  env.F_E_PRICE",
    "budget": "config.f.endpoints.e.budget  env.F_E_BUDGET",
    "stream_usage": "config.f.endpoints.e.stream_usage  env.F_E_STREAM_USAGE",
    "pools": "config.f.endpoints.e.pools  env.F_E_POOLS",
    "trust": "config.f.endpoints.e.trust  env.F_E_TRUST",
    "context_length": "config.f.endpoints.e.context_length  env.F_E_CONTEXT_LENGTH",
    "modalities": "config.f.endpoints.e.modalities  env.F_E_MODALITIES",
    "tools": "config.f.endpoints.e.tools  env.F_E_TOOLS",
    "structured_output": "config.f.endpoints.e.structured_output  env.F_E_STRUCTURED_OUTPUT",
    "space": "config.f.endpoints.e.space  env.F_E_SPACE",
    "revision": "config.f.endpoints.e.revision  env.F_E_REVISION",
    "connect_timeout_s": "config.f.endpoints.e.connect_timeout_s  env.F_E_CONNECT_TIMEOUT_S",
    "first_byte_timeout_s": "config.f.endpoints.e.first_byte_timeout_s  env.F_E_FIRST_BYTE_TIMEOUT_S",
    "chunk_timeout_s": "config.f.endpoints.e.chunk_timeout_s  env.F_E_CHUNK_TIMEOUT_S",
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "base_url": dict.fromkeys(FUNCTIONS, "https://api.openai.com/v1"),
    "model": {"completion": "gpt-5.4-mini", "embedding": "text-embedding-3-small"},
    "deadline_s": {"completion": 120.0, "embedding": 30.0},
    "azure_api_version": dict.fromkeys(FUNCTIONS, "2024-10-21"),
    "azure_keyless": dict.fromkeys(FUNCTIONS, False),
    "key_fallback": dict.fromkeys(FUNCTIONS, "warn"),
    "startup": dict.fromkeys(FUNCTIONS, Startup.STATIC),
    "strategy": dict.fromkeys(FUNCTIONS, Strategy.P2C),
    "max_attempts": dict.fromkeys(FUNCTIONS, 3),
    "failover_after_send": dict.fromkeys(FUNCTIONS, AfterSend.BUDGETED),
    "weight": dict.fromkeys(FUNCTIONS, 1.0),
    "tier": dict.fromkeys(FUNCTIONS, 0),
    "canary": dict.fromkeys(FUNCTIONS, True),
    "hedge": dict.fromkeys(FUNCTIONS, 0.0),
    "routing": dict.fromkeys(FUNCTIONS, Mode.ON),
    "tokenizer": dict.fromkeys(FUNCTIONS, "auto"),
    "routing_timeout_s": {"completion": 0.15},
    "stream_usage": {"completion": True},
    "connect_timeout_s": dict.fromkeys(FUNCTIONS, 2.0),
    "chunk_timeout_s": dict.fromkeys(FUNCTIONS, 30.0),
}

OF_EMBEDDINGS = ("canary", "dimensions", "hedge", "revision", "space")
OF_COMPLETIONS = ("modalities", "routing_timeout_s", "stream_usage", "structured_output", "tools")
#: those that mean something of its own at an endpoint, or nothing at a function
NOT_INHERITED = ("budget", "model", "pools")

SETTINGS = [
    (function, setting)
    for function in FUNCTIONS
    for setting in PLACES
    if setting not in (OF_EMBEDDINGS if function == "completion" else OF_COMPLETIONS)
]


def places_of(function: str, setting: str) -> list[str]:
    return spelt(PLACES[setting], function)


def places_at(endpoint: str, function: str, setting: str) -> list[str]:
    """The endpoint's places, then its function's where they are inherited."""
    part = endpoint.upper().replace("-", "_")
    own = PLACES_AT_ENDPOINT[setting].replace("_E_", f"_{part}_").replace(".e.", f".{endpoint}.")
    return spelt(own if setting in NOT_INHERITED else f"{own} {PLACES[setting]}", function)


def spelt(places: str, function: str) -> list[str]:
    begin = {"env.F_": f"env.{function.upper()}_", "config.f.": f"config.{function}."}
    return [
        next((place.replace(short, full, 1) for short, full in begin.items() if place.startswith(short)), place)
        for place in places.split()
    ]


def written(setting: str, number: int, *, at: str = "function") -> tuple[Any, Any]:
    """A value that the setting can take, unlike that of another number, and what becomes of it."""
    match setting:
        case "pools" if at == "endpoint":
            return f"name-{number}", (f"name-{number}",)
        case "pools":
            return {f"name-{number}": {}}, (NamedPool(name=f"name-{number}"),)
        case "routes":
            return [{"pool": f"name-{number}"}], (Route(pool=f"name-{number}"),)
        case "routing":
            return ("off", Mode.OFF) if number % 2 else ("shadow", Mode.SHADOW)
        case "credential" | "trust" | "tokenizer":
            return f"name-{number}", f"name-{number}"
        case "modalities":
            return ("text,image", frozenset({"image"})) if number % 2 else ("audio", frozenset({"audio"}))
        case "api_key" | "azure_api_key" | "azure_ad_token":
            return f"sk-{number}", Secret(f"sk-{number}")
        case "headers":
            return f"X-Place: {number}", (("X-Place", str(number)),)
        case "deadline_s" | "weight" | "connect_timeout_s" | "first_byte_timeout_s" | "chunk_timeout_s":
            return str(number + 1), number + 1.0
        case "routing_timeout_s":
            return str(number + 1), number + 1.0
        case "context_length" | "dimensions" | "max_attempts" | "tier":
            return str(number + 1), number + 1
        case "hedge":
            return f"0.0{number + 1}", (number + 1) / 100
        case "endpoints" | "tags":
            return f"name-{number}", (f"name-{number}",)
        case "price":
            return f"{number}/{number + 1}", Price(input=number, output=number + 1)
        case "budget":
            return f"{number + 1}/day", (SpendingLimit(limit=number + 1, unit=Unit.COST, per=Period.DAY),)
        case "budget_ledger":
            return f"redis://value/{number}", Secret(f"redis://value/{number}")
        case "strategy":
            return list(Strategy)[number].value, list(Strategy)[number]
        case "failover_after_send":
            return list(AfterSend)[number].value, list(AfterSend)[number]
        case "dialect":
            return ("azure", Dialect.AZURE) if number % 2 else ("openai", Dialect.OPENAI)
        case "azure_keyless" | "canary" | "stream_usage" | "structured_output" | "tools":
            return ("yes", True) if number % 2 else ("no", False)
        case "api_path":
            return f"/v{number}", f"/v{number}"
        case "source":
            name = f"consul://centre:8500/key-{number}"
            return name, (Source(kind=Kind.CONSUL, name=name, path=f"key-{number}", url="http://centre:8500"),)
        case "startup":
            return list(Startup)[number % 3].value, list(Startup)[number % 3]
        case "key_fallback":
            return ("warn", "warn") if number % 2 else ("same-host", "same-host")
        case _:
            return f"http://value/{number}", f"http://value/{number}"


def layers(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The layers `config` and `env` that hold the values at their places."""
    made: dict[str, dict[str, Any]] = {"config": {}, "env": {}}
    for place, value in values.items():
        table = made
        *path, name = place.split(".")
        for segment in path:
            table = table.setdefault(segment, {})
        table[name] = value
    return made


def chain_of(container: Any, function: str, setting: str) -> Any:
    return getattr(getattr(container, function), setting)


@pytest.mark.parametrize(("function", "setting"), SETTINGS)
def test_a_setting_is_looked_for_in_these_places_and_no_others(function, setting):
    chain = chain_of(LLMContainer(), function, setting)

    assert [place.get_name() for place in chain.places] == places_of(function, setting)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_setting_of_a_function_stands_in_the_table_above(function):
    chains = {name for name, known in getattr(LLMContainer(), function).providers.items() if isinstance(known, FirstOf)}

    assert chains == {setting for known, setting in SETTINGS if known == function}


def chains_at(endpoint: str, function: str, **layers: Any) -> Any:
    """The chains of a function's only named endpoint."""
    lane: Any = getattr(LLMContainer(**layers), function)
    lane.endpoints.override(endpoint)
    chains = {name: known for name, known in lane.providers.items() if isinstance(known, FirstOf)}
    (configured,) = endpoints_of(function, chains, lane.config, lane.env)
    return configured.chains


@pytest.mark.parametrize("endpoint", ["backup", "backup-2", "override"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_of_an_endpoint_a_setting_is_looked_for_at_its_own_places_and_then_at_its_functions(endpoint, function):
    chains = chains_at(endpoint, function)

    assert {name: [place.get_name() for place in chain.places] for name, chain in chains.items()} == {
        setting: places_at(endpoint, function, setting)
        for setting in PLACES_AT_ENDPOINT
        if (function, setting) in SETTINGS
    }


@st.composite
def some_places(draw: st.DrawFn) -> tuple[str, str, list[str], list[str]]:
    """A setting, some of its places that hold a value, and some that are blank."""
    function, setting = draw(st.sampled_from(SETTINGS))
    state = draw(st.lists(st.sampled_from(["unset", "blank", "set"]), min_size=9, max_size=9))
    places = places_of(function, setting)
    chosen = {wanted: [p for p, s in zip(places, state, strict=False) if s == wanted] for wanted in ("set", "blank")}
    return function, setting, chosen["set"], chosen["blank"]


@given(case=some_places(), blank=st.sampled_from(["", " ", "\t\n"]))
def test_the_first_place_that_is_not_blank_wins_and_is_the_origin(case, blank):
    function, setting, places, blanks = case
    values = {place: written(setting, number) for number, place in enumerate(places)}
    texts = {place: text for place, (text, _) in values.items()} | dict.fromkeys(blanks, blank)
    chain = chain_of(LLMContainer(**layers(texts)), function, setting)

    value, origin = chain(), chain.origin()

    expected = values[places[0]][1] if places else DEFAULTS.get(setting, {}).get(function)
    assert (value, origin) == (expected, places[0] if places else "default")


@given(data=st.data(), function=st.sampled_from(FUNCTIONS), setting=st.sampled_from(sorted(PLACES_AT_ENDPOINT)))
def test_of_an_endpoint_the_most_specific_place_that_is_not_blank_wins_and_is_the_origin(data, function, setting):
    setting = setting if (function, setting) in SETTINGS else "base_url"
    places = places_at("backup", function, setting)
    told = [written(setting, n % 7, at="endpoint") for n in range(len(places))]
    texts = {
        place: data.draw(st.sampled_from([None, " ", text])) for place, (text, _) in zip(places, told, strict=True)
    }
    chain = chains_at("backup", function, **layers({p: text for p, text in texts.items() if text is not None}))[setting]

    value, origin = chain(), chain.origin()

    set_at = [place for place, text in texts.items() if text and text.strip()]
    default = None if setting in NOT_INHERITED else DEFAULTS.get(setting, {}).get(function)
    assert origin == (set_at[0] if set_at else "default")
    assert value == (told[places.index(set_at[0])][1] if set_at else default)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("other", FUNCTIONS)
def test_what_one_function_is_told_the_other_does_not_hear(function, other):
    told = {place: written(s, 1)[0] for f, s in SETTINGS if f == function for place in places_of(f, s)[:1]}
    container = LLMContainer(**layers(told))

    heard = {s for f, s in SETTINGS if f == other and chain_of(container, other, s).origin() != "default"}

    assert heard == (
        {s for f, s in SETTINGS if f == function} if other == function else {"key_fallback", "source_cache"}
    )


FORMS = {
    "base_url": "http://localhost:8001/v1",
    "api_key": "bert_sk_1",
    "model": "bert",
    "headers": "X-Team: search",
    "deadline_s": "2.5",
    "dimensions": "384",
}


def as_dict(folder, monkeypatch):
    return LLMContainer(config={"embedding": FORMS}, env={})


def as_environment(folder, monkeypatch):
    for name, value in FORMS.items():
        monkeypatch.setenv(f"EMBEDDING_{name.upper()}", value)
    return LLMContainer()


def as_dotenv(folder, monkeypatch):
    lines = [f'EMBEDDING_{name.upper()}="{value}"\n' for name, value in FORMS.items()]
    (folder / ".env").write_text("".join(lines))
    return LLMContainer.from_dotenv()


def as_toml(folder, monkeypatch):
    file = folder / "llm.toml"
    file.write_text(
        """
        [embedding]
        base_url = "http://localhost:8001/v1"
        api_key = "bert_sk_1"
        model = "bert"
        headers = { X-Team = "search" }
        deadline_s = 2.5
        dimensions = 384
        """
    )
    return LLMContainer.from_toml(file, env={})


@pytest.mark.parametrize(
    ("write", "origin"),
    [
        (as_dict, "config.embedding.model"),
        (as_environment, "env.EMBEDDING_MODEL"),
        (as_dotenv, "env.EMBEDDING_MODEL ({folder}/.env)"),
        (as_toml, "config.embedding.model ({folder}/llm.toml)"),
    ],
)
def test_the_four_ways_to_write_settings_mean_the_same(write, origin, tmp_path, monkeypatch):
    container = write(tmp_path, monkeypatch)

    settings = container.embedding.settings()

    assert settings.endpoint.base_url == "http://localhost:8001/v1"
    assert settings.endpoint.credential == Secret("bert_sk_1")
    assert settings.endpoint.headers == (("X-Team", "search"),)
    assert settings.calls.deadline_s == 2.5
    assert (settings.model, settings.dimensions) == ("bert", 384)
    assert container.embedding.model.origin() == origin.format(folder=tmp_path)


def refusal(setting: str, value: Any, function: str = "embedding", **more: Any) -> str:
    """What is said where the setting is given this value."""
    config = layers(
        {f"config.{function}.{setting}": value, f"config.{function}.base_url": "http://localhost:1", **more}
    )
    with pytest.raises(ConfigError) as refused:
        getattr(LLMContainer(config=config["config"], env={}), function).settings()
    message = str(refused.value)
    assert message.startswith(f"{function}.{setting} (from config.{function}.{setting}): ")
    return message


NO_TEXT: Sequence[Any] = [5, 5.0, True, ["a"], {"a": "b"}]


@pytest.mark.parametrize("value", NO_TEXT)
@pytest.mark.parametrize("setting", ["base_url", "model", "organization", "project", "api_path", "api_key"])
def test_what_is_no_text_is_refused_where_a_text_belongs(setting, value):
    config = {"embedding": {"base_url": "http://localhost:1", setting: value}}

    with pytest.raises(ConfigError, match=rf"{setting}.*: must be text, not {type(value).__name__}"):
        LLMContainer(config=config, env={}).embedding.settings()


@pytest.mark.parametrize(
    ("written", "means"), [("30", 30.0), (" 2.5 ", 2.5), (30, 30.0), (0.001, 0.001), ("1e2", 100.0)]
)
def test_a_deadline_is_a_number_of_seconds(written, means):
    container = LLMContainer(config={"completion": {"deadline_s": written}}, env={})

    assert container.completion.deadline_s() == means


@pytest.mark.parametrize(
    "value", [0, -1, "0", "-0.5", "soon", "30s", "nan", "inf", math.nan, math.inf, 10**310, True, [30], 1e10, "86401"]
)
def test_an_impossible_deadline_is_refused(value):
    assert "a number of seconds above 0" in refusal("deadline_s", value)


@pytest.mark.parametrize(("written", "means"), [("384", 384), (384, 384), (384.0, 384), (" 1 ", 1)])
def test_dimensions_are_a_whole_number(written, means):
    container = LLMContainer(config={"embedding": {"dimensions": written}}, env={})

    assert container.embedding.dimensions() == means


@pytest.mark.parametrize("value", [0, -1, "0", 2.5, "2.5", "many", math.nan, math.inf, -math.inf, True, [384]])
def test_impossible_dimensions_are_refused(value):
    assert "a whole number above 0" in refusal("dimensions", value)


@pytest.mark.parametrize("word", ["azure", "AZURE", " Azure "])
def test_a_choice_is_read_in_any_case(word):
    assert LLMContainer(env={"COMPLETION_DIALECT": word}).completion.dialect() is Dialect.AZURE


@pytest.mark.parametrize("value", ["anthropic", 5, ["azure"]])
def test_an_unknown_choice_names_those_there_are(value):
    assert "must be one of openai, azure" in refusal("dialect", value)


@pytest.mark.parametrize("word", ["same-host", "warn"])
def test_the_fallback_of_keys_is_one_of_two_words(word):
    assert LLMContainer(env={"LLMWIRE_KEY_FALLBACK": word}).embedding.key_fallback() == word


@pytest.mark.parametrize(
    ("means", "spellings"),
    [(True, ["1", "TRUE", "yes", "on", True, 1]), (False, ["0", "false", "No", "off", False, 0])],
)
def test_a_switch_is_read_in_the_spellings_of_environment_variables(means, spellings):
    for written in spellings:
        container = LLMContainer(config={"azure": {"keyless": written}}, env={})

        assert container.completion.azure_keyless() is means


@pytest.mark.parametrize("written", ["perhaps", 2, ["yes"]])
def test_what_is_no_switch_is_refused(written):
    container = LLMContainer(config={"azure": {"keyless": written}}, env={})

    with pytest.raises(ConfigError, match="must be true or false"):
        container.completion.azure_keyless()


@pytest.mark.parametrize("word", ["none", "None", "NONE", " none\n"])
@pytest.mark.parametrize("setting", ["api_key", "azure_api_key"])
def test_the_word_none_as_a_key_means_no_key(setting, word):
    container = LLMContainer(env={"COMPLETION_API_KEY": word})

    assert chain_of(container, "completion", setting)() == Secret("")


@pytest.mark.parametrize("blanks", ["\n", "\r\n", "  ", "\t"])
def test_blanks_around_a_key_are_taken_off(blanks):
    container = LLMContainer(env={"COMPLETION_API_KEY": f"{blanks}sk-1{blanks}"})

    assert container.completion.api_key() == Secret("sk-1")


@pytest.mark.parametrize(
    "key", ["Bearer sk-secret", "sk-sec\nret", "sk-sec\x00ret", "sk-s\u00e9cret", "sk-\u200bsecret"]
)
@pytest.mark.parametrize("setting", ["api_key", "azure.api_key", "azure.ad_token"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(setting, key):
    dialect = {"config.completion.dialect": "azure"} if "azure" in setting else {}

    message = refusal(setting, key, "completion", **dialect)

    assert not any(part in message for part in ("sk-", "sec", "cret", "ret"))


def test_a_secret_is_taken_as_a_key():
    container = LLMContainer(config={"completion": {"api_key": Secret("sk-1")}}, env={})

    assert container.completion.api_key() == Secret("sk-1")


@pytest.mark.parametrize(
    ("written", "pairs"),
    [
        ({"X-Team": "search"}, [("X-Team", "search")]),
        ({"X-Team": " search "}, [("X-Team", "search")]),
        ({"X-Team": ""}, [("X-Team", "")]),
        ({}, []),
        ('{"X-Team": "search", "X-Other": "b"}', [("X-Team", "search"), ("X-Other", "b")]),
        ("X-Team: search", [("X-Team", "search")]),
        ("X-Team:search\n\n X-Other : a: b \n", [("X-Team", "search"), ("X-Other", "a: b")]),
    ],
)
def test_headers_are_a_table_or_a_json_object_or_lines(written, pairs):
    container = LLMContainer(config={"completion": {"headers": written}}, env={})

    assert container.completion.headers() == tuple(pairs)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (5, "must be a table"),
        (["X-Team: search"], "must be a table"),
        ({"X-Team": 5}, "must be a table"),
        ({5: "search"}, "must be a table"),
        ("{not json", "starts as a JSON object, but is none"),
        ('{"X-Team": ["search"]}', "must be a table"),
        ("X-Team search", "has a line without a colon"),
        ({"": "a"}, "impossible header name"),
        ({"X Team": "a"}, "impossible header name"),
        ({"X-T\u00e9am": "a"}, "impossible header name"),
        ({"X-Te\x00am": "a"}, "impossible header name"),
        ({"X/Team": "a"}, "impossible header name"),
        ({"X-Team": "a\nb"}, "a value for X-Team that no HTTP header can carry"),
        ({"X-Team": "\u00e9"}, "a value for X-Team that no HTTP header can carry"),
    ],
)
def test_impossible_headers_are_refused(value, problem):
    assert problem in refusal("headers", value)


@pytest.mark.parametrize(
    "written",
    [{"Authorization: Bearer sk-secret": "x"}, {"X-Key": "sk-secret\n2"}, '{"X-Key: "sk-secret"}', "Bearer sk-secret"],
)
def test_a_refused_header_is_not_shown(written):
    assert "sk-secret" not in refusal("headers", written)


@pytest.mark.parametrize("value", ["org\nX-Evil: 1", "org\u00e9", "org\x00"])
@pytest.mark.parametrize("setting", ["organization", "project"])
def test_what_goes_into_a_header_must_fit_into_one(setting, value):
    assert "no HTTP header can carry" in refusal(setting, value)


@pytest.mark.parametrize("value", ["/v1?api-version=1", "/v1#part", "/v 1", "https://other.example.com", "/v1\x00"])
def test_an_api_path_that_is_no_path_is_refused(value):
    assert "must be a path" in refusal("api_path", value)


@pytest.mark.parametrize("setting", OF_EMBEDDINGS)
def test_what_is_of_embeddings_is_no_setting_of_completions(setting):
    container = LLMContainer(config={"completion": {setting: "5"}}, env={})

    with pytest.raises(ConfigError, match=rf"completion\.{setting} .*: is no setting"):
        container.completion.settings()


@pytest.mark.parametrize("setting", OF_COMPLETIONS)
def test_what_is_of_completions_is_no_setting_of_embeddings(setting):
    container = LLMContainer(config={"embedding": {setting: "5"}}, env={})

    with pytest.raises(ConfigError, match=rf"embedding\.{setting} .*: is no setting"):
        container.embedding.settings()


@pytest.mark.parametrize("setting", ["connect_timeout_s", "first_byte_timeout_s", "chunk_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, "soon", math.inf, True, "86401"])
def test_an_impossible_timeout_is_refused(setting, value):
    assert "a number of seconds above 0" in refusal(setting, value)


@pytest.mark.parametrize(("value", "means"), [("2", 2.0), (0.5, 0.5), (3, 3.0)])
def test_a_weight_is_a_number_above_0(value, means):
    assert LLMContainer(config={"completion": {"weight": value}}, env={}).completion.weight() == means


@pytest.mark.parametrize("value", [0, -1, "heavy", math.nan, math.inf, True, [1]])
def test_an_impossible_weight_is_refused(value):
    assert "a number above 0" in refusal("weight", value)


@pytest.mark.parametrize(("value", "means"), [(0, 0), ("0", 0), (2, 2), (" 1 ", 1)])
def test_a_tier_is_a_whole_number_from_0(value, means):
    assert LLMContainer(config={"completion": {"tier": value}}, env={}).completion.tier() == means


@pytest.mark.parametrize("value", [-1, 0.5, "0.5", "high", True, math.nan])
def test_an_impossible_tier_is_refused(value):
    assert "a whole number from 0" in refusal("tier", value)


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("eu, cheap", ("eu", "cheap")),
        ("eu", ("eu",)),
        (["eu", " cheap ", "eu", ""], ("eu", "cheap")),
        (("eu",), ("eu",)),
        ([], ()),
        (" , ", ()),
    ],
)
def test_tags_are_a_list_or_words_between_commas(value, means):
    assert LLMContainer(config={"completion": {"tags": value}}, env={}).completion.tags() == means


@pytest.mark.parametrize("value", [5, [5], {"eu": True}, True])
def test_impossible_tags_are_refused(value):
    assert "must be a list of words" in refusal("tags", value)


@pytest.mark.parametrize(
    ("value", "means"),
    [
        (2, (2, 2)),
        (0, (0, 0)),
        ("0.5", (0.5, 0.5)),
        ("0.5/1.5", (0.5, 1.5)),
        (" 0.5 / 1.5 ", (0.5, 1.5)),
        ({"input": 0, "output": "1.5"}, (0, 1.5)),
    ],
)
def test_a_price_is_one_number_or_two(value, means):
    price = LLMContainer(config={"completion": {"price": value}}, env={}).completion.price()

    assert (price.input, price.output) == means


@pytest.mark.parametrize(
    "value", [-1, "cheap", "1/2/3/4", "1/2/", "/2", "1/", math.nan, True, [1, 2], {"input": "a", "output": 1}]
)
def test_an_impossible_price_is_refused(value):
    assert "a price of a million tokens" in refusal("price", value)


@pytest.mark.parametrize("value", ["1/2/0.5", {"input": 1, "output": 2, "cached": 0.5}])
def test_a_price_may_have_a_third_for_what_the_server_had_in_its_cache(value):
    price = LLMContainer(config={"completion": {"price": value}}, env={}).completion.price()

    assert price == Price(input=1.0, output=2.0, cached=0.5)


@pytest.mark.parametrize("value", [{}, {"input": 1}, {"input": 1, "output": 1, "other": 1}])
def test_a_table_of_prices_holds_two(value):
    assert "must hold input and output" in refusal("price", value)


@pytest.mark.parametrize(
    ("value", "means"), [("0.05", 0.05), (0.5, 0.5), (0, 0.0), ("off", 0.0), ("Off", 0.0), (False, 0.0), ("no", 0.0)]
)
def test_a_share_of_calls_may_be_hedged_or_none(value, means):
    assert LLMContainer(config={"embedding": {"hedge": value}}, env={}).embedding.hedge() == means


@pytest.mark.parametrize("value", [0.51, -0.1, "often", math.nan, True, "5%"])
def test_an_impossible_share_is_refused(value):
    with pytest.raises(ConfigError, match=r"a share of the calls from 0 to 0\.5"):
        LLMContainer(config={"embedding": {"hedge": value}}, env={}).embedding.hedge()


@pytest.mark.parametrize("setting", ["strategy", "failover_after_send"])
def test_an_unknown_way_names_those_there_are(setting):
    choices = {"strategy": Strategy, "failover_after_send": AfterSend}[setting]

    assert f"must be one of {', '.join(choices)}, not 'best'" in refusal(setting, "best")


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("primary,backup", ("primary", "backup")),
        (" primary  backup-2\tb_3 ,", ("primary", "backup-2", "b_3")),
        ("Primary", ("primary",)),
    ],
)
def test_endpoints_are_named_between_commas_or_blanks(value, means):
    assert LLMContainer(env={"COMPLETION_ENDPOINTS": value}).completion.endpoints() == means


def test_a_table_of_tables_names_endpoints_in_its_order_and_as_written():
    config = {"completion": {"endpoints": {"zeta": {}, "Alpha": None, "beta": {"tier": 1}}}}

    assert LLMContainer(config=config, env={}).completion.endpoints() == ("zeta", "Alpha", "beta")


@pytest.mark.parametrize("raw", ["k\xe9y", "a key", "a\nkey"])
def test_a_key_that_is_hidden_already_is_checked_as_any_other(raw):
    with pytest.raises(Unfit) as caught:
        values.key(Secret(raw))

    assert raw not in str(caught.value)


def test_no_key_stays_no_key():
    assert values.key(NO_KEY) == NO_KEY


@pytest.mark.parametrize("value", ["long,vision", ["long", "vision"], "Long  VISION", " long , vision,long"])
def test_an_endpoint_names_its_pools_in_a_list_or_between_commas_in_any_case(value):
    assert values.pool_names(value) == ("long", "vision")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("1st", "is no name for a pool: '1st'"),
        (["a b"], "is no name for a pool"),
        ([], "names nothing"),
        (",", "names nothing"),
        (5, "must be a list of words"),
        ({"long": {}}, "must be a list of words"),
    ],
)
def test_impossible_names_of_pools_are_refused(value, problem):
    with pytest.raises(Unfit) as caught:
        values.pool_names(value)

    assert problem in caught.value.problem


@pytest.mark.parametrize("value", ["eu,local", "my own", "", " eu", ["eu"], 5])
def test_a_label_of_trust_is_one_word(value):
    with pytest.raises(Unfit):
        values.word(value)


@pytest.mark.parametrize(
    ("value", "means"),
    [("text", set()), ("text,image", {"image"}), (["Audio", "file"], {"audio", "file"}), ("image", {"image"})],
)
def test_modalities_are_those_beside_text(value, means):
    assert values.modalities(value) == means


@pytest.mark.parametrize("value", ["images", ["video"], [], 5, True])
def test_impossible_modalities_are_refused(value):
    with pytest.raises(Unfit):
        values.modalities(value)


@pytest.mark.parametrize(
    ("value", "means"),
    [("on", Mode.ON), ("Shadow", Mode.SHADOW), ("off", Mode.OFF), (True, Mode.ON), (False, Mode.OFF)],
)
def test_routing_is_on_off_or_a_shadow(value, means):
    assert LLMContainer(config={"completion": {"routing": value}}, env={}).completion.routing() is means


def test_an_unknown_way_of_routing_names_those_there_are():
    assert "must be one of on, shadow, off, not 'dry-run'" in refusal("routing", "dry-run")


@pytest.mark.parametrize(("value", "means"), [("AUTO", "auto"), ("estimate", "estimate"), ("My_base", "My_base")])
def test_a_tokenizer_is_a_word_of_ours_or_an_encoding_as_it_is_called(value, means):
    assert LLMContainer(config={"completion": {"tokenizer": value}}, env={}).completion.tokenizer() == means


@pytest.mark.parametrize("value", [-1.5, 2, "near", True, math.nan, math.inf, [0.5]])
def test_an_impossible_cosine_is_refused(value):
    with pytest.raises(Unfit, match="a cosine from -1 to 1"):
        values.cosine(value)


def a_limit(limit, unit, per, tag=None):
    return SpendingLimit(limit=limit, unit=unit, per=per, tag=tag)


@pytest.mark.parametrize(
    ("value", "means"),
    [
        ("5/day", [a_limit(5.0, Unit.COST, Period.DAY)]),
        ("0.25 / hour", [a_limit(0.25, Unit.COST, Period.HOUR)]),
        ("1e-7/hour", [a_limit(1e-7, Unit.COST, Period.HOUR)]),
        ("200_000 tokens/minute", [a_limit(200_000.0, Unit.TOKENS, Period.MINUTE)]),
        (
            "overnight: 1/day, 5/day",
            [a_limit(1.0, Unit.COST, Period.DAY, "overnight"), a_limit(5.0, Unit.COST, Period.DAY)],
        ),
        (
            ["5/day", {"tokens": 100, "per": "hour"}],
            [a_limit(5.0, Unit.COST, Period.DAY), a_limit(100.0, Unit.TOKENS, Period.HOUR)],
        ),
        ({"cost": 2, "per": "Day", "tag": "a"}, [a_limit(2.0, Unit.COST, Period.DAY, "a")]),
    ],
)
def test_a_budget_is_an_amount_for_a_time_and_perhaps_of_a_tag(value, means):
    assert list(LLMContainer(config={"completion": {"budget": value}}, env={}).completion.budget()) == means


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("5", "'5', which is no budget"),
        ("5/week", "'5/week', which is no budget"),
        ("0/day", "an amount above 0"),
        ("-5/day", "no budget"),
        ("5/day, 6/day", "two budgets in cost for one day"),
        ("a: 5/day, a: 6/day", "two budgets of the tag a in cost for one day"),
        ("two words: 5/day", "must be one word"),
        ([], "must be a budget, or a list"),
        (5, "must be a budget, or a list"),
        ([5], "must say cost or tokens, and per"),
        ({"cost": 5}, "must say cost or tokens, and per"),
        ({"cost": 5, "tokens": 5, "per": "day"}, "must say cost or tokens, and per"),
        ({"cost": 5, "per": "day", "of": "a"}, "holds of, which no budget has"),
        ({"cost": True, "per": "day"}, "an amount above 0"),
        ("1e-10/day", "from a billionth to 1e12, as in 5 or 0.25, not '1e-10'"),
        ("1e300/day", "from a billionth to 1e12, as in 5 or 0.25, not '1e300'"),
        ("0.5 tokens/day", "a whole number of tokens up to 1e12, as in 200000, not '0.5'"),
    ],
)
def test_an_impossible_budget_is_refused(value, problem):
    assert problem in refusal("budget", value)


@pytest.mark.parametrize("word", ["static", "cache", "fail", " FAIL "])
def test_what_is_begun_with_is_one_of_three_words(word):
    assert LLMContainer(env={"LLMWIRE_STARTUP": word}).embedding.startup() is Startup(word.strip().lower())


def test_an_unknown_way_to_begin_names_those_there_are():
    container = LLMContainer(config={"embedding": {"startup": "wait"}}, env={})

    with pytest.raises(ConfigError, match="embedding.startup .*: must be one of static, cache, fail"):
        container.embedding.startup()


@pytest.mark.parametrize(("value", "means"), [("vendor", "vendor"), (" Vendor-2 ", "vendor-2"), ("a_b", "a_b")])
def test_a_credential_is_called_by_one_name_in_any_case(value, means):
    assert LLMContainer(env={"COMPLETION_CREDENTIAL": value}).completion.credential() == means


@pytest.mark.parametrize("value", ["sk-secret.x", "2nd", "a b", "a.b", "-", "sk/secret", 5, ["vendor"], {"a": "b"}])
def test_what_is_no_name_of_a_credential_is_refused_unseen_as_it_may_be_the_key(value):
    message = refusal("credential", value)

    assert "is no credential's name" in message
    assert "secret" not in message


@pytest.mark.parametrize("setting", ["weight", "price", "tier", "deadline_s", "context_length", "max_attempts"])
@pytest.mark.parametrize("raw", [1e308, 10**400, "9" * 5000, -(10**400)], ids=["1e308", "int", "text", "below 0"])
def test_no_number_is_so_large_that_something_breaks_of_it(setting, raw):
    with pytest.raises(ConfigError) as refused:
        LLMContainer(env={}, config={"completion": {"base_url": "http://a", setting: raw}}).completion.settings()

    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("setting", ["model", "trust", "tags", "base_url"])
def test_nothing_that_is_shown_controls_a_terminal(setting):
    config = {"base_url": "http://a", setting: "x\x1b]0;title\x07"}

    with pytest.raises(ConfigError) as refused:
        LLMContainer(env={}, config={"completion": config}).completion.settings()

    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("parse", "raw", "told"),
    [
        (values.endpoint_names, {f"e{number}": {} for number in range(1001)}, "names 1001 endpoints, of 1000 at most"),
        (values.endpoint_names, "e" * 101, "holds at place 1 what is no name"),
        (values.pool_names, [f"p{number}" for number in range(1001)], "holds 1001 words, of 1000 at most"),
        (routes.routes, [{"pool": "a"}] * 1001, "holds 1001 routes, of 1000 at most"),
        (
            routes.routes,
            [{"pool": "a", "keywords": [f"w{number}" for number in range(900)]}] * 6,
            "hold 5400 keywords, of 5000 at most",
        ),
        (routes.routes, [{"pool": "a", "pattern": "a|" * 6000}], "has more than 10000 characters"),
    ],
    ids=["endpoints", "name", "pools", "routes", "keywords", "pattern"],
)
def test_nothing_is_so_long_that_it_holds_up_all_the_rest(parse, raw, told):
    with pytest.raises(Unfit) as refused:
        parse(raw)

    assert told in refused.value.problem
