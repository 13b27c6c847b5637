from __future__ import annotations

import json
import socket

import httpx2
import pytest
from fastapi.testclient import TestClient

from app_example.serving import PortError, listen
from app_example.web import create_app
from llmwire.container import overriding
from llmwire.services import AttemptEnded
from llmwire.services.testing import AsyncFakeCompletions, AsyncFakeEmbeddings, Failure


@pytest.fixture
def client(ingested):
    with TestClient(create_app(ingested)) as made:
        yield made
    ingested.unwire()


def ask(client, question="What do cats eat?"):
    answer = client.post("/api/ask", json={"question": question})
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_answer_comes_as_sources_pieces_and_an_end(client):
    sources, *pieces, done = ask(client)

    assert sources["kind"] == "sources"
    assert {"file", "heading", "text"} == sources["sources"][0].keys()
    assert "".join(piece["text"] for piece in pieces) == "Cats eat fish [1]."
    assert done == {"kind": "done"}


def test_trouble_with_completions_comes_after_the_sources_and_is_the_end(client, ingested):
    with overriding(ingested, **{"llm.async_completion_client": AsyncFakeCompletions(Failure(status=401))}):
        sources, trouble = ask(client)

    assert len(sources["sources"]) == 4
    assert trouble["kind"] == "trouble"
    assert "COMPLETION_API_KEY" in trouble["message"]


def test_trouble_with_embeddings_is_all_there_is(client, ingested):
    broken = AsyncFakeEmbeddings(dimensions=8, failure=Failure(status=401))
    with overriding(ingested, **{"llm.async_embedding_client": broken}):
        [trouble] = ask(client)

    assert "EMBEDDING_API_KEY" in trouble["message"]


@pytest.mark.parametrize("question", ["", "   ", "x" * 2_001, None])
def test_no_question_or_too_long_a_one_is_refused(client, question):
    assert client.post("/api/ask", json={"question": question}).status_code == 422


def test_a_form_of_another_site_cannot_ask(client):
    answer = client.post("/api/ask", content='{"question": "x"}', headers={"Content-Type": "text/plain"})

    assert answer.status_code == 422


def test_the_status_tells_of_documents_endpoints_and_warnings(client, ingested):
    ingested.config.stand_ins.from_value(["embedding"])
    ingested.journal()(
        AttemptEnded(
            function="embedding",
            endpoint="default",
            server="http://a:1",
            operation="embeddings",
            status=200,
            error=None,
            took_s=0.0101,
        )
    )

    status = client.get("/api/status").json()

    assert status == {
        "documents": {"passages": 5, "titles": ["Cats", "Dogs", "more/birds.txt"]},
        "stand_ins": ["embedding"],
        "endpoints": [
            {
                "function": "embedding",
                "endpoint": "default",
                "server": "http://a:1",
                "answered": 1,
                "failed": 0,
                "status": 200,
                "error": None,
                "took_ms": 10,
            }
        ],
        "warnings": [],
    }


def test_prometheus_is_told_in_its_own_format(client):
    scraped = client.get("/metrics")

    assert scraped.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "llmwire_report_failed 0.0" in scraped.text.splitlines()


def test_without_documents_the_page_still_stands(application):
    with TestClient(create_app(application)) as client:
        assert client.get("/api/status").json()["documents"] == {"passages": 0}
        [trouble] = ask(client)
    application.unwire()

    assert "ingest FOLDER" in trouble["message"]


def test_a_broken_database_is_told_of(application, database):
    database.parent.mkdir()
    database.write_text("no database " * 100)

    with TestClient(create_app(application)) as client:
        documents = client.get("/api/status").json()["documents"]
    application.unwire()

    assert "is not a database" in documents["problem"]


def test_health_asks_no_endpoint(client, ingested):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert ingested.journal().attempts() == []


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")

    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "://" not in page.text
    for name, kind in (("page.css", "text/css"), ("page.js", "javascript"), ("icon.svg", "image/svg+xml")):
        part = client.get(f"/static/{name}")
        assert part.status_code == 200
        assert kind in part.headers["content-type"]


def test_the_page_never_writes_html(client):
    script = client.get("/static/page.js").text

    assert not [word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write") if word in script]


def test_a_reader_who_goes_away_stops_the_model(ingested, serving, endless):
    with overriding(ingested, **{"llm.async_completion_service": endless}), serving(create_app(ingested)) as url:
        with httpx2.stream("POST", f"{url}/api/ask", json={"question": "cats?"}, trust_env=False) as answer:
            lines = answer.iter_lines()
            assert [json.loads(next(lines))["kind"] for _ in range(2)] == ["sources", "piece"]
        assert endless.closed.wait(timeout=10)
    ingested.unwire()


def test_a_port_that_is_taken_says_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortError, match="--port 0 takes a free one"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_both_families_of_addresses_can_be_listened_on():
    for host in ("127.0.0.1", "::1"):
        with listen(host, 0) as listening:
            assert listening.getsockname()[0] == host
