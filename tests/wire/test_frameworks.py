"""Frameworks take the clients of a container as they are: what they ask for reaches its endpoint, with its key.

These run in an environment of their own, which `make test` makes: some frameworks hold openai back.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from dataclasses import dataclass

import pytest

from app_example.routing import CASES, served
from llmwire.services import recorded, routed
from llmwire.services.testing import StandIn

MUST_BE_HERE = os.environ.get("LLMWIRE_REQUIRE_FRAMEWORKS") == "1"

PROMPT = "The sky is blue. The grass is green. What colour is the sky?"
ANSWER = "The sky is blue."

CHAT = ("/v1/chat/completions", "Bearer completion-key")
RESPONSE = ("/v1/responses", "Bearer completion-key")
EMBEDDING = ("/v1/embeddings", "Bearer embedding-key")

pytestmark = [pytest.mark.frameworks]


@dataclass(frozen=True)
class Lane:
    """The clients of one function, and its server."""

    client: object
    async_client: object
    server: StandIn

    def received(self) -> list[tuple[str, str]]:
        return [(request.path, request.headers["authorization"]) for request in self.server.requests]


@pytest.fixture
def lanes(contain):
    completion = StandIn(functions=["completion"], api_key="completion-key", dimensions=8)
    embedding = StandIn(functions=["embedding"], api_key="embedding-key", dimensions=8)
    with completion, embedding:
        container = contain(
            completion={"base_url": completion.base_url, "api_key": "completion-key"},
            embedding={"base_url": embedding.base_url, "api_key": "embedding-key"},
        )
        yield (
            Lane(container.completion_client(), container.async_completion_client(), completion),
            Lane(container.embedding_client(), container.async_embedding_client(), embedding),
        )
        container.shutdown_resources()


@pytest.fixture
def completion(lanes):
    return lanes[0]


@pytest.fixture
def embedding(lanes):
    return lanes[1]


def framework(name):
    """The module, or a skip; an error where it must be here."""
    if MUST_BE_HERE:
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed here; make test has an environment with it")


def plan():
    """A structured answer. The stand-in fills it in by its schema alone."""
    pydantic = framework("pydantic")
    return pydantic.create_model("Plan", name=(str, ...), size=(int, pydantic.Field(ge=3)))


# LangChain.


@pytest.fixture
def chat_model(completion):
    return framework("langchain_openai").ChatOpenAI(
        model="m",
        client=completion.client.chat.completions,
        async_client=completion.async_client.chat.completions,
        root_client=completion.client,
        root_async_client=completion.async_client,
    )


@pytest.fixture
def embeddings(embedding):
    # With the length check it would fetch the tables of tiktoken, and send numbers in the place of text.
    return framework("langchain_openai").OpenAIEmbeddings(
        model="m",
        client=embedding.client.embeddings,
        async_client=embedding.async_client.embeddings,
        check_embedding_ctx_length=False,
    )


def test_langchain_chats(chat_model, completion):
    assert chat_model.invoke(PROMPT).content == ANSWER
    assert asyncio.run(chat_model.ainvoke(PROMPT)).content == ANSWER
    assert completion.received() == [CHAT] * 2


def test_langchain_streams(chat_model, completion):
    async def streamed():
        return [part.content async for part in chat_model.astream(PROMPT)]

    parts = [part.content for part in chat_model.stream(PROMPT)]

    assert "".join(parts) == ANSWER
    assert asyncio.run(streamed()) == parts
    assert completion.received() == [CHAT] * 2
    assert len(parts) > 2


def test_langchain_asks_for_responses(chat_model, completion):
    model = chat_model.model_copy(update={"use_responses_api": True})

    assert model.invoke(PROMPT).content[0]["text"] == ANSWER
    assert asyncio.run(model.ainvoke(PROMPT)).content[0]["text"] == ANSWER
    assert completion.received() == [RESPONSE] * 2


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_a_structured_answer(chat_model, completion, method):
    model = chat_model.with_structured_output(plan(), method=method)

    assert model.invoke("Plan a garden.").size == 3
    assert asyncio.run(model.ainvoke("Plan a garden.")).size == 3
    assert completion.received() == [CHAT] * 2


def test_langchain_embeds(embeddings, embedding):
    vectors = embeddings.embed_documents(["one", "two"])

    assert [len(vector) for vector in vectors] == [8, 8]
    assert embeddings.embed_query("one") == vectors[0]
    assert asyncio.run(embeddings.aembed_documents(["one", "two"])) == vectors
    assert embedding.received() == [EMBEDDING] * 3
    assert embedding.server.requests[0].body["input"] == ["one", "two"]


def test_langchain_raises_the_sdk_s_own_error_of_a_server_that_is_down(chat_model, completion):
    openai = framework("openai")
    completion.server.stop()

    with pytest.raises(openai.APIConnectionError) as caught:
        chat_model.invoke(PROMPT)

    assert "completion endpoint http://127.0.0.1:" in "".join(traceback.format_exception(caught.value))


@pytest.fixture(scope="module")
def site():
    """The example of routing: four endpoints, and rules for them."""
    with served() as site:
        yield site


def chat_model_over(container, model):
    client, async_client = container.completion_client(), container.async_completion_client()
    return framework("langchain_openai").ChatOpenAI(
        model=model,
        client=client.chat.completions,
        async_client=async_client.chat.completions,
        root_client=client,
        root_async_client=async_client,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.about)
def test_what_langchain_asks_lands_where_the_rules_say(site, case):
    model = chat_model_over(site.container, case.request["model"])
    messages = case.request["messages"]
    options = {name: value for name, value in case.request.items() if name not in ("model", "messages")}

    with routed(tags=case.tags, trust=case.trust), recorded() as calls:
        model.invoke(messages, **options)
        asyncio.run(model.ainvoke(messages, **options))
        list(model.stream(messages, **options))

    assert [(call.pool, call.route, call.endpoint) for call in calls] == [(case.pool, case.route, case.endpoint)] * 3


@pytest.mark.parametrize("case", [case for case in CASES if case.tags or case.trust], ids=lambda case: case.about)
def test_langchain_may_ask_for_tags_and_trust_by_headers(site, case):
    headers = {"x-llmwire-tags": ",".join(case.tags)} | ({"x-llmwire-trust": case.trust} if case.trust else {})

    with recorded() as calls:
        chat_model_over(site.container, "m").invoke(case.request["messages"], extra_headers=headers)

    assert [(call.pool, call.route, call.endpoint) for call in calls] == [(case.pool, case.route, case.endpoint)]


# Instructor.


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
def test_instructor_gets_a_structured_answer(completion, mode):
    instructor, wanted = framework("instructor"), plan()
    question = {"model": "m", "messages": [{"role": "user", "content": "Plan a garden."}], "response_model": wanted}
    client = instructor.from_openai(completion.client, mode=instructor.Mode[mode])
    async_client = instructor.from_openai(completion.async_client, mode=instructor.Mode[mode])

    planned = client.chat.completions.create(**question)

    assert isinstance(planned, wanted)
    assert planned.size == 3
    assert asyncio.run(async_client.chat.completions.create(**question)).size == 3
    assert completion.received() == [CHAT] * 2


# Pydantic AI, which is asynchronous below.


@pytest.fixture
def provider_of():
    return framework("pydantic_ai.providers.openai").OpenAIProvider


def test_pydantic_ai_chats(completion, provider_of):
    model = framework("pydantic_ai.models.openai").OpenAIChatModel(
        "m", provider=provider_of(openai_client=completion.async_client)
    )
    agent = framework("pydantic_ai").Agent(model)

    for _ in range(2):  # one client, two event loops
        assert asyncio.run(agent.run(PROMPT)).output == ANSWER

    assert completion.received() == [CHAT] * 2


def test_pydantic_ai_asks_for_responses(completion, provider_of):
    model = framework("pydantic_ai.models.openai").OpenAIResponsesModel(
        "m", provider=provider_of(openai_client=completion.async_client)
    )

    assert asyncio.run(framework("pydantic_ai").Agent(model).run(PROMPT)).output == ANSWER
    assert completion.received() == [RESPONSE]


def test_pydantic_ai_gets_a_structured_answer(completion, provider_of):
    model = framework("pydantic_ai.models.openai").OpenAIChatModel(
        "m", provider=provider_of(openai_client=completion.async_client)
    )
    agent = framework("pydantic_ai").Agent(model, output_type=plan())

    assert asyncio.run(agent.run("Plan a garden.")).output.size == 3
    assert completion.received() == [CHAT]


def test_pydantic_ai_embeds(embedding, provider_of):
    model = framework("pydantic_ai.embeddings.openai").OpenAIEmbeddingModel(
        "m", provider=provider_of(openai_client=embedding.async_client)
    )

    embedded = asyncio.run(framework("pydantic_ai").Embedder(model).embed_documents(["one", "two"]))

    assert [len(vector) for vector in embedded.embeddings] == [8, 8]
    assert embedding.received() == [EMBEDDING]
