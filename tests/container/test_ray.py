from __future__ import annotations

import pickle
import socket
import sys
from contextlib import ExitStack, closing

import numpy as np
import openai
import pytest

from llmwire.container import LLMContainer
from llmwire.container.ray import Embedder, RayWorkers, settings_of
from llmwire.services import EmbeddingService
from llmwire.services.bulk.trouble import Kind, trouble_of
from llmwire.services.errors import AllEndpointsFailed, ConfigError, InvalidInput, NoRoute, SpaceMismatch
from llmwire.services.secrets import Secret
from llmwire.services.testing import FakeEmbeddings, FaultServer, StandIn, faults
from llmwire.services.wanted import Wanted


@pytest.fixture(scope="module")
def server():
    with StandIn(dimensions=8) as server:
        yield server


@pytest.fixture
def embedder():
    """Makes an embedder; it is closed after the test."""
    with ExitStack() as made:

        def make(settings, **columns):
            return made.enter_context(closing(Embedder(settings, **columns)))

        yield make


def settings_for(server, **more):
    table = {"base_url": server.base_url, "api_key": "sk-any", "model": "m", "max_attempts": 1, **more}
    return {"config": {"embedding": table}, "env": {}}


# What travels.


def test_predicates_that_routes_name_travel_too(a_container):
    container = a_container(predicates={"is_short": len})

    assert settings_of(container)["predicates"] == {"is_short": len}


def test_both_layers_travel_as_plain_values(a_container):
    table = {"base_url": "http://a", "api_key": Secret("sk-1"), "endpoints": {"b": {"tags": ("x", "y")}}}
    container = a_container(config={"embedding": table}, env={"EMBEDDING_MODEL": "m"})

    settings = settings_of(container)

    plain = {"base_url": "http://a", "api_key": "sk-1", "endpoints": {"b": {"tags": ["x", "y"]}}}
    assert settings == {"config": {"embedding": plain}, "env": {"EMBEDDING_MODEL": "m"}}
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_only_what_embedding_reads_travels(a_container):
    read = {"EMBEDDING_API_KEY": "1", "OPENAI_API_KEY": "2", "AZURE_OPENAI_ENDPOINT": "3", "LLMWIRE_IGNORE": "4"}
    others = {"COMPLETION_API_KEY": "5", "OPENAI_ADMIN_KEY": "6", "AZURE_CLIENT_SECRET": "7", "PATH": "8"}
    tables = {"completion": {"api_key": "9"}, "openai": {"api_key": "10"}, "key_fallback": "warn"}

    settings = settings_of(a_container(config=tables, env=read | others))

    assert settings["env"] == read
    assert settings["config"] == {"openai": {"api_key": "10"}, "key_fallback": "warn"}


def test_a_dotenv_file_travels_below_the_process_environment(a_container, tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("EMBEDDING_MODEL=of-the-file\nEMBEDDING_API_KEY=of-the-file\n")
    monkeypatch.setenv("EMBEDDING_MODEL", "of-the-process")
    container = LLMContainer()
    container.env.read_dotenv()

    assert settings_of(container)["env"] == {
        "EMBEDDING_MODEL": "of-the-process",
        "EMBEDDING_API_KEY": "of-the-file",
    }


def test_a_container_of_the_settings_is_set_as_the_one_that_they_are_of(a_container, monkeypatch):
    endpoints = {"one": {"base_url": "http://a/v1"}, "two": {"base_url": "http://b/v1", "weight": 2}}
    first = a_container(config={"embedding": {"endpoints": endpoints}}, env={"EMBEDDING_DIMENSIONS": "8"})
    monkeypatch.setenv("EMBEDDING_DIMENSIONS", "16")  # the worker's own, which is not read

    settings = settings_of(first)
    second = a_container(**settings)

    assert second.embedding.settings().endpoints == first.embedding.settings().endpoints
    assert second.embedding.dimensions() == 8


# Who works.


def test_an_embedder_answers_with_vectors_tokens_and_endpoint(server, embedder):
    answer = embedder(settings_for(server)).embed(["one text", "another"])

    assert (answer.vectors.shape, answer.vectors.dtype) == ((2, 8), np.float32)
    assert answer.tokens > 0
    assert answer.endpoint == "default"


def test_a_worker_demands_the_trust_that_the_drivers_block_demands(server, embedder):
    outcome = embedder(settings_for(server)).outcome(["secret"], Wanted(trust=frozenset({"local"})))

    assert isinstance(outcome, NoRoute)
    assert "outside of the trust that is demanded (local)" in str(outcome)


def test_an_embedder_pickles_as_its_settings_also_after_it_was_used(server, embedder):
    used = embedder(settings_for(server), text="t", embedding="e")
    used.embed(["a text"])

    with closing(pickle.loads(pickle.dumps(used))) as other:
        row = other({"t": np.array(["a text"], dtype=object)})
    np.testing.assert_array_equal(row["e"], used.embed(["a text"]).vectors)


def test_a_batch_of_columns_gets_one_more(server, embedder):
    batch = {"id": np.arange(3), "text": np.array(["a", "b", "c"], dtype=object)}
    worker = embedder(settings_for(server))

    more = worker(batch)

    assert list(more) == ["id", "text", "embedding"]
    np.testing.assert_array_equal(more["embedding"], worker.embed(["a", "b", "c"]).vectors)


def test_wrong_settings_are_an_error_of_the_first_call_and_not_of_the_constructor(embedder):
    worker = embedder({"config": {"embedding": {"base_ulr": "http://a"}}, "env": {}})

    with pytest.raises(ConfigError, match="base_url"):
        worker.embed(["a text"])


# What comes back of an error.


def outcome_of(*script, **more):
    """As it arrives at the driver."""
    with FaultServer(*script) as server, closing(Embedder(settings_for(server, **more))) as embedder:
        return pickle.loads(pickle.dumps(embedder.outcome(["a text"])))


@pytest.mark.parametrize(
    ("status", "kind", "meaning"),
    [
        (400, openai.BadRequestError, Kind.REFUSED),
        (401, openai.AuthenticationError, Kind.FATAL),
        (429, openai.RateLimitError, Kind.BUSY),
        (500, openai.InternalServerError, Kind.DOWN),
    ],
)
def test_an_error_of_the_sdk_arrives_as_what_it_is(status, kind, meaning):
    error = outcome_of(faults.status(status, code="a_code"))

    assert type(error) is kind
    assert (error.status_code, error.code) == (status, "a_code")
    assert str(status) in str(error)
    assert trouble_of(error).kind is meaning


def test_the_rest_that_a_busy_server_asks_for_arrives():
    error = outcome_of(faults.status(429, retry_after=7))

    assert trouble_of(error).retry_after_s == 7


def test_a_code_that_says_that_the_money_is_gone_arrives():
    error = outcome_of(faults.status(429, code="insufficient_quota"))

    assert trouble_of(error).kind is Kind.FATAL


@pytest.mark.parametrize("fault", [faults.reset(), faults.vectors("fewer")], ids=["connection", "vectors"])
def test_an_error_of_our_own_arrives_with_its_attempts(fault):
    error = outcome_of(fault)

    assert isinstance(error, AllEndpointsFailed)
    assert [attempt.endpoint for attempt in error.attempts] == ["default"]
    assert trouble_of(error).kind is Kind.DOWN


def test_a_text_that_no_server_takes_is_told_with_its_place(server, embedder):
    worker = embedder(settings_for(server))

    with pytest.raises(InvalidInput) as error:
        worker({"text": np.array(["a", ""], dtype=object)})

    assert error.value.position == 1


def test_no_key_is_in_what_arrives_of_an_error():
    error = outcome_of(faults.status(401), api_key="sk-canary-4711")

    assert isinstance(error, openai.AuthenticationError)
    assert b"canary" not in pickle.dumps(error)


# What is said before a cluster is asked.


def workers(**more):
    return RayWorkers({"config": {}, "env": {}}, workers=1, parallel=1, **more)


def test_without_ray_it_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)

    with pytest.raises(ConfigError, match=r"pip install 'llmwire\[ray\]'"), workers():
        pass


@pytest.mark.parametrize("address", ["somewhere", "ray://10.0.0.5:10001", "10.0.0.5:", ":6379", "10.0.0.5:ray"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="Write HOST:PORT"), workers(address=address):
        pass


def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(ConfigError, match=f"nobody answers at {address}"), workers(address=address):
            pass


def test_a_worker_whose_endpoints_give_another_space_embeds_nothing_and_begins_anew(monkeypatch):
    stamped = EmbeddingService(FakeEmbeddings(dimensions=8), model="another").space()
    embedder = Embedder({"config": {"embedding": {"model": "m"}}, "env": {}}, space=stamped)
    made = []

    class Container:
        def __init__(self, **settings):
            made.append(self)
            self.client = FakeEmbeddings(dimensions=8)

        def embedding_service(self):
            return EmbeddingService(self.client, model="m" if len(made) == 1 else "another")

        def shutdown_resources(self):
            self.client.close()

    monkeypatch.setattr("llmwire.container.ray.LLMContainer", Container)

    with pytest.raises(SpaceMismatch):
        embedder.embed(["a"])

    assert embedder.embed(["a"]).vectors.shape == (1, 8)  # the right endpoint is back
    assert len(made) == 2


def test_another_model_than_the_drivers_arrives_as_what_it_is_and_ends_the_run(server):
    another = EmbeddingService(FakeEmbeddings(dimensions=8), model="m").space()

    with closing(Embedder(settings_for(server), space=another)) as worker:
        error = pickle.loads(pickle.dumps(worker.outcome(["a text"])))

    assert isinstance(error, SpaceMismatch)
    assert error.expected == another
    assert trouble_of(error).kind is Kind.FATAL


def test_a_worker_that_could_ask_nobody_for_its_space_asks_again_at_the_next_call(a_container):
    with FaultServer() as server:
        space = a_container(**settings_for(server)).embedding_service().space()
        with closing(Embedder(settings_for(server), space=space)) as worker:
            server.script(faults.reset())
            error = worker.outcome(["a text"])
            server.script()

            answer = worker.embed(["a text"])

    assert isinstance(error, AllEndpointsFailed)
    assert len(answer.vectors) == 1
