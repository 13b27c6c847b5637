"""`ping` says what is wrong with a server and how to mend it."""

import httpx2
import pytest
from openai import OpenAI

from llmwire.services.ping import paid_ping, ping
from llmwire.services.testing import Failure, FakeCompletions, FakeEmbeddings, StandIn


@pytest.fixture
def client_of():
    clients = []

    def make(base_url, api_key="any"):
        clients.append(OpenAI(base_url=base_url, api_key=api_key))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_server_that_lists_the_model_is_well(client_of):
    with StandIn() as server:
        outcome = ping(client_of(server.base_url), function="completion", model="stand-in-completion")

    assert outcome.is_ok
    assert outcome.remedy is None
    assert outcome.took_ms > 0
    assert (outcome.check, outcome.server) == ("GET /models", server.base_url)


def test_a_model_that_is_not_listed_is_remarked_with_the_variable_to_set(client_of):
    with StandIn() as server:
        outcome = ping(client_of(server.base_url), function="embedding", model="bge-small")

    assert outcome.is_ok
    assert "does not list bge-small" in outcome.remedy
    assert "EMBEDDING_MODEL" in outcome.remedy


def test_the_free_check_asks_for_nothing_but_the_models(client_of):
    with StandIn() as server:
        ping(client_of(server.base_url), function="completion", model="m")

        assert [(request.method, request.path) for request in server.requests] == [("GET", "/v1/models")]


def test_a_server_that_is_down_is_told_with_the_variable_to_correct(client_of):
    with StandIn() as server:
        base_url = server.base_url

    outcome = ping(client_of(base_url), function="completion", model="m")

    assert not outcome.is_ok
    assert outcome.took_ms is None
    assert "COMPLETION_BASE_URL" in outcome.remedy


def test_a_wrong_key_is_told(client_of):
    with StandIn(api_key="right") as server:
        outcome = ping(client_of(server.base_url, "wrong"), function="embedding", model="m")

    assert "401" in outcome.problem
    assert "EMBEDDING_API_KEY" in outcome.remedy


def test_a_wrong_path_is_told(client_of):
    with StandIn() as server:
        outcome = ping(client_of(server.base_url.replace("/v1", "/api")), function="completion", model="m")

    assert "404" in outcome.problem
    assert "/v1" in outcome.remedy


def test_an_answer_that_is_no_list_of_models_is_told(client_of):
    with StandIn() as server:
        # A client whose base URL is one level too high is given whatever stands at /health/models.
        outcome = ping(client_of(server.base_url.replace("/v1", "")), function="completion", model="m")

    assert not outcome.is_ok


@pytest.mark.parametrize(
    ("status", "said"), [(403, "refused the key"), (429, "busy"), (500, "status 500"), (503, "status 503")]
)
def test_a_failing_paid_check_is_told_by_its_status(status, said):
    with FakeCompletions(Failure(status=status)) as fake:
        outcome = paid_ping(fake, function="completion", model="m")

    assert said in outcome.problem


def test_an_exhausted_wait_is_told():
    with FakeCompletions(TimeoutError()) as fake:
        assert "in time" in paid_ping(fake, function="completion", model="m").problem


def test_the_paid_check_makes_one_token_or_embeds_one_text():
    with FakeCompletions("x") as completions, FakeEmbeddings() as embeddings:
        paid_ping(completions, function="completion", model="m")
        paid_ping(embeddings, function="embedding", model="m")

    assert completions.calls[0].body["max_completion_tokens"] == 1
    assert len(embeddings.calls[0].body["input"]) == 1


def test_nothing_is_tried_twice():
    with FakeCompletions([Failure(status=503), "unreached"], max_retries=2) as fake:
        paid_ping(fake, function="completion", model="m")

    assert len(fake.calls) == 1


@pytest.fixture
def answered():
    """A client whose server gives one answer to everything."""
    clients = []

    def make(status, **content):
        transport = httpx2.MockTransport(lambda request: httpx2.Response(status, **content))
        clients.append(OpenAI(base_url="http://llm/v1", api_key="any", http_client=httpx2.Client(transport=transport)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "content",
    [{"html": "<p>a web page</p>"}, *({"json": body} for body in ({}, [], 5, {"data": None}, {"data": ["x"]}))],
)
def test_what_is_no_list_of_models_asks_whether_the_server_is_one(answered, content):
    outcome = ping(answered(200, **content), function="embedding", model="m")

    assert outcome.problem == "its answer is none of the OpenAI API"
    assert outcome.remedy == "Check EMBEDDING_BASE_URL: is it a web page?"


def test_a_server_without_models_lists_nothing(answered):
    outcome = ping(answered(200, json={"data": []}), function="completion", model="m")

    assert outcome.is_ok
    assert outcome.remedy == "it does not list m, but nothing: set COMPLETION_MODEL"


def test_of_many_models_the_first_are_shown(answered):
    outcome = ping(
        answered(200, json={"data": [{"id": str(number)} for number in range(9)]}), function="completion", model="m"
    )

    assert outcome.remedy == "it does not list m, but 0, 1, 2, 3, 4, ...: set COMPLETION_MODEL"


@pytest.mark.parametrize("status", [307, 418, 502])
def test_any_other_status_is_told_as_it_is(answered, status):
    outcome = ping(answered(status, json={}), function="completion", model="m")

    assert outcome.problem == f"it answered with status {status}"
    assert outcome.took_ms is None


@pytest.mark.parametrize("function", ["completion", "embedding"])
@pytest.mark.parametrize("content", [{"html": "<p>a web page</p>"}, {"json": {"error": "overloaded"}}])
def test_a_paid_check_is_not_satisfied_with_any_answer(answered, function, content):
    outcome = paid_ping(answered(200, **content), function=function, model="m")

    assert outcome.problem == "its answer is none of the OpenAI API"
