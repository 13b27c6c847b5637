"""A request of the SDK is written for one server: its path, its query, its headers, and nobody else's credential."""

from __future__ import annotations

import httpx2
import pytest

from llmwire.services.routing.endpoint import Dialect, Endpoint
from llmwire.services.secrets import Secret
from llmwire.services.transport.dialect import (
    CREDENTIAL_HEADERS,
    Ambient,
    ForeignURL,
    headers_for,
    operation_of,
    url_for,
)

FACADE = httpx2.URL("https://api.test/base/v1")


class Tokens:
    """A source of one token."""

    def token(self, *, refused=None):
        return Secret("its-token")


def an_endpoint(**fields):
    return Endpoint(**{"function": "completion", "name": "default", "base_url": str(FACADE), **fields})


def an_azure(**fields):
    return an_endpoint(
        **{"base_url": "https://az.test/openai", "dialect": Dialect.AZURE, "api_version": "v1", **fields}
    )


def a_request(path="chat/completions", **content):
    return httpx2.Request("POST", f"{FACADE}/{path}", **(content or {"json": {"model": "gpt"}}))


# The operation: the path below the façade.


@pytest.mark.parametrize(
    ("url", "operation"),
    [
        ("https://api.test/base/v1/models", "models"),
        ("https://api.test:443/base/v1/models", "models"),
        ("https://API.test/base/v1/models?after=x", "models"),
        ("https://api.test/base/v1/models/a%2Fb%20c", "models/a%2Fb%20c"),
        ("https://api.test/base/v1/models/..hidden", "models/..hidden"),
        ("https://api.test/base/v1/", ""),
    ],
)
def test_the_operation_is_what_stands_below_the_facade_as_it_was_encoded(url, operation):
    assert operation_of(httpx2.URL(url), FACADE) == operation


@pytest.mark.parametrize(
    "url",
    [
        "http://api.test/base/v1/models",
        "https://api.test:444/base/v1/models",
        "https://other.test/base/v1/models",
        "https://api.test.other/base/v1/models",
        "https://api.test/base/v10/models",
        "https://api.test/base/v1",
        "https://api.test/base/models",
        "https://api.test/base/v1/%2e%2e/models",
        "https://api.test/base/v1/%252e%252e/models",
        "https://api.test/base/v1/..%2fmodels",
        "https://api.test/base/v1/..%5cmodels",
        "https://api.test/base/v1/..;x/models",
    ],
)
def test_a_url_outside_of_the_facade_is_foreign(url):
    with pytest.raises(ForeignURL, match="bound to https://api"):
        operation_of(httpx2.URL(url), FACADE)


def test_the_refusal_of_a_foreign_url_shows_neither_its_query_nor_its_user():
    with pytest.raises(ForeignURL) as caught:
        operation_of(httpx2.URL("https://user:password@other.test/x?key=secret"), FACADE)

    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


# The URL.


@pytest.mark.parametrize("operation", ["chat/completions", "embeddings", "models", "responses"])
def test_a_path_of_openai_is_added_to_the_base_url(operation):
    assert str(url_for(an_endpoint(), operation, a_request())) == f"{FACADE}/{operation}"


@pytest.mark.parametrize(
    ("operation", "path"),
    [
        ("chat/completions", "/openai/deployments/gpt/chat/completions"),
        ("completions", "/openai/deployments/gpt/completions"),
        ("embeddings", "/openai/deployments/gpt/embeddings"),
        ("images/generations", "/openai/deployments/gpt/images/generations"),
        ("audio/speech", "/openai/deployments/gpt/audio/speech"),
        ("models", "/openai/models"),
        ("responses", "/openai/responses"),
        ("responses/r1", "/openai/responses/r1"),
        ("files", "/openai/files"),
    ],
)
def test_azure_serves_some_paths_below_a_deployment(operation, path):
    url = url_for(an_azure(), operation, a_request())

    assert url.path == path
    assert dict(url.params) == {"api-version": "v1"}


def test_a_deployment_of_the_settings_comes_before_the_request_s_model():
    url = url_for(an_azure(deployment="ours"), "chat/completions", a_request())

    assert url.path == "/openai/deployments/ours/chat/completions"


@pytest.mark.parametrize(
    "content", [{"json": {}}, {"json": ["gpt"]}, {"json": {"model": 7}}, {"content": b"{"}, {"content": b""}]
)
def test_a_body_that_names_no_model_is_left_to_azure_to_refuse(content):
    assert url_for(an_azure(), "embeddings", a_request(**content)).path == "/openai/embeddings"


def test_the_model_in_a_form_beside_a_file_is_the_deployment():
    request = a_request(data={"model": "whisper"}, files={"file": ("a.wav", b"RIFF")})

    url = url_for(an_azure(), "audio/transcriptions", request)

    assert url.path == "/openai/deployments/whisper/audio/transcriptions"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("my model", "my%20model"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("50%", "50%25"),
        ("gpt-4.1_mini~2", "gpt-4.1_mini~2"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("..gpt", "..gpt"),
    ],
)
@pytest.mark.parametrize("of", ["settings", "request"])
def test_a_deployment_is_one_segment_of_the_path_whatever_its_name(name, written, of):
    endpoint = an_azure(deployment=name if of == "settings" else None)

    url = url_for(endpoint, "embeddings", a_request(json={"model": name}))

    assert url.raw_path == f"/openai/deployments/{written}/embeddings?api-version=v1".encode()


@pytest.mark.parametrize("name", [".", "..", "../..", "../admin", "a/../../b", "..\\admin", "%2e%2e", "..;"])
def test_a_deployment_cannot_climb_above_its_place(name):
    with pytest.raises(ForeignURL, match="deployment"):
        url_for(an_azure(), "embeddings", a_request(json={"model": name}))


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("", [("api-version", "v1")]),
        ("after=a%2Fb+c", [("after", "a/b c"), ("api-version", "v1")]),
        ("x=1&x=2", [("x", "1"), ("x", "2"), ("api-version", "v1")]),
        ("api-version=preview", [("api-version", "preview")]),
    ],
)
def test_the_version_of_azure_joins_the_query_unless_the_call_has_its_own(query, params):
    url = url_for(an_azure(), "models", httpx2.Request("GET", f"{FACADE}/models?{query}"))

    assert url.params.multi_items() == params


def test_a_query_to_openai_goes_on_as_it_was_written():
    url = url_for(an_endpoint(), "models", httpx2.Request("GET", f"{FACADE}/models?after=a%2Fb+c"))

    assert url.query == b"after=a%2Fb+c"


# The headers.


def written(endpoint, headers=(), *, token=None, environment=None):
    pairs = headers_for(
        endpoint, httpx2.Headers(headers), host="api.test", ambient=Ambient(environment or {}), token=token
    )
    return httpx2.Headers(pairs)


@pytest.mark.parametrize("name", sorted(CREDENTIAL_HEADERS))
def test_a_credential_of_the_caller_is_dropped(name):
    headers = written(an_endpoint(), {name.title(): "the-callers", "X-Trace": "7"})

    assert headers == {"host": "api.test", "x-trace": "7"}


@pytest.mark.parametrize(
    ("endpoint", "header", "value"),
    [
        (an_endpoint(credential=Secret("its-token")), "authorization", "Bearer its-token"),
        (an_azure(credential=Secret("its-token")), "api-key", "its-token"),
        (an_azure(credential=Tokens()), "authorization", "Bearer its-token"),
    ],
    ids=["openai key", "azure key", "azure token"],
)
def test_the_credential_goes_into_the_header_that_the_server_reads(endpoint, header, value):
    headers = written(endpoint, token=Secret("its-token"))

    assert headers == {"host": "api.test", header: value}


def test_without_a_credential_no_header_tells_who_is_calling():
    assert written(an_endpoint(), {"Authorization": "Bearer the-sdk-s"}) == {"host": "api.test"}


def test_headers_of_the_settings_replace_the_caller_s_but_never_the_credential():
    endpoint = an_endpoint(headers=(("USER-agent", "ours"), ("authorization", "Bearer from-settings")))

    headers = written(endpoint, {"User-Agent": "the-sdk-s"}, token=Secret("its-key"))

    assert headers.multi_items() == [("host", "api.test"), ("user-agent", "ours"), ("authorization", "Bearer its-key")]


def test_a_header_that_comes_twice_goes_on_twice():
    headers = written(an_endpoint(), [("X-Tag", "a"), ("X-Tag", "b")])

    assert headers.get_list("x-tag") == ["a", "b"]


# What the SDK reads from the environment on its own.


def test_headers_of_the_environment_are_dropped_and_the_same_names_of_the_caller_kept():
    environment = {"OPENAI_CUSTOM_HEADERS": "X-Tenant: ambient\n  X-Other :  ambient:2  \nno header"}

    headers = written(an_endpoint(), {"x-tenant": "the-callers", "x-other": "ambient:2"}, environment=environment)

    assert headers == {"host": "api.test", "x-tenant": "the-callers"}


def test_what_the_environment_once_held_is_remembered():
    environment = {"OPENAI_CUSTOM_HEADERS": "X-Tenant: first"}
    ambient = Ambient(environment)
    ambient.pairs()
    environment["OPENAI_CUSTOM_HEADERS"] = "X-Tenant: second"

    assert ambient.pairs() == {("x-tenant", "first"), ("x-tenant", "second")}


def test_an_environment_without_headers_is_no_headers():
    assert Ambient({}).pairs() == set()
