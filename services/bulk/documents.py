"""The texts of a file, one after the other. Knows formats; knows no vectors and no clients.

Nothing is held but one line, or a few hundred rows of a Parquet file. pyarrow is imported when one is read.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from ..errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

STDIN: Final = "-"
KINDS: Final = ("jsonl", "csv", "tsv", "parquet", "text")

LONGEST_BYTES: Final = 2**26  #: of a line or a field; more is a file of another kind, or a quote that is never closed
ROWS: Final = 500  #: of a Parquet file in memory at once
BUFFER_BYTES: Final = 2**20  #: of a Parquet column; without one, or with pre_buffer, pyarrow reads row groups whole

_KIND_OF_SUFFIX: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_BOM: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text to embed, and what its owner calls it. A row that has no text has an empty one."""

    text: str
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Documents:
    """The documents of a file or of stdin. Each iteration reads a file anew.

    Attributes:
        path: as it was given; `-` is stdin.
        kind: one of KINDS.
        text_field: the column, or the field of a JSON object, that has the text.
        id_field: the one that has the id.
    """

    path: Path
    kind: str
    text_field: str = "text"
    id_field: str | None = None

    def __iter__(self) -> Iterator[Document]:
        """The documents in their order, read as they are asked for.

        Raises:
            ConfigError: the file is not what it should be; line and remedy are named.
        """
        match self.kind:
            case "jsonl":
                return self._of_json()
            case "csv" | "tsv":
                return self._of_table()
            case "parquet":
                return self._of_parquet()
            case _:
                return self._of_text()

    def total(self) -> int | None:
        """How many there are; None where counting would use them up. Rows are counted without being understood.

        Raises:
            ConfigError: the file cannot be read, or quotes of a table do not end.
        """
        if not self.path.is_file():  # stdin or a pipe: what is read is gone
            return None
        match self.kind:
            case "jsonl":
                return sum(1 for _, line in self._lines() if line.strip())
            case "csv" | "tsv":
                return max(sum(1 for _ in self._rows()) - 1, 0)
            case "parquet":
                with self._parquet() as file:
                    return int(file.metadata.num_rows)
            case _:
                return sum(1 for _ in self._lines())

    def _of_text(self) -> Iterator[Document]:
        for number, line in self._lines():
            yield Document(text=self._decoded(number, line).removesuffix("\n").removesuffix("\r"))

    def _of_json(self) -> Iterator[Document]:
        is_first = True
        for number, line in self._lines():
            if text := self._decoded(number, line).strip():
                yield self._of_value(self._parsed(number, text), number, is_first=is_first)
                is_first = False

    def _of_value(self, value: object, number: int, *, is_first: bool) -> Document:
        if isinstance(value, str):
            return Document(text=value)
        if not isinstance(value, dict):
            raise self._wrong(f"line {number} is neither an object nor a string", "Write one JSON object a line.")
        if is_first:  # a field that is misspelt would be missing everywhere
            self._check_fields(list(value), f"line {number} has no field")
        text, name = value.get(self.text_field), self.id_field and value.get(self.id_field)
        return Document(text=self._text(text, f"line {number}"), id=self._id(name, f"line {number}"))

    def _parsed(self, number: int, text: str) -> object:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"line {number} is no JSON: {error}", "Write one JSON object a line.") from error

    def _of_table(self) -> Iterator[Document]:
        rows = self._rows()
        _, header = next(rows, (1, []))
        self._check_fields(header, "there is no column")
        text_at, id_at = header.index(self.text_field), self.id_field and header.index(self.id_field)
        for number, row in rows:
            if any(row[len(header) :]):
                problem = f"line {number} has {len(row)} fields, and the header has {len(header)}"
                raise self._wrong(problem, "Put quotes around texts that hold the separator.")
            row += [""] * (len(header) - len(row))
            yield Document(text=row[text_at], id=None if id_at is None else row[int(id_at)])

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """The rows that are not blank, the header first, each with the number of its last line."""
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_BYTES))
        lines = (self._decoded(number, line) for number, line in self._lines())
        # strict: a quote in the wrong place would make one text of many rows, without a word.
        rows = csv.reader(lines, delimiter="\t" if self.kind == "tsv" else ",", strict=True)
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                remedy = "Put quotes around texts that hold a quote or a line end, and write each quote in them twice."
                raise self._wrong(f"line {rows.line_num} cannot be read: {error}", remedy) from error
            if row:
                yield rows.line_num, row

    def _of_parquet(self) -> Iterator[Document]:
        with self._parquet() as file:
            self._check_fields(file.schema_arrow.names, "there is no column")
            columns = [self.text_field] if self.id_field is None else [self.text_field, self.id_field]
            start = 0
            for batch in file.iter_batches(batch_size=ROWS, columns=columns):
                texts = self._values(batch.column(self.text_field), start)
                ids = [None] * len(texts) if self.id_field is None else self._values(batch.column(self.id_field), start)
                for row, (text, name) in enumerate(zip(texts, ids, strict=True), start):
                    yield Document(text=self._text(text, f"row {row}"), id=self._id(name, f"row {row}"))
                start += len(texts)

    def _values(self, column: Any, start: int) -> list[Any]:
        try:
            values: list[Any] = column.to_pylist()
        except UnicodeDecodeError as error:
            problem = f"a text of rows {start} to {start + len(column) - 1} is not UTF-8"
            raise self._wrong(problem, "Write its texts as UTF-8.") from error
        return values

    @contextmanager
    def _parquet(self) -> Iterator[Any]:
        pyarrow, parquet = pyarrow_for(self.path)
        try:
            with parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=BUFFER_BYTES) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            raise self._wrong(
                f"cannot be read as Parquet: {error}", "Name a Parquet file, or give its kind."
            ) from error

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line with its end and its number, 1 for the first. Only `\\n` ends one."""
        with ExitStack() as stack:
            file = self._opened(stack)
            number = 0
            while line := self._read_line(file, number):
                number += 1
                yield number, line.removeprefix(_BOM) if number == 1 else line

    def _read_line(self, file: BinaryIO, number: int) -> bytes:
        try:
            line = file.readline(LONGEST_BYTES + 1)
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror}", "Name a file that can be read.") from error
        if len(line) > LONGEST_BYTES:
            problem = f"line {number + 1} is longer than {LONGEST_BYTES // 2**20} MiB"
            raise self._wrong(problem, f"Split it, or give the file's kind: {', '.join(KINDS)}.")
        return line

    def _opened(self, stack: ExitStack) -> BinaryIO:
        if str(self.path) == STDIN:
            return sys.stdin.buffer
        try:
            return stack.enter_context(self.path.open("rb"))
        except OSError as error:
            raise self._wrong(f"cannot be read: {error.strerror}", "Name a file that can be read.") from error

    def _decoded(self, number: int, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            problem = f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start})"
            raise self._wrong(problem, "Unpack it, or convert it with iconv.") from error

    def _check_fields(self, there: list[str], missing: str) -> None:
        for field in (self.text_field, self.id_field):
            if field is not None and field not in there:
                names = ", ".join(map(repr, there)) or "none"
                raise self._wrong(f"{missing} {field!r}", f"Name one of those that there are: {names}.")

    def _text(self, value: object, where: str) -> str:
        if value is None:  # one bad row among millions: it is reported as a text without a vector
            return ""
        if isinstance(value, str):
            return value
        raise self._wrong(
            f"{self.text_field!r} of {where} is no text, but {type(value).__name__}", "Name another field."
        )

    def _id(self, value: object, where: str) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        problem = f"{self.id_field!r} of {where} is neither a text nor an integer, but {type(value).__name__}"
        raise self._wrong(problem, "Name another field.")

    def _wrong(self, problem: str, remedy: str) -> ConfigError:
        name = "stdin" if str(self.path) == STDIN else str(self.path)
        return ConfigError(problem, key=name, remedy=remedy)


def read(
    path: str | os.PathLike[str], *, kind: str | None = None, text_field: str = "text", id_field: str | None = None
) -> Documents:
    """The documents of a file, whose kind its suffix tells; `-` is stdin, and plain text unless a kind is given.

    Args:
        kind: `jsonl` (an object or a string a line), `csv` and `tsv` (with a header), `parquet`, or `text` (a text a
            line, also blank ones, so that positions are line numbers; without ids).
        text_field: the column or field that has the text.
        id_field: the one that has the id, a text or an integer.

    Raises:
        ConfigError: there is no such file or kind, or pyarrow is missing.
    """
    path = Path(path)
    documents = Documents(path=path, kind=kind or _kind_of(path), text_field=text_field, id_field=id_field)
    if documents.kind not in KINDS:
        raise ConfigError(f"{kind!r} is no kind of file", key=str(path), remedy=f"Give one of {', '.join(KINDS)}.")
    if documents.kind == "text" and id_field is not None:
        raise ConfigError("plain text has no ids", key=str(path), remedy="Leave the field of the id away.")
    if str(path) != STDIN and (path.is_dir() or not path.exists()):
        problem = "is a folder" if path.is_dir() else "there is no such file"
        raise ConfigError(problem, key=str(path), remedy="Name a file with texts, or - for stdin.")
    if documents.kind == "parquet":
        if not path.is_file():
            remedy = "Name a file: Parquet is read from its end."
            raise ConfigError("is no file on a disk, but a pipe", key=str(path), remedy=remedy)
        pyarrow_for(path)
    return documents


def pyarrow_for(path: Path) -> tuple[ModuleType, ModuleType]:
    """`pyarrow` and `pyarrow.parquet`, for this file. Raises ConfigError where they are missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError("needs pyarrow", key=str(path), remedy="pip install 'llmwire[parquet]'.") from error
    return pyarrow, pyarrow.parquet


def _kind_of(path: Path) -> str:
    if path.suffix.lower() == ".json":  # as lines of text it would be embedded bracket by bracket
        remedy = "Give the kind: jsonl where each line is an object, or else text."
        raise ConfigError("does not tell its kind", key=str(path), remedy=remedy)
    return _KIND_OF_SUFFIX.get(path.suffix.lower(), "text")
