"""The identity of an embedding: what is declared of it, and what its model makes of one text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.space import SKETCH_TOLERANCE, Space, cosine, is_unit

PINNED = "space1/BAAI%2Fbge%3Av1.5/8/raw/r1/4c4138a69b35ad2712781e4b3cd7e76b"


def a_vector(seed=1, dimensions=384):
    vector = np.random.default_rng(seed).standard_normal(dimensions)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def near(vector, its_cosine, seed=2):
    """A vector at that cosine to another."""
    beside = np.random.default_rng(seed).standard_normal(len(vector))
    beside -= beside @ vector * vector
    beside /= np.linalg.norm(beside)
    return (its_cosine * vector + np.sqrt(1 - its_cosine**2) * beside).astype(np.float32)


def a_space(vector=None, **said):
    return Space.of(a_vector() if vector is None else vector, **{"name": "m", **said})


@given(
    name=st.text(min_size=1).filter(lambda text: text.isprintable()),
    revision=st.none() | st.text(min_size=1).filter(lambda text: text.isprintable()),
    dimensions=st.integers(1, 3072),
)
def test_a_fingerprint_stands_for_the_whole_space(name, revision, dimensions):
    space = a_space(a_vector(dimensions=dimensions), name=name, revision=revision)

    fingerprint = space.fingerprint

    assert Space.parse(fingerprint) == space
    assert fingerprint.isascii()
    assert not any(map(str.isspace, fingerprint))
    assert fingerprint.startswith(space.identity + "/")


def test_a_fingerprint_is_the_same_on_every_machine_and_in_every_version():
    ramp = np.arange(1, 9, dtype=np.float32)

    assert a_space(ramp, name="BAAI/bge:v1.5", revision="r1").fingerprint == PINNED


@pytest.mark.parametrize(
    "text", ["", "m", "space1/m/8/unit/", "space2/m/8/unit//0", "space1/m/eight/unit//0", "space1/m/8/half//0", None, 8]
)
def test_what_is_no_fingerprint_is_refused(text):
    with pytest.raises(ValueError):
        Space.parse(text)


def test_a_space_does_not_differ_from_itself():
    assert a_space().difference(a_space()) is None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"name": "n"}, "n is not m"),
        ({"vector": a_vector(dimensions=768)}, "768 dimensions are not 384"),
        ({"vector": 3 * a_vector()}, "length 1"),
        ({"revision": "2"}, "revision 2 is not unknown"),
        ({"vector": a_vector(seed=5)}, "another model answers under the same name m"),
    ],
    ids=["name", "dimensions", "normalisation", "revision", "model"],
)
def test_a_space_differs_by_what_is_declared_and_by_what_its_model_does(other, told):
    assert told in a_space().difference(a_space(**other))


@pytest.mark.parametrize("dimensions", [128, 384, 1536, 3072])
def test_a_model_at_another_precision_is_the_same_and_an_unrelated_one_is_not(dimensions):
    for seed in range(50):
        vector = a_vector(seed, dimensions)

        assert a_space(vector).difference(a_space(near(vector, 0.999, seed + 1000))) is None
        assert a_space(vector).difference(a_space(a_vector(seed + 2000, dimensions))) is not None


def test_sketches_differ_by_the_angle():
    vector = a_vector(dimensions=1536)

    bits = [(a_space(vector).sketch ^ a_space(near(vector, c)).sketch).bit_count() for c in (0.999, 0.98, 0.5, 0.0)]

    assert bits == sorted(bits)
    assert bits[1] < SKETCH_TOLERANCE < bits[2]


@given(angle=st.floats(0, np.pi))
def test_a_cosine_is_that_of_the_angle(angle):
    turned = np.array([np.cos(angle), np.sin(angle)], dtype=np.float32)

    assert cosine(3 * turned, np.array([2.0, 0.0], dtype=np.float32)) == pytest.approx(np.cos(angle), abs=1e-5)


@pytest.mark.parametrize(("length", "fits"), [(1.0, True), (1.009, True), (0.98, False), (7.0, False)])
def test_a_vector_of_length_1_is_normalised(length, fits):
    assert is_unit(length * a_vector()) is fits
