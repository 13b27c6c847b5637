"""Sources that say what a test has them say, and listeners that a test can wait for."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from llmwire.container.documents import Sourced
from llmwire.services.discovery.catalogue import Snapshot
from llmwire.services.errors import DiscoveryError

PATIENCE_S = 30.0  #: for what should happen; reached only where it does not

HANGS: Any = object()
SILENT: Any = DiscoveryError("refuses the connection", source="fake://one", remedy="Start it.")

#: what a source says: a document as text, bytes or a table, None where it has none, or HANGS, or SILENT
Said = Any


def snapshot(said: Said, *, version: str = "", name: str = "fake://one", **facts: Any) -> Snapshot:
    content = json.dumps(said) if isinstance(said, dict) else said
    content = content.encode() if isinstance(content, str) else content
    shown = version or f"{len(content or b'')} bytes"
    return Snapshot(origin=f"{name}/completion", content=content, version=shown, **facts)


class Speaker:
    """A source. What it `says` is what it answers when it is asked; it never tells of a change by itself.

    One that is silent is so once, and then hangs.
    """

    def __init__(self, says: Said = HANGS, *, name: str = "fake://one", is_remote: bool = True, is_whole: bool = False):
        self.says, self.name, self.is_remote, self.is_whole = says, name, is_remote, is_whole
        self.asked_for: list[str] = []
        self.env: Mapping[str, str] = {}

    def catalogue(self, function: str, env: Mapping[str, str]) -> Speaker:
        self.env = env
        self.asked_for.append(function)
        return self

    def warnings(self, env: Mapping[str, str]) -> tuple[str, ...]:
        return ()

    async def fetch(self) -> Snapshot:
        if self.says is HANGS:
            await asyncio.Event().wait()
        if isinstance(self.says, DiscoveryError):
            error, self.says = self.says, HANGS
            raise error
        return self.says if isinstance(self.says, Snapshot) else snapshot(self.says, name=self.name)

    async def watch(self, since: Snapshot) -> None:
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        """Holds nothing."""


class Told:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, event: Any) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, is_it: Callable[[Any], bool]) -> Any:
        """The first event of which that holds."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(is_it, self.events)), PATIENCE_S), self.events
            return next(filter(is_it, self.events))


def served(*names: str, **settings: Any) -> dict[str, Any]:
    """A document with these endpoints."""
    return {"endpoints": {name: {"base_url": f"http://{name}:8000/v1", **settings} for name in names}}


def sourced(tree: dict[str, Any], *, is_remote: bool = True, origin: str = "fake://one/completion") -> Sourced:
    """A document that is in force, from its root."""
    return Sourced(tree=tree, origin=origin, is_remote=is_remote)
