"""A Secret is seen only by who asks for its text."""

import copy
import logging
import pickle
import traceback

import pytest

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


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_pickled(duplicate):
    with pytest.raises(TypeError, match="not its keys"):
        duplicate(Secret(TEXT))
