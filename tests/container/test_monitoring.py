"""Each lane has a meter that listens whatever the listener is; a report tells of the lanes that were used."""

from __future__ import annotations

import json

import pytest
from dependency_injector import containers, providers

from llmwire.container import LLMContainer, overriding
from llmwire.services import Report, log
from llmwire.services.errors import DiscoveryError
from llmwire.services.testing import FakeCompletions, FakeEmbeddings, StandIn


@pytest.fixture(scope="module")
def stand_in():
    with StandIn() as server:
        yield server


@pytest.fixture
def settings(stand_in):
    return {"completion": {"base_url": stand_in.base_url, "price": "1/2"}, "embedding": {"base_url": stand_in.base_url}}


@pytest.fixture
def container(settings):
    container = LLMContainer(config=settings, env={})
    yield container
    container.shutdown_resources()


def test_a_report_tells_of_the_functions_that_were_used(container):
    assert container.report() == Report(functions=())

    container.completion_service().complete("hi")

    [of_completion] = container.report().functions
    figures = of_completion.figures.figures()
    assert (of_completion.function, figures.calls, figures.attempts) == ("completion", 1, 1)
    assert figures.cost > 0
    assert [state.name for state in of_completion.endpoints] == ["default"]
    assert json.dumps(container.report().as_dict())


def test_the_meter_counts_also_where_another_listener_hears(container):
    heard = []
    container.listener.override(providers.Object(heard.append))

    container.embedding_service().embed_one("hi")

    assert container.embedding.meter().snapshot().figures().calls == 1
    assert heard


def test_each_function_has_a_meter_of_its_own_and_always_the_same(container):
    assert container.completion.meter() is container.completion.meter()
    assert container.completion.meter() is not container.embedding.meter()


def test_inside_of_a_larger_container_it_is_the_same(settings):
    class Application(containers.DeclarativeContainer):
        config = providers.Configuration()
        llm = providers.Container(LLMContainer, config=config.llm)

    application = Application(config={"llm": settings})
    application.llm.completion_service().complete("hi")

    [of_completion] = application.llm.report().functions

    assert of_completion.figures.figures().calls == 1
    application.shutdown_resources()


def test_a_fake_is_counted_by_nobody(container):
    with overriding(container, completion_client=FakeCompletions("hello")):
        container.completion_service().complete("hi")

    assert container.completion.meter().snapshot().series == ()


def test_the_log_is_the_listener_of_who_names_none(container):
    assert container.listener() is log


def test_a_function_that_is_first_used_beside_a_fake_of_the_other_is_in_the_report(container):
    with overriding(container, embedding_client=FakeEmbeddings(dimensions=4)):
        container.completion_service().complete("hi")

        assert [each.function for each in container.report().functions] == ["completion"]


def test_a_function_that_nobody_uses_beside_a_fake_of_the_other_is_not_built_for_a_report():
    container = LLMContainer(env={})  # without a key

    with overriding(container, embedding_client=FakeEmbeddings(dimensions=4)):
        assert container.report() == Report(functions=())


# Of sources.


@pytest.fixture
def watching(settings, tmp_path):
    """A container whose completion endpoints a file may change."""
    (tmp_path / "live.toml").write_text('completion.strategy = "in-order"')
    settings["completion"]["source"] = str(tmp_path / "live.toml")
    container = LLMContainer(config=settings, env={})
    yield container
    container.shutdown_resources()


def test_the_sources_of_a_function_that_was_used_are_in_the_report(watching):
    watching.completion_service().complete("hi")

    [of_completion] = watching.report().functions

    [source] = of_completion.sources
    assert source.source.endswith("/live.toml")
    assert source.error is None
    assert source.asked_s is not None


def test_a_source_that_is_not_asked_yet_is_not_asked_for_a_report(watching):
    assert watching.report() == Report(functions=())
    assert not watching.completion.watcher.initialized


def test_a_function_without_sources_has_none_in_the_report(container):
    container.completion_service().complete("hi")

    [of_completion] = container.report().functions

    assert of_completion.sources == ()


def test_a_function_that_cannot_begin_without_its_source_is_in_the_report(watching, tmp_path):
    (tmp_path / "live.toml").unlink()
    watching.config.completion.startup.from_value("fail")

    with pytest.raises(DiscoveryError):
        watching.completion_service()
    [of_completion] = watching.report().functions

    assert of_completion.endpoints == ()
    assert ["holds nothing" in source.error for source in of_completion.sources] == [True]


def test_the_sources_are_in_the_report_also_beside_a_fake_of_the_other_function(watching):
    with overriding(watching, embedding_client=FakeEmbeddings(dimensions=4)):
        watching.completion_service().complete("hi")

        [of_completion] = watching.report().functions

    assert len(of_completion.sources) == 1
