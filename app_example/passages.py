"""Reading a folder of documents and splitting them into passages. Knows text; knows nothing of vectors or databases."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from app_example.failures import FolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIXES = (".md", ".txt")

SIZE = 800
"""Characters in a passage at most: two or three paragraphs, enough to answer from, small enough to show."""

SEPARATOR = " > "  #: between a heading and those below it

_HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*$")
_FENCE = re.compile(r"\s*(```|~~~)")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A piece of a document.

    Attributes:
        folder: the ingested folder, as an absolute path.
        file: the document's path inside the folder, with forward slashes.
        heading: the headings above the piece, from the outermost, as in `Water and power > Heating`.
        text: the piece itself.
        digest: names the content: equal for equal heading and text.
    """

    folder: str
    file: str
    heading: str
    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha256(self.in_context.encode()).hexdigest())

    @property
    def in_context(self) -> str:
        """The text below its headings: what is embedded, since a piece alone may not name its subject."""
        return f"{self.heading}\n\n{self.text}" if self.heading else self.text

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the passage within its folder."""
        return self.file, self.digest


def read_folder(folder: Path) -> list[Passage]:
    """All passages of the Markdown and text files in a folder and below it, hidden ones left out.

    Raises:
        FolderError: there is no such folder, no document in it, or one that is not UTF-8 text.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder. Name a folder with .md or .txt files.")
    root = folder.resolve()
    passages = [passage for path in _documents(root) for passage in _read(path, root)]
    if not passages:
        raise FolderError(f"{folder} holds no text in .md or .txt files. Name a folder that does.")
    return passages


def split(text: str, *, is_markdown: bool) -> Iterator[tuple[str, str]]:
    """Pairs of heading and text, each text at most SIZE characters, cut at paragraphs, sentences or words."""
    for heading, section in _sections(text) if is_markdown else [("", text)]:
        pieces = (piece for block in _blocks(section) for piece in _cut(block))
        for joined in _joined(pieces):
            yield heading, joined


def _documents(root: Path) -> list[Path]:
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _is_hidden(path.relative_to(root))
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read(path: Path, root: Path) -> Iterator[Passage]:
    file = path.relative_to(root).as_posix()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FolderError(f"{path} is not UTF-8 text. Convert it, or move it out of the folder.") from error
    except OSError as error:
        raise FolderError(f"{path} cannot be read: {error.strerror}. Make it readable, or move it.") from error
    for heading, piece in split(text, is_markdown=path.suffix.lower() == ".md"):
        yield Passage(folder=str(root), file=file, heading=heading, text=piece)


def _sections(text: str) -> Iterator[tuple[str, str]]:
    trail: list[tuple[int, str]] = []
    lines: list[str] = []
    is_code = False
    for line in text.splitlines():
        is_code ^= _FENCE.match(line) is not None
        found = None if is_code else _HEADING.match(line)
        if found is None:
            lines.append(line)
            continue
        yield _named(trail), "\n".join(lines)
        lines = []
        level = len(found[1])
        trail = [*(above for above in trail if above[0] < level), (level, found[2])]
    yield _named(trail), "\n".join(lines)


def _named(trail: list[tuple[int, str]]) -> str:
    return SEPARATOR.join(name for _, name in trail)


def _blocks(section: str) -> list[str]:
    return [block.strip() for block in re.split(r"\n\s*\n", section) if block.strip()]


def _cut(block: str) -> Iterator[str]:
    """A block in pieces of at most SIZE characters: whole sentences, where they are short enough."""
    if len(block) <= SIZE:
        yield block
        return
    parts = [part for sentence in _SENTENCE_END.split(block) for part in _cut_hard(sentence)]
    yield from _joined(iter(parts), between=" ")


def _cut_hard(sentence: str) -> Iterator[str]:
    while len(sentence) > SIZE:
        at = sentence.rfind(" ", 1, SIZE)
        at = SIZE if at < 0 else at
        yield sentence[:at]
        sentence = sentence[at:].lstrip()
    if sentence:
        yield sentence


def _joined(pieces: Iterator[str], *, between: str = "\n\n") -> Iterator[str]:
    """Neighbours joined as long as they stay within SIZE."""
    held = ""
    for piece in pieces:
        if held and len(held) + len(between) + len(piece) > SIZE:
            yield held
            held = piece
        else:
            held = f"{held}{between}{piece}" if held else piece
    if held:
        yield held
