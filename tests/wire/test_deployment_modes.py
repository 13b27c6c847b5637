"""The three ways to deploy, each against two real server processes, configured by the process environment alone."""

from __future__ import annotations

import pytest

from .callers import Caller, embedding, saying, text_of, vectors_of
from .servers import ServerProcess, numbers_of


def test_separate_vendors_each_get_their_own_requests_and_their_own_key(serve_apart, contain, caller, monkeypatch):
    llama, bert = serve_apart(), serve_apart()
    monkeypatch.setenv("COMPLETION_BASE_URL", llama.url)
    monkeypatch.setenv("COMPLETION_API_KEY", "llama_sk_1")
    monkeypatch.setenv("EMBEDDING_BASE_URL", bert.url)
    monkeypatch.setenv("EMBEDDING_API_KEY", "bert_sk_2")

    answers = ask_both(contain(), caller)

    assert answers == ("why is the sky blue?", [numbers_of("a"), numbers_of("bc")])
    assert requests_of(llama) == [("/v1/chat/completions", "Bearer llama_sk_1")]
    assert requests_of(bert) == [("/v1/embeddings", "Bearer bert_sk_2")]
    assert "bert" not in str(llama.seen())
    assert "llama" not in str(bert.seen())


def test_one_endpoint_serves_both_functions_with_the_standard_variables_only(serve_apart, contain, caller, monkeypatch):
    server, other = serve_apart(), serve_apart()
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")

    answers = ask_both(contain(), caller)

    assert answers == ("why is the sky blue?", [numbers_of("a"), numbers_of("bc")])
    assert requests_of(server) == [("/v1/chat/completions", "Bearer sk-one"), ("/v1/embeddings", "Bearer sk-one")]
    assert other.seen() == []


def test_mixed_a_local_embedding_server_without_a_key_gets_no_authorization(serve_apart, contain, caller, monkeypatch):
    vendor, local = serve_apart(), serve_apart()
    monkeypatch.setenv("COMPLETION_BASE_URL", vendor.url)
    monkeypatch.setenv("COMPLETION_API_KEY", "sk-vendor")
    monkeypatch.setenv("EMBEDDING_BASE_URL", local.url.replace("127.0.0.1", "localhost"))

    answers = ask_both(contain(), caller)

    assert answers == ("why is the sky blue?", [numbers_of("a"), numbers_of("bc")])
    assert requests_of(vendor) == [("/v1/chat/completions", "Bearer sk-vendor")]
    assert requests_of(local) == [("/v1/embeddings", None)]
    assert not {"authorization", "api-key", "x-api-key"} & local.seen()[0].headers.keys()


@pytest.mark.parametrize("function", ["completion", "embedding"])
def test_a_function_of_its_own_leaves_the_other_on_the_shared_endpoint(
    serve_apart, contain, caller, monkeypatch, function
):
    shared, own = serve_apart(), serve_apart()
    monkeypatch.setenv("OPENAI_BASE_URL", shared.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-shared")
    monkeypatch.setenv(f"{function.upper()}_BASE_URL", own.url)
    monkeypatch.setenv(f"{function.upper()}_API_KEY", "sk-own")

    ask_both(contain(), caller)

    assert [authorization for _, authorization in requests_of(shared)] == ["Bearer sk-shared"]
    assert [authorization for _, authorization in requests_of(own)] == ["Bearer sk-own"]


def ask_both(container, caller: Caller) -> tuple[str, list[list[float]]]:
    said = caller.run(container, saying("why is the sky blue?"))
    embedded = caller.run(container, embedding("a", "bc"), function="embedding")
    return text_of(said), vectors_of(embedded)


def requests_of(server: ServerProcess) -> list[tuple[str, str | None]]:
    return [(seen.target, seen.header("authorization")) for seen in server.seen()]
