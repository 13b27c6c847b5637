"""Fakes in the place of providers: all of them or none, for the length of a block."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from dependency_injector import containers, providers
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container import LLMContainer, overriding
from llmwire.container.lifetime import Lazy

USABLE = {"COMPLETION_BASE_URL": "http://localhost:1/v1", "EMBEDDING_BASE_URL": "http://localhost:2/v1"}


class Fake:
    """A client that is none, and the service it is given to."""


class Search:
    def __init__(self, embedding: Any) -> None:
        self.embedding = embedding


class Application(containers.DeclarativeContainer):
    """A larger application."""

    config = providers.Configuration()
    llm = providers.Container(LLMContainer, config=config.llm, env=providers.Object(USABLE))
    search = providers.Singleton(Search, embedding=llm.embedding_service)
    locked = providers.ThreadSafeSingleton(Search, llm.embedding_client)
    adorned = providers.Singleton(Search, None).add_attributes(client=llm.embedding_client)
    unrelated = providers.Singleton(Search, embedding="nothing of llmwire")


@pytest.fixture
def container(a_container):
    return a_container(USABLE)


@pytest.fixture
def application():
    made = Application()
    yield made
    made.shutdown_resources()


def test_a_fake_stands_in_for_the_length_of_the_block(container):
    fake = Fake()

    with overriding(container, completion_client=fake) as same:
        inside = container.completion_client()
        service = container.completion_service()

    assert same is container
    assert inside is fake
    assert service._client is fake
    assert container.completion_client() is not fake


def test_a_replacement_may_be_a_provider(container):
    with overriding(container, completion_client=providers.Factory(Fake)):
        assert isinstance(container.completion_client(), Fake)
        assert container.completion_client() is not container.completion_client()


@pytest.mark.parametrize("replacement", [None, 0, "", []])
def test_a_replacement_may_be_anything(container, replacement):
    with overriding(container, completion_client=replacement):
        assert container.completion_client() == replacement


def test_the_same_client_is_back_after_the_block_and_unclosed(container):
    former = container.completion_client()

    with overriding(container, completion_client=Fake()):
        pass

    assert container.completion_client() is former
    assert not former.is_closed()


def test_an_error_in_the_block_undoes_all(container):
    former = container.completion_client()

    with pytest.raises(ZeroDivisionError), overriding(container, completion_client=Fake(), embedding_client=Fake()):
        _ = 1 / 0

    assert container.completion_client() is former
    assert container.embedding_client.overridden == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("complettion_client", "the container has no provider 'complettion_client'; did you mean completion_client?"),
        ("completion.clients", "completion has no provider 'clients'; did you mean client?"),
        ("complettion.client", "the container has no provider 'complettion'; did you mean completion?"),
        ("completion_client.x", "completion_client has no provider 'x'; it has none."),
        ("", "the container has no provider ''; it has async_completion_client, "),
    ],
)
def test_a_wrong_name_overrides_nothing(container, name, message):
    with pytest.raises(AttributeError) as refused, overriding(container, completion_client=Fake(), **{name: Fake()}):
        pytest.fail("the block was entered")

    assert str(refused.value).startswith(f"cannot override {name!r}: {message}")
    assert container.completion_client.overridden == ()


def test_what_cannot_be_overridden_so_overrides_nothing(application):
    with (
        pytest.raises(Exception, match="only by providers container"),
        overriding(application, **{"llm.completion_client": Fake(), "llm": Fake()}),
    ):
        pytest.fail("the block was entered")

    assert application.llm.completion_client.overridden == ()


def test_blocks_nest(container):
    outer, inner = Fake(), Fake()

    with overriding(container, completion_client=outer):
        with overriding(container, completion_client=inner):
            assert container.completion_client() is inner
        assert container.completion_client() is outer
    assert container.completion_client.overridden == ()


@given(order=st.permutations(range(4)), built=st.lists(st.booleans(), min_size=5, max_size=5))
def test_blocks_may_be_left_in_any_order(order, built):
    container = LLMContainer(env=USABLE)
    former = container.completion_client()
    models = [f"model-{number}" for number in range(4)]
    blocks = [contextlib.ExitStack() for _ in models]
    seen = [former]

    def use(wanted: bool) -> None:
        if wanted:
            seen.append(container.completion_client())

    for model, block in zip(models, blocks, strict=True):
        block.enter_context(overriding(container, **{"completion.model": model, "listener": lambda event: None}))
        use(built[0])
    remaining = list(models)
    for place, number in enumerate(order):
        blocks[number].close()
        remaining.remove(models[number])
        use(built[place + 1])
        assert container.completion.model() == (remaining[-1] if remaining else "gpt-5.4-mini")

    assert container.completion_client() is former
    assert not former.is_closed()
    assert all(client.is_closed() for client in seen if client is not former)
    container.shutdown_resources()


def test_other_overrides_stay_as_they_were(container):
    container.completion.model.override("before")

    with overriding(container, **{"completion.model": "inside"}):
        container.completion.api_key.override("sk-inside")

    assert container.completion.model() == "before"
    assert container.completion.api_key().reveal() == "sk-inside"


def test_an_override_made_inside_the_block_outlives_it(container):
    with overriding(container, **{"completion.model": "inside"}):
        container.completion.model.override("later")

    assert container.completion.model() == "later"


@pytest.mark.parametrize(
    ("replacement", "base_url"),
    [
        ({"config": {"completion": {"base_url": "http://localhost:9/v1"}}}, "http://localhost:9/v1/"),
        ({"env": {"COMPLETION_BASE_URL": "http://localhost:9/v1"}}, "http://localhost:9/v1/"),
        ({"completion.base_url": "http://localhost:9/v1"}, "http://localhost:9/v1/"),
        ({"completion.config": {"completion": {"base_url": "http://localhost:9/v1"}}}, "http://localhost:9/v1/"),
        ({"listener": lambda event: None}, "http://localhost:1/v1/"),
    ],
)
def test_a_client_is_built_anew_where_its_settings_are_overridden_and_closed_after(container, replacement, base_url):
    former = container.completion_client()

    with overriding(container, **replacement):
        inside = container.completion_client()

    assert inside is not former
    assert (inside.base_url, inside.is_closed()) == (base_url, True)
    assert container.completion_client() is former
    assert not former.is_closed()


def test_overridden_settings_build_another_client(container):
    settings = LLMContainer(env={"COMPLETION_BASE_URL": "http://localhost:9/v1"}).completion.settings()

    with overriding(container, **{"completion.settings": settings}):
        assert container.completion_client().base_url == "http://localhost:9/v1/"


def test_a_client_that_has_nothing_to_do_with_it_stays(container):
    completion, embedding = container.completion_client(), container.embedding_client()

    with overriding(container, **{"completion.model": "another"}):
        assert container.embedding_client() is embedding
        assert container.completion_client() is not completion


def test_a_client_that_was_not_built_before_is_not_left_behind(container):
    with overriding(container, **{"completion.base_url": "http://localhost:9/v1"}):
        inside = container.completion_client()

    assert inside.is_closed()
    assert not container.completion_client.initialized


def test_dotted_names_reach_into_an_embedded_container(application):
    fake = Fake()

    with overriding(application, **{"llm.embedding_client": fake, "llm.completion.model": "another"}):
        assert application.llm.embedding_client() is fake
        assert application.llm.completion_service().model == "another"


@pytest.mark.parametrize("name", ["search", "locked", "adorned"])
def test_a_singleton_of_a_larger_application_is_built_from_the_fake_and_the_former_is_back_after(application, name):
    fake = Fake()
    former = getattr(application, name)()

    with overriding(application, **{"llm.embedding_client": fake}):
        inside = getattr(application, name)()
        same = getattr(application, name)()

    used = {
        "search": lambda: inside.embedding._client,
        "locked": lambda: inside.embedding,
        "adorned": lambda: inside.client,
    }
    assert used[name]() is fake
    assert inside is same
    assert getattr(application, name)() is former


def test_a_singleton_that_was_first_built_in_the_block_is_built_anew_after_it(application):
    with overriding(application, **{"llm.embedding_client": Fake()}):
        inside = application.search()

    assert application.search() is not inside
    assert not isinstance(application.search().embedding._client, Fake)


def test_a_singleton_that_has_nothing_to_do_with_it_stays(application):
    former = application.unrelated()

    with overriding(application, **{"llm.embedding_client": Fake()}):
        assert application.unrelated() is former


def test_a_singleton_that_is_overridden_itself_stays_so(application):
    own = Search("the test's own")
    application.search.override(own)

    with overriding(application, **{"llm.embedding_client": Fake()}):
        assert application.search() is own


def test_a_resource_of_a_larger_application_is_built_from_the_fake():
    ended = []

    def opened(client: Any) -> Any:
        yield Search(client)
        ended.append(client)

    class Larger(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer, env=providers.Object(USABLE))
        index = providers.Resource(opened, llm.embedding_client)

    application = Larger()
    former, fake = application.index(), Fake()

    with overriding(application, **{"llm.embedding_client": fake}):
        inside = application.index()

    assert inside.embedding is fake
    assert ended == [fake]
    assert application.index() is former
    application.shutdown_resources()
    assert ended == [fake, former.embedding]


def test_an_asynchronous_resource_of_a_larger_application_stays():
    async def opened(client: Any) -> Any:
        yield Search(client)

    class Larger(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer, env=providers.Object(USABLE))
        index = providers.Resource(opened, llm.embedding_client)

    application = Larger()

    async def play() -> Any:
        with overriding(application, **{"llm.embedding_client": Fake()}):
            pass
        former = await application.index()
        with overriding(application, **{"llm.embedding_client": Fake()}):
            inside = await application.index()
        await application.llm.aclose()
        await application.shutdown_resources()
        return former, inside

    former, inside = asyncio.run(play())

    assert inside is former


def test_an_asynchronous_singleton_of_a_larger_application_is_built_anew():
    async def found(client: Any) -> Any:
        return Search(client)

    class Larger(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer, env=providers.Object(USABLE))
        search = providers.Singleton(found, llm.embedding_client)

    application, fake = Larger(), Fake()

    async def play() -> Any:
        former = await application.search()
        with overriding(application, **{"llm.embedding_client": fake}):
            inside = await application.search()
        after = await application.search()
        await application.llm.aclose()
        return former, inside, after

    former, inside, after = asyncio.run(play())

    assert inside.embedding is fake
    assert after is former


def test_a_chain_of_singletons_is_built_anew_as_a_whole():
    class Larger(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer, env=providers.Object(USABLE))
        search = providers.Singleton(Search, llm.embedding_client)
        page = providers.Singleton(Search, search)

    application = Larger()
    former, fake = application.page(), Fake()

    with overriding(application, **{"llm.embedding_client": fake}):
        inside = application.page()
        search = application.search()

    assert inside.embedding is search
    assert search.embedding is fake
    assert application.page() is former
    application.shutdown_resources()


def test_two_copies_of_a_container_do_not_hear_of_each_other(a_container):
    one, other = a_container(USABLE), a_container(USABLE)

    with overriding(one, completion_client=Fake()):
        assert not isinstance(other.completion_client(), Fake)


def test_the_class_itself_can_be_overridden():
    with overriding(LLMContainer, **{"completion.base_url": "http://localhost:9/v1"}):
        inside = LLMContainer(env=USABLE)
    after = LLMContainer(env=USABLE)

    with inside.completion_client() as client, after.completion_client() as other:
        assert (client.base_url, other.base_url) == ("http://localhost:9/v1/", "http://localhost:1/v1/")


def test_a_lazy_that_depends_on_another_is_built_anew_with_it():
    built = []

    def build(inner: Any) -> Any:
        built.append(inner)
        return Search(inner)

    class Container(containers.DeclarativeContainer):
        value = providers.Object("real")
        inner = Lazy(build, value)
        outer = Lazy(build, inner)

    container = Container()
    former = container.outer()

    with overriding(container, value="fake"):
        assert container.outer().embedding.embedding == "fake"
    assert container.outer() is former
    assert len(built) == 4
