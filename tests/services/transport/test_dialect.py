"""A request of the SDK is written for one server: its path, its query, its headers, and nobody else's credential."""

from __future__ import annotations

import httpx2
import pytest

from llmwire.services.routing.endpoint import Dialect, Endpoint
from llmwire.services.secrets import Secret
from llmwire.services.transport.call import Call
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


def a_call(operation="chat/completions", *, method="POST", query="", headers=None, **content):
    content = content or {"json": {"model": "gpt"}}
    return Call(httpx2.Request(method, f"{FACADE}/{operation}{query}", headers=headers, **content), operation)


def where(endpoint, call):
    """Where the call goes to, as a URL that can be taken apart."""
    url = url_for(endpoint, call)
    origin = f"{url.scheme.decode()}://{url.host.decode()}" + (f":{url.port}" if url.port else "")
    return httpx2.URL(origin + url.target.decode())


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
    assert str(where(an_endpoint(), a_call(operation))) == f"{FACADE}/{operation}"


@pytest.mark.parametrize(
    ("base_url", "parts"),
    [
        ("http://localhost:8000/v1", (b"http", b"localhost", 8000, b"/v1/models")),
        ("http://localhost/v1", (b"http", b"localhost", None, b"/v1/models")),
        ("https://[::1]:8443/v1", (b"https", b"::1", 8443, b"/v1/models")),
        ("https://größe.test/v1", (b"https", b"xn--gre-6ka8i.test", None, b"/v1/models")),
    ],
)
def test_a_url_is_given_in_the_parts_that_a_connection_needs(base_url, parts):
    url = url_for(an_endpoint(base_url=base_url), a_call("models"))

    assert (url.scheme, url.host, url.port, url.target) == parts


def test_each_call_has_its_own_path_and_query():
    endpoint = an_endpoint()

    urls = [where(endpoint, a_call(path, query=query)) for path in ("models", "files") for query in ("", "?a=1")]

    assert [url.raw_path for url in urls] == [
        b"/base/v1/models",
        b"/base/v1/models?a=1",
        b"/base/v1/files",
        b"/base/v1/files?a=1",
    ]


def test_an_operation_goes_on_as_the_caller_encoded_it():
    assert where(an_endpoint(), a_call("models/a%2Fb%20c")).raw_path == b"/base/v1/models/a%2Fb%20c"


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
    url = where(an_azure(), a_call(operation))

    assert url.path == path
    assert dict(url.params) == {"api-version": "v1"}


def test_a_deployment_of_the_settings_comes_before_the_request_s_model():
    url = where(an_azure(deployment="ours", model="of-the-settings"), a_call())

    assert url.path == "/openai/deployments/ours/chat/completions"


def test_a_model_of_the_settings_comes_before_the_request_s_too():
    assert where(an_azure(model="ours"), a_call()).path == "/openai/deployments/ours/chat/completions"


@pytest.mark.parametrize(
    "content", [{"json": {}}, {"json": ["gpt"]}, {"json": {"model": 7}}, {"content": b"{"}, {"content": b""}]
)
def test_a_body_that_names_no_model_is_left_to_azure_to_refuse(content):
    assert where(an_azure(), a_call("embeddings", **content)).path == "/openai/embeddings"


def test_the_model_in_a_form_beside_a_file_is_the_deployment():
    call = a_call("audio/transcriptions", data={"model": "whisper"}, files={"file": ("a.wav", b"RIFF")})

    url = where(an_azure(), call)

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

    url = where(endpoint, a_call("embeddings", json={"model": name}))

    assert url.raw_path == f"/openai/deployments/{written}/embeddings?api-version=v1".encode()


@pytest.mark.parametrize("name", [".", "..", "../..", "../admin", "a/../../b", "..\\admin", "%2e%2e", "..;"])
def test_a_deployment_cannot_climb_above_its_place(name):
    with pytest.raises(ForeignURL, match="deployment"):
        url_for(an_azure(), a_call("embeddings", json={"model": name}))


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
    url = where(an_azure(), a_call("models", method="GET", query=f"?{query}"))

    assert url.params.multi_items() == params


def test_a_query_to_openai_goes_on_as_it_was_written():
    url = where(an_endpoint(), a_call("models", method="GET", query="?after=a%2Fb+c"))

    assert url.query == b"after=a%2Fb+c"


# The headers.


def written(endpoint, headers=None, *, token=None, environment=None):
    call = a_call("models", method="GET", headers=headers, content=b"")
    pairs = headers_for(endpoint, call, ambient=Ambient(environment or {}), token=token)
    assert all(isinstance(part, bytes) for pair in pairs for part in pair)
    return httpx2.Headers([pair for pair in pairs if pair[0].lower() != b"content-length"])


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

    assert headers == {"host": httpx2.URL(endpoint.base_url).host, header: value}


def test_without_a_credential_no_header_tells_who_is_calling():
    assert written(an_endpoint(), {"Authorization": "Bearer the-sdk-s"}) == {"host": "api.test"}


def test_headers_of_the_settings_replace_the_caller_s_but_never_the_credential():
    endpoint = an_endpoint(headers=(("USER-agent", "ours"), ("authorization", "Bearer from-settings")))

    headers = written(endpoint, {"User-Agent": "the-sdk-s"}, token=Secret("its-key"))

    assert headers.multi_items() == [("host", "api.test"), ("user-agent", "ours"), ("authorization", "Bearer its-key")]


@pytest.mark.parametrize(
    ("base_url", "host"),
    [
        ("http://a.test:8000/v1", "a.test:8000"),
        ("https://a.test/v1", "a.test"),
        ("https://a.test:443/v1", "a.test"),
        ("http://[::1]:8000/v1", "[::1]:8000"),
    ],
)
def test_the_host_is_the_endpoint_s_and_not_the_facade_s(base_url, host):
    assert written(an_endpoint(base_url=base_url)) == {"host": host}


def test_a_host_of_the_settings_takes_the_place_of_the_address():
    headers = written(an_endpoint(headers=(("HOST", "virtual.test"),)), {"Host": "the-caller-s"})

    assert headers.multi_items() == [("host", "virtual.test")]


@pytest.mark.parametrize("name", ["Content-Length", "content-LENGTH", "Transfer-Encoding"])
def test_what_frames_a_body_in_memory_is_not_the_caller_s_to_say(name):
    assert name.lower() not in written(an_endpoint(), [(name, "10")])


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

    assert ambient.pairs() == {(b"x-tenant", b"first"), (b"x-tenant", b"second")}


def test_an_environment_without_headers_is_no_headers():
    assert Ambient({}).pairs() == set()


def test_what_the_environment_holds_leaves_the_request_that_the_sdk_keeps_in_its_errors():
    headers = {"X-Tenant": "ambient", "X-Other": "the-callers", "x-both": "the-callers"}
    request = httpx2.Request("POST", "http://facade.test/v1/x", headers=headers)

    Ambient({"OPENAI_CUSTOM_HEADERS": "x-tenant: ambient\nX-Both: ambient"}).leave(request)

    assert "ambient" not in str(request.headers.raw)
    assert (request.headers["x-other"], request.headers["x-both"]) == ("the-callers", "the-callers")
