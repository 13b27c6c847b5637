"""A server proves who it is, or gets nothing: over https, by a certificate that this machine can check."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import openai
import pytest
import trustme

from llmwire.services.transport import connections

from .callers import saying, served_by, text_of


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def serve_tls(serve, authority):
    """Starts an https server whose certificate names the given host."""

    def serve_tls(name="localhost", **certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, **certificate).configure_cert(context)
        return serve(tls=context)

    return serve_tls


@pytest.fixture
def _fresh_context():
    """The clients make their TLS context anew, and so do those after this test."""
    connections._shared_ssl_context.cache_clear()
    yield
    connections._shared_ssl_context.cache_clear()


@pytest.fixture
def _known_authority(_fresh_context, authority):
    """As if the machine's administrator had installed the authority."""
    authority.configure_trust(connections._shared_ssl_context())


def refused(caller, container, **options):
    """What a call raises, and what stands behind it."""
    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(container, saying("a secret prompt"), **options)
    return str(caught.value.__cause__)


@pytest.mark.usefixtures("_known_authority")
def test_a_server_of_a_known_authority_is_served_over_tls(serve_tls, contain, caller):
    server = serve_tls()

    completion = caller.run(contain(completion=served_by(server)), saying("hi"))

    assert text_of(completion) == "hi"
    assert server.seen[0].header("authorization") == "Bearer its-key"


@pytest.mark.usefixtures("_known_authority")
def test_a_certificate_for_another_host_is_refused(serve_tls, contain, caller):
    server = serve_tls("other.test")

    message = refused(caller, contain(completion=served_by(server)))

    assert "is not valid for 'localhost'" in message
    assert server.seen == []


@pytest.mark.usefixtures("_known_authority")
def test_a_certificate_that_has_ended_is_refused(serve_tls, contain, caller):
    server = serve_tls(not_after=datetime(2020, 1, 1, tzinfo=UTC))

    message = refused(caller, contain(completion=served_by(server)))

    assert "expired" in message
    assert server.seen == []


def test_a_certificate_of_an_unknown_authority_is_refused_before_anything_is_sent(serve_tls, contain, caller):
    server = serve_tls()

    message = refused(caller, contain(completion=served_by(server)))

    assert message.startswith(f"completion endpoint {server.url}: ")
    assert "certificate" in message
    assert server.seen == []


def test_the_refusal_never_suggests_to_do_without_the_check(serve_tls, contain, caller):
    message = refused(caller, contain(completion=served_by(serve_tls()))).lower()

    for advice in ("verify=", "insecure", "unverified", "disable", "turn off", "ignore", "skip", "http://"):
        assert advice not in message


@pytest.mark.usefixtures("_fresh_context")
def test_a_variable_of_the_environment_makes_no_authority_known(
    serve_tls, contain, caller, authority, tmp_path, monkeypatch
):
    server = serve_tls()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))

    refused(caller, contain(completion=served_by(server)))

    assert server.seen == []


def test_the_refusal_shows_neither_key_nor_prompt(serve_tls, contain, caller):
    message = refused(caller, contain(completion=served_by(serve_tls())))

    assert "its-key" not in message
    assert "secret prompt" not in message


def test_a_retry_does_not_lower_the_guard(serve_tls, contain, caller):
    server = serve_tls()

    refused(caller, contain(completion=served_by(server)), retries=1)

    assert server.accepted >= 2
    assert server.seen == []


def test_a_server_that_speaks_no_tls_gets_nothing(serve, contain, caller):
    server = serve()

    message = refused(caller, contain(completion={"base_url": f"https://localhost:{server.port}", "api_key": "k"}))

    assert message.startswith(f"completion endpoint https://localhost:{server.port}: ")
    assert server.seen == []
