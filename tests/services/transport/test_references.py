"""The canary's vector of an endpoint is compared with the first that came: direction, length, scale."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.routing.canary import MAX_KINDS
from llmwire.services.transport.references import References, WrongSpace


def turned(cosine):
    return np.array([cosine, np.sqrt(1 - cosine**2), 0.0], dtype=np.float32)


STRAIGHT = turned(1.0)


def test_the_first_vector_is_the_reference():
    references = References()

    references.check("k", STRAIGHT, "a")

    references.check("k", STRAIGHT, "b")


@given(cosine=st.floats(-1, 1))
def test_a_vector_that_points_elsewhere_is_of_another_space(cosine):
    references = References()
    references.check("k", STRAIGHT, "a")

    if cosine > 0.981:
        references.check("k", turned(cosine), "b")
    elif cosine < 0.979:
        with pytest.raises(WrongSpace, match=r"another space than those of a: the canary's cosine is"):
            references.check("k", turned(cosine), "b")


def test_vectors_of_another_length_are_of_another_space():
    references = References()
    references.check("k", STRAIGHT, "a")

    with pytest.raises(WrongSpace, match="have 2 dimensions, those of a 3"):
        references.check("k", np.ones(2, dtype=np.float32), "b")


def test_vectors_of_length_1_do_not_stand_beside_others():
    references = References()
    references.check("k", STRAIGHT, "a")

    with pytest.raises(WrongSpace, match="scaled otherwise"):
        references.check("k", 7 * STRAIGHT, "b")


def test_vectors_that_are_not_normalised_may_vary_in_length():
    references = References()
    references.check("k", 7.0 * STRAIGHT, "a")

    references.check("k", 7.2 * STRAIGHT, "b")


def test_kinds_of_requests_have_references_of_their_own():
    references = References()
    references.check("k", STRAIGHT, "a")

    references.check("another", turned(0.0), "b")


def test_a_reference_is_a_copy_that_nobody_changes():
    references, first = References(), STRAIGHT.copy()
    references.check("k", first, "a")

    first[:] = -1

    references.check("k", STRAIGHT, "b")


def test_made_up_kinds_fill_no_memory():
    references = References()

    for number in range(MAX_KINDS + 5):
        references.check(f"kind {number}", STRAIGHT, "a")

    references.check("kind 1", turned(0.0), "b")  # long forgotten, and so the first of its kind


def test_the_first_kind_of_all_is_kept_with_what_it_was_asked_with():
    references = References()
    references.check("kind", STRAIGHT, "a", b"{}")

    for number in range(MAX_KINDS + 5):
        references.check(f"kind {number}", STRAIGHT, "a")

    assert (references.anchor(), references.request_of("kind")) == ("kind", b"{}")
