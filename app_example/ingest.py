"""Bringing the database in line with a folder. Knows what is new, changed and gone; knows nothing of screens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app_example.failures import in_words
from app_example.passages import Passage, read_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from app_example.store import Store
    from llmwire.services import EmbeddingService

BATCH = 32
"""Passages embedded and committed at a time: what an interruption costs at most, and one request to the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an ingestion will do.

    Attributes:
        folder: the ingested folder, as an absolute path.
        new: passages to embed and keep.
        gone: keys of passages that the folder no longer has.
        unchanged: how many passages stay as they are.
        is_fresh: everything else in the database, of other folders too, is forgotten first.
    """

    folder: str
    new: Sequence[Passage]
    gone: frozenset[tuple[str, str]] = frozenset()
    unchanged: int = 0
    is_fresh: bool = False


class Ingesting:
    """Ingests folders. Idempotent, and safe to interrupt: the next run goes on where the last one stopped.

    Args:
        store: opens the database; makes it where there is none.
        embedding: the service that gives the vectors.
    """

    def __init__(self, *, store: Callable[[], Store], embedding: EmbeddingService, batch: int = BATCH) -> None:
        self._store, self._embedding, self._batch = store, embedding, batch

    def plan(self, folder: Path) -> Plan:
        """Compare a folder with the database. No server is asked.

        Raises:
            FolderError: the folder cannot be read.
            SpaceError: the database holds vectors of another model.
        """
        wanted = _by_key(read_folder(folder))
        root = str(folder.resolve())
        with self._store() as store:
            store.refuse_other_model(self._model)
            known = store.keys(root)
        new = [passage for key, passage in wanted.items() if key not in known]
        return Plan(folder=root, new=new, gone=frozenset(known - wanted.keys()), unchanged=len(wanted) - len(new))

    def plan_afresh(self, folder: Path) -> Plan:
        """Start anew with this folder alone, with whatever model there is now."""
        wanted = _by_key(read_folder(folder))
        return Plan(folder=str(folder.resolve()), new=list(wanted.values()), is_fresh=True)

    def carry_out(self, plan: Plan) -> Generator[int, None, None]:
        """Do it, and yield after each committed batch how many of the new passages are kept.

        What a plan replaces is forgotten only once the server has answered: with the new batch, or at the end.

        Raises:
            EndpointError: the embedding endpoint gave no vectors.
            SpaceError: the vectors are of another model than those in the database, also one of the same name.
        """
        with self._store() as store:
            fingerprint = self._fingerprint(store, plan) if plan.new else None
            for start in range(0, len(plan.new), self._batch):
                batch = plan.new[start : start + self._batch]
                with in_words("embedding"):
                    vectors = self._embedding.embed([passage.in_context for passage in batch])
                with store.transaction():
                    if plan.is_fresh and start == 0:
                        store.clear()
                    store.add(batch, vectors, model=self._model, fingerprint=fingerprint)
                yield start + len(batch)
            store.remove(plan.folder, plan.gone)

    def _fingerprint(self, store: Store, plan: Plan) -> str:
        """Of the space that the new vectors will be of, which is that of the database."""
        with in_words("embedding"):
            stamped = None if plan.is_fresh else store.fingerprint()
            if stamped is not None:
                self._embedding.require_space(stamped)
            return stamped or self._embedding.space()

    @property
    def _model(self) -> str:
        return self._embedding.model or ""  # without a name nothing comes back that could be kept


def _by_key(passages: list[Passage]) -> dict[tuple[str, str], Passage]:
    return {passage.key: passage for passage in passages}
