"""`inject` is dependency-injector's own, with a guard."""

import asyncio
from typing import Annotated

import pytest
from dependency_injector import containers, providers
from dependency_injector.wiring import Provide

from llmwire.container import NotWiredError
from llmwire.services import inject


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


@pytest.mark.parametrize("call", [by_default, lambda: by_annotation(1), Holder, Holder.make], ids=repr)
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
