"""`inject` is dependency-injector's own, with a guard."""

import asyncio
import sys
from types import ModuleType
from typing import Annotated, Any

import pytest
from dependency_injector import containers, providers
from dependency_injector.wiring import Provide, Provider
from fastapi import Depends

from llmwire.container import LLMContainer, NotWiredError, overriding
from llmwire.services import AsyncCompletionService, CompletionService, EmbeddingService, inject


class Container(containers.DeclarativeContainer):
    word = providers.Object("injected")
    other = providers.Object("other")


@inject
def by_default(word: str = Provide["word"]) -> str:
    return word


@inject
def by_annotation(number: int, word: Annotated[str, Provide["word"]]) -> tuple[int, str]:
    return number, word


@inject
async def awaited(word: str = Provide["word"]) -> str:
    return word


@inject
def misspelt(word: str = Provide["wrod"]) -> str:
    return word


@inject
def half_misspelt(word: str = Provide["word"], other: str = Provide["othre"]) -> tuple[str, str]:
    return word, other


class Holder:
    @inject
    def __init__(self, word: str = Provide["word"]) -> None:
        self.word = word

    @classmethod
    @inject
    def make(cls, word: str = Provide["word"]) -> str:
        return word


@pytest.fixture
def wired():
    container = Container()
    container.wire(modules=[__name__])
    yield container
    container.unwire()


@pytest.mark.usefixtures("wired")
def test_a_wired_function_is_given_what_it_marks():
    assert by_default() == "injected"
    assert by_annotation(1) == (1, "injected")
    assert asyncio.run(awaited()) == "injected"
    assert Holder().word == "injected"
    assert Holder.make() == "injected"


@pytest.mark.usefixtures("wired")
def test_an_argument_of_the_caller_wins():
    assert by_default("mine") == "mine"
    assert by_default(word="mine") == "mine"
    assert by_annotation(1, "mine") == (1, "mine")


def test_an_overridden_provider_reaches_the_function(wired):
    with wired.word.override("fake"):
        assert by_default() == "fake"


@pytest.mark.parametrize("call", [by_default, lambda: by_annotation(1), Holder, Holder.make])
def test_a_function_that_was_never_wired_says_which_call_is_missing(call):
    with pytest.raises(NotWiredError) as caught:
        call()

    assert "'word'" in str(caught.value)
    assert f"container.wire(modules=[{__name__!r}])" in str(caught.value)


def test_a_coroutine_that_was_never_wired_says_so_when_it_is_awaited():
    with pytest.raises(NotWiredError, match="awaited"):
        asyncio.run(awaited())


def test_an_argument_of_the_caller_needs_no_wiring():
    assert by_default("mine") == "mine"


@pytest.mark.usefixtures("wired")
def test_a_misspelt_name_is_an_error_and_not_a_marker():
    with pytest.raises(NotWiredError, match="'wrod'"):
        misspelt()
    with pytest.raises(NotWiredError, match="'othre'"):
        half_misspelt()


def _generator(word: str = Provide["word"]):
    yield word


async def _async_generator(word: str = Provide["word"]):
    yield word


@pytest.mark.parametrize("function", [_generator, _async_generator])
def test_a_generator_is_refused_when_it_is_decorated(function):
    with pytest.raises(TypeError, match="is a generator"):
        inject(function)


def test_the_decorated_function_keeps_its_name_and_text():
    @inject
    def documented(word: str = Provide["word"]) -> str:
        """What it does."""
        return word

    assert (documented.__name__, documented.__doc__) == ("documented", "What it does.")


@inject
def after_many(*numbers: int, word: str = Provide["word"]) -> tuple[tuple[int, ...], str]:
    return numbers, word


@pytest.mark.parametrize("numbers", [(), (1,), (1, 2, 3)])
def test_a_parameter_by_name_is_filled_however_many_stand_before_it(numbers, request):
    with pytest.raises(NotWiredError, match="'word'"):
        after_many(*numbers)

    request.getfixturevalue("wired")

    assert after_many(*numbers) == (numbers, "injected")
    assert after_many(*numbers, word="mine") == (numbers, "mine")


@inject
def the_provider(word: Any = Provider["word"]) -> Any:
    return word


@inject
def by_provider(word: str = Provide[Container.word]) -> str:
    return word


def test_a_marked_provider_is_given_as_such(wired):
    assert the_provider() is wired.word
    assert by_provider() == "injected"


@inject
def for_fastapi(word: str = Depends(Provide["word"])) -> str:
    return word


def test_a_marker_inside_fastapis_depends_is_a_marker_too(request):
    with pytest.raises(NotWiredError, match="'word'"):
        for_fastapi()

    request.getfixturevalue("wired")

    assert for_fastapi() == "injected"


def test_a_function_that_is_no_longer_wired_says_so(wired):
    assert by_default() == "injected"

    wired.unwire()

    with pytest.raises(NotWiredError):
        by_default()


def test_a_default_that_is_no_marker_stays_one():
    @inject
    def partly(number: int = 1, other: str = Provide["other"], *, word: str = "mine") -> tuple[int, str, str]:
        return number, other, word

    assert partly(other="given") == (1, "given", "mine")


# With llmwire's own container, in the modules of an application

USES = """
from dependency_injector.wiring import Provide

from llmwire.services import inject


@inject
def answer(question, service=Provide["{prefix}completion_service"]):
    return service


@inject
async def answer_async(question, service=Provide["{prefix}async_completion_service"]):
    return service


class Asker:
    @inject
    def __init__(self, client=Provide["{prefix}completion_client"], model=Provide["{prefix}completion.model"]):
        self.client, self.model = client, model

    @inject
    def search(self, text, service=Provide["{prefix}embedding_service"]):
        return service
"""

USABLE = {
    "COMPLETION_BASE_URL": "http://localhost:1/v1",
    "COMPLETION_MODEL": "llama",
    "EMBEDDING_BASE_URL": "http://localhost:2/v1",
}


class Application(containers.DeclarativeContainer):
    """A larger application."""

    llm = providers.Container(LLMContainer, env=providers.Object(USABLE))


@pytest.fixture(params=["alone", "in a larger application"])
def application(request, monkeypatch):
    """A module of an application that uses llmwire, and the container that is to be wired to it."""
    is_alone = request.param == "alone"
    module = ModuleType("an_application_of_the_tests")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(USES.format(prefix="" if is_alone else "llm."), module.__dict__)
    container = LLMContainer(env=USABLE) if is_alone else Application()
    yield module, container
    container.unwire()
    container.shutdown_resources()


def test_services_and_clients_are_injected_by_name(application):
    module, container = application
    container.wire(modules=[module])
    llm = getattr(container, "llm", container)

    asker = module.Asker()

    assert isinstance(module.answer("why?"), CompletionService)
    assert isinstance(asyncio.run(module.answer_async("why?")), AsyncCompletionService)
    assert isinstance(asker.search("cats"), EmbeddingService)
    assert (asker.client, asker.model) == (llm.completion_client(), "llama")


def test_a_fake_reaches_what_is_injected(application):
    module, container = application
    container.wire(modules=[module])
    name = "llm.completion_client" if hasattr(container, "llm") else "completion_client"

    with overriding(container, **{name: "a fake"}):
        assert module.Asker().client == "a fake"


def test_an_application_that_was_not_wired_is_told_of_the_call(application):
    module, _ = application

    for call in (lambda: module.answer("why?"), lambda: asyncio.run(module.answer_async("why?")), module.Asker):
        with pytest.raises(NotWiredError, match=r"Call container\.wire\(modules=\['an_application_of_the_tests'\]\)"):
            call()


def test_the_services_need_no_container():
    client = object()

    assert CompletionService(client, model="m")._client is client
    assert EmbeddingService(client)._client is client
