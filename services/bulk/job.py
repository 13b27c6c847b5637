"""A whole job: the documents of a file go through a run into an output. Knows their order; embeds nothing itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Protocol

from .documents import Document
from .outputs import Output
from .results import Block, Summary


class _Run(Protocol):
    """Gives blocks in the order of the texts that it was made over."""

    @property
    def summary(self) -> Summary: ...

    def __iter__(self) -> Iterator[Block]: ...

    def close(self) -> None: ...


class Job:
    """Documents that are embedded block by block, and written as they come.

    Args:
        documents: are taken as far as needed.
        run_over: makes the run over their texts: it gives blocks in their order.
    """

    def __init__(self, documents: Iterable[Document], run_over: Callable[[Iterator[str]], _Run]) -> None:
        self._documents = iter(documents)
        self._taken: deque[Document] = deque()
        self._run = run_over(self._texts())

    def write_to(self, output: Output) -> Generator[Block, None, None]:
        """Carry it out, and give each block once it is written. To be closed, where it is not read to its end.

        The output is left unfinished: who asked has its facts.
        """
        with closing(self._run):
            for block in self._run:
                written = [self._taken.popleft() for _ in range(len(block.vectors))]
                output.write(written, block)
                yield block

    @property
    def summary(self) -> Summary:
        """What was done so far."""
        return self._run.summary

    def _texts(self) -> Iterator[str]:
        for document in self._documents:
            self._taken.append(document)
            yield document.text
