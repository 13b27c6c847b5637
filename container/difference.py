"""What changed between two states of a function's settings, as lines that a person reads.

Knows names, and which values may be shown; a key is neither shown nor compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from llmwire.services.routing.endpoint import Price
from llmwire.services.routing.route import Route
from llmwire.services.routing.router import NamedPool
from llmwire.services.routing.spending import SpendingLimit
from llmwire.services.secrets import MASK

from .address import masked
from .settings import FUNCTIONS, WRITERS, Writers

if TYPE_CHECKING:
    from .resolution import FunctionSettings

Segments = tuple[str, ...]
Shown = Mapping[str, str]

#: a password or key may be in them by mistake
_URLS: Final = frozenset({("base_url",), ("openai", "base_url"), ("azure", "endpoint")})
_KNOWN: Final = {tuple(path.split(".")): writers for path, writers in WRITERS.items()}
#: the options of settings that are tables themselves
_PARTS: Final = frozenset(field.name for kind in (Route, NamedPool, Price, SpendingLimit) for field in fields(kind))
_BARE: Final = re.compile(r"[\w-]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A setting that is new, gone or another. `str()` is its line, as in `~ completion.weight: 1 -> 3`.

    Attributes:
        key: its full name; of an endpoint's server the name of the endpoint.
        before, after: its value as it may be shown; None where it was or is not set.
    """

    key: str
    before: str | None
    after: str | None

    @property
    def sign(self) -> str:
        """`+`, `-` or `~`."""
        return "+" if self.before is None else "-" if self.after is None else "~"

    def __str__(self) -> str:
        values = " -> ".join(value for value in (self.before, self.after) if value is not None)
        return f"{self.sign} {self.key}: {values}"


def difference(before: Shown, after: Shown) -> tuple[Change, ...]:
    """What is different, by name. Of an endpoint that is gone only that; with nothing before, all is new."""
    gone = [f"{key}." for key in before.keys() - after.keys()]
    changes = [
        Change(key=key, before=before.get(key), after=after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) and not (key not in after and key.startswith(tuple(gone)))
    ]
    return tuple(sorted(changes, key=lambda change: change.key.split(".")))


def shown(function: str, trees: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What documents say of a function, by the settings' full names and as it may be shown.

    A key, and whatever no setting declares, is masked. The server of an endpoint stands under the endpoint's name, as
    in `completion.endpoints.a`.

    Args:
        trees: from the root, as in `{"completion": {"endpoints": {...}}}`; what the first one says wins, value by
            value.
    """
    held: dict[Segments, Any] = {}
    for tree in trees:
        for path, raw in _settings(tree, ()):
            if path[0] == function or path[0] not in FUNCTIONS:
                held.setdefault(path, raw)
    return {_name(path): text for setting, raw in held.items() for path, text in _texts(setting, raw)}


def moved(former: FunctionSettings, settings: FunctionSettings) -> str | None:
    """What to know where an embedding is another: programs that run have vectors of the old one. None elsewhere."""
    if settings.function != "embedding" or former.of_vectors == settings.of_vectors:
        return None
    return "the embedding is another: programs that run refuse this until they are started anew"


def endpoint_key(function: str, endpoint: str) -> str:
    """Under which name its server stands in what `shown` gives."""
    return f"{function}.endpoints.{endpoint}"


def _settings(table: Mapping[str, Any], above: Segments) -> Iterator[tuple[Segments, Any]]:
    """Each setting with its path. Blank is unset; names of endpoints are told in lower case."""
    is_of_endpoints = len(above) == 2 and above[1] == "endpoints"
    for written, raw in table.items():
        path = (*above, str(written).lower() if is_of_endpoints else str(written))
        if isinstance(raw, Mapping) and raw and (_below(path) == ("endpoints",) or _below(path) not in _KNOWN):
            yield from _settings(raw, path)
        elif raw is not None and not (isinstance(raw, str) and not raw.strip()):
            yield path, raw


def _below(path: Segments) -> Segments:
    """What is left of a path below the table of its function or endpoint."""
    if path[0] not in FUNCTIONS:
        return path
    return path[3:] if path[1:2] == ("endpoints",) and len(path) > 2 else path[1:]


def _texts(path: Segments, raw: Any) -> Iterator[tuple[Segments, str]]:
    """A setting as it may be shown: tables and lists of tables part by part."""
    below = _below(path)
    if raw == {}:  # an endpoint that inherits all that it has
        yield path, "{}"
    elif _KNOWN.get(below) is not Writers.ANY_SOURCE:
        yield path, MASK
    elif below in _URLS:
        yield path, masked(_text(raw))
    else:
        yield from _parts(path, raw, are_names=below == ("pools",))


def _parts(path: Segments, raw: Any, *, are_names: bool = False) -> Iterator[tuple[Segments, str]]:
    if isinstance(raw, Mapping) and raw:
        for name, part in raw.items():
            known = are_names or name in _PARTS
            yield from _parts((*path, str(name)), part) if known else [((*path, str(name)), MASK)]
    elif isinstance(raw, list) and any(isinstance(each, Mapping) for each in raw):
        named = [_named(each, place) for place, each in enumerate(raw, start=1)]
        yield path, _text([name for name, _ in named])
        for name, options in named:
            yield from _parts((*path, name), options)
    else:
        yield path, _text(raw)


def _named(part: Any, place: int) -> tuple[str, Any]:
    """One part of a list and what it is called: as it says, so that it is the same one at another place."""
    match part:
        case {"name": str() as name, **options} if name:
            return name, options
    return str(place), part


def _name(path: Segments) -> str:
    if len(path) == 4 and path[1] == "endpoints" and path[3] == "base_url":
        path = path[:3]
    return ".".join(each if _BARE.fullmatch(each) else json.dumps(each) for each in path)


def _text(raw: Any) -> str:
    """On one line, and nothing in it controls a terminal."""
    text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, default=str)
    return text if text.isprintable() else json.dumps(raw, default=str)
