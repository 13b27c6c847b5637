"""What a source of endpoints is: a place that holds one document for each function, and can say when it changed.

Knows documents as bytes and tables; knows nothing of settings, and reaches no server itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

MAX_BYTES: Final = 1024 * 1024  #: of a document; thousands of endpoints are less, and more is a mistake or an attack
MAX_DEPTH: Final = 20  #: of tables in tables; settings need four
MAX_NAME: Final = 200  #: characters of a table's or a setting's name
MAX_INT: Final = 2**63 - 1

#: Strings and comments of TOML. Those without an end match too, as a search from each quote would take for ever.
_TEXTS: Final = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?|"(?:[^"\\\n]|\\.)*+"?|#[^\n]*+'''
    r"""|'''(?:[^']|'(?!''))*+(?:''')?|'[^'\n]*+'?""",
    re.DOTALL,
)
_NO_KEY: Final = re.compile(r"[\s=,\[\]{}]")
_NAMES: Final = re.compile(r"""\(['"].*['"],?\)|(?<=table key )['"].*['"]""")  #: of a document, in tomllib's words


class Unreadable(ValueError):  # noqa: N818  # it never leaves this room and the container
    """A document is no table of settings. Says why, and shows nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a source held at one moment.

    Attributes:
        origin: the full name of the document, as in `consul://127.0.0.1:8500/llmwire/prod/completion`; no token in it.
        content: TOML or JSON in UTF-8; None where there is no document, or where it cannot be taken.
        version: the source's own word for it, as in `index 42`; for people.
        index: from where to wait for the next change; its meaning is the source's own.
        problem: why the document cannot be taken as it is, as where it is too large; None where it can.
    """

    origin: str
    content: bytes | None = field(repr=False)
    version: str
    index: int = 0
    problem: str | None = None

    @property
    def digest(self) -> str:
        """The same where content and problem are the same, whatever the source says of versions."""
        held = b"\0" if self.content is None else b"\1" + self.content
        return hashlib.sha256(held + (self.problem or "").encode()).hexdigest()

    def tree(self) -> Mapping[str, Any]:
        """The document as nested tables. Raises Unreadable."""
        if self.problem is not None:
            raise Unreadable(self.problem)
        return tree_of(self.content or b"")


class Catalogue(Protocol):
    """A source of one function's endpoints. One object is used by one event loop.

    Attributes:
        name: what it is called in messages, as in `consul://127.0.0.1:8500/llmwire/prod`: no token, no password.
        is_remote: others than the operator of this machine may write it, so it is not trusted with keys.
        is_whole: its document holds what a configuration file holds (`[completion]`, `[openai]`, ...), where that of
            another holds the function's own table alone (`[endpoints.a]`, ...).
        is_divisible: its endpoints have nothing to do with each other: one that cannot be taken is left out, where
            another document is refused as a whole. Optional; without it, it is not.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_remote(self) -> bool: ...

    @property
    def is_whole(self) -> bool: ...

    async def fetch(self) -> Snapshot:
        """What is there now. Raises DiscoveryError where it cannot be asked."""

    async def watch(self, since: Snapshot) -> None:
        """Return when there may be something else than in the snapshot; never without a rest in between.

        To come back too often is no harm but work: `fetch` says what is there. The caller ends it after a minute.

        Raises:
            DiscoveryError: it cannot be asked.
        """

    async def aclose(self) -> None:
        """Let go of connections. A later `fetch` opens new ones."""


def tree_of(content: bytes) -> Mapping[str, Any]:
    """A document as nested tables. Raises Unreadable.

    Args:
        content: JSON where it begins with a brace, else TOML; in UTF-8.
    """
    if len(content) > MAX_BYTES:
        raise Unreadable(f"is larger than {MAX_BYTES // 1024} KiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable("is no text in UTF-8") from error
    if not text.strip():
        raise Unreadable("is empty")
    tree = _of_json(text) if text.lstrip().startswith("{") else _of_toml(text)
    if not isinstance(tree, Mapping):
        raise Unreadable("is no table of settings")
    if not tree:
        raise Unreadable("is empty")
    _check(tree)
    return tree


def _of_json(text: str) -> Any:
    try:
        tree = json.loads(text, object_pairs_hook=_unlike)
    except RecursionError as error:
        raise Unreadable(f"has tables in tables, more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise Unreadable(f"is no JSON: {error}") from error
    if "\\ud" in text.lower() and _has_half_characters(tree):  # they cannot be sent or written; TOML refuses them
        raise Unreadable("is no JSON: it has one half of a surrogate pair")
    return tree


def _of_toml(text: str) -> Any:
    if text.count(".") >= MAX_DEPTH and _has_long_keys(text):
        raise Unreadable(f"has tables in tables, more than {MAX_DEPTH} deep")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise Unreadable(f"has tables in tables, more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        reason = _NAMES.sub("…", str(error))
        raise Unreadable(f"is no TOML: {reason}") from None  # as it shows names of the document, and holds all of it


def _has_long_keys(text: str) -> bool:
    """Whether a key has so many parts that it is too deep.

    Asked before it is parsed: tomllib takes a time that is the square of the parts, half an hour for one key of 1 MiB.
    """
    structure = _TEXTS.sub('"', text).replace(" ", "").replace("\t", "")
    return any(key.count(".") >= MAX_DEPTH for key in _NO_KEY.split(structure))


def _has_half_characters(tree: Any) -> bool:
    try:
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that stands twice means one of two things; TOML refuses it too."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name stands twice in one table")
    return table


def _check(tree: Mapping[str, Any]) -> None:
    """Raise Unreadable for what no setting is, and what others than its reader could stumble over."""
    level: list[Any] = [tree]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for held in level:
            if isinstance(held, Mapping):
                _check_names(held)
            for value in held.values() if isinstance(held, Mapping) else held:
                if isinstance(value, Mapping | list):
                    inner.append(value)
                elif isinstance(value, int) and not -MAX_INT <= value <= MAX_INT:  # to write it down takes for ever
                    raise Unreadable("has a number of more than 64 bits")
        if not inner:
            return
        level = inner
    raise Unreadable(f"has tables in tables, more than {MAX_DEPTH} deep")


def _check_names(table: Mapping[str, Any]) -> None:
    for name in table:
        if not name.isprintable():
            raise Unreadable("has a name with a control character in it")
        if len(name) > MAX_NAME:
            raise Unreadable(f"has a name of more than {MAX_NAME} characters")
