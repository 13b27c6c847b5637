"""Which server an endpoint has where documents name it: not every one may. Of settings test_resolution.py tells."""

from __future__ import annotations

from typing import Any

import pytest

from llmwire.container import ConfigError, LLMContainer
from llmwire.services.routing.endpoint import Dialect

from .speakers import sourced


def settled(env: dict[str, str], *, is_remote: bool = True, **completion: Any) -> Any:
    """With a document in force that says this."""
    lane: Any = LLMContainer(env=env).completion
    lane.documents.take((sourced({"completion": completion}, is_remote=is_remote),))
    return lane.settings()


def refused(**completion: Any) -> str:
    with pytest.raises(ConfigError) as error:
        settled({}, **completion)
    return str(error.value)


METADATA = [
    "http://169.254.169.254",
    "http://169.254.169.254/latest/meta-data",
    "http://2852039166/v1",
    "http://0xa9fea9fe",
    "http://[::ffff:169.254.169.254]:80",
    "http://metadata.google.internal",
    "http://METADATA.google.internal./v1",
    "http://[fd00:ec2::254]",
    "http://100.100.100.200",
]


@pytest.mark.parametrize("url", METADATA)
def test_a_document_that_others_may_write_leads_to_no_metadata_of_the_machine(url):
    at_endpoint = refused(endpoints={"a": {"base_url": url}})

    assert at_endpoint.startswith(
        "completion.endpoints.a.base_url (from config.completion.endpoints.a.base_url (fake://"
    )
    assert at_endpoint.endswith("Name another server: a document that others may write cannot lead there.")
    assert "Name another server" in refused(base_url=url)
    assert "Name another server" in refused(azure={"endpoint": url}, credential="x")


@pytest.mark.parametrize("url", METADATA)
def test_a_file_of_this_machine_and_the_environment_may_lead_anywhere(url):
    by_file = settled({}, is_remote=False, endpoints={"a": {"base_url": url}})
    by_environment = settled({"COMPLETION_BASE_URL": url})

    assert by_file.endpoint.base_url == by_environment.endpoint.base_url


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://localhost:8000/v1", "http://[::1]:8000/v1"])
def test_a_server_beside_the_program_may_be_named_by_others(url):
    assert settled({}, endpoints={"a": {"base_url": url}}).endpoint.base_url == url


@pytest.mark.parametrize("url", ["https://user:sk-secret@vendor.test", "https://vendor.test?key=sk-secret"])
def test_a_password_or_a_key_in_a_url_is_refused_unseen(url):
    assert "sk-secret" not in refused(endpoints={"a": {"base_url": url}})


@pytest.mark.parametrize("path", ["@evil.test", "//evil.test/v1", ":8443/v1", ".evil.test"])
def test_a_path_leads_to_no_other_host(path):
    document = {"endpoints": {"a": {"base_url": "https://theirs.test", "api_path": path}}}

    assert settled({}, **document).endpoint.server == "https://theirs.test:443"


AZURE = {"COMPLETION_AZURE_OPENAI_ENDPOINT": "https://b.test", "COMPLETION_API_KEY": "sk-of-b"}
A, B = {"OPENAI_BASE_URL": "https://a.test"}, {"COMPLETION_BASE_URL": "https://gateway.test/v1/me/gw"}
B_OF_B = {"COMPLETION_B_AZURE_OPENAI_ENDPOINT": "https://b.test", "COMPLETION_B_API_KEY": "sk-of-b"}


@pytest.mark.parametrize(
    ("env", "document"),
    [
        ({**AZURE, **A}, {"dialect": "openai"}),
        ({"COMPLETION_BASE_URL": "https://a.test", **B_OF_B}, {"endpoints": {"b": {"dialect": "openai"}}}),
        (
            {**A, "AZURE_OPENAI_ENDPOINT": "https://b.test", "COMPLETION_API_KEY": "sk-vendor"},
            {"dialect": "azure"},
        ),
        (
            {"COMPLETION_BASE_URL": "https://a.test", "AZURE_OPENAI_ENDPOINT": "https://b.test"}
            | {"AZURE_OPENAI_KEYLESS": "true"},
            {"dialect": "azure"},
        ),
        ({**B, "COMPLETION_API_KEY": "sk-1"}, {"api_path": "/v1/them/gw"}),
        ({**B, "COMPLETION_API_KEY": "sk-1"}, {"endpoints": {"z": {"api_path": "/elsewhere"}}}),
    ],
    ids=["to openai", "one endpoint to openai", "to azure", "to azure without a key", "path", "path of an endpoint"],
)
def test_a_server_that_is_named_here_is_spoken_to_as_is_said_here(env, document):
    with pytest.raises(ConfigError, match="is said by a remote document of a server that the settings of this program"):
        settled(env, **document)


def test_a_file_of_this_machine_may_say_that_too():
    env = {"COMPLETION_BASE_URL": "https://gateway.test", "COMPLETION_API_KEY": "sk-1"}

    assert settled(env, is_remote=False, api_path="/v2").endpoint.base_url == "https://gateway.test/v2"


def test_who_names_the_server_nearest_decides_the_dialect_whoever_that_is():
    env = {"COMPLETION_AZURE_OPENAI_ENDPOINT": "https://mine.azure.com", "COMPLETION_AZURE_OPENAI_API_KEY": "sk-1"}

    settings = settled(env, endpoints={"a": {"base_url": "http://a:8000"}})

    assert (settings.endpoint.dialect, settings.endpoint.base_url) == (Dialect.OPENAI, "http://a:8000/v1")
    assert settings.endpoint.credential is None


def test_an_endpoint_of_a_source_without_a_server_is_refused():
    assert "is not set: a names no server" in refused(endpoints={"a": {"weight": 2}})
