"""Documents and their vectors meet again, however a run cuts its blocks; and a run does not outlive its job."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.bulk.documents import Document
from llmwire.services.bulk.job import Job
from llmwire.services.bulk.results import Block, Summary


class Run:
    """Gives blocks of the sizes it was made with, and the rest in one; takes so many texts ahead of what it gives."""

    def __init__(self, texts: Iterator[str], sizes: Iterable[int] = (), ahead: int = 0) -> None:
        self._texts, self._sizes, self._ahead = texts, iter(sizes), ahead
        self.summary = Summary()
        self.is_closed = False

    def __iter__(self) -> Iterator[Block]:
        held: list[str] = []
        while True:
            size = next(self._sizes, 1000)
            held += itertools.islice(self._texts, size + self._ahead - len(held))
            if not held:
                return
            taken, held = held[:size], held[size:]
            block = Block(start=self.summary.texts, vectors=vectors(taken))
            self.summary.texts += len(taken)
            yield block

    def close(self) -> None:
        self.is_closed = True


class Output:
    """Remembers what was written."""

    def __init__(self) -> None:
        self.rows: list[tuple[Document, list[float]]] = []

    def write(self, documents: list[Document], block: Block) -> None:
        self.rows += zip(documents, block.vectors.tolist(), strict=True)


class Full(Output):
    """Has no room."""

    def write(self, documents: list[Document], block: Block) -> None:
        raise OSError("no space left")


def vectors(texts: list[str]) -> np.ndarray:
    return np.array([[float(text)] for text in texts], dtype=np.float32).reshape(len(texts), 1)


def documents(count: int) -> list[Document]:
    return [Document(text=str(number), id=f"id {number}") for number in range(count)]


def a_job(given: Iterable[Document], **options: object) -> tuple[Job, Callable[[], Run]]:
    """The job, and what tells the run that it made."""
    made: list[Run] = []

    def run_over(texts: Iterator[str]) -> Run:
        made.append(Run(texts, **options))
        return made[-1]

    return Job(given, run_over), lambda: made[0]


@given(
    count=st.integers(0, 40),
    sizes=st.lists(st.integers(1, 12), max_size=12),
    ahead=st.integers(0, 15),
)
def test_each_document_is_written_with_its_own_vector_whatever_the_blocks_are(count, sizes, ahead):
    out = Output()
    job, _ = a_job(documents(count), sizes=sizes, ahead=ahead)

    list(job.write_to(out))

    assert out.rows == [(document, [float(document.text)]) for document in documents(count)]
    assert job.summary.texts == count


def test_a_block_is_given_when_it_was_written():
    out = Output()
    job, _ = a_job(documents(5), sizes=[2, 3])

    written = [(block.start, len(out.rows)) for block in job.write_to(out)]

    assert written == [(0, 2), (2, 5)]


def test_only_so_many_documents_are_taken_as_the_run_takes_texts():
    numbers = itertools.count()
    job, _ = a_job((Document(text=str(number)) for number in numbers), sizes=[4, 4], ahead=3)

    next(job.write_to(Output()))

    assert next(numbers) == 7


def test_the_run_is_closed_when_all_is_written():
    job, run = a_job(documents(3))

    list(job.write_to(Output()))

    assert run().is_closed


def test_the_run_is_closed_when_a_block_cannot_be_written():
    job, run = a_job(documents(3))

    with pytest.raises(OSError, match="no space left"):
        list(job.write_to(Full()))

    assert run().is_closed


def test_the_run_is_closed_when_who_carries_it_out_stops():
    job, run = a_job(documents(3), sizes=[1])
    blocks = job.write_to(Output())
    next(blocks)

    blocks.close()

    assert run().is_closed


def test_the_run_is_closed_when_a_document_cannot_be_read():
    def broken() -> Iterator[Document]:
        yield Document(text="0")
        raise ValueError("line 2 is no JSON")

    job, run = a_job(broken())

    with pytest.raises(ValueError, match="line 2"):
        list(job.write_to(Output()))

    assert run().is_closed
