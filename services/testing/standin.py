"""The models of the stand-in server: no language models, but more than noise.

Embeddings are hashed words and parts of words, so related texts really are closer. Answers are extracted: the
sentences of the prompt that fit its question best. Pure: no I/O, no clock, the same on every machine.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b

from . import schema
from .extracting import answer
from .failures import refuse
from .reading import CHARACTERS_PER_TOKEN, TextRequest, VectorRequest
from .spoken import Choice, called
from .vectors import unit
from .words import STOP_WORDS, words

NAME = "llmwire-stand-in"
NOTE = "This is a stand-in and no language model."

#: what every body of the stand-in carries
MARKS = {"system_fingerprint": NAME, "llmwire_stand_in": NOTE}

_PART = 3  #: characters; long enough to tell words apart, short enough to see that "returned" is near "returns"
_PARTS_WEIGHT = 0.5  #: of all parts of a word together, where the word itself weighs 1
_PLACES = 4  #: of one feature; with one only, two words that happen to meet would look like one
_STOP_WEIGHT = 0.1  #: of "the" beside "warehouse": not zero, for a text may have no other words


def embed(text: str | Sequence[int], dimensions: int) -> list[float]:
    """The vector of a text, or of its tokens' numbers: length 1, exact in float32, the same on every machine.

    Source: K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009 (signed hashing).
    """
    vector = [0.0] * dimensions
    for feature, weight in _features(text):
        for place in _places(feature):
            vector[(place >> 1) % dimensions] += weight if place & 1 else -weight
    if not any(vector):  # there is no word in it, or its words cancel each other out
        vector[_places(repr(text))[0] % dimensions] = 1.0
    return unit(vector)


def embed_all(request: VectorRequest, dimensions: int) -> list[list[float]]:
    """One vector for each input, in the dimensions that the request wants, or else in those given."""
    return [embed(item, request.dimensions or dimensions) for item in request.inputs]


def speak(request: TextRequest) -> list[Choice]:
    """The answers to a request for text: as many as it asks for, for each of its conversations in order."""
    spoken = [_spoken(request, answer(messages)) for messages in request.conversations]
    return [choice for choice in spoken for _ in range(request.choices)]


def _spoken(request: TextRequest, text: str) -> Choice:
    if request.tool is not None:
        return called(request.tool, _as_json(request.tools[request.tool], text))
    if request.schema is not None:
        return _cut(_as_json(request.schema, text), request)
    return _cut(text, request)


def _as_json(wanted: schema.Schema, text: str) -> str:
    try:
        value = schema.example(wanted, text=text)
    except ValueError as error:
        raise refuse(f"The stand-in cannot follow the JSON schema: {error}.", param="response_format") from error
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, request: TextRequest) -> Choice:
    for stop in request.stop:
        text = text.partition(stop)[0]
    limit = math.inf if request.max_tokens is None else request.max_tokens * CHARACTERS_PER_TOKEN
    if len(text) <= limit:
        return Choice(text=text)
    return Choice(text=text[: int(limit)], finish="length")


def _features(text: str | Sequence[int]) -> Iterator[tuple[str, float]]:
    if not isinstance(text, str):
        numbers = Counter(f"token {number}" for number in text)
        yield from ((name, math.sqrt(times)) for name, times in numbers.items())
        return
    for word, times in Counter(words(text)).items():
        # The root: ten mentions say more than one, but not ten times as much.
        yield from ((feature, weight * math.sqrt(times)) for feature, weight in _word_features(word))


@lru_cache(maxsize=65_536)
def _word_features(word: str) -> tuple[tuple[str, float], ...]:
    if word in STOP_WORDS:
        return ((word, _STOP_WEIGHT),)
    framed = f"<{word}>"  # so that a beginning and an end differ from a middle
    parts = [framed[at : at + _PART] for at in range(len(framed) - _PART + 1)]
    each = _PARTS_WEIGHT / math.sqrt(len(parts))
    return ((word, 1.0), *((f"part {part}", each) for part in parts))


@lru_cache(maxsize=65_536)
def _places(feature: str) -> tuple[int, ...]:
    """Some numbers of 32 bits; the lowest bit is a sign, the others are a place."""
    digest = blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=4 * _PLACES).digest()
    return struct.unpack(f"<{_PLACES}I", digest)
