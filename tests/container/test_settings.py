"""Every setting: where it may be written, in which order that counts, and what it can take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import ConfigError, LLMContainer
from llmwire.services.routing.endpoint import Dialect
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
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "base_url": dict.fromkeys(FUNCTIONS, "https://api.openai.com/v1"),
    "model": {"completion": "gpt-5.4-mini", "embedding": "text-embedding-3-small"},
    "deadline_s": {"completion": 120.0, "embedding": 30.0},
    "azure_api_version": dict.fromkeys(FUNCTIONS, "2024-10-21"),
    "azure_keyless": dict.fromkeys(FUNCTIONS, False),
    "key_fallback": dict.fromkeys(FUNCTIONS, "warn"),
}

SETTINGS = [
    (function, setting)
    for function in FUNCTIONS
    for setting in PLACES
    if (function, setting) != ("completion", "dimensions")
]


def places_of(function: str, setting: str) -> list[str]:
    return [
        place.replace("F_", f"{function.upper()}_").replace(".f.", f".{function}.") for place in PLACES[setting].split()
    ]


def written(setting: str, number: int) -> tuple[Any, Any]:
    """A value that the setting can take, unlike that of another number, and what becomes of it."""
    match setting:
        case "api_key" | "azure_api_key" | "azure_ad_token":
            return f"sk-{number}", Secret(f"sk-{number}")
        case "headers":
            return f"X-Place: {number}", (("X-Place", str(number)),)
        case "deadline_s":
            return str(number + 1), number + 1.0
        case "dimensions":
            return str(number + 1), number + 1
        case "dialect":
            return ("azure", Dialect.AZURE) if number % 2 else ("openai", Dialect.OPENAI)
        case "azure_keyless":
            return ("yes", True) if number % 2 else ("no", False)
        case "api_path":
            return f"/v{number}", f"/v{number}"
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
    from llmwire.container.configuration import FirstOf

    chains = {name for name, known in getattr(LLMContainer(), function).providers.items() if isinstance(known, FirstOf)}

    assert chains == {setting for known, setting in SETTINGS if known == function}


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


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("other", FUNCTIONS)
def test_what_one_function_is_told_the_other_does_not_hear(function, other):
    told = {place: written(s, 1)[0] for f, s in SETTINGS if f == function for place in places_of(f, s)[:1]}
    container = LLMContainer(**layers(told))

    heard = {s for f, s in SETTINGS if f == other and chain_of(container, other, s).origin() != "default"}

    assert heard == ({s for f, s in SETTINGS if f == function} if other == function else {"key_fallback"})


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
    assert settings.endpoint.deadline_s == 2.5
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


def test_dimensions_are_no_setting_of_completions():
    container = LLMContainer(config={"completion": {"dimensions": 5}}, env={})

    with pytest.raises(ConfigError, match=r"completion\.dimensions .*: is no setting"):
        container.completion.settings()
