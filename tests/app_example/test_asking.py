from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from app_example.asking import Asking, Piece, Sources, Trouble, prompt
from app_example.ingest import Ingesting
from app_example.passages import Passage
from app_example.store import Nearby
from llmwire.container import ConfigError, overriding
from llmwire.services import AsyncCompletionService, AsyncEmbeddingService
from llmwire.services.testing import AsyncFakeCompletions, AsyncFakeEmbeddings, Failure


def told(asking: Asking, question: str = "What do cats eat?") -> list[Sources | Piece | Trouble]:
    async def collect():
        async with aclosing(asking.ask(question)) as items:
            return [item async for item in items]

    return asyncio.run(collect())


def text_of(items) -> str:
    return "".join(item.text for item in items if isinstance(item, Piece))


def test_the_sources_come_before_the_answer(ingested):
    first, *rest = told(ingested.asking())

    assert isinstance(first, Sources)
    assert len(first.nearby) == 4
    assert text_of(rest) == "Cats eat fish [1]."
    assert all(isinstance(item, Piece) for item in rest)


def test_the_model_is_given_the_numbered_passages_and_the_question(ingested):
    model = AsyncFakeCompletions("Fish.")

    with overriding(ingested, **{"llm.async_completion_client": model}):
        sources = told(ingested.asking())[0]

    system, user = model.calls[0].body["messages"]
    assert "numbered passages" in system["content"]
    assert user["content"] == prompt("What do cats eat?", sources.nearby)
    assert user["content"].endswith("Question: What do cats eat?")


def test_a_prompt_names_each_passage_by_number_heading_and_file(a_passage):
    found = [Nearby(passage=a_passage("Text one."), distance=0.1), Nearby(passage=a_passage("Text two."), distance=0.2)]

    assert prompt("Why?", found) == (
        "Passages:\n\n[1]\n# A (a.md)\n\nText one.\n\n[2]\n# A (a.md)\n\nText two.\n\nQuestion: Why?"
    )


def test_a_passage_without_a_heading_is_named_by_its_file():
    found = Nearby(passage=Passage(folder="/f", file="b.txt", heading="", text="Text."), distance=0)

    assert prompt("Why?", [found]) == "Passages:\n\n[1]\n# b.txt\n\nText.\n\nQuestion: Why?"


def test_without_documents_nothing_is_asked_and_the_message_says_to_ingest(application):
    embedding = AsyncFakeEmbeddings(dimensions=8)

    with overriding(application, **{"llm.async_embedding_client": embedding}):
        [trouble] = told(application.asking())

    assert "ingest FOLDER" in trouble.message
    assert embedding.calls == []


def test_a_question_in_another_models_space_is_refused_before_it_is_asked(ingested):
    embedding = AsyncFakeEmbeddings(dimensions=8)

    with overriding(ingested, **{"llm.async_embedding_client": embedding, "llm.embedding.model": "other"}):
        [trouble] = told(ingested.asking())

    assert "cannot be compared" in trouble.message
    assert embedding.calls == []


def test_a_question_of_other_dimensions_is_refused(ingested):
    with overriding(ingested, **{"llm.async_embedding_client": AsyncFakeEmbeddings(dimensions=9)}):
        [trouble] = told(ingested.asking())

    assert "(9 dimensions)" in trouble.message


def test_without_embeddings_there_is_a_message_and_no_answer(ingested):
    broken = AsyncFakeEmbeddings(dimensions=8, failure=Failure(status=401))

    with overriding(ingested, **{"llm.async_embedding_client": broken}):
        [trouble] = told(ingested.asking())

    assert "refused the key (401). Set EMBEDDING_API_KEY" in trouble.message


def test_without_completions_the_sources_still_stand(ingested):
    with overriding(ingested, **{"llm.async_completion_client": AsyncFakeCompletions(Failure(status=401))}):
        sources, trouble = told(ingested.asking())

    assert len(sources.nearby) == 4
    assert "completion server" in trouble.message
    assert "Set COMPLETION_API_KEY" in trouble.message


def test_completions_that_are_misconfigured_leave_the_sources_alone(ingested):
    def misconfigured() -> AsyncCompletionService:
        raise ConfigError("is not set", key="completion.api_key", remedy="Set COMPLETION_API_KEY.")

    asking = Asking(store=ingested.store, embedding=ingested.llm.async_embedding_service, completion=misconfigured)

    sources, trouble = told(asking)

    assert sources.nearby
    assert trouble.message == "completion.api_key: is not set. Set COMPLETION_API_KEY."


def test_who_stops_listening_stops_the_model_too(ingested, endless):
    asking = Asking(store=ingested.store, embedding=ingested.llm.async_embedding_service, completion=lambda: endless)

    async def stop_after_the_first_word():
        async with aclosing(asking.ask("What do cats eat?")) as items:
            async for item in items:
                if isinstance(item, Piece):
                    return

    asyncio.run(stop_after_the_first_word())

    assert endless.closed.is_set()


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_sources_as_wanted_are_found(ingested, endless, count):
    service = AsyncEmbeddingService(AsyncFakeEmbeddings(dimensions=8), model=ingested.llm.embedding.model())
    asking = Asking(store=ingested.store, embedding=lambda: service, completion=lambda: endless, sources=count)

    assert len(asyncio.run(asking.find("cats"))) == count


def test_a_passage_is_found_by_its_own_words(ingested):
    [best, *_] = asyncio.run(ingested.asking().find("Dogs > Food\n\nDogs eat bones."))

    assert best.passage.file == "dogs.md"
    assert best.distance == pytest.approx(0, abs=1e-6)


def test_the_container_gives_each_part_what_it_needs(application):
    assert isinstance(application.ingesting(), Ingesting)
    assert isinstance(application.asking(), Asking)
    assert application.journal() is application.journal()
