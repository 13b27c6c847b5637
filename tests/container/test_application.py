"""The container as its users hold it: alone, inside a larger application, overridden in parts."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import openai
import pytest
from dependency_injector import containers, providers

from llmwire.container import ConfigError, LLMContainer, overriding
from llmwire.services import (
    AsyncCompletionService,
    AsyncEmbeddingService,
    CompletionService,
    EmbeddingService,
)

USABLE = {"COMPLETION_BASE_URL": "http://localhost:1/v1", "EMBEDDING_BASE_URL": "http://localhost:2/v1"}


class Fake:
    """Stands for a client."""


def of_tenant(name: str) -> dict[str, Any]:
    return {
        "completion": {"base_url": f"http://{name}:1/v1", "model": f"{name}-llama"},
        "embedding": {"base_url": f"http://{name}:2/v1", "model": f"{name}-bert", "dimensions": 8},
    }


class Search:
    def __init__(self, embedding: EmbeddingService) -> None:
        self.embedding = embedding


class Application(containers.DeclarativeContainer):
    """A larger application, as DESIGN section 8 has it."""

    config = providers.Configuration()
    llm = providers.Container(LLMContainer, config=config.llm)
    search = providers.Factory(Search, embedding=llm.embedding_service)


@pytest.fixture
def application():
    made = Application()
    yield made
    made.shutdown_resources()


# Alone


def test_completion_and_embedding_are_two_clients_of_two_servers(a_container):
    container = a_container({**USABLE, "COMPLETION_API_KEY": "llama_sk", "EMBEDDING_API_KEY": "bert_sk"})

    completion, embedding = container.completion_client(), container.embedding_client()

    assert completion.base_url == "http://localhost:1/v1/"
    assert embedding.base_url == "http://localhost:2/v1/"


def test_a_variable_counts_that_was_set_after_the_container_was_made(monkeypatch):
    container = LLMContainer()

    monkeypatch.setenv("COMPLETION_BASE_URL", "http://localhost:9/v1")

    with container.completion_client() as client:
        assert client.base_url == "http://localhost:9/v1/"


def test_no_key_stands_in_a_client(a_container):
    container = a_container({**USABLE, "COMPLETION_API_KEY": "sk-secret"})

    client = container.completion_client()

    assert client.api_key != "sk-secret"
    assert "sk-secret" not in f"{client.__dict__} {client.default_headers} {container.completion.settings()}"


def test_ambient_variables_of_the_sdk_play_no_part(a_container, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "http://ambient")
    container = a_container(USABLE)

    client = container.completion_client()

    assert client.base_url == "http://localhost:1/v1/"
    assert "http://ambient" not in f"{client.api_key} {client.organization} {client.project} {client.default_headers}"


def test_the_services_ask_for_the_model_and_dimensions_of_the_settings(a_container):
    container = a_container({**USABLE, "COMPLETION_MODEL": "llama", "EMBEDDING_DIMENSIONS": "8"})

    services = [
        container.completion_service(),
        container.async_completion_service(),
        container.embedding_service(),
        container.async_embedding_service(),
    ]

    kinds = [CompletionService, AsyncCompletionService, EmbeddingService, AsyncEmbeddingService]
    assert [type(service) for service in services] == kinds
    assert [service.model for service in services] == ["llama", "llama", *["text-embedding-3-small"] * 2]
    assert [service.dimensions for service in services[2:]] == [8, 8]
    assert services[0]._client is container.completion_client()


@pytest.mark.parametrize(
    "broken",
    [
        {"EMBEDDING_BASE_URL": "no url"},
        {"EMBEDDING_BASEURL": "misspelt"},
        {"EMBEDDING_API_KEY": "two words"},
        {"EMBEDDING_DIMENSIONS": "many"},
        {"EMBEDDING_DIALECT": "azure"},
        {"EMBEDDING_BASE_URL": "https://api.openai.com"},
    ],
)
def test_a_mistake_in_the_embedding_leaves_completions_working_and_is_told_at_its_first_use(a_container, broken):
    container = a_container({**USABLE, **broken})

    completion = container.completion_service()

    assert completion._client.base_url == "http://localhost:1/v1/"
    with pytest.raises(ConfigError, match=r"(?i)embedding"):
        container.embedding_client()


def test_a_dotenv_file_is_read_only_when_asked(tmp_path):
    (tmp_path / ".env").write_text("COMPLETION_MODEL=llama\n")

    assert LLMContainer().completion.model() == "gpt-5.4-mini"
    assert LLMContainer.from_dotenv().completion.model() == "llama"


def test_a_dotenv_file_may_be_named_and_joined_by_a_config(tmp_path):
    (tmp_path / "some.env").write_text("COMPLETION_MODEL=llama\nEMBEDDING_MODEL=bert\n")

    container = LLMContainer.from_dotenv(tmp_path / "some.env", config={"completion": {"model": "of the config"}})

    assert (container.completion.model(), container.embedding.model()) == ("of the config", "bert")


def test_two_containers_do_not_share_a_dotenv_file(tmp_path):
    (tmp_path / ".env").write_text("COMPLETION_MODEL=llama\n")

    LLMContainer.from_dotenv()

    assert LLMContainer().completion.model() == "gpt-5.4-mini"


def test_a_toml_file_may_be_joined_by_an_environment(tmp_path):
    (tmp_path / "llm.toml").write_text("[completion]\nmodel = 'llama'\n")

    container = LLMContainer.from_toml(tmp_path / "llm.toml", env={"EMBEDDING_MODEL": "bert"})

    assert (container.completion.model(), container.embedding.model()) == ("llama", "bert")


# Overridden


@pytest.mark.parametrize(
    "override",
    [
        lambda container: container.completion.base_url.override("http://localhost:9"),
        lambda container: container.config.override({"completion": {"base_url": "http://localhost:9"}}),
        lambda container: container.config.from_dict({"completion": {"base_url": "http://localhost:9"}}),
        lambda container: container.config.completion.base_url.from_value("http://localhost:9"),
        lambda container: container.env.override({"COMPLETION_BASE_URL": "http://localhost:9"}),
        lambda container: container.completion.settings.override(
            LLMContainer(env={"COMPLETION_BASE_URL": "http://localhost:9"}).completion.settings()
        ),
    ],
    ids=["value", "config", "config merged", "config option", "env", "whole"],
)
def test_settings_are_overridden_by_value_by_layer_or_whole(a_container, override):
    container = a_container(USABLE)

    override(container)

    assert container.completion_client().base_url == "http://localhost:9/v1/"


def test_overridden_settings_of_one_function_leave_the_other(a_container):
    container = a_container(USABLE)

    container.completion.base_url.override("http://localhost:9")

    assert container.embedding_client().base_url == "http://localhost:2/v1/"


@pytest.mark.parametrize(
    "override",
    [
        lambda container, fake: container.completion_client.override(fake),
        lambda container, fake: container.completion_client.override(providers.Object(fake)),
        lambda container, fake: container.override_providers(completion_client=fake),
        lambda container, fake: container.completion.client.override(fake),
    ],
)
def test_an_overridden_client_reaches_its_service(a_container, override):
    container, fake = a_container(USABLE), Fake()

    override(container, fake)

    assert container.completion_client() is fake
    assert container.completion_service()._client is fake


def test_a_client_may_be_given_when_the_container_is_made(a_container):
    fake = Fake()

    assert a_container(USABLE, completion_client=fake).completion_service()._client is fake


def test_a_subclass_may_declare_other_parts():
    fake = Fake()

    @containers.copy(LLMContainer)
    class Mine(LLMContainer):
        completion_client = providers.Object(fake)
        banner = providers.Object("mine")

    container = Mine(env=USABLE)

    assert container.banner() == "mine"
    assert container.completion_service()._client is fake
    assert container.explain().is_usable
    assert LLMContainer(env=USABLE).completion_client.overridden == ()


def test_a_subclass_is_made_from_files_too(tmp_path):
    (tmp_path / ".env").write_text("COMPLETION_MODEL=llama\n")

    class Mine(LLMContainer):
        banner = providers.Object("mine")

    container = Mine.from_dotenv()

    assert (container.banner(), container.completion.model()) == ("mine", "llama")


# Inside a larger application


def test_a_larger_application_gives_its_config_when_it_is_made():
    application = Application(config={"llm": of_tenant("a")})

    with application.llm.completion_client() as client:
        assert client.base_url == "http://a:1/v1/"
    assert application.search().embedding.dimensions == 8
    application.shutdown_resources()


def test_a_larger_application_gives_its_config_later(application):
    application.config.from_dict({"llm": of_tenant("a")})

    assert application.llm.completion_client().base_url == "http://a:1/v1/"


def test_a_config_that_comes_after_the_first_look_counts_too(application):
    before = application.llm.completion.model()
    application.llm.explain()

    application.config.from_dict({"llm": {"completion": {"model": "first"}}})
    first = application.llm.completion.model()
    application.config.llm.completion.model.from_value("second")

    assert (before, first, application.llm.completion.model()) == ("gpt-5.4-mini", "first", "second")


def test_a_larger_application_without_a_section_for_it_falls_back_to_the_environment(application, monkeypatch):
    monkeypatch.setenv("COMPLETION_MODEL", "llama")
    application.config.from_dict({"other": 1})

    assert application.llm.completion.model() == "llama"


@pytest.mark.parametrize("section", ["text", 5, ["a"]])
def test_a_section_that_is_no_table_is_refused(application, section):
    application.config.from_dict({"llm": section})

    with pytest.raises(ConfigError, match=r"config \(from config\): is no table"):
        application.llm.completion_client()
    assert application.llm.explain().functions[0].error


def test_a_misspelt_key_in_its_section_is_refused(application):
    application.config.from_dict({"llm": {"completion": {"baseurl": "http://a"}}})

    with pytest.raises(ConfigError, match=r"Did you mean completion\.base_url"):
        application.llm.completion_client()


def test_making_a_larger_application_has_no_effect(monkeypatch):
    before = Application()
    monkeypatch.setenv("COMPLETION_BASE_URL", "http://localhost:9/v1")

    class Another(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer)

    made = Another()

    assert not any(client.initialized for client in (before.llm.completion_client, made.llm.completion_client))
    with before.llm.completion_client() as client:
        assert client.base_url == "http://localhost:9/v1/"


def test_a_larger_application_may_bring_its_own_environment():
    class Larger(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer, env=providers.Object(USABLE))

    application = Larger()

    assert application.llm.completion.base_url.origin() == "env.COMPLETION_BASE_URL"


def test_two_tenants_have_nothing_in_common():
    one, other = Application(config={"llm": of_tenant("a")}), Application(config={"llm": of_tenant("b")})

    clients = one.llm.completion_client(), other.llm.completion_client()
    one.llm.completion.model.override("only here")
    one.shutdown_resources()

    assert [client.base_url for client in clients] == ["http://a:1/v1/", "http://b:1/v1/"]
    assert [client.is_closed() for client in clients] == [True, False]
    assert (one.llm.completion.model(), other.llm.completion.model()) == ("only here", "b-llama")
    other.shutdown_resources()


def test_two_tenants_may_live_in_one_application():
    class Both(containers.DeclarativeContainer):
        config = providers.Configuration()
        a = providers.Container(LLMContainer, config=config.a)
        b = providers.Container(LLMContainer, config=config.b)

    application = Both(config={"a": of_tenant("a"), "b": of_tenant("b")})

    with overriding(application, **{"a.completion_client": Fake()}):
        assert isinstance(application.a.completion_service()._client, Fake)
        assert application.b.completion_service()._client.base_url == "http://b:1/v1/"
    application.shutdown_resources()


def test_the_parts_of_an_embedded_container_are_reached_by_name(application):
    application.config.from_dict({"llm": of_tenant("a")})

    async def play() -> Any:
        client = application.llm.async_embedding_client()
        await application.llm.aclose()
        return client

    client = asyncio.run(play())

    assert isinstance(client, openai.AsyncOpenAI)
    assert client.is_closed()
    assert application.llm.explain().is_usable


def test_a_simple_fake_stands_in_for_the_embedding_of_a_larger_application(application):
    class Vectors:
        def create(self, *, input: list[str], model: str, dimensions: int) -> Any:  # noqa: A002  # the SDK's name
            return type("Reply", (), {"data": [type("Item", (), {"embedding": [1.0] * dimensions}) for _ in input]})

    class Client:
        embeddings = Vectors()

    application.config.from_dict({"llm": of_tenant("a")})

    with overriding(application, **{"llm.embedding_client": Client()}):
        matrix = application.search().embedding.embed(["a", "b"])

    assert (matrix.shape, matrix.dtype) == ((2, 8), np.float32)
