from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest

from app_example.application import Application
from app_example.endpoints import a_stand_in, settings_of, standing_in, unset


def test_without_any_setting_both_functions_are_unset():
    assert unset(Application()) == ["embedding", "completion"]


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("EMBEDDING_BASE_URL", "http://localhost:1", ["completion"]),
        ("EMBEDDING_API_KEY", "sk-test-1", ["completion"]),
        ("COMPLETION_BASE_URL", "http://localhost:1", ["embedding"]),
        ("COMPLETION_OPENAI_API_KEY", "sk-test-1", ["embedding"]),
        ("COMPLETION_AZURE_OPENAI_ENDPOINT", "https://x.openai.azure.com", ["embedding"]),
        ("OPENAI_API_KEY", "sk-test-1", []),
        ("OPENAI_BASE_URL", "http://localhost:1", []),
        ("OPENAI_BASE_URL", " ", ["embedding", "completion"]),
        ("COMPLETION_ENDPOINTS", "a,b", ["embedding"]),
        ("COMPLETION_SOURCE", "consul://127.0.0.1:1/a", ["embedding"]),
        ("LLMWIRE_SOURCE", "/etc/llmwire.toml", []),
        ("EMBEDDING_MODEL", "m", ["embedding", "completion"]),
        ("EMBEDDING_API_KEY", "a key with blanks", ["completion"]),
    ],
)
def test_a_server_or_a_key_or_a_source_sets_a_function(monkeypatch, name, value, left):
    monkeypatch.setenv(name, value)

    assert unset(Application()) == left


def test_settings_in_the_code_count_too():
    application = Application()
    application.config.llm.from_dict({"completion": {"base_url": "http://localhost:1"}})

    assert unset(application) == ["embedding"]


def test_each_function_is_served_by_a_stand_in_of_its_own(database, folder):
    application = Application()
    application.config.database.from_value(database)

    with standing_in(application, ["embedding", "completion"]) as stand_ins, closing_clients(application):
        list(application.ingesting().carry_out(application.ingesting().plan(folder)))
        told = asyncio.run(_told(application, "What do dogs eat?"))

    assert "Dogs eat bones." in told
    assert {request.path for request in stand_ins["embedding"].requests} == {"/v1/embeddings"}
    assert {request.path for request in stand_ins["completion"].requests} == {"/v1/chat/completions"}


@contextmanager
def closing_clients(application):
    try:
        yield
    finally:
        application.shutdown_resources()


async def _told(application, question):
    try:
        asking = application.asking()
        return "".join([piece async for piece in asking.answer(question, await asking.find(question))])
    finally:
        await application.llm.aclose()


def test_the_name_of_a_stand_ins_model_sets_its_vectors_apart():
    with a_stand_in("embedding") as stand_in:
        assert settings_of("embedding", stand_in)["model"] == "stand-in-embedding"


def test_a_stand_in_for_one_function_leaves_the_other_as_it_is(monkeypatch):
    monkeypatch.setenv("COMPLETION_BASE_URL", "http://localhost:9")
    application = Application()

    with standing_in(application, unset(application)) as stand_ins:
        assert list(stand_ins) == ["embedding"]
        assert application.llm.completion.base_url() == "http://localhost:9"
        assert application.llm.embedding.base_url() == stand_ins["embedding"].base_url
        assert application.config.stand_ins() == ["embedding"]
