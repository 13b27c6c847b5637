"""Embeddings with something wrong from one endpoint of three: every client gets the right vectors, of every call.

The table is fault x client x blocking or not. The truth is the stand-in's own function, to the last bit; and of each
fault the test looks, without llmwire, whether the server's reply really has it.
"""

from __future__ import annotations

import asyncio
import json
import math
import struct
import urllib.request
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from llmwire.services.testing.standin import embed

from .callers import SYNC
from .pools import BASE64, FLOATS, MODEL, TEXTS, Operation, in_flight, repeated, states

CALLS = 5  #: in a row: as many failures as trip a breaker
DIMENSIONS = 256  #: of the servers' vectors, where nobody asks for others

TRUTH = [embed(text, DIMENSIONS) for text in TEXTS]

Vectors = list[list[float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One vector as it came: base64 or a list."""

    index: int
    embedding: str | list[float]

    @property
    def numbers(self) -> list[float]:
        if isinstance(self.embedding, list):
            return self.embedding
        content = b64decode(self.embedding)
        return list(struct.unpack(f"<{len(content) // 4}f", content))


@dataclass(frozen=True, slots=True)
class ClientKind:
    """One way to have texts embedded.

    Attributes:
        form: which it asks for.
        calls: the vectors of so many calls with a container; in the place of one an error, if it failed.
    """

    name: str
    form: str
    calls: Callable[[Any, Any], list[Vectors]]


def with_client(operation: Operation) -> Callable[[Any, Any], list[Vectors]]:
    """Through the SDK."""
    return lambda container, caller: caller.run(container, repeated(operation, CALLS), function="embedding")


def with_service(container: Any, caller: Any) -> list[Vectors]:
    """Through the embedding service."""
    if caller is SYNC:
        service = container.embedding_service()
        return [service.embed(TEXTS).tolist() for _ in range(CALLS)]

    async def embedded() -> list[Vectors]:
        service = container.async_embedding_service()
        return [(await service.embed(TEXTS)).tolist() for _ in range(CALLS)]

    return asyncio.run(embedded())


CLIENTS = [
    ClientKind("client", "base64", with_client(BASE64)),
    ClientKind("client-float", "float", with_client(FLOATS)),
    ClientKind("service", "base64", with_service),
]

#: what can be wrong, and how it shows in the rows of a reply
WRONG: dict[str, Callable[[list[Row]], bool]] = {
    "fewer": lambda rows: len(rows) < len(TEXTS),
    "more": lambda rows: len(rows) > len(TEXTS),
    "dimensions": lambda rows: all(len(row.numbers) == DIMENSIONS + 1 for row in rows),
    "nan": lambda rows: any(math.isnan(number) for row in rows for number in row.numbers),
    "infinite": lambda rows: any(math.isinf(number) for row in rows for number in row.numbers),
    "zero": lambda rows: not any(number for row in rows for number in row.numbers),
    "duplicate_index": lambda rows: len({row.index for row in rows}) < len(rows),
    "broken_base64": lambda rows: all(len(row.embedding) % 4 for row in rows),
    "ragged_base64": lambda rows: all(len(b64decode(row.embedding, validate=True)) % 4 for row in rows),
}

each_client = pytest.mark.parametrize("kind", CLIENTS, ids=lambda kind: kind.name)


class FaultyForTexts:
    """The script of a server that answers the tests' texts wrongly, and everything else well.

    The first request is answered well whatever it is: a pool must have met its vectors to know their width.
    """

    def __init__(self, fault: str) -> None:
        self._fault, self.met = fault, 0

    @property
    def script(self) -> list[Any]:
        return ["ok", self._answer]

    def _answer(self, request: Any) -> str:
        if request.body["input"] != TEXTS:
            return "ok"
        self.met += 1
        return self._fault


def bare_reply(trio, form: str) -> list[Row]:
    """What the first server answers to a request without llmwire."""
    body = {"model": MODEL, "input": TEXTS, "encoding_format": form}
    request = urllib.request.Request(f"{trio.servers[0].base_url}/embeddings", json.dumps(body).encode())
    with urllib.request.urlopen(request) as reply:
        return [Row(row["index"], row["embedding"]) for row in json.load(reply)["data"]]


@each_client
@pytest.mark.parametrize("fault", WRONG)
def test_wrong_vectors_reach_nobody_and_no_call_fails(trio, contain, caller, kind, fault):
    faulty = FaultyForTexts(f"vectors:{fault}")
    trio.script(faulty.script)
    container = contain(embedding=trio.settings(model=MODEL))

    answers = kind.calls(container, caller)

    assert answers == [TRUTH] * CALLS
    assert faulty.met > 0
    assert WRONG[fault](bare_reply(trio, kind.form))
    known = states(container, "embedding")
    assert (known["a"].failed, known["b"].failed, known["c"].failed) == (faulty.met - 1, 0, 0)  # one was the bare one
    assert in_flight(container, "embedding") == 0


@each_client
def test_vectors_out_of_order_are_put_in_order(trio, contain, caller, kind):
    faulty = FaultyForTexts("vectors:shuffled_index")
    trio.script(faulty.script)
    container = contain(embedding=trio.settings(model=MODEL))

    answers = kind.calls(container, caller)

    assert answers == [TRUTH] * CALLS
    assert faulty.met >= CALLS - 1
    rows = bare_reply(trio, kind.form)
    assert [row.index for row in rows] == [2, 1, 0]
    assert [row.numbers for row in rows] == TRUTH[::-1]
    assert states(container, "embedding")["a"].failed == 0


@each_client
def test_vectors_in_another_form_than_was_asked_for_are_the_same_vectors(trio, contain, caller, kind):
    faulty = FaultyForTexts("vectors:other_form")
    trio.script(faulty.script)
    container = contain(embedding=trio.settings(model=MODEL))

    answers = kind.calls(container, caller)

    assert answers == [TRUTH] * CALLS
    assert faulty.met > 0
    other = {"base64": list, "float": str}[kind.form]
    assert all(isinstance(row.embedding, other) for row in bare_reply(trio, kind.form))
