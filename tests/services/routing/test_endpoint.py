"""One server, and what a key is bound to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.endpoint import (
    DEFAULT_POOL,
    UNSAID,
    Abilities,
    Dialect,
    Endpoint,
    TokenSource,
    server_of,
)
from llmwire.services.secrets import Secret


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000"),
        ("http://localhost", "http://localhost:80"),
        ("https://api.openai.com/v1", "https://api.openai.com:443"),
        ("https://API.OpenAI.com:443", "https://api.openai.com:443"),
        ("HTTPS://api.openai.com", "https://api.openai.com:443"),
        ("https://user:word@llm.example.com/v1?key=1#part", "https://llm.example.com:443"),
        ("http://[::1]:8000/v1", "http://[::1]:8000"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]:80"),
    ],
)
def test_a_server_is_scheme_host_and_port_and_nothing_else(url, server):
    assert server_of(url) == server


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.sampled_from(["localhost", "llm.example.com", "[::1]", "10.0.0.1"]),
    port=st.integers(min_value=1, max_value=65535),
    path=st.sampled_from(["", "/", "/v1", "/v1/chat"]),
)
def test_the_server_of_a_server_is_itself(scheme, host, port, path):
    server = server_of(f"{scheme}://{host.upper()}:{port}{path}")

    assert server == server_of(server) == f"{scheme}://{host}:{port}"


@pytest.mark.parametrize(
    "other",
    ["http://a.example.com", "https://b.example.com", "https://a.example.com:8443", "https://a.example.com.evil.com"],
)
def test_another_scheme_host_or_port_is_another_server(other):
    assert server_of(other) != server_of("https://a.example.com/v1")


def an_endpoint(**fields):
    return Endpoint(function="completion", name="default", base_url="https://llm.example.com/v1", **fields)


def test_an_endpoint_knows_its_server():
    assert an_endpoint().server == "https://llm.example.com:443"


def test_an_endpoint_shows_neither_its_credential_nor_its_headers():
    endpoint = an_endpoint(credential=Secret("sk-secret"), headers=(("X-Key", "sk-secret"),))

    assert "sk-secret" not in f"{endpoint} {endpoint!r}"


def test_by_default_an_endpoint_speaks_openai_without_a_key():
    assert (an_endpoint().dialect, an_endpoint().credential, an_endpoint().headers) == (Dialect.OPENAI, None, ())


def test_whatever_hands_out_tokens_is_a_token_source_and_a_key_is_none():
    class Tokens:
        def token(self, *, refused=None):
            return Secret("token")

    assert isinstance(Tokens(), TokenSource)
    assert not isinstance(Secret("sk-secret"), TokenSource)


def test_by_default_an_endpoint_serves_the_pool_default_without_a_label_and_nobody_said_what_it_can():
    endpoint = an_endpoint()

    assert (endpoint.pools, endpoint.trust, endpoint.abilities) == ((DEFAULT_POOL,), None, UNSAID)


def test_of_what_nobody_said_nothing_is_known():
    assert Abilities() == UNSAID
    assert (UNSAID.context_length, UNSAID.modalities, UNSAID.tools, UNSAID.structured_output) == (None,) * 4
