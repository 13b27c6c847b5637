"""Vectors that were paid for once, in a SQLite file. Knows texts by their hashes; knows no texts and no clients.

Several processes and threads may use one file at once. A process that opened it before a fork must not use it after.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ..errors import ConfigError, SpaceMismatch
from ..space import Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

APPLICATION_ID: Final = 0x6C6C6D77  #: "llmw": what `file` and other programs know such a file by
VERSION: Final = 1  #: of the tables

#: A row of 1,536 dimensions has 6 KiB, and a page holds whole rows only: smaller pages lose a third of the file to
#: that, larger ones make every new hash rewrite more of the index. Measured with 100,000 rows and with 600,000.
PAGE_BYTES: Final = 2**15
CHECKPOINT_BYTES: Final = 2**24  #: the log is copied into the file when it is so long
CHUNK: Final = 500  #: hashes in one SELECT; SQLite before 3.32 takes 999 variables
WAIT_S: Final = 30.0  #: for another process's transaction; one takes milliseconds, so longer is a program that hangs

# Rows in the order in which they came, and an index beside them: in a table that is sorted by hash, every new vector
# moves others. Five times slower, and three times the size.
_TABLES: Final = (
    "CREATE TABLE spaces (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL)",
    "CREATE TABLE vectors (space INTEGER NOT NULL, hash BLOB NOT NULL, vector BLOB NOT NULL, UNIQUE (space, hash))",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

# A row stays, unless it is not as long as a vector of its space: `get` does not see such a row.
_PUT: Final = """
    INSERT INTO vectors (space, hash, vector) VALUES (?, ?, ?) ON CONFLICT (space, hash)
    DO UPDATE SET vector = excluded.vector WHERE length(vector) <> length(excluded.vector)
"""

_REMEDIES: Final = {
    sqlite3.SQLITE_BUSY: "Stop the program that holds it, or name another file.",
    sqlite3.SQLITE_CANTOPEN: "Name a file that can be made and written, in a folder that can be written.",
    sqlite3.SQLITE_CORRUPT: "Remove it, or name another file.",
    sqlite3.SQLITE_FULL: "Make room on its disk, or name a file on another.",
    sqlite3.SQLITE_NOTADB: "Name another file: this one is not a cache of vectors.",
    sqlite3.SQLITE_READONLY: "Name a file that can be written, in a folder that can be written.",
}


class VectorCache:
    """The vectors of one space in a file. A method's sqlite3 errors are raised as ConfigErrors that name the file."""

    def __init__(self, connection: sqlite3.Connection, path: Path, space: Space, space_id: int) -> None:
        self._connection, self._path, self._space, self._space_id = connection, path, space, space_id
        self._lock = threading.Lock()  # one connection for all threads, and a transaction belongs to one of them
        self._pid = os.getpid()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, space: str) -> Self:
        """The vectors of the space with this fingerprint; file and folder are made where they are missing.

        Raises:
            ConfigError: the file is another program's, or cannot be used; it is left as it was.
            SpaceMismatch: the file's vectors of this name are of another model.
            ValueError: `space` is no fingerprint.
        """
        parsed, path = Space.parse(space), Path(path).absolute()
        with _telling_of(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection, path)
                return cls(connection, path, parsed, _space_id(connection, path, parsed))
            except BaseException:
                connection.close()
                raise

    @property
    def space(self) -> str:
        """The fingerprint of what its vectors are of."""
        return self._space.fingerprint

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        """The known ones of these hashes, each with its vector: float32, (dimensions,), not to be written to."""
        found: dict[bytes, Vector] = {}
        for start in range(0, len(keys), CHUNK):
            found.update(self._vectors(keys[start : start + CHUNK]))
        return found

    def put(self, keys: Sequence[bytes], vectors: Vector) -> None:
        """Keep float32 (len(keys), dimensions), all or none. A hash that is known keeps the vector it has.

        Raises:
            ValueError: the matrix has another shape.
        """
        if vectors.shape != (len(keys), self._space.dimensions):
            expected = (len(keys), self._space.dimensions)
            raise ValueError(f"the vectors have the shape {vectors.shape}, not {expected}")
        rows = vectors.astype("<f4", order="C", copy=False)
        with self._used() as connection, _transaction(connection):
            connection.executemany(_PUT, ((self._space_id, key, row.data) for key, row in zip(keys, rows, strict=True)))

    def __len__(self) -> int:
        """How many vectors of this space there are."""
        with self._used() as connection:
            (count,) = connection.execute("SELECT count(*) FROM vectors WHERE space = ?", (self._space_id,)).fetchone()
        return int(count)

    def close(self) -> None:
        """Let go of the file. To close twice is allowed; to use it afterwards is not."""
        if os.getpid() == self._pid:  # what is the parent's stays open
            with self._lock:
                self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _vectors(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        import numpy as np

        marks = ",".join("?" * len(keys))
        query = f"SELECT hash, vector FROM vectors WHERE space = ? AND hash IN ({marks})"  # noqa: S608  # only marks
        with self._used() as connection:
            rows = connection.execute(query, (self._space_id, *keys)).fetchall()
        size = 4 * self._space.dimensions
        return {
            key: np.frombuffer(vector, "<f4").astype(np.float32, copy=False)
            for key, vector in rows
            if isinstance(vector, bytes) and len(vector) == size
        }

    @contextlib.contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        # SQLite keeps a process's file locks in memory: a child would believe that it holds those of its parent.
        if os.getpid() != self._pid:
            remedy = "Open the cache in the process that uses it."
            raise ConfigError("was opened before this process was forked", key=str(self._path), remedy=remedy)
        with self._lock, _telling_of(self._path):
            yield self._connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file. Nothing is written into one that is not ours."""
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    with _transaction(connection, "DEFERRED"):  # its questions see one moment: another process may be making it
        is_new = _is_new(connection, path)
    if is_new:
        with _transaction(connection):
            if _is_new(connection, path):  # or else another process was faster
                for statement in _TABLES:
                    connection.execute(statement)
    _log_ahead(connection, path)
    # NORMAL: a commit is in the kernel's hands, not yet on the disk. A killed process loses nothing of it; a power
    # cut may lose the last commits, which then are paid for again, and damages nothing.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_BYTES // PAGE_BYTES}")


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has nothing in it. Raises ConfigError where it has something that is not ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if (application, version) == (APPLICATION_ID, VERSION):
        return False
    if application == APPLICATION_ID:
        problem, remedy = f"is a cache of version {version}, not {VERSION}", "Update llmwire, or name another file."
        raise ConfigError(problem, key=str(path), remedy=remedy)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application or version or tables:
        remedy = "Name another file, or one that does not exist yet."
        raise ConfigError("is a database of another program", key=str(path), remedy=remedy)
    return True


def _log_ahead(connection: sqlite3.Connection, path: Path) -> None:
    """Have readers and a writer not wait for each other; the file remembers it."""
    give_up_s = time.monotonic() + WAIT_S
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            # For this change SQLite does not wait for others by itself.
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_s:
                raise
            time.sleep(0.01)
    if mode != "wal":
        problem = "is on a file system where processes cannot share memory"
        raise ConfigError(problem, key=str(path), remedy="Name a file on a local disk.")


def _space_id(connection: sqlite3.Connection, path: Path, space: Space) -> int:
    with _transaction(connection):
        insert = "INSERT INTO spaces (identity, fingerprint) VALUES (?, ?) ON CONFLICT (identity) DO NOTHING"
        connection.execute(insert, (space.identity, space.fingerprint))
        query = "SELECT id, fingerprint FROM spaces WHERE identity = ?"
        known = connection.execute(query, (space.identity,)).fetchone()
    if difference := Space.parse(known[1]).difference(space):
        raise SpaceMismatch(
            f"{path}: the server gives other vectors than those in this cache: {difference}. "
            "Name another cache file, or set the endpoint back to the model it had.",
            expected=known[1],
            found=space.fingerprint,
        )
    return int(known[0])


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    # IMMEDIATE: one that reads first and then wants to write cannot wait, and fails where two do so at once.
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends it by itself after some errors
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _telling_of(path: Path) -> Iterator[None]:
    """Raise what SQLite or the system says as a ConfigError that names the file."""
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        if code is None:  # a mistake of the caller, such as a cache that was closed
            raise
        remedy = _REMEDIES.get(code, "See that its disk is sound and has room, or name another file.")
        raise ConfigError(f"cannot be used as a cache: {error}", key=str(path), remedy=remedy) from error
    except OSError as error:
        remedy = "Name a file in a folder that can be written."
        raise ConfigError(f"cannot be made: {error.strerror}", key=str(path), remedy=remedy) from error


def _code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code, or None where the error is not SQLite's."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
