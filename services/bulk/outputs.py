"""Where vectors go: a .npy with a manifest, or a Parquet file. Knows formats; knows no clients and no cache.

A file takes its name when it is whole. pyarrow is imported when a Parquet file is written.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self

from ..errors import ConfigError
from ..space import Space
from .documents import Document, pyarrow_for
from .results import Block, Refused

ROW_GROUP: Final = 10_000  #: 60 MB of 1,536 dimensions: what a reader, and this writer, have in memory at once
BUFFER_BYTES: Final = 2**20


_SUFFIXES: Final = (".npy", ".parquet")


class Output(Protocol):
    """Takes vectors in the order of their texts. Left as a context without `finish`, it abandons what it has."""

    def write(self, documents: Sequence[Document], block: Block) -> None:
        """Add the vectors of these documents.

        Raises:
            ConfigError: the file cannot be written.
            ValueError: the block does not follow the one before, or has another number of rows or dimensions.
        """

    def finish(self, facts: Mapping[str, object], /) -> None:
        """Give the file its name. `facts` of the run, such as its texts and tokens, go into a manifest.

        Raises:
            ConfigError: the file cannot be written.
        """

    def abandon(self) -> None:
        """Remove what was written. What had the name before stays. After `finish` there is nothing to abandon."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def output(path: str | os.PathLike[str], *, space: str, model: str, has_ids: bool = False) -> Output:
    """The output that the suffix of the path asks for: `.npy` or `.parquet`.

    Args:
        space: the fingerprint of all vectors that come.
        model: as it was asked of the servers.
        has_ids: whether a Parquet file has a column for them.

    Raises:
        ConfigError: another suffix, a file that cannot be made or that another run is writing, or no pyarrow.
        ValueError: `space` is no fingerprint.
    """
    path, parsed = Path(path), Space.parse(space)
    check_suffix(path)
    if path.suffix.lower() == ".npy":
        return _Npy(path, parsed, model)
    return _Parquet(path, parsed, model, has_ids=has_ids)


def check_suffix(path: Path) -> None:
    """Whether the name says how vectors are to be written there. Raises ConfigError where it does not."""
    if path.suffix.lower() not in _SUFFIXES:
        what = path.suffix or "a name without a suffix"
        remedy = f"Let its name end in {' or '.join(_SUFFIXES)}."
        raise ConfigError(f"{what} is no format for vectors", key=str(path), remedy=remedy)


def manifest_of(path: Path) -> Path:
    """Where the manifest of a .npy is."""
    return path.with_suffix(".manifest.json")


class _Written:
    """What both formats share: a partial file, and how far it is."""

    def __init__(self, path: Path, space: Space, model: str) -> None:
        self._path, self._space, self._model, self._rows = path, space, model, 0
        self._partial = _Partial(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def abandon(self) -> None:
        self._partial.abandon()

    def _follow(self, documents: Sequence[Document], block: Block) -> None:
        expected = (len(documents), self._space.dimensions)
        if block.start != self._rows or block.vectors.shape != expected:
            came = f"{block.vectors.shape} came at {block.start}"
            raise ValueError(f"vectors of the shape {expected} at {self._rows} were expected, and {came}")
        self._rows += len(documents)


class _Npy(_Written):
    """One float32 matrix; the row of a refused text is NaN, and the manifest says why."""

    def __init__(self, path: Path, space: Space, model: str) -> None:
        super().__init__(path, space, model)
        self._refused: list[Refused] = []
        with _telling_of(path):
            self._header_bytes = self._write_header()

    def write(self, documents: Sequence[Document], block: Block) -> None:
        self._follow(documents, block)
        self._refused.extend(block.refused)
        with _telling_of(self._path):
            self._partial.file.write(block.vectors.astype("<f4", order="C", copy=False).data)

    def finish(self, facts: Mapping[str, object], /) -> None:
        manifest = json.dumps(self._manifest(facts), indent=2).encode() + b"\n"
        with _telling_of(self._path):
            self._partial.file.seek(0)
            if self._write_header() != self._header_bytes:
                raise AssertionError("numpy's header has no room for the number of rows")
            # Between the two files there is none, rather than one that tells of the vectors before.
            manifest_of(self._path).unlink(missing_ok=True)
            self._partial.commit()
        with _telling_of(manifest_of(self._path)):
            _write_whole(manifest_of(self._path), manifest)

    def _write_header(self) -> int:
        """Write it for the rows so far. numpy pads it, so that the first axis can grow. Returns its length."""
        from numpy.lib import format as npy

        shape = (self._rows, self._space.dimensions)
        npy.write_array_header_1_0(self._partial.file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return self._partial.file.tell()

    def _manifest(self, facts: Mapping[str, object]) -> dict[str, object]:
        return {
            **facts,
            "space": self._space.fingerprint,
            "model": self._model,
            "rows": self._rows,
            "dimensions": self._space.dimensions,
            "dtype": "float32",
            "refused": [{"position": refused.position, "reason": refused.reason} for refused in self._refused],
        }


class _Parquet(_Written):
    """A row a text: position, id, text, embedding or null, error or null. Its schema names space and model."""

    def __init__(self, path: Path, space: Space, model: str, *, has_ids: bool) -> None:
        self._arrow, parquet = pyarrow_for(path)
        super().__init__(path, space, model)
        arrow, self._has_ids = self._arrow, has_ids
        self._embedding = arrow.list_(arrow.float32(), space.dimensions)
        columns = {
            "position": arrow.int64(),
            **({"id": arrow.string()} if has_ids else {}),
            "text": arrow.string(),
            "embedding": self._embedding,
            "error": arrow.string(),
        }
        metadata = {"llmwire.space": space.fingerprint, "llmwire.model": model}
        self._schema = arrow.schema(list(columns.items()), metadata=metadata)
        self._batches: list[Any] = []
        self._buffered = 0
        with _telling_of(path):
            self._writer = parquet.ParquetWriter(
                self._partial.file,
                self._schema,
                compression="zstd",
                use_dictionary=["error"],
                # The four bytes of a float apart: compressed it is 15 % smaller, and written and read as fast as plain.
                column_encoding={"embedding.list.element": "BYTE_STREAM_SPLIT"},
                write_statistics=["position"],
            )

    def write(self, documents: Sequence[Document], block: Block) -> None:
        self._follow(documents, block)
        self._batches.append(self._batch(documents, block))
        self._buffered += len(documents)
        if self._buffered >= ROW_GROUP:
            with _telling_of(self._path):
                self._flush()

    def finish(self, facts: Mapping[str, object], /) -> None:  # noqa: ARG002  # each row tells its own error
        with _telling_of(self._path):
            self._flush()
            self._writer.close()
            self._partial.commit()

    def abandon(self) -> None:
        self._batches.clear()
        if not self._partial.file.closed:
            # Unless it is closed now it closes itself later, into nowhere; what ended the run is told, not this.
            with contextlib.suppress(Exception):
                self._writer.close()
        super().abandon()

    def _flush(self) -> None:
        if self._buffered:
            table = self._arrow.Table.from_batches(self._batches, self._schema)
            self._batches, self._buffered = [], 0
            self._writer.write_table(table, row_group_size=table.num_rows)

    def _batch(self, documents: Sequence[Document], block: Block) -> Any:
        import numpy as np

        arrow, count = self._arrow, len(documents)
        errors: list[str | None] = [None] * count
        is_refused = np.zeros(count, dtype=bool)
        for refused in block.refused:
            errors[refused.position - block.start] = refused.reason
            is_refused[refused.position - block.start] = True
        values = arrow.array(block.vectors.astype(np.float32, order="C", copy=False).reshape(-1))
        embeddings = arrow.FixedSizeListArray.from_arrays(values, type=self._embedding, mask=arrow.array(is_refused))
        columns = [
            arrow.array(np.arange(block.start, block.start + count, dtype=np.int64)),
            *([self._strings([document.id for document in documents])] if self._has_ids else []),
            self._strings([document.text for document in documents]),
            embeddings,
            self._strings(errors),
        ]
        return arrow.record_batch(columns, schema=self._schema)

    def _strings(self, texts: Sequence[str | None]) -> Any:
        try:
            return self._arrow.array(texts, self._arrow.string())
        except UnicodeEncodeError:  # half a surrogate pair, from JSON: refused, but its row is written
            shown = [text and text.encode(errors="replace").decode() for text in texts]
            return self._arrow.array(shown, self._arrow.string())


class _Partial:
    """A file beside its target until it is whole. One run at a time has it; what a killed one left is written over."""

    def __init__(self, target: Path) -> None:
        self._target, self._path = target, target.with_name(f".{target.name}.partial")
        with _telling_of(target):
            if target.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.file = self._locked()

    def commit(self) -> None:
        """Have it on the disk, then give it its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._path.replace(self._target)
        self.file.close()
        _sync_folder(self._target.parent)

    def abandon(self) -> None:
        """Remove it, unless it has its name."""
        if not self.file.closed:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what is still buffered may not fit on the disk
                self.file.close()

    def _locked(self) -> BinaryIO:
        while True:
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", BUFFER_BYTES)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                remedy = "Wait for it, or name another file."
                raise ConfigError("is being written by another run", key=str(self._target), remedy=remedy) from error
            if self._is_still(file):
                file.truncate()
                return file
            file.close()  # the other run has just finished: what was opened has the name of its target now

    def _is_still(self, file: BinaryIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False


def _write_whole(path: Path, content: bytes) -> None:
    partial = _Partial(path)
    try:
        partial.file.write(content)
        partial.commit()
    finally:
        partial.abandon()


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too."""
    descriptor = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # not every file system can
        os.fsync(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def _telling_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "Make room on its disk, or name a file that can be written."
        raise ConfigError(f"cannot be written: {error.strerror or error}", key=str(path), remedy=remedy) from error
