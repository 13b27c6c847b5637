"""What the sources of a function say, as a layer of its settings. Knows documents; asks nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

from dependency_injector import providers

from .configuration import Held, Level, Place, layer_of, reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """A document of a source, as a layer holds it.

    Attributes:
        tree: from the root, as in `{"completion": {"endpoints": {...}}}`.
        origin: its full name.
        is_remote: others than the operator of this machine may write it.
    """

    tree: Mapping[str, Any] = field(repr=False)
    origin: str
    is_remote: bool


class Documents(providers.Object[tuple[Sourced, ...]]):
    """What the sources of a function say, the first one first: a layer before `config`, exchanged as a whole.

    A thread that tries other documents sees those, and nobody else does. Inside a block of `overriding` that has
    another watcher built, what the one outside of it has taken is not there, and comes back after it.
    """

    def __init__(self, documents: tuple[Sourced, ...] = ()) -> None:
        self._taken = documents
        self._taken_by: WeakKeyDictionary[object, tuple[Sourced, ...]] = WeakKeyDictionary()
        self._watchers: providers.Provider[Any] | None = None
        self._tried = threading.local()
        super().__init__(())

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> Documents:
        memo = {} if memo is None else memo
        if (known := memo.get(id(self))) is not None:
            return known  # type: ignore[no-any-return]  # a memo holds anything
        copied = memo[id(self)] = type(self)(self._taken)
        copied._watchers = providers.deepcopy(self._watchers, memo)  # noqa: SLF001  # a copy of its own class
        self._copy_overridings(copied, memo)
        return copied

    def follow(self, watchers: providers.Provider[Any]) -> None:
        """Hold what the watcher takes that the provider has built, or the one that stands in for it."""
        self._watchers = watchers

    def take(self, documents: tuple[Sourced, ...], *, by: object = None) -> None:
        """Have these from now on.

        Args:
            by: the watcher that has taken them; None: they are there whoever watches.
        """
        if by is None:
            self._taken = documents
        else:
            self._taken_by[by] = documents

    def is_for(self, watcher: object) -> bool:
        """Whether the watcher is the one that is in force now: no block stands in for it."""
        return self._watchers is None or self._watcher() is watcher

    @contextmanager
    def trying(self, documents: tuple[Sourced, ...]) -> Iterator[None]:
        """Have these in this thread, inside the block."""
        self._tried.documents = documents
        try:
            yield
        finally:
            del self._tried.documents

    def _watcher(self) -> object | None:
        """The one that is in force; None where none is built."""
        if self._watchers is None:
            return None
        provider: Any = layer_of(self._watchers)
        watcher: object | None = provider.built if hasattr(provider, "built") else provider()
        return watcher

    def held(self, place: Place, level: Level, key: str) -> Iterator[Held]:
        """What they say at a place of `config`. Tables of endpoints are one table: those of all of them."""
        tables = []
        for document in self():
            origin = f"{place.name} ({document.origin})"
            if (raw := reach(document.tree, place.segments, key=key, origin=origin)) is None:
                continue
            held = Held(raw=raw, origin=origin, level=level, key=key, is_remote=document.is_remote)
            if place.segments[-1] == "endpoints" and isinstance(raw, Mapping):
                tables.append(held)
            else:
                yield held
        if tables:
            merged: dict[str, Any] = {}
            for table in tables:
                for name, endpoint in table.raw.items():
                    merged.setdefault(name, endpoint)
            yield replace(tables[0], raw=merged)

    def _provide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Sourced, ...]:  # noqa: ARG002
        tried: tuple[Sourced, ...] | None = getattr(self._tried, "documents", None)
        if tried is not None:
            return tried
        watcher = self._watcher()
        return self._taken if watcher is None else self._taken_by.get(watcher, self._taken)
