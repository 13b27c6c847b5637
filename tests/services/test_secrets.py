"""A Secret is seen only by who asks for its text."""

import copy
import dataclasses
import logging
import pickle
import traceback

import pytest
from dependency_injector import containers, providers

from llmwire.container import LLMContainer
from llmwire.services.secrets import Secret

TEXT = "sk-very-secret"


def _formatted(secret):
    return f"{secret} {secret!r} {secret:>20} {secret!s:>30}" + str([secret]) + str({"key": secret})


def test_no_way_of_printing_shows_the_text():
    assert TEXT not in _formatted(Secret(TEXT))


def test_the_mask_tells_neither_length_nor_ends():
    assert _formatted(Secret("a")) == _formatted(Secret(TEXT))


def test_a_log_record_and_a_traceback_show_the_mask(caplog):
    secret = Secret(TEXT)
    logging.getLogger("test").warning("key %s", secret)
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        shown = traceback.format_exc()

    assert TEXT not in caplog.text + shown


def test_the_text_is_there_for_who_asks():
    assert Secret(TEXT).reveal() == TEXT


def test_secrets_of_the_same_text_are_equal():
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT
    assert len({Secret(TEXT), Secret(TEXT)}) == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_cannot_be_pickled(protocol):
    with pytest.raises(TypeError, match="not its keys"):
        pickle.dumps(Secret(TEXT), protocol)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_inside_a_process_a_copy_is_the_same(duplicate):
    secret = Secret(TEXT)

    assert duplicate(secret) is secret


def test_a_larger_application_may_hold_one_in_what_it_declares():
    class Application(containers.DeclarativeContainer):
        llm = providers.Container(LLMContainer, config={"completion": {"api_key": Secret(TEXT)}}, env={})

    settings = Application().llm.completion.settings()

    assert settings.endpoint.credential == Secret(TEXT)
    assert TEXT not in f"{settings} {dataclasses.asdict(settings)}"
