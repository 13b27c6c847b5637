"""Which server, which dialect, and whose key goes there."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import ConfigError, LLMContainer
from llmwire.container.resolution import FunctionSettings
from llmwire.services.routing.endpoint import Dialect, TokenSource, server_of
from llmwire.services.secrets import Secret

OPENAI = "https://api.openai.com/v1"
AZURE_KEY = {"AZURE_OPENAI_API_KEY": "azure-key"}
OWN_AZURE_KEY = {"COMPLETION_AZURE_OPENAI_API_KEY": "own-azure-key"}


def settled(env: dict[str, Any] | None = None, function: str = "completion", **layers: Any) -> FunctionSettings:
    settings: FunctionSettings = getattr(LLMContainer(env=env or {}, **layers), function).settings()
    return settings


def refused(env: dict[str, Any] | None = None, function: str = "completion", **layers: Any) -> str:
    with pytest.raises(ConfigError) as error:
        settled(env, function, **layers)
    return str(error.value)


def warnings_of(settings: FunctionSettings) -> list[str]:
    return [f"{warning.key} ({warning.origin}): {warning.message}" for warning in settings.warnings]


# Which server


@pytest.mark.parametrize(
    ("env", "dialect", "base_url"),
    [
        ({"OPENAI_API_KEY": "k"}, "openai", OPENAI),
        ({"OPENAI_BASE_URL": "http://shared"}, "openai", "http://shared/v1"),
        ({"OPENAI_API_BASE": "http://old"}, "openai", "http://old/v1"),
        ({"COMPLETION_BASE_URL": "http://own", "OPENAI_BASE_URL": "http://shared"}, "openai", "http://own/v1"),
        ({"AZURE_OPENAI_ENDPOINT": "https://az", **AZURE_KEY}, "azure", "https://az/openai"),
        ({"AZURE_OPENAI_ENDPOINT": "", "OPENAI_API_KEY": "k"}, "openai", OPENAI),
        ({"AZURE_OPENAI_ENDPOINT": "https://az", "COMPLETION_BASE_URL": "http://own"}, "openai", "http://own/v1"),
        (
            {"COMPLETION_AZURE_OPENAI_ENDPOINT": "https://az", "OPENAI_BASE_URL": "http://shared", **OWN_AZURE_KEY},
            "azure",
            "https://az/openai",
        ),
        (
            {"AZURE_OPENAI_ENDPOINT": "https://az", "OPENAI_BASE_URL": "http://shared"},
            "openai",
            "http://shared/v1",
        ),
        (
            {"AZURE_OPENAI_ENDPOINT": "https://az", "COMPLETION_DIALECT": "openai", "OPENAI_API_KEY": "k"},
            "openai",
            OPENAI,
        ),
        (
            {"COMPLETION_BASE_URL": "https://gateway/azure", "COMPLETION_DIALECT": "azure", **OWN_AZURE_KEY},
            "azure",
            "https://gateway/azure/openai",
        ),
        (
            {
                "COMPLETION_BASE_URL": "https://gateway",
                "AZURE_OPENAI_ENDPOINT": "https://az",
                "COMPLETION_DIALECT": "azure",
                **OWN_AZURE_KEY,
            },
            "azure",
            "https://gateway/openai",
        ),
        (
            {
                "COMPLETION_BASE_URL": "http://own",
                "COMPLETION_AZURE_OPENAI_ENDPOINT": "https://az",
                "COMPLETION_DIALECT": "openai",
            },
            "openai",
            "http://own/v1",
        ),
        (
            {
                "COMPLETION_BASE_URL": "http://own",
                "COMPLETION_AZURE_OPENAI_ENDPOINT": "https://az",
                "COMPLETION_DIALECT": "azure",
                **OWN_AZURE_KEY,
            },
            "azure",
            "https://az/openai",
        ),
    ],
)
def test_the_most_specific_level_that_names_a_server_decides_the_dialect(env, dialect, base_url):
    endpoint = settled(env).endpoint

    assert (str(endpoint.dialect), endpoint.base_url) == (dialect, base_url)


def test_an_openai_and_an_azure_server_on_the_same_level_are_a_question_to_the_operator():
    message = refused({"COMPLETION_BASE_URL": "http://own", "COMPLETION_AZURE_OPENAI_ENDPOINT": "https://az"})

    assert message == (
        "completion.dialect: is open: both an OpenAI and an Azure server are named. "
        "Keep one of env.COMPLETION_BASE_URL and env.COMPLETION_AZURE_OPENAI_ENDPOINT, or set COMPLETION_DIALECT."
    )


def test_a_shared_azure_server_beside_a_shared_openai_server_is_a_warning():
    settings = settled({"AZURE_OPENAI_ENDPOINT": "https://az", "OPENAI_BASE_URL": "http://shared"})

    (warning,) = warnings_of(settings)
    assert warning.startswith("completion.base_url (env.OPENAI_BASE_URL): env.AZURE_OPENAI_ENDPOINT names a server too")


def test_the_azure_dialect_without_any_server_names_the_missing_setting():
    message = refused({"COMPLETION_DIALECT": "azure"})

    assert message == (
        "completion.azure.endpoint: is not set, but the dialect is azure. Set COMPLETION_AZURE_OPENAI_ENDPOINT."
    )


def test_a_general_azure_server_turns_no_function_into_azure_that_has_a_server_of_its_own():
    env = {
        "AZURE_OPENAI_ENDPOINT": "https://az",
        "AZURE_OPENAI_API_KEY": "azure-key",
        "EMBEDDING_BASE_URL": "http://localhost:8001",
    }

    completion, embedding = settled(env).endpoint, settled(env, "embedding").endpoint

    assert (completion.dialect, embedding.dialect) == (Dialect.AZURE, Dialect.OPENAI)
    assert embedding.credential is None


def test_an_unusable_url_names_its_variable_and_what_to_do():
    assert refused({"COMPLETION_BASE_URL": "localhost:8000"}) == (
        "completion.base_url (from env.COMPLETION_BASE_URL): has no scheme. Write http://localhost:8000."
    )


def test_a_url_that_is_not_used_need_not_be_usable():
    settings = settled({"COMPLETION_BASE_URL": "http://own", "OPENAI_BASE_URL": "no url", "AZURE_OPENAI_ENDPOINT": "?"})

    assert settings.endpoint.base_url == "http://own/v1"


@pytest.mark.parametrize("unused", ["AZURE_OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN", "AZURE_OPENAI_KEYLESS"])
def test_a_broken_setting_of_azure_does_not_stop_an_openai_server(unused):
    settings = settled({"COMPLETION_BASE_URL": "http://own", unused: "not usable"})

    assert settings.endpoint.base_url == "http://own/v1"


def test_what_was_added_to_a_url_is_a_note():
    settings = settled({"COMPLETION_BASE_URL": "http://localhost:8000"})

    assert "completion.base_url: /v1 was added" in settings.notes
    assert settings.warnings == ()


def test_what_was_cut_off_a_url_is_a_warning():
    settings = settled({"COMPLETION_BASE_URL": "http://localhost:8000/v1/chat/completions"})

    assert warnings_of(settings) == [
        "completion.base_url (env.COMPLETION_BASE_URL): /chat/completions was cut off: the client adds it"
    ]


def test_an_api_path_takes_the_place_of_the_path():
    settings = settled({"COMPLETION_BASE_URL": "http://localhost:8000/v1", "COMPLETION_API_PATH": "/openai/v2"})

    assert settings.endpoint.base_url == "http://localhost:8000/openai/v2"


@pytest.mark.parametrize("prefix", ["", "COMPLETION_"])
def test_two_legacy_and_new_names_that_differ_are_a_warning(prefix):
    new, old = f"{prefix}OPENAI_BASE_URL", f"{prefix}OPENAI_API_BASE"

    settings = settled({new: "http://new", old: "http://old"})

    assert settings.endpoint.base_url == "http://new/v1"
    assert warnings_of(settings) == [
        f"completion.base_url (env.{new}): env.{old}, the old name, differs from env.{new}, which is used"
    ]


@pytest.mark.parametrize(
    "env",
    [
        {"OPENAI_BASE_URL": "http://same", "OPENAI_API_BASE": " http://same "},
        {"OPENAI_API_BASE": "http://old"},
        {"COMPLETION_BASE_URL": "http://own", "OPENAI_API_BASE": "http://old"},
    ],
)
def test_a_legacy_name_that_does_not_contradict_is_no_warning(env):
    assert settled(env).warnings == ()


# Whose key


def test_the_default_server_without_a_key_is_an_error_that_names_both_variables():
    assert refused() == (
        "completion.api_key: is not set. Set COMPLETION_API_KEY, or OPENAI_API_KEY for both functions."
    )


@pytest.mark.parametrize("spelling", ["https://api.openai.com", "https://API.openai.com:443/v1"])
def test_naming_the_default_server_makes_no_difference(spelling):
    assert "Set COMPLETION_API_KEY, or OPENAI_API_KEY" in refused({"COMPLETION_BASE_URL": spelling})


@pytest.mark.parametrize("env", [{"COMPLETION_BASE_URL": "http://local"}, {"OPENAI_BASE_URL": "http://local"}])
def test_a_named_server_without_a_key_gets_none(env):
    settings = settled(env)

    assert settings.endpoint.credential is None
    assert settings.warnings == ()


@pytest.mark.parametrize("env", [{}, {"COMPLETION_BASE_URL": "http://local"}, {"OPENAI_BASE_URL": "http://local"}])
def test_the_word_none_sends_no_key_to_any_server(env):
    settings = settled({**env, "COMPLETION_API_KEY": "none", "OPENAI_API_KEY": "shared"})

    assert settings.endpoint.credential is None
    assert settings.warnings == ()


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({"OPENAI_API_KEY": "shared"}, "shared"),
        ({"COMPLETION_API_KEY": "own", "OPENAI_API_KEY": "shared"}, "own"),
        ({"COMPLETION_API_KEY": "own", "OPENAI_BASE_URL": "https://shared"}, "own"),
        ({"OPENAI_BASE_URL": "https://shared", "OPENAI_API_KEY": "shared"}, "shared"),
        ({"COMPLETION_BASE_URL": OPENAI, "OPENAI_API_KEY": "shared"}, "shared"),
        (
            {"COMPLETION_BASE_URL": "https://s/a", "OPENAI_BASE_URL": "https://S:443/b", "OPENAI_API_KEY": "shared"},
            "shared",
        ),
        ({"COMPLETION_BASE_URL": "https://own", "COMPLETION_API_KEY": "own"}, "own"),
    ],
)
def test_a_key_that_stays_with_its_server_is_no_warning(env, key):
    settings = settled(env)

    assert settings.endpoint.credential == Secret(key)
    assert settings.warnings == ()


TRAVELS = [
    ({"COMPLETION_BASE_URL": "https://own", "OPENAI_API_KEY": "shared"}, "https://own:443"),
    (
        {"COMPLETION_BASE_URL": "https://own", "OPENAI_BASE_URL": "https://shared", "OPENAI_API_KEY": "shared"},
        "https://own:443",
    ),
    (
        {"COMPLETION_BASE_URL": "https://s:8443", "OPENAI_BASE_URL": "https://s", "OPENAI_API_KEY": "shared"},
        "https://s:8443",
    ),
    (
        {"COMPLETION_BASE_URL": OPENAI, "OPENAI_BASE_URL": "https://shared", "OPENAI_API_KEY": "shared"},
        "https://api.openai.com:443",
    ),
    (
        {"COMPLETION_BASE_URL": "https://own", "OPENAI_BASE_URL": "unusable", "OPENAI_API_KEY": "shared"},
        "https://own:443",
    ),
]


@pytest.mark.parametrize(("env", "server"), TRAVELS)
def test_a_shared_key_that_goes_to_another_host_is_a_warning(env, server):
    settings = settled(env)

    assert settings.endpoint.credential == Secret("shared")
    (warning,) = warnings_of(settings)
    assert warning.startswith("completion.api_key (env.OPENAI_API_KEY): the shared key env.OPENAI_API_KEY goes to ")
    assert warning.endswith(f"{server}, another host than the one it was given with")


@pytest.mark.parametrize(("env", "server"), TRAVELS)
def test_same_host_makes_that_an_error_with_two_ways_out(env, server):
    message = refused({**env, "LLMWIRE_KEY_FALLBACK": "same-host"})

    assert f"goes to {server}" in message
    assert message.endswith("Set COMPLETION_API_KEY. `none` sends no key.")


def test_same_host_stops_one_function_only():
    env = {"EMBEDDING_BASE_URL": "https://own", "OPENAI_API_KEY": "shared", "LLMWIRE_KEY_FALLBACK": "same-host"}

    assert settled(env).endpoint.credential == Secret("shared")
    assert "EMBEDDING_API_KEY" in refused(env, "embedding")


def test_the_warning_is_told_once_for_each_client_that_is_built(a_container, events):
    container = a_container({"COMPLETION_BASE_URL": "https://own", "OPENAI_API_KEY": "shared"})

    for _ in range(3):
        container.completion_client()
        container.completion_service()
        container.explain()

    assert [event.key for event in events] == ["completion.api_key"]


def test_the_warning_reaches_the_log(caplog):
    container = LLMContainer(env={"COMPLETION_BASE_URL": "https://own", "OPENAI_API_KEY": "sk-secret"})

    container.completion_client().close()

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("llmwire", "WARNING")
    assert "env.OPENAI_API_KEY goes to https://own:443" in record.getMessage()
    assert "sk-secret" not in caplog.text


@pytest.mark.parametrize("url", ["http://llm.example.com", "http://10.0.0.1:8000", "http://127.example.com"])
def test_a_key_in_clear_text_is_a_warning(url):
    settings = settled({"COMPLETION_BASE_URL": url, "COMPLETION_API_KEY": "own"})

    assert "unencrypted; use https" in warnings_of(settings)[0]


@pytest.mark.parametrize(
    "url",
    [
        "https://llm.example.com",
        "http://localhost:8000",
        "http://127.0.0.1",
        "http://127.1.2.3:80",
        "http://[::1]:8000",
    ],
)
def test_a_key_in_clear_text_on_this_machine_or_encrypted_is_none(url):
    assert settled({"COMPLETION_BASE_URL": url, "COMPLETION_API_KEY": "own"}).warnings == ()


# What goes along


ALONG = {"OPENAI_ORG_ID": "org", "OPENAI_PROJECT_ID": "proj", "OPENAI_CUSTOM_HEADERS": "X-Team: search"}
HEADERS = (("OpenAI-Organization", "org"), ("OpenAI-Project", "proj"), ("X-Team", "search"))


@pytest.mark.parametrize(
    "env",
    [
        {"OPENAI_API_KEY": "shared"},
        {"OPENAI_BASE_URL": "https://shared"},
        {"OPENAI_BASE_URL": "https://shared/a", "COMPLETION_BASE_URL": "https://shared/b"},
        {"COMPLETION_BASE_URL": OPENAI, "COMPLETION_API_KEY": "own"},
    ],
)
def test_shared_headers_go_to_the_host_they_were_given_with(env):
    assert settled({**env, **ALONG}).endpoint.headers == HEADERS


def test_shared_headers_go_to_no_other_host():
    settings = settled({"COMPLETION_BASE_URL": "https://own", **ALONG})

    assert settings.endpoint.headers == ()
    assert {note for note in settings.notes if "not sent" in note} == {
        f"completion.{setting}: env.{variable} is not sent: it was given for another host"
        for setting, variable in zip(("organization", "project", "headers"), ALONG, strict=True)
    }


def test_a_functions_own_headers_go_to_its_server():
    env = {
        "COMPLETION_BASE_URL": "https://own",
        "COMPLETION_ORG_ID": "org",
        "COMPLETION_PROJECT_ID": "proj",
        "COMPLETION_HEADERS": "X-Team: search",
        "OPENAI_CUSTOM_HEADERS": "X-Other: other",
    }

    assert settled(env).endpoint.headers == HEADERS


def test_organisation_and_project_are_no_headers_of_azure():
    env = {"AZURE_OPENAI_ENDPOINT": "https://az", **AZURE_KEY, "COMPLETION_ORG_ID": "org", "COMPLETION_PROJECT": "p"}

    assert settled({**env, "COMPLETION_HEADERS": "X-Team: search"}).endpoint.headers == (("X-Team", "search"),)


# Azure


@pytest.mark.parametrize(
    "env",
    [
        {"AZURE_OPENAI_API_KEY": "key"},
        {"AZURE_OPENAI_KEY": "key"},
        {"AZURE_OPENAI_API_KEY": "key", "AZURE_OPENAI_KEY": "old"},
        {"COMPLETION_AZURE_OPENAI_API_KEY": "key", "AZURE_OPENAI_API_KEY": "shared"},
        {"COMPLETION_AZURE_OPENAI_KEY": "key", "AZURE_OPENAI_AD_TOKEN": "shared"},
        {"COMPLETION_API_KEY": "key", "AZURE_OPENAI_KEYLESS": "yes"},
        {"COMPLETION_API_KEY": "key", "AZURE_OPENAI_API_KEY": "shared"},
    ],
)
def test_an_azure_key_is_found_in_all_its_spellings(env):
    settings = settled({"AZURE_OPENAI_ENDPOINT": "https://az", **env})

    assert settings.endpoint.credential == Secret("key")
    assert settings.warnings == ()


@pytest.mark.parametrize(
    "env",
    [
        {"AZURE_OPENAI_AD_TOKEN": "token"},
        {"AZURE_OPENAI_AD_TOKEN": "token", "AZURE_OPENAI_API_KEY": "key", "AZURE_OPENAI_KEYLESS": "yes"},
        {"COMPLETION_AZURE_OPENAI_AD_TOKEN": "token", "AZURE_OPENAI_AD_TOKEN": "shared"},
        {"COMPLETION_AZURE_OPENAI_AD_TOKEN": "token", "AZURE_OPENAI_KEYLESS": "yes"},
    ],
)
def test_a_given_token_of_azure_is_sent_as_a_token(env):
    credential = settled({"AZURE_OPENAI_ENDPOINT": "https://az", **env}).endpoint.credential

    assert isinstance(credential, TokenSource)
    assert credential.token() == Secret("token")
    assert credential.token(refused=Secret("token")) == Secret("token")
    assert "token" not in repr(credential).replace("_Fixed", "")


@pytest.mark.parametrize(
    "env",
    [
        {"AZURE_OPENAI_KEYLESS": "yes"},
        {"COMPLETION_AZURE_OPENAI_KEYLESS": "yes", "AZURE_OPENAI_API_KEY": "key", "AZURE_OPENAI_AD_TOKEN": "token"},
    ],
)
def test_azure_without_a_key_takes_its_tokens_from_the_token_source(env):
    class Tokens:
        def token(self, *, refused=None):
            return Secret("from the source")

    tokens = Tokens()
    container = LLMContainer(env={"AZURE_OPENAI_ENDPOINT": "https://az", **env})
    container.completion.token_source.override(tokens)

    assert container.completion.settings().endpoint.credential is tokens


def test_azure_without_a_key_asks_nobody_before_the_first_request():
    from llmwire.services.transport.identity import IdentityTokens

    settings = settled({"AZURE_OPENAI_ENDPOINT": "https://az", "AZURE_OPENAI_KEYLESS": "yes"})

    assert isinstance(settings.endpoint.credential, IdentityTokens)


def test_azure_without_a_key_and_without_azure_identity_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "azure", None)
    monkeypatch.setitem(sys.modules, "azure.identity", None)

    message = refused({"AZURE_OPENAI_ENDPOINT": "https://az", "AZURE_OPENAI_KEYLESS": "yes"})

    assert message == "azure.keyless: needs the package azure-identity. Install it with pip install 'llmwire[azure]'."


def test_azure_without_any_credential_names_what_may_be_set():
    message = refused({"AZURE_OPENAI_ENDPOINT": "https://az", "OPENAI_API_KEY": "of another vendor"})

    assert message == (
        "completion.azure.api_key: is not set, nor is azure.ad_token or azure.keyless. "
        "Set COMPLETION_AZURE_OPENAI_API_KEY, or AZURE_OPENAI_API_KEY for both functions."
    )


@pytest.mark.parametrize("name", ["COMPLETION_API_KEY", "COMPLETION_AZURE_OPENAI_KEY", "AZURE_OPENAI_API_KEY"])
def test_azure_with_the_word_none_gets_no_key(name):
    assert settled({"AZURE_OPENAI_ENDPOINT": "https://az", name: "none"}).endpoint.credential is None


@pytest.mark.parametrize(
    ("variable", "own"),
    [
        ("AZURE_OPENAI_API_KEY", "COMPLETION_AZURE_OPENAI_API_KEY"),
        ("AZURE_OPENAI_AD_TOKEN", "COMPLETION_AZURE_OPENAI_AD_TOKEN"),
    ],
)
@pytest.mark.parametrize(
    "server",
    [
        {"COMPLETION_AZURE_OPENAI_ENDPOINT": "https://own"},
        {"COMPLETION_BASE_URL": "https://own", "COMPLETION_DIALECT": "azure", "OPENAI_BASE_URL": "https://other"},
    ],
)
def test_a_shared_credential_of_azure_is_bound_to_the_shared_resource(server, variable, own):
    env = {**server, "AZURE_OPENAI_ENDPOINT": "https://shared", variable: "azure-key"}

    (warning,) = warnings_of(settled(env))
    message = refused({**env, "LLMWIRE_KEY_FALLBACK": "same-host"})

    assert f"the shared key env.{variable} goes to https://own:443, another host" in warning
    assert message.endswith(f"Set {own}. `none` sends no key.")


@pytest.mark.parametrize(
    "env",
    [
        {"COMPLETION_BASE_URL": "https://az/a", "AZURE_OPENAI_ENDPOINT": "https://az/b"},
        {"COMPLETION_BASE_URL": "https://az/a", "AZURE_OPENAI_ENDPOINT": "https://az", "OPENAI_BASE_URL": "https://o"},
        {"OPENAI_BASE_URL": "https://gateway"},
    ],
)
def test_a_shared_credential_of_azure_stays_with_its_host_whichever_setting_names_it(env):
    assert settled({**env, "COMPLETION_DIALECT": "azure", **AZURE_KEY}).warnings == ()


@pytest.mark.parametrize(
    ("env", "version"),
    [
        ({}, "2024-10-21"),
        ({"OPENAI_API_VERSION": "v1"}, "v1"),
        ({"AZURE_OPENAI_API_VERSION": "v2", "OPENAI_API_VERSION": "v1"}, "v2"),
        ({"COMPLETION_AZURE_OPENAI_API_VERSION": "v3", "AZURE_OPENAI_API_VERSION": "v2"}, "v3"),
        ({"COMPLETION_OPENAI_API_VERSION": "v3", "AZURE_OPENAI_API_VERSION": "v2"}, "v3"),
    ],
)
def test_azures_version_and_deployment_reach_the_endpoint(env, version):
    env = {**env, "COMPLETION_AZURE_OPENAI_DEPLOYMENT": "gpt", "AZURE_OPENAI_ENDPOINT": "https://az", **AZURE_KEY}

    endpoint = settled(env).endpoint

    assert (endpoint.api_version, endpoint.deployment) == (version, "gpt")


def test_azures_version_and_deployment_play_no_part_for_another_server():
    endpoint = settled({"COMPLETION_BASE_URL": "http://own", "COMPLETION_AZURE_OPENAI_DEPLOYMENT": "gpt"}).endpoint

    assert (endpoint.api_version, endpoint.deployment) == (None, None)


# Models, blanks, overrides


def test_a_named_server_without_a_model_is_a_note():
    (note,) = [note for note in settled({"COMPLETION_BASE_URL": "http://own/v1"}).notes if "model" in note]

    assert note.endswith("which this server may not know. Set COMPLETION_MODEL.")


@pytest.mark.parametrize(
    "env",
    [
        {"OPENAI_API_KEY": "k"},
        {"COMPLETION_BASE_URL": "http://own", "COMPLETION_MODEL": "llama"},
        {"AZURE_OPENAI_ENDPOINT": "https://az", **AZURE_KEY, "COMPLETION_AZURE_OPENAI_DEPLOYMENT": "gpt"},
    ],
)
def test_a_model_that_is_known_to_fit_is_no_note(env):
    assert not [note for note in settled(env).notes if "model" in note]


def test_blank_variables_are_noted():
    settings = settled({"COMPLETION_BASE_URL": " ", "OPENAI_API_KEY": "k", "COMPLETION_API_KEY": ""})

    assert set(settings.notes) == {
        "completion.base_url: env.COMPLETION_BASE_URL is blank, and so unset",
        "completion.api_key: env.COMPLETION_API_KEY is blank, and so unset",
    }


def test_an_overridden_server_is_the_functions_own():
    container = LLMContainer(env={"OPENAI_API_KEY": "shared", "OPENAI_BASE_URL": "https://shared"})

    container.completion.base_url.override("https://shared/v2")
    same_host = container.completion.settings()
    container.completion.base_url.override("https://other")
    other_host = container.completion.settings()

    assert (same_host.endpoint.base_url, same_host.warnings) == ("https://shared/v2", ())
    assert "goes to https://other:443" in warnings_of(other_host)[0]


def test_an_overridden_key_is_a_secret():
    container = LLMContainer(env={})

    container.completion.api_key.override("sk-secret")

    assert container.completion.settings().endpoint.credential == Secret("sk-secret")
    assert "sk-secret" not in str(container.explain())


SHARED_KEYS = {"OPENAI_API_KEY": "of-openai", "AZURE_OPENAI_API_KEY": "of-azure"}
SERVERS = st.sampled_from(["", "https://a", "https://b/v1", "https://c:8443", OPENAI])


@given(
    env=st.fixed_dictionaries(
        {},
        optional={
            "COMPLETION_BASE_URL": SERVERS,
            "OPENAI_BASE_URL": SERVERS,
            "COMPLETION_AZURE_OPENAI_ENDPOINT": SERVERS,
            "AZURE_OPENAI_ENDPOINT": SERVERS,
            "COMPLETION_DIALECT": st.sampled_from(["", "openai", "azure"]),
            "COMPLETION_API_KEY": st.sampled_from(["", "none", "own"]),
        },
    )
)
def test_under_same_host_no_shared_key_leaves_the_servers_it_was_given_with(env):
    try:
        endpoint = settled({**env, **SHARED_KEYS, "LLMWIRE_KEY_FALLBACK": "same-host"}).endpoint
    except ConfigError:
        return

    shared = [env.get("OPENAI_BASE_URL") or OPENAI, env.get("AZURE_OPENAI_ENDPOINT") or OPENAI]
    if endpoint.credential in (Secret(key) for key in SHARED_KEYS.values()):
        assert endpoint.server in map(server_of, shared)
    if endpoint.credential == Secret(SHARED_KEYS["OPENAI_API_KEY"]):
        assert endpoint.server == server_of(shared[0])
