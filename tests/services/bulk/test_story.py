"""Who brings an answer judges it and keeps it: nothing wrong is kept, and nothing that is not kept is handed on."""

import numpy as np

from llmwire.services.bulk.request import Request, Text
from llmwire.services.bulk.results import Answer, key_of
from llmwire.services.bulk.story import Keeper
from llmwire.services.errors import InvalidReply, SpaceMismatch


class Memory:
    """A cache in a dict."""

    def __init__(self, **widths):
        self.vectors = {key_of(text): np.ones(width, dtype=np.float32) for text, width in widths.items()}

    def get(self, keys):
        return {key: self.vectors[key] for key in keys if key in self.vectors}

    def put(self, keys, vectors):
        self.vectors.update(zip(keys, vectors, strict=True))


def _request(texts):
    return Request([Text(text, key_of(text), place=place, tokens=1) for place, text in enumerate(texts)])


def _answer(count, width):
    return Answer(vectors=np.ones((count, width), dtype=np.float32), endpoint="b")


def test_an_answer_that_fits_is_kept_when_its_result_is_there():
    cache = Memory()

    result = Keeper(cache, None).result(_request("ab"), _answer(2, 3))

    assert (result.error, result.not_kept) == (None, None)
    assert list(cache.vectors) == [key_of("a"), key_of("b")]


def test_an_answer_with_too_few_vectors_is_an_error_and_not_kept():
    cache = Memory()

    result = Keeper(cache, None).result(_request("ab"), _answer(1, 3))

    assert result.answer is None
    assert isinstance(result.error, InvalidReply)
    assert "for 2 texts" in str(result.error)
    assert cache.vectors == {}


def test_the_first_answer_says_how_wide_all_are():
    cache = Memory()
    keeper = Keeper(cache, None)
    keeper.result(_request("a"), _answer(1, 2))

    result = keeper.result(_request("b"), _answer(1, 3))

    assert result.answer is None
    assert isinstance(result.error, SpaceMismatch)
    assert "a vector of b has 3 dimensions where the others have 2" in str(result.error)
    assert list(cache.vectors) == [key_of("a")]


def test_without_a_cache_an_answer_is_judged_all_the_same():
    result = Keeper(None, 2).result(_request("a"), _answer(1, 3))

    assert isinstance(result.error, SpaceMismatch)


def test_what_the_cache_has_says_how_wide_the_answers_are():
    cache = Memory(a=2)
    keeper = Keeper(cache, None)
    keeper.found([key_of("a")])

    result = keeper.result(_request("b"), _answer(1, 3))

    assert isinstance(result.error, SpaceMismatch)
    assert list(cache.vectors) == [key_of("a")]


def test_what_the_cache_has_in_another_width_than_the_answers_is_not_found():
    keeper = Keeper(Memory(a=2, b=3), None)
    keeper.result(_request("c"), _answer(1, 3))

    found = keeper.found([key_of("a"), key_of("b")])

    assert list(found) == [key_of("b")]
