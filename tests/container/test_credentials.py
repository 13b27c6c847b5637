"""A key that has a name goes to the hosts that were declared with it, and to no other."""

from __future__ import annotations

from typing import Any

import pytest

from llmwire.container import ConfigError, LLMContainer
from llmwire.container.configuration import Unfit
from llmwire.container.credentials import Credentials

SERVER = "https://api.vendor.com:443"
VENDOR = {
    "LLMWIRE_CREDENTIAL_VENDOR_API_KEY": "sk-secret",
    "LLMWIRE_CREDENTIAL_VENDOR_HOSTS": "https://api.vendor.com, http://10.0.0.0/8:8000",
}
TABLE = {"credentials": {"vendor": {"api_key": "sk-table", "hosts": ["https://api.vendor.com"]}}}


def credentials(env: dict[str, str] | None = None, config: Any = None) -> Credentials:
    container: Any = LLMContainer(config=config or {}, env=env or {})
    return Credentials(container.completion.config, container.completion.env)


def revealed(of: Credentials, name: str = "vendor", server: str = SERVER) -> str | None:
    key = of.key_for(name, server)
    return key and key.reveal()


def test_a_key_goes_to_the_hosts_that_it_was_declared_with():
    of = credentials(VENDOR)

    assert revealed(of) == "sk-secret"
    assert revealed(of, server="http://10.1.2.3:8000") == "sk-secret"


@pytest.mark.parametrize(
    "server",
    [
        "http://api.vendor.com:80",
        "https://api.vendor.com:8443",
        "https://api.vendor.com.evil.test:443",
        "https://evil.test:443",
        "http://10.1.2.3:8001",
        "https://10.1.2.3:443",
        "http://11.1.2.3:8000",
    ],
)
def test_it_goes_to_no_other_scheme_host_or_port(server):
    with pytest.raises(Unfit) as refused:
        credentials(VENDOR).key_for("vendor", server)

    assert refused.value.problem == f"names vendor, a key that may not go to {server}"
    assert refused.value.remedy == "Correct the server, or add it to env.LLMWIRE_CREDENTIAL_VENDOR_HOSTS."


def test_it_may_be_declared_in_a_table_which_comes_before_the_environment():
    assert revealed(credentials(config=TABLE)) == "sk-table"
    assert revealed(credentials(VENDOR, config=TABLE)) == "sk-table"


def test_key_and_hosts_may_be_declared_at_two_places():
    config = {"credentials": {"vendor": {"hosts": "https://api.vendor.com"}}}

    assert revealed(credentials({"LLMWIRE_CREDENTIAL_VENDOR_API_KEY": "sk-env"}, config)) == "sk-env"


@pytest.mark.parametrize("name", ["two-words", "two_words"])
def test_a_dash_of_its_name_is_an_underscore_in_its_variables(name):
    env = {
        "LLMWIRE_CREDENTIAL_TWO_WORDS_API_KEY": "sk-secret",
        "LLMWIRE_CREDENTIAL_TWO_WORDS_HOSTS": "api.vendor.com",
    }

    assert revealed(credentials(env), name) == "sk-secret"


@pytest.mark.parametrize("written", ["Vendor", "VENDOR", "vendor"])
def test_a_table_is_found_in_any_case_of_its_name(written):
    config = {"credentials": {written: TABLE["credentials"]["vendor"]}}

    assert revealed(credentials(config=config)) == "sk-table"


def test_the_word_none_is_a_credential_that_sends_no_key():
    env = {**VENDOR, "LLMWIRE_CREDENTIAL_VENDOR_API_KEY": "none"}

    assert credentials(env).key_for("vendor", SERVER) is None


@pytest.mark.parametrize(
    ("env", "known"),
    [
        ({}, "there are none"),
        (VENDOR, "vendor"),
        ({**VENDOR, "LLMWIRE_CREDENTIAL_A_API_KEY": "sk-a"}, "a, vendor"),
        ({"LLMWIRE_CREDENTIAL_OTHER_HOSTS": "api.vendor.com"}, "there are none"),
    ],
)
def test_one_that_is_not_declared_is_refused_with_those_there_are(env, known):
    with pytest.raises(Unfit) as refused:
        credentials(env).key_for("other", SERVER)

    assert refused.value.problem == f"names other, which is none of the credentials of this program ({known})"
    assert "LLMWIRE_CREDENTIAL_OTHER_API_KEY and LLMWIRE_CREDENTIAL_OTHER_HOSTS" in refused.value.remedy
    assert "sk-" not in str(refused.value)


@pytest.mark.parametrize("hosts", [None, "", " "])
def test_a_key_without_hosts_goes_nowhere(hosts):
    env = {**VENDOR, "LLMWIRE_CREDENTIAL_VENDOR_HOSTS": hosts}

    with pytest.raises(ConfigError, match="credentials.vendor .*: names no host that it may go to. Set LLMWIRE_CRED"):
        credentials({name: value for name, value in env.items() if value is not None}).key_for("vendor", SERVER)


@pytest.mark.parametrize("hosts", ["*", "https://user:sk-secret@api.vendor.com", "https://"])
def test_impossible_hosts_are_an_error_of_their_declaration(hosts):
    env = {**VENDOR, "LLMWIRE_CREDENTIAL_VENDOR_HOSTS": hosts}

    with pytest.raises(ConfigError, match=r"credentials.vendor.hosts.*LLMWIRE_CREDENTIAL_VENDOR_HOSTS") as refused:
        credentials(env).key_for("vendor", SERVER)

    assert "sk-secret" not in str(refused.value)


def test_the_declared_ones_are_those_of_tables_and_variables_once_each():
    config = {"credentials": {"vendor": {}, "b": None}}

    assert credentials({**VENDOR, "LLMWIRE_CREDENTIAL_A_API_KEY": "x"}, config).declared() == ["vendor", "b", "a"]


@pytest.mark.parametrize("function", ["completion", "embedding"])
@pytest.mark.parametrize("layers", [{"env": VENDOR}, {"config": TABLE}])
def test_to_declare_one_disturbs_no_function(function, layers):
    served = {function: {"base_url": "http://localhost:1"}}
    container: Any = LLMContainer(config={**served, **layers.get("config", {})}, env=layers.get("env", {}))

    settings = getattr(container, function).settings()

    assert settings.warnings == ()
    assert settings.endpoint.credential is None


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        (
            {"vendor": {"apikey": "x"}},
            r"credentials\.vendor\.apikey .* is no setting\. Did you mean credentials\.vendor\.api_key\?",
        ),
        ({"vendor": "sk-secret"}, r"credentials\.vendor .* is no table\."),
        ("sk-secret", r"credentials .* is no setting\."),
    ],
)
def test_a_declaration_that_is_misspelt_is_refused(declared, told):
    container: Any = LLMContainer(config={"credentials": declared, "completion": {"base_url": "http://a:1"}}, env={})

    with pytest.raises(ConfigError, match=told) as refused:
        container.completion.settings()

    assert "sk-secret" not in str(refused.value)
