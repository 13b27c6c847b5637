"""Whose key and headers go to which of several endpoints. Of a single endpoint test_resolution.py tells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import ConfigError, LLMContainer
from llmwire.container.resolution import FunctionSettings
from llmwire.services.routing.endpoint import server_of
from llmwire.services.secrets import Secret

OPENAI = "https://api.openai.com"
SAME_HOST = {"LLMWIRE_KEY_FALLBACK": "same-host"}
TWO = {
    "COMPLETION_ENDPOINTS": "one,two",
    "COMPLETION_ONE_BASE_URL": "https://a",
    "COMPLETION_TWO_BASE_URL": "https://b",
}


def settled(env: dict[str, str], **layers: Any) -> FunctionSettings:
    settings: FunctionSettings = LLMContainer(env=env, **layers).completion.settings()
    return settings


def refused(env: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as error:
        settled(env)
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
