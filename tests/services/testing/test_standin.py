"""The stand-in's models: related texts are closer, and answers end where they must."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmwire.services.testing.failures import Refused
from llmwire.services.testing.reading import read_text_request, tokens
from llmwire.services.testing.spoken import pieces
from llmwire.services.testing.standin import embed, speak

PARAPHRASES = [
    ("When does the warehouse open?", "The warehouse opens at nine in the morning."),
    ("How do I return a broken lamp?", "Broken lamps can be returned within thirty days."),
    ("delivery costs to Norway", "What does it cost to deliver to Norway?"),
    ("The cat sat on the mat", "A cat is sitting on a mat"),
    ("refund policy", "Our policy on refunds"),
    ("Passwords must be changed every year", "How often must a password be changed?"),
    ("The engine needs two litres of oil", "How much oil does an engine need?"),
]

HELLO = [{"role": "user", "content": "Hello"}]


def cosine(one: str, other: str, dimensions: int = 256) -> float:
    return math.fsum(a * b for a, b in zip(embed(one, dimensions), embed(other, dimensions), strict=True))


@pytest.mark.parametrize("dimensions", [64, 256, 1536])
def test_a_paraphrase_is_closer_than_any_unrelated_text(dimensions):
    for text, paraphrase in PARAPHRASES:
        others = [cosine(text, other, dimensions) for _, other in PARAPHRASES if other != paraphrase]

        assert cosine(text, paraphrase, dimensions) > max(others), text


def test_small_words_weigh_little():
    assert cosine("the cat of the house", "the dog of the farm") < 0.3


def test_case_and_punctuation_make_no_difference():
    assert embed("Hello, WORLD!", 64) == embed("hello world", 64)


@given(text=st.text(), dimensions=st.integers(min_value=1, max_value=64))
@settings(max_examples=60, deadline=None)
def test_a_vector_has_the_length_one_for_any_text(text, dimensions):
    vector = embed(text, dimensions)

    assert len(vector) == dimensions
    assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-5)


def test_texts_without_words_differ_too():
    assert embed("!!!", 64) != embed("???", 64)


def test_token_numbers_are_words():
    assert math.fsum(a * b for a, b in zip(embed([1, 2, 3], 64), embed([3, 2, 1], 64), strict=True)) > 0.99
    assert embed([1, 2], 64) != embed([4, 5], 64)


def test_vectors_are_the_same_in_another_process():
    script = "from llmwire.services.testing.standin import embed; print(embed('the same everywhere', 16))"

    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert json.loads(other) == embed("the same everywhere", 16)


def spoken(**body: Any) -> Any:
    request = read_text_request("chat/completions", {"model": "m", "messages": HELLO, **body})
    return speak(request)[0]


def test_an_answer_ends_at_the_limit_and_says_so():
    choice = spoken(max_tokens=2)

    assert (len(choice.text), choice.finish, choice.tokens) == (8, "length", 2)


def test_an_answer_ends_before_a_stop_sequence():
    assert spoken(stop=[" and"]).text == "I am a stand-in"


def test_any_json_is_an_object_with_the_answer():
    assert json.loads(spoken(response_format={"type": "json_object"}).text).keys() == {"answer"}


def test_a_function_that_must_be_called_is_called():
    size = {"type": "integer", "minimum": 3}
    function = {"name": "plant", "parameters": {"type": "object", "properties": {"size": size}}}

    choice = spoken(tools=[{"type": "function", "function": function}], tool_choice="required")

    assert (choice.finish, choice.calls[0].name, choice.calls[0].arguments) == ("tool_calls", "plant", '{"size": 3}')


def test_a_schema_that_cannot_be_followed_is_the_callers_fault():
    with pytest.raises(Refused, match="cannot follow the JSON schema"):
        spoken(response_format={"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}})


@given(text=st.text())
def test_pieces_are_the_text(text):
    assert "".join(pieces(text)) == text


def test_tokens_are_estimated_by_length():
    assert [tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]
