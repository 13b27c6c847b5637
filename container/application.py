"""LLMContainer: all that is wired, on one screen. Connects; never decides, never calls a server."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from dependency_injector import containers, providers

from llmwire.services.completion import AsyncCompletionService, CompletionService
from llmwire.services.embedding import AsyncEmbeddingService, EmbeddingService
from llmwire.services.monitoring.logs import log
from llmwire.services.monitoring.report import Report

from . import clients, monitoring, watching
from .configuration import Document, Environment
from .documents import Documents
from .explain import Explanation, explain
from .lifetime import Lazy, shut_down_all
from .resolution import resolve
from .settings import chains

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from llmwire.services.routing.facts import Facts

    Predicates = dict[str, Callable[[Facts], bool]]


def lane(function: str) -> type[containers.DeclarativeContainer]:
    """All that one function has: the chain of each setting, what they settle, the clients over it."""

    class Lane(containers.DeclarativeContainer):
        config = providers.Configuration()
        env = Environment()
        documents = Documents()  # of the sources; they come before config
        listener = providers.Object(log)
        token_source = Lazy(clients.identity_tokens)  # one for all endpoints, also of settings to come
        predicates: providers.Object[Predicates] = providers.Object({})  # of routes that name one
        embedder: providers.Object[Any] = providers.Object(None)
        async_embedder: providers.Object[Any] = providers.Object(None)

        _chains = chains(function, config, env, documents)
        vars().update(_chains)  # base_url, api_key, model, ...: each a FirstOf, to be asked or overridden by its name

        settings = providers.Callable(
            resolve,
            function,
            chains=providers.Dict({name: chain.provider for name, chain in _chains.items()}),
            config=config.provider,
            env=env.provider,
            token_source=token_source.provider,
            predicates=predicates.provider,
        )
        named = providers.Callable(clients.named, settings.provider)
        watcher = Lazy(
            watching.watcher,
            function,
            documents.provider,
            settings.provider,
            _chains["source"],
            _chains["startup"],
            _chains["source_cache"],
            env.provider,
            listener,
            close=watching.stop,
            aclose=watching.astop,
        )
        documents.follow(watcher)
        meter = Lazy(monitoring.meter, function)
        traffic = Lazy(
            clients.watched_traffic,
            watcher,
            listener,
            meter,
            predicates,
            embedder,
            async_embedder,
            close=clients.close_traffic,
        )
        pool = providers.Callable(clients.pool_of, traffic)
        budgets = providers.Callable(clients.budgets_of, traffic)
        router = providers.Callable(clients.router_of, traffic)
        client = Lazy(clients.openai_client, traffic, close=clients.close, is_closed=clients.is_closed)
        async_client = Lazy(
            clients.async_openai_client,
            traffic,
            close=clients.close_async,
            aclose=clients.aclose,
            is_closed=clients.is_closed,
        )

    return Lane


class _Methods:
    """What a container of ours can do beyond its providers."""

    def explain(self) -> Explanation:
        """The effective value of every setting, where it comes from and what it shadows; keys are masked."""
        return explain(self)

    def report(self) -> Report:
        """What the endpoints of the functions that were used so far did, what it cost, and how they are now."""
        return monitoring.report(self)

    async def aclose(self) -> None:
        """Close every client that was built, and wait for it."""
        await shut_down_all(self)


class _Instance(_Methods, containers.DynamicContainer):
    """What `LLMContainer()` really gives: dependency-injector copies the providers into it."""


class LLMContainer(_Methods, containers.DeclarativeContainer):
    """Separate completion and embedding clients, each built when first used, and the services over them.

    Layers: `config` (a dict, or a larger application's `config.llm`) before `env` (the process environment).
    """

    instance_type = _Instance

    config = providers.Configuration()
    env = Environment()
    listener = providers.Object(log)

    predicates: providers.Object[Predicates] = providers.Object({})

    # Any: a Container is typed as having plain providers, without a chain's `origin()`.
    embedding: Any = providers.Container(
        lane("embedding"), config=config, env=env, listener=listener, predicates=predicates
    )
    embedding_client: providers.Provider[OpenAI] = embedding.client
    async_embedding_client: providers.Provider[AsyncOpenAI] = embedding.async_client
    embedding_service = providers.Factory(
        EmbeddingService,
        embedding_client,
        model=embedding.model,
        dimensions=embedding.dimensions,
        space=embedding.space,
        revision=embedding.revision,
        named=embedding.named.provider,
    )
    async_embedding_service = providers.Factory(
        AsyncEmbeddingService,
        async_embedding_client,
        model=embedding.model,
        dimensions=embedding.dimensions,
        space=embedding.space,
        revision=embedding.revision,
        named=embedding.named.provider,
    )

    # Its routes may go by the meaning of a text, which the embedding endpoint knows.
    completion: Any = providers.Container(
        lane("completion"),
        config=config,
        env=env,
        listener=listener,
        predicates=predicates,
        embedder=embedding_service.provider,
        async_embedder=async_embedding_service.provider,
    )
    completion_client: providers.Provider[OpenAI] = completion.client
    async_completion_client: providers.Provider[AsyncOpenAI] = completion.async_client
    completion_service = providers.Factory(CompletionService, completion_client, model=completion.model)
    async_completion_service = providers.Factory(
        AsyncCompletionService, async_completion_client, model=completion.model
    )

    @classmethod
    def from_dotenv(cls, path: str | os.PathLike[str] | None = None, **overriding: Any) -> Self:
        """A container that reads a `.env` file below the process environment.

        Args:
            path: the file; None looks for `.env` in the working directory and above.
        Raises:
            ConfigError: the named file cannot be read.
        """
        container = cls(**overriding)
        container.env.read_dotenv(path)
        return container

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], **overriding: Any) -> Self:
        """A container whose `config` layer is a TOML file. Raises ConfigError where it cannot be read."""
        return cls(config=Document.from_toml(path), **overriding)
