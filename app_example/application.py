"""How the application is put together: its own container, with llmwire's inside. Connects; never decides."""

from __future__ import annotations

from pathlib import Path

from dependency_injector import containers, providers

from app_example.asking import Asking
from app_example.ingest import Ingesting
from app_example.journal import Journal
from app_example.store import Store
from llmwire.container import LLMContainer

DATABASE = ".llmwire/documents.sqlite"

EXAMPLES = Path(__file__).parent / "documents"
"""The shipped documents: the handbook of a mountain hut that does not exist."""


class Application(containers.DeclarativeContainer):
    """Ask your documents.

    `config.llm` is llmwire's own configuration; what it leaves open is read from COMPLETION_*, EMBEDDING_* and
    OPENAI_* in the environment.
    """

    config = providers.Configuration(default={"database": DATABASE, "stand_ins": [], "llm": {}})

    journal = providers.ThreadSafeSingleton(Journal)
    llm = providers.Container(LLMContainer, config=config.llm, listener=journal)

    new_store = providers.Factory(Store.create, config.database)
    store = providers.Factory(Store.open, config.database)

    ingesting = providers.Factory(Ingesting, store=new_store.provider, embedding=llm.embedding_service)
    asking = providers.Factory(
        Asking,
        store=store.provider,
        embedding=llm.async_embedding_service.provider,
        completion=llm.async_completion_service.provider,
    )
