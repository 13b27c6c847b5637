"""Passages and their vectors in one SQLite file, searched by sqlite-vec. Knows SQL; knows nothing of servers.

Vectors of two spaces never mix: the file is stamped with the model and the dimensions of its first vectors, and
refuses others. The fingerprint of their space is kept for whoever can ask the server: it tells another model that
answers under the same name.

The driver is `apsw`, which brings a SQLite of its own: the `sqlite3` of many Pythons (pyenv, python.org on macOS)
was built without extensions.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import apsw
import numpy as np
import sqlite_vec
from numpy.typing import NDArray

from app_example.failures import EmptyStoreError, SpaceError, StoreError
from app_example.passages import SEPARATOR, Passage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Vectors = NDArray[np.float32]

APPLICATION_ID = 0x41594B44  #: "AYKD" in the file's header: no other program's database is ever written to

BUSY_MS = 5_000  #: how long to wait for another process that is writing; a batch takes it milliseconds

_SCHEMA = f"""
    create table stamp (model text not null, dimensions integer not null, fingerprint text);
    create table passage (
        id integer primary key,
        folder text not null,
        file text not null,
        heading text not null,
        text text not null,
        digest text not null,
        unique (folder, file, digest)
    );
    pragma application_id = {APPLICATION_ID};
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """The identity of an embedding: whose vectors these are."""

    model: str
    dimensions: int

    def __str__(self) -> str:
        return f"{self.model} ({self.dimensions} dimensions)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearby:
    """A passage that a search found, and how far it is from the question: 0 is the same direction, 1 unrelated."""

    passage: Passage
    distance: float


class Store:
    """One database file. Use it as a context manager, on one thread at a time."""

    def __init__(self, path: Path, connection: apsw.Connection) -> None:
        self._path, self._connection = path, connection

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """Open the database, and make it first if there is none.

        Raises:
            StoreError: the file cannot be opened, or is not ours.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent} cannot be made: {error.strerror}. Choose another --database.") from error
        return cls._open(path, apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the database.

        Raises:
            EmptyStoreError: there is none.
            StoreError: the file cannot be opened, or is not ours.
        """
        path = Path(path)
        if not path.exists():
            raise EmptyStoreError(_ingest_first(path))
        return cls._open(path, apsw.SQLITE_OPEN_READWRITE)  # writable: what a killed process left must be undone

    @classmethod
    def _open(cls, path: Path, flags: int) -> Self:
        with _reported(path), ExitStack() as undo:
            connection = apsw.Connection(str(path), flags=flags)
            undo.callback(connection.close)
            connection.set_busy_timeout(BUSY_MS)
            connection.transaction_mode = "IMMEDIATE"  # two writers wait for each other instead of failing half-way
            _load_sqlite_vec(connection)
            _claim(connection, path)
            undo.pop_all()
        return cls(path, connection)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; on disk when it ends. May be nested."""
        with _reported(self._path), self._connection:
            yield

    def space(self) -> Space | None:
        """Whose vectors the database holds; None before the first."""
        rows = self._rows("select model, dimensions from stamp")
        return Space(model=rows[0][0], dimensions=rows[0][1]) if rows else None

    def fingerprint(self) -> str | None:
        """Of the space of the vectors; None before the first, and in a database of an earlier version."""
        rows = self._rows("select fingerprint from stamp")
        return rows[0][0] if rows else None

    def count(self) -> int:
        """How many passages there are."""
        return int(self._rows("select count(*) from passage")[0][0])

    def titles(self, count: int) -> list[str]:
        """What the first documents are called: the outermost heading, or else the file."""
        rows = self._rows("select file, heading, min(id) as first from passage group by folder, file order by first")
        return [heading.partition(SEPARATOR)[0] or file for file, heading, _ in rows[:count]]

    def keys(self, folder: str) -> set[tuple[str, str]]:
        """The keys of a folder's passages."""
        return {
            (file, digest) for file, digest in self._rows("select file, digest from passage where folder = ?", folder)
        }

    def refuse_other_model(self, model: str) -> None:
        """Raises SpaceError where the database holds vectors of another model."""
        if (stamped := self.space()) and stamped.model != model:
            raise SpaceError(_other_space(self._path, stamped, f"the model {model}"))

    def refuse_search(self, model: str) -> None:
        """Raises EmptyStoreError or SpaceError where a search with this model's vectors would find nothing true."""
        if not self.count():
            raise EmptyStoreError(_ingest_first(self._path))
        self.refuse_other_model(model)

    def add(self, passages: Sequence[Passage], vectors: Vectors, *, model: str, fingerprint: str | None = None) -> None:
        """Keep passages with their vectors, row by row; those it has already are left as they are.

        Args:
            vectors: shape (len(passages), dimensions).
            fingerprint: of their space: the first that is given stays.
        Raises:
            SpaceError: the database holds vectors of another model or of other dimensions.
        """
        with self.transaction():
            self._stamp(Space(model=model, dimensions=vectors.shape[1]))
            self._rows("update stamp set fingerprint = ifnull(fingerprint, ?)", fingerprint)
            for passage, vector in zip(passages, vectors, strict=True):
                self._add(passage, vector)

    def remove(self, folder: str, keys: Iterable[tuple[str, str]]) -> None:
        """Forget passages of a folder."""
        with self.transaction():
            for file, digest in keys:
                gone = self._rows(
                    "delete from passage where folder = ? and file = ? and digest = ? returning id",
                    folder,
                    file,
                    digest,
                )
                for (row,) in gone:
                    self._rows("delete from vector where id = ?", row)

    def clear(self) -> None:
        """Forget every passage, and whose vectors they were."""
        with self.transaction():
            self._rows("delete from passage; delete from stamp; drop table if exists vector")

    def nearest(self, vector: Vectors, *, model: str, count: int) -> list[Nearby]:
        """The passages nearest to a question's vector by cosine distance, nearest first.

        Args:
            vector: shape (dimensions,).
        Raises:
            EmptyStoreError: the database is empty.
            SpaceError: its vectors are of another model or of other dimensions.
        """
        self.refuse_search(model)
        self._refuse(Space(model=model, dimensions=len(vector)))
        rows = self._rows(
            "select folder, file, heading, text, ifnull(distance, 1) as distance"  # all zeros: no direction, unrelated
            " from (select id, distance from vector where embedding match ? and k = ?)"
            " join passage using (id) order by distance",
            _packed(vector),
            count,
        )
        return [
            Nearby(passage=Passage(folder=folder, file=file, heading=heading, text=text), distance=distance)
            for folder, file, heading, text, distance in rows
        ]

    def _stamp(self, space: Space) -> None:
        if self.space() is not None:
            self._refuse(space)
            return
        self._rows("insert into stamp (model, dimensions) values (?, ?)", space.model, space.dimensions)
        self._rows(
            f"create virtual table vector using vec0"
            f"(id integer primary key, embedding float[{space.dimensions}] distance_metric=cosine)"
        )

    def _refuse(self, space: Space) -> None:
        if (stamped := self.space()) and stamped != space:
            raise SpaceError(_other_space(self._path, stamped, str(space)))

    def _add(self, passage: Passage, vector: Vectors) -> None:
        added = self._rows(
            "insert into passage (folder, file, heading, text, digest) values (?, ?, ?, ?, ?)"
            " on conflict do nothing returning id",
            passage.folder,
            passage.file,
            passage.heading,
            passage.text,
            passage.digest,
        )
        if added:
            self._rows("insert into vector (id, embedding) values (?, ?)", added[0][0], _packed(vector))

    def _rows(self, sql: str, *bindings: apsw.SQLiteValue) -> list[tuple[Any, ...]]:
        with _reported(self._path):
            return self._connection.execute(sql, bindings).fetchall()


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except apsw.NotADBError as error:
        raise StoreError(f"{path} is not a database. Choose another --database.") from error
    except apsw.Error as error:
        raise StoreError(f"{path} cannot be used: {error}. Mend that, or choose another --database.") from error


def _load_sqlite_vec(connection: apsw.Connection) -> None:
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.enable_load_extension(False)


def _claim(connection: apsw.Connection, path: Path) -> None:
    """Make a new file ours; refuse another program's."""
    if connection.pragma("application_id") == APPLICATION_ID:
        _take_over(connection)
        return
    with connection:  # one transaction, and a second look inside: two processes may make the file at the same time
        if connection.pragma("application_id") == APPLICATION_ID:
            return
        if connection.execute("select count(*) from sqlite_schema").get:
            raise StoreError(f"{path} is another program's database. Choose another --database.")
        connection.execute(_SCHEMA)


def _take_over(connection: apsw.Connection) -> None:
    """A database of an earlier version, which knew no fingerprints."""
    columns = {name for _, name, *_ in connection.execute("pragma table_info(stamp)")}
    if columns and "fingerprint" not in columns:
        connection.execute("alter table stamp add column fingerprint text")


def _packed(vector: Vectors) -> bytes:
    return np.ascontiguousarray(vector, dtype=np.float32).tobytes()


def _ingest_first(path: Path) -> str:
    return f"There are no documents in {path} yet. Ingest some first: python -m app_example ingest FOLDER"


def _other_space(path: Path, stamped: Space, offered: str) -> str:
    return (
        f"{path} holds vectors of {stamped}, but the embedding endpoint now gives those of {offered}, and the two"
        " cannot be compared. Set the embedding endpoint back, or start anew with: ingest FOLDER --fresh"
    )
