"""What a user writes, for mypy --strict. It is not run."""

from typing import Any

import numpy as np
from dependency_injector import containers, providers
from dependency_injector.wiring import Provide
from numpy.typing import NDArray
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

from llmwire.container import ConfigError, LLMContainer, StreamTruncated, explain, overriding
from llmwire.services import (
    AsyncCompletionService,
    AsyncEmbeddingService,
    AttemptEnded,
    CompletionService,
    EmbeddingService,
    Event,
    Listener,
    inject,
)
from llmwire.services.testing import FakeCompletions, FakeEmbeddings, StandIn


class City(BaseModel):
    name: str


def clients(container: LLMContainer) -> tuple[OpenAI, AsyncOpenAI, OpenAI, AsyncOpenAI]:
    return (
        container.completion_client(),
        container.async_completion_client(),
        container.embedding_client(),
        container.async_embedding_client(),
    )


def services(container: LLMContainer) -> NDArray[np.float32]:
    text: str = container.completion_service().complete("hi", system="be brief", temperature=0)
    whole: ChatCompletion = container.completion_service().chat([{"role": "user", "content": text}])
    city: City = container.completion_service().parse("hi", response_format=City)
    pieces: list[str] = list(container.completion_service().stream(f"{whole.id} {city.name}"))
    return container.embedding_service().embed(pieces)


async def asynchronous(completion: AsyncCompletionService, embedding: AsyncEmbeddingService) -> NDArray[np.float32]:
    pieces: list[str] = [piece async for piece in completion.stream("hi")]
    return await embedding.embed_one("".join(pieces))


def listener(event: Event, /) -> None:
    if isinstance(event, AttemptEnded):
        print(event.took_s)


class Application(containers.DeclarativeContainer):
    config = providers.Configuration()
    llm = providers.Container(LLMContainer, config=config.llm, listener=providers.Object(listener))


@inject
def summarise(text: str, completion: CompletionService = Provide["llm.completion_service"]) -> str:
    return completion.complete(text)


class Asker:
    @inject
    def __init__(self, client: OpenAI = Provide["llm.completion_client"]) -> None:
        self.client: OpenAI = client


class Mine(LLMContainer):
    banner = providers.Object("mine")


def banner() -> str:
    return Mine(env={}).banner() + Mine.from_dotenv().banner() + Mine.from_toml("llm.toml").banner()


def overridden(container: LLMContainer) -> None:
    container.completion.base_url.override("http://localhost:8000")
    container.config.override({"completion": {"model": "llama"}})
    container.config.completion.model.from_value("llama")
    container.env.override({"COMPLETION_MODEL": "llama"})
    container.env.read_dotenv("my.env")
    container.completion_client.override(FakeCompletions("hello"))
    container.override_providers(embedding_client=FakeEmbeddings())
    with overriding(container, **{"completion.model": "llama"}):
        container.completion_service()


def explained(container: LLMContainer) -> list[str]:
    origins: list[str] = [row.origin for function in explain(container).functions for row in function.rows]
    return [*origins, container.completion.base_url.origin()]


def failing(service: CompletionService) -> str | None:
    try:
        return service.complete("hi")
    except StreamTruncated as error:
        return error.received
    except ConfigError as error:
        return error.origin


def plain(client: OpenAI) -> tuple[CompletionService, EmbeddingService]:
    return CompletionService(client, model="m"), EmbeddingService(client, model="m", dimensions=8)


def main() -> None:
    heard: Listener = listener
    container = LLMContainer(config={"openai": {"api_key": "sk-..."}}, listener=providers.Object(heard))
    explanation: dict[str, Any] = container.explain().as_dict()
    with StandIn() as server, overriding(container, completion_client=FakeCompletions("hello")):
        print(server.base_url, explanation, FakeEmbeddings(dimensions=8).calls)
    container.shutdown_resources()


async def closing() -> None:
    container = LLMContainer.from_dotenv()
    await container.aclose()
    LLMContainer.from_toml("llm.toml").shutdown_resources()
