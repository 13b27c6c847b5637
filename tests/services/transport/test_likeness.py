"""Directions of vectors, the likeness to examples, and what is remembered of texts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from llmwire.services.routing.facts import SAMPLE_CHARS
from llmwire.services.routing.route import Route
from llmwire.services.transport.likeness import Examples, Layout, Remembered, Unusable, directions

DIMENSIONS = 4
#: no component is so small that its square is nothing
NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32).filter(lambda number: abs(number) > 1e-6)


def vectors(count):
    return arrays.arrays(np.float32, (count, DIMENSIONS), elements=NUMBERS)


def a_route(*examples, top_k=3):
    return Route(pool="p", examples=examples, top_k=top_k)


def cosine_of(one, other):
    one, other = [float(number) for number in one], [float(number) for number in other]
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / (sum(a * a for a in one) ** 0.5 * sum(b * b for b in other) ** 0.5)


@given(data=st.data(), count=st.integers(1, 6), top_k=st.integers(1, 8))
def test_a_score_is_the_mean_of_the_cosines_of_the_nearest_examples(data, count, top_k):
    given_examples, text = data.draw(vectors(count)), data.draw(vectors(1))
    names = [f"example {number}" for number in range(count)]
    layout = Layout({"all": a_route(*names, top_k=top_k), "first": a_route(names[0], top_k=top_k)})

    scores = Examples(layout, directions(given_examples, count)).scores(directions(text, 1)[0])

    cosines = sorted((cosine_of(each, text[0]) for each in given_examples), reverse=True)[:top_k]
    assert scores["all"] == pytest.approx(sum(cosines) / len(cosines), abs=1e-5)
    assert scores["first"] == pytest.approx(cosine_of(given_examples[0], text[0]), abs=1e-5)


@given(text=vectors(1))
def test_a_score_is_never_above_1(text):
    direction = directions(text, 1)

    assert Examples(Layout({"r": a_route("same")}), direction).scores(direction[0])["r"] <= 1.0


def test_an_example_of_several_routes_is_embedded_once_and_counts_for_each():
    layout = Layout({"one": a_route("shared", "own"), "other": a_route("shared")})

    scores = Examples(layout, directions([[1, 0], [0, 1]], 2)).scores(directions([[1, 0]], 1)[0])

    assert layout.texts == ["shared", "own"]
    assert scores == {"one": 0.5, "other": 1.0}


def test_examples_are_cut_as_texts_are():
    assert Layout({"r": a_route("x" * (SAMPLE_CHARS + 1))}).texts == ["x" * SAMPLE_CHARS]


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], r"is of the shape \(2, 2\) for 1 texts"),
        ([1.0, 2.0], r"is of the shape \(2,\)"),
        ([[]], r"is of the shape \(1, 0\)"),
        (None, "is of the shape|is no matrix"),
        ([["one", "two"]], "is no matrix of numbers"),
        ([[10**400]], "is no matrix of numbers"),
        ([[1.0, float("nan")]], "no finite number"),
        ([[1.0, float("inf")]], "no finite number"),
        ([[1e308, 1e308]], "no finite number"),
        ([[0.0, 0.0]], "is all zeros"),
    ],
)
def test_what_is_no_direction_is_told(reply, problem):
    with pytest.raises(Unusable, match=problem):
        directions(reply, 1)


@given(reply=vectors(3))
def test_directions_have_length_1_and_single_precision(reply):
    found = directions(reply, 3)

    assert found.dtype == np.float32
    assert np.linalg.norm(found.astype(np.float64), axis=1) == pytest.approx(1.0, abs=1e-6)


def test_the_text_that_was_not_asked_for_the_longest_is_forgotten():
    remembered = Remembered(most=2)
    one, two, three = directions(np.eye(3), 3)
    remembered.put("one", one)
    remembered.put("two", two)

    remembered.get("one")
    remembered.put("three", three)

    assert remembered.get("two") is None
    assert remembered.get("one") is one
    assert remembered.get("three") is three


def test_a_text_with_half_a_character_is_remembered_too():
    remembered, direction = Remembered(), directions([[1.0]], 1)[0]

    remembered.put("\ud83d", direction)

    assert remembered.get("\ud83d") is direction


def test_no_text_is_kept():
    remembered = Remembered()

    remembered.put("a secret", directions([[1.0]], 1)[0])

    assert "secret" not in repr(vars(remembered))


def test_many_threads_remember_no_more_than_there_is_room_for():
    remembered, direction = Remembered(most=10), directions([[1.0]], 1)[0]

    def use(number):
        remembered.put(f"text {number % 50}", direction)
        return remembered.get(f"text {number % 7}")

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(use, range(2000)))

    assert {id(each) for each in found} <= {id(direction), id(None)}
    assert len(remembered._known) == 10


def test_a_child_process_knows_what_its_parent_did_and_waits_for_no_lock_of_it():
    remembered, direction = Remembered(), directions([[1.0]], 1)[0]
    remembered.put("text", direction)

    with remembered._lock:
        child = os.fork()
        if child == 0:
            remembered.renew_after_fork()
            os._exit(0 if remembered.get("text") is direction else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
