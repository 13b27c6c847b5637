"""Whose key and headers go to which of several endpoints. Of a single endpoint test_resolution.py tells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from llmwire.container import ConfigError, LLMContainer
from llmwire.container.documents import Sourced
from llmwire.container.resolution import FunctionSettings
from llmwire.services.routing.endpoint import server_of
from llmwire.services.secrets import Secret

from .speakers import sourced

OPENAI = "https://api.openai.com"
SAME_HOST = {"LLMWIRE_KEY_FALLBACK": "same-host"}
TWO = {
    "COMPLETION_ENDPOINTS": "one,two",
    "COMPLETION_ONE_BASE_URL": "https://a",
    "COMPLETION_TWO_BASE_URL": "https://b",
}


def settled(env: dict[str, str], *documents: Sourced, **layers: Any) -> FunctionSettings:
    """The settings, with documents of sources in force."""
    lane: Any = LLMContainer(env=env, **layers).completion
    lane.documents.take(documents)
    settings: FunctionSettings = lane.settings()
    return settings


def refused(env: dict[str, str], *documents: Sourced, **layers: Any) -> str:
    with pytest.raises(ConfigError) as error:
        settled(env, *documents, **layers)
    return str(error.value)


def keys_of(settings: FunctionSettings) -> list[str | None]:
    credentials = [endpoint.credential for endpoint in settings.endpoints]
    return [each.reveal() if isinstance(each, Secret) else None for each in credentials]


def travels(settings: FunctionSettings) -> list[str]:
    return [f"{warning.key}: {warning.message}" for warning in settings.warnings]


def test_an_endpoints_own_key_goes_to_its_server():
    env = {**TWO, "COMPLETION_ONE_API_KEY": "one", "COMPLETION_TWO_API_KEY": "two", "OPENAI_API_KEY": "shared"}

    for settings in (settled(env), settled({**env, **SAME_HOST})):
        assert keys_of(settings) == ["one", "two"]
        assert settings.warnings == ()


def test_an_endpoints_own_key_goes_to_the_server_that_it_inherits():
    env = {"COMPLETION_ENDPOINTS": "one", "COMPLETION_ONE_API_KEY": "one", "OPENAI_BASE_URL": "https://a"}

    assert keys_of(settled({**env, **SAME_HOST})) == ["one"]


@pytest.mark.parametrize("name", ["COMPLETION_ONE_API_KEY", "COMPLETION_API_KEY", "OPENAI_API_KEY"])
def test_the_word_none_sends_no_key_at_any_level(name):
    settings = settled({**TWO, **SAME_HOST, name: "none"})

    assert keys_of(settings)[0] is None
    assert settings.warnings == ()


def test_a_shared_key_that_goes_to_several_hosts_is_a_warning_for_each():
    settings = settled({**TWO, "OPENAI_API_KEY": "shared"})

    assert keys_of(settings) == ["shared", "shared"]
    assert travels(settings) == [
        f"completion.endpoints.{name}.api_key: the shared key env.OPENAI_API_KEY goes to https://{host}:443, "
        "another host than the one it was given with"
        for name, host in (("one", "a"), ("two", "b"))
    ]


def test_of_one_host_that_is_warned_of_once():
    env = {**TWO, "COMPLETION_TWO_BASE_URL": "https://a/other", "OPENAI_API_KEY": "shared"}

    assert len(travels(settled(env))) == 1


def test_a_functions_key_stays_with_the_functions_host():
    env = {**TWO, "COMPLETION_BASE_URL": "https://A:443/v2", "COMPLETION_API_KEY": "own"}

    (warning,) = travels(settled(env))
    message = refused({**env, **SAME_HOST})

    assert warning == (
        "completion.endpoints.two.api_key: the function's key env.COMPLETION_API_KEY goes to https://b:443, "
        "another host than the one it was given with"
    )
    assert message.endswith("which key_fallback = same-host forbids. Set COMPLETION_TWO_API_KEY. `none` sends no key.")


def test_a_functions_key_without_a_server_was_meant_for_its_endpoints():
    settings = settled({**TWO, "COMPLETION_API_KEY": "own"})

    assert keys_of(settings) == ["own", "own"]
    assert settings.warnings == ()
    assert (
        "completion.endpoints.two.api_key: the function's key env.COMPLETION_API_KEY goes to https://b:443, "
        "one of several hosts; it was given with none"
    ) in settings.notes


def test_under_same_host_a_functions_key_without_a_server_goes_to_no_two_hosts():
    message = refused({**TWO, **SAME_HOST, "COMPLETION_API_KEY": "own"})

    assert "one of several hosts; it was given with none, which key_fallback = same-host forbids" in message
    assert message.endswith("Set COMPLETION_ONE_API_KEY. `none` sends no key.")


@pytest.mark.parametrize(
    "env",
    [
        {"COMPLETION_TWO_BASE_URL": "https://a/other"},
        {"COMPLETION_ONE_BASE_URL": OPENAI, "COMPLETION_TWO_API_KEY": "two"},
        {"OPENAI_BASE_URL": "https://a", "COMPLETION_TWO_API_KEY": "two"},
    ],
)
def test_under_same_host_it_may_go_to_the_only_host_and_to_the_one_that_the_function_falls_back_to(env):
    settings = settled({**TWO, **SAME_HOST, **env, "COMPLETION_API_KEY": "own"})

    assert keys_of(settings)[0] == "own"
    assert settings.warnings == ()
    assert not [note for note in settings.notes if "goes to" in note]


def test_a_functions_key_goes_to_no_azure_unsaid():
    env = {
        "COMPLETION_ENDPOINTS": "east",
        "COMPLETION_EAST_AZURE_OPENAI_ENDPOINT": "https://az",
        "COMPLETION_BASE_URL": "https://vendor",
        "COMPLETION_API_KEY": "of-the-vendor",
    }

    (warning,) = travels(settled(env))

    assert warning.startswith("completion.endpoints.east.azure.api_key: the function's key env.COMPLETION_API_KEY goes")
    assert refused({**env, **SAME_HOST}).endswith("Set COMPLETION_EAST_AZURE_OPENAI_API_KEY. `none` sends no key.")


def test_a_functions_key_that_was_given_with_azure_goes_to_no_other_server_unsaid():
    env = {
        "COMPLETION_ENDPOINTS": "one",
        "COMPLETION_ONE_BASE_URL": OPENAI,
        "COMPLETION_AZURE_OPENAI_ENDPOINT": "https://az",
        "COMPLETION_API_KEY": "of-azure",
    }

    (warning,) = travels(settled(env))

    assert "goes to https://api.openai.com:443, another host than the one it was given with" in warning
    assert refused({**env, **SAME_HOST}).endswith("Set COMPLETION_ONE_API_KEY. `none` sends no key.")


def test_the_level_decides_before_the_kind_of_credential():
    env = {
        "COMPLETION_ENDPOINTS": "east",
        "COMPLETION_EAST_AZURE_OPENAI_ENDPOINT": "https://az",
        "COMPLETION_EAST_API_KEY": "own",
        "COMPLETION_AZURE_OPENAI_AD_TOKEN": "of-the-function",
        "AZURE_OPENAI_KEYLESS": "yes",
    }

    assert keys_of(settled({**env, **SAME_HOST})) == ["own"]


def test_a_key_in_clear_text_is_a_warning_for_each_host():
    env = {**TWO, "COMPLETION_TWO_BASE_URL": "http://b", "COMPLETION_TWO_API_KEY": "two"}

    (warning,) = travels(settled(env))

    assert warning.endswith("the key travels to http://b:80 unencrypted; use https")


HEADERS = {"ORG_ID": "org", "PROJECT_ID": "proj", "HEADERS": "X-Team: search"}


@pytest.mark.parametrize(
    ("prefix", "env", "served"),
    [
        ("COMPLETION_ONE_", {}, ["one"]),
        ("COMPLETION_", {}, ["one", "two"]),
        ("COMPLETION_", SAME_HOST, []),
        ("COMPLETION_", {**SAME_HOST, "COMPLETION_TWO_BASE_URL": "https://a/2"}, ["one", "two"]),
        ("COMPLETION_", {"COMPLETION_BASE_URL": "https://b"}, ["two"]),
        ("COMPLETION_", {"COMPLETION_BASE_URL": "https://c"}, []),
    ],
)
def test_organisation_project_and_headers_go_to_the_host_that_they_were_given_with(prefix, env, served):
    given_headers = {f"{prefix}{name}": value for name, value in HEADERS.items()}

    settings = settled({**TWO, **env, **given_headers})

    assert [each.name for each in settings.endpoints if each.headers] == served
    assert all(len(each.headers) == 3 for each in settings.endpoints if each.headers)
    stays = [note for note in settings.notes if "is not sent" in note]
    assert len(stays) == (0 if prefix == "COMPLETION_ONE_" else 3 * (2 - len(served)))


def test_shared_headers_go_to_the_shared_host_only():
    shared = {"OPENAI_BASE_URL": "https://b", "OPENAI_ORG_ID": "org", "OPENAI_CUSTOM_HEADERS": "X-Team: search"}

    one, two = settled({**TWO, **shared}).endpoints

    assert (one.headers, two.headers) == ((), (("OpenAI-Organization", "org"), ("X-Team", "search")))


LEVELS = ("COMPLETION_ONE", "COMPLETION_TWO", "COMPLETION", "OPENAI")
URLS = st.sampled_from(["", " ", "https://a", "https://b/v1", "https://c:8443", OPENAI])
KEYS = st.sampled_from(["", " ", "none", "key"])


@st.composite
def assignments(draw: st.DrawFn) -> dict[str, str]:
    """Any servers and keys at the levels of two endpoints; each key is the only one of its level."""
    env = {f"{level}_BASE_URL": draw(URLS) for level in LEVELS}
    keys = {level: draw(KEYS) for level in LEVELS}
    return env | {f"{level}_API_KEY": f"key-{level}" if key == "key" else key for level, key in keys.items()}


def first(env: dict[str, str], setting: str, levels: list[str]) -> str | None:
    """The most specific of the levels at which the setting is not blank."""
    return next((level for level in levels if env[f"{level}_{setting}"].strip()), None)


def standing(env: dict[str, str], levels: list[str]) -> str:
    """What is to be said of the key that an endpoint with these levels gets: nothing, a `note` or a `warning`."""
    server, key = first(env, "BASE_URL", levels), first(env, "API_KEY", levels)
    assert server is not None
    if key is None or env[f"{key}_API_KEY"] == "none" or levels.index(key) <= levels.index(server):
        return "nothing"
    home = first(env, "BASE_URL", levels[levels.index(key) :])
    hosts = [server_of(env[f"{first(env, 'BASE_URL', [name, *levels[1:]])}_BASE_URL"]) for name in LEVELS[:2]]
    host = server_of(env[f"{server}_BASE_URL"])
    if host == server_of(env[f"{home}_BASE_URL"] if home else OPENAI):
        return "nothing"
    if key == "COMPLETION" and home != "COMPLETION":
        return "nothing" if len(set(hosts)) == 1 else "note"
    return "warning"


@given(env=assignments(), fallback=st.sampled_from(["warn", "same-host"]))
def test_the_most_specific_server_and_key_win_and_no_key_goes_elsewhere_unsaid(env, fallback):
    paths = [["COMPLETION_ONE", "COMPLETION", "OPENAI"], ["COMPLETION_TWO", "COMPLETION", "OPENAI"]]
    container = LLMContainer(env={**env, "COMPLETION_ENDPOINTS": "one,two", "LLMWIRE_KEY_FALLBACK": fallback})
    servers = [first(env, "BASE_URL", levels) for levels in paths]
    keys = [first(env, "API_KEY", levels) for levels in paths]
    is_keyless = any(
        server and key is None and env[f"{server}_BASE_URL"] == OPENAI
        for server, key in zip(servers, keys, strict=True)
    )
    expected = [standing(env, levels) for levels in paths] if None not in servers else []
    try:
        settings = container.completion.settings()
    except ConfigError:
        assert not expected or is_keyless or (fallback == "same-host" and set(expected) != {"nothing"})
        return

    assert expected
    assert not is_keyless
    assert fallback == "warn" or set(expected) == {"nothing"}
    explained = container.explain().functions[0].endpoints
    for endpoint, shown, server, key, said in zip(settings.endpoints, explained, servers, keys, expected, strict=True):
        assert endpoint.server == server_of(env[f"{server}_BASE_URL"])
        value = env[f"{key}_API_KEY"] if key else "none"
        assert endpoint.credential == (None if value == "none" else Secret(value))
        origins = {row.setting.rpartition(".")[2]: row.origin for row in shown.rows}
        assert origins["base_url"] == f"env.{server}_BASE_URL"
        assert origins.get("api_key") == (f"env.{key}_API_KEY" if key else None)
        told = f"key env.{key}_API_KEY goes to {endpoint.server}, "
        assert any(told in warning.message for warning in settings.warnings) is (said == "warning")
        assert any(told in note for note in settings.notes) is (said == "note")


# What a document names that others may write.

VENDOR = {
    "LLMWIRE_CREDENTIAL_VENDOR_API_KEY": "vendor-key",
    "LLMWIRE_CREDENTIAL_VENDOR_HOSTS": "https://vendor.test, http://vendor.test:80, https://*.azure.com",
}


def remote(**completion: Any) -> Sourced:
    return sourced({"completion": completion})


def local(**completion: Any) -> Sourced:
    return sourced({"completion": completion}, is_remote=False, origin="file:///etc/llmwire.toml")


def at(url: str, **settings: Any) -> dict[str, Any]:
    return {"a": {"base_url": url, **settings}}


HELD = [
    ({"COMPLETION_A_API_KEY": "sk-1"}, {}),
    ({"COMPLETION_API_KEY": "sk-1"}, {}),
    ({"COMPLETION_OPENAI_API_KEY": "sk-1"}, {}),
    ({"OPENAI_API_KEY": "sk-1"}, {}),
    ({}, {"completion": {"endpoints": {"a": {"api_key": "sk-1"}}}}),
    ({}, {"completion": {"api_key": "sk-1"}}),
    ({}, {"openai": {"api_key": "sk-1"}}),
]


@pytest.mark.parametrize(("env", "config"), HELD)
@pytest.mark.parametrize("fallback", ["warn", "same-host"])
def test_no_key_of_this_program_goes_to_a_server_that_others_may_name(env, config, fallback):
    env = {**env, "LLMWIRE_KEY_FALLBACK": fallback}

    settings = settled(env, remote(endpoints=at("https://evil.test")), config=config)

    assert keys_of(settings) == [None]
    assert "is not sent: a remote document names the server. Name a `credential`" in " ".join(settings.notes)
    assert "sk-1" not in str(settings.notes)


@pytest.mark.parametrize(("env", "config"), HELD)
def test_nor_where_they_name_another_server_for_an_endpoint_of_this_program(env, config):
    config = {**config, "completion": {**config.get("completion", {})}}
    tables = config["completion"].setdefault("endpoints", {"a": {}})
    tables["a"] = {**tables["a"], "base_url": "https://mine.test"}

    own = settled(env, config=config)
    led_away = settled(env, remote(endpoints=at("https://evil.test")), config=config)

    assert keys_of(own) == ["sk-1"]
    assert led_away.endpoint.server == "https://evil.test:443"
    assert keys_of(led_away) == [None]


def test_nor_where_they_name_the_server_of_the_function():
    settings = settled({"COMPLETION_API_KEY": "sk-1"}, remote(base_url="https://evil.test"))

    assert (settings.endpoint.server, keys_of(settings)) == ("https://evil.test:443", [None])


def test_nor_through_a_file_of_this_machine_that_holds_the_key_alone():
    settings = settled({}, local(endpoints={"a": {"api_key": "sk-1"}}), remote(endpoints=at("https://evil.test")))

    assert keys_of(settings) == [None]


@pytest.mark.parametrize(
    "env",
    [
        {"COMPLETION_AZURE_OPENAI_API_KEY": "sk-1"},
        {"AZURE_OPENAI_API_KEY": "sk-1"},
        {"AZURE_OPENAI_AD_TOKEN": "sk-1"},
        {"AZURE_OPENAI_KEYLESS": "yes"},
        {"COMPLETION_A_AZURE_OPENAI_KEYLESS": "yes"},
    ],
)
def test_nor_does_any_credential_of_azures(env):
    table = {"a": {"azure": {"endpoint": "https://evil.azure.com"}}}

    message = refused(env, remote(endpoints=table))

    assert "https://evil.azure.com:443, which a remote document names, asks for a key. Name a `credential`" in message
    by_name = settled({**env, **VENDOR}, remote(endpoints=table, credential="vendor"))
    assert keys_of(by_name) == ["vendor-key"]


@pytest.mark.parametrize("prefix", ["COMPLETION_A", "COMPLETION", "OPENAI"])
def test_nor_an_organisation_a_project_or_headers(prefix):
    spelling = {"OPENAI": "OPENAI_CUSTOM_HEADERS"}.get(prefix, f"{prefix}_HEADERS")
    env = {f"{prefix}_ORG_ID": "org", f"{prefix}_PROJECT_ID": "project", spelling: "X-Team: search"}

    settings = settled(env, remote(endpoints=at("https://evil.test")))

    assert settings.endpoint.headers == ()
    assert sum("is not sent: a remote document names the server" in note for note in settings.notes) == 3


def test_the_default_server_that_others_name_asks_for_a_key_that_has_a_name():
    message = refused({"OPENAI_API_KEY": "sk-1"}, remote(endpoints=at(OPENAI)))

    assert message.startswith("completion.endpoints.a.credential (from config.completion.endpoints.a.base_url (fake://")
    assert "https://api.openai.com:443, which a remote document names, asks for a key." in message


def test_what_they_say_of_an_endpoint_that_is_named_here_leaves_it_its_key():
    env = {"COMPLETION_ENDPOINTS": "a", "COMPLETION_A_BASE_URL": "https://mine.test", "COMPLETION_A_API_KEY": "sk-1"}

    settings = settled(env, remote(endpoints={"a": {"weight": 3, "model": "m"}}))

    assert (settings.endpoint.base_url, settings.endpoint.weight) == ("https://mine.test/v1", 3.0)
    assert keys_of(settings) == ["sk-1"]


def test_a_server_that_others_name_beside_it_makes_no_other_use_of_a_functions_key():
    env = {**SAME_HOST, "COMPLETION_A_BASE_URL": "https://mine.test", "COMPLETION_API_KEY": "sk-1"}

    alone = settled({**env, "COMPLETION_ENDPOINTS": "a"})
    beside = settled(env, remote(endpoints={"a": {}, "b": {"base_url": "https://theirs.test"}}))

    assert keys_of(alone) == ["sk-1"]
    assert keys_of(beside) == ["sk-1", None]


def test_a_server_that_others_name_is_nobodys_home():
    env = {"COMPLETION_BASE_URL": "https://a.test", "COMPLETION_API_KEY": "sk-of-a", **SAME_HOST}
    env |= {"COMPLETION_B_BASE_URL": "https://b.test"}

    with pytest.raises(ConfigError, match="which key_fallback = same-host forbids"):
        settled(env, remote(base_url="https://b.test", endpoints={"b": {}}))


def test_a_file_of_this_machine_is_trusted_with_keys_and_where_they_go():
    document = local(endpoints=at("https://mine.test", api_key="sk-1", headers={"X-Team": "search"}))

    settings = settled({}, document)

    assert keys_of(settings) == ["sk-1"]
    assert settings.endpoint.headers == (("X-Team", "search"),)


# Keys that have a name.


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({}, {"endpoints": at("https://vendor.test", credential="vendor")}),
        ({}, {"endpoints": at("https://vendor.test"), "credential": "vendor"}),
        ({"COMPLETION_CREDENTIAL": "vendor"}, {"endpoints": at("https://vendor.test")}),
        ({"COMPLETION_A_CREDENTIAL": "vendor"}, {"endpoints": at("https://vendor.test")}),
        ({"COMPLETION_A_API_KEY": "sk-1"}, {"endpoints": at("https://vendor.test"), "credential": "vendor"}),
    ],
)
def test_a_key_that_has_a_name_goes_to_the_hosts_that_it_is_declared_with_whoever_names_them(env, said):
    assert keys_of(settled({**VENDOR, **env}, remote(**said))) == ["vendor-key"]


@pytest.mark.parametrize("url", ["https://evil.test", "https://vendor.test:8443", "http://vendor.test:8080"])
def test_it_goes_to_no_other_host_whoever_names_it(url):
    told = "completion.endpoints.a.credential (from "
    server = server_of(f"{url}/v1")

    for message in (
        refused(VENDOR, remote(endpoints=at(url, credential="vendor"))),
        refused(VENDOR, config={"completion": {"endpoints": at(url, credential="vendor")}}),
    ):
        assert message.startswith(told)
        assert f"names vendor, a key that may not go to {server}. Correct the server" in message
        assert "vendor-key" not in message


def test_one_that_is_not_declared_is_refused_with_what_to_declare():
    message = refused(VENDOR, remote(endpoints=at("https://vendor.test", credential="other")))

    assert "names other, which is none of the credentials of this program (vendor). Declare it here" in message


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"COMPLETION_A_CREDENTIAL": "vendor", "COMPLETION_API_KEY": "sk-1"}, "vendor-key"),
        ({"COMPLETION_CREDENTIAL": "vendor", "COMPLETION_API_KEY": "sk-1"}, "vendor-key"),
        ({"COMPLETION_CREDENTIAL": "vendor", "OPENAI_API_KEY": "sk-1"}, "vendor-key"),
        ({"COMPLETION_CREDENTIAL": "vendor", "COMPLETION_A_API_KEY": "sk-1"}, "sk-1"),
        ({"COMPLETION_CREDENTIAL": "vendor", "COMPLETION_A_API_KEY": "none"}, None),
    ],
)
def test_of_a_server_that_is_named_here_the_nearer_of_key_and_credential_counts(env, key):
    env = {**VENDOR, "COMPLETION_ENDPOINTS": "a", "COMPLETION_A_BASE_URL": "https://vendor.test", **env}

    assert keys_of(settled(env)) == [key]


def test_the_name_of_no_key_sends_none():
    env = {"LLMWIRE_CREDENTIAL_OPEN_API_KEY": "none", "LLMWIRE_CREDENTIAL_OPEN_HOSTS": "https://vendor.test"}

    assert keys_of(settled(env, remote(endpoints=at("https://vendor.test", credential="open")))) == [None]


def test_a_named_key_in_clear_text_is_a_warning():
    settings = settled(VENDOR, remote(endpoints=at("http://vendor.test", credential="vendor")))

    assert travels(settings) == [
        "completion.endpoints.a.base_url: the key travels to http://vendor.test:80 unencrypted; use https"
    ]


# Whatever is configured.

MINE = ("https://mine.test", "https://mine.test:8443/v1", "http://localhost:8000", OPENAI, "https://mine.azure.com")
THEIRS = ("https://evil.test", "https://evil.test/v1/chat/completions", "https://vendor.test", "https://evil.azure.com")

local_values = {
    "base_url": st.sampled_from(MINE),
    "api_key": st.sampled_from(["mine-1", "mine-2", "none"]),
    "organization": st.just("mine-org"),
    "headers": st.just({"X-Mine": "mine-header"}),
    "dialect": st.sampled_from(["openai", "azure"]),
    "credential": st.sampled_from(["vendor", "open"]),
    "api_path": st.sampled_from(["/", "/v2"]),
}
remote_values = {
    "base_url": st.sampled_from(THEIRS),
    "dialect": st.sampled_from(["openai", "azure"]),
    "credential": st.sampled_from(["vendor", "open"]),
    "api_path": st.sampled_from(["/", "/v2", "@evil.test", "//evil.test", "\\evil.test", ":80/x"]),
    "model": st.just("m"),
}
local_azure = {
    "endpoint": st.sampled_from(MINE),
    "api_key": st.just("mine-3"),
    "ad_token": st.just("mine-4"),
    "keyless": st.just(True),
}
remote_azure = {"endpoint": st.sampled_from(THEIRS), "deployment": st.just("d")}


def tables(values: dict[str, Any], azure: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={**values, "azure": st.fixed_dictionaries({}, optional=azure)})


def functions(values: dict[str, Any], azure: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    endpoints = st.dictionaries(st.sampled_from(["a", "b"]), tables(values, azure), min_size=1)
    return st.builds(
        lambda own, named: own | ({"endpoints": named} if named else {}), tables(values, azure), st.none() | endpoints
    )


def variables(level: str) -> st.SearchStrategy[dict[str, str]]:
    urls, key = st.sampled_from(MINE), st.sampled_from(["mine-5", "none"])
    headers = "OPENAI_CUSTOM_HEADERS" if level == "OPENAI" else f"{level}_HEADERS"
    azure = "AZURE_OPENAI" if level == "OPENAI" else f"{level}_AZURE_OPENAI"
    return st.fixed_dictionaries(
        {},
        optional={
            f"{level}_BASE_URL": urls,
            f"{level}_API_KEY": key,
            f"{level}_ORG_ID": st.just("mine-org"),
            headers: st.just("X-Mine: mine-header"),
            f"{azure}_ENDPOINT": urls,
            f"{azure}_API_KEY": key,
            f"{azure}_KEYLESS": st.just("yes"),
        },
    )


environments = st.tuples(*map(variables, ("COMPLETION_A", "COMPLETION", "OPENAI"))).map(
    lambda levels: {**levels[0], **levels[1], **levels[2]}
)
layers = st.fixed_dictionaries(
    {},
    optional={
        "completion": functions(local_values, local_azure),
        "openai": st.fixed_dictionaries({}, optional={"base_url": st.sampled_from(MINE), "api_key": st.just("mine-6")}),
        "azure": st.fixed_dictionaries({}, optional=local_azure),
    },
)
documents = st.lists(
    st.one_of(
        functions(remote_values, remote_azure).map(lambda table: sourced({"completion": table})),
        layers.map(lambda tree: sourced(tree, is_remote=False, origin="file:///etc/llmwire.toml")),
    ),
    min_size=1,
    max_size=3,
)
NAMED = {
    "LLMWIRE_CREDENTIAL_VENDOR_API_KEY": "vendor-key",
    "LLMWIRE_CREDENTIAL_VENDOR_HOSTS": "https://vendor.test",
    "LLMWIRE_CREDENTIAL_OPEN_API_KEY": "none",
    "LLMWIRE_CREDENTIAL_OPEN_HOSTS": "https://evil.test, https://mine.test, https://*.azure.com",
}


@examples(max_examples=400)
@given(env=environments, config=layers, documents=documents, fallback=st.sampled_from(["warn", "same-host"]))
def test_whatever_is_configured_nothing_of_this_program_goes_where_others_say(env, config, documents, fallback):
    env = {**env, **NAMED, "LLMWIRE_KEY_FALLBACK": fallback}
    try:
        endpoints = settled(env, *documents, config=config).endpoints
    except ConfigError as error:
        endpoints, told = (), str(error)
    else:
        told = ""

    assert not any(secret in told for secret in ("mine-1", "mine-2", "mine-3", "vendor-key"))
    for endpoint in endpoints:
        if endpoint.server in map(server_of, THEIRS):
            key = endpoint.credential and endpoint.credential.reveal()
            assert key == ("vendor-key" if endpoint.server == "https://vendor.test:443" and key else None)
            assert endpoint.headers == ()
        else:
            assert endpoint.server in map(server_of, MINE)
            assert endpoint.credential != Secret("vendor-key")
