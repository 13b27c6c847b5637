"""Places where documents of endpoints stand: real config centres and files; and how a change of them is waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..services.discovery.consul_server import ConsulServer
from ..services.discovery.etcd_server import EtcdServer

PATIENCE_S = 20.0  #: how long a test waits for what must happen; reached only where it fails
LOOK_S = 0.01  #: between two looks

Document = Mapping[str, Any] | str | bytes


class Place(Protocol):
    """Where one function's document stands.

    Attributes:
        source: what the setting `source` says of it.
    """

    source: str

    def say(self, document: Document) -> None:
        """Say this from now on; a text or bytes as they stand."""


class ConsulKey:
    """A key of Consul's."""

    def __init__(self, server: ConsulServer, name: str, function: str = "completion") -> None:
        self._server, self._key = server, f"{name}/{function}"
        self.source = f"consul://127.0.0.1:{server.port}/{name}"

    def say(self, document: Document) -> None:
        self._server.put(self._key, written(document))

    def remove(self) -> None:
        """Say nothing from now on."""
        self._server.delete(self._key)


class EtcdKey:
    """A key of etcd's."""

    def __init__(self, server: EtcdServer, name: str, function: str = "completion") -> None:
        self._server, self._key = server, f"{name}/{function}"
        self.source = f"etcd://127.0.0.1:{server.port}/{name}"

    def say(self, document: Document) -> None:
        self._server.put(self._key, written(document))


class ReplacedFile:
    """A file that is written beside its place and renamed over it."""

    def __init__(self, folder: Path, function: str = "completion") -> None:
        self._path, self._function = folder / "llmwire.json", function
        self.source = self._path.as_uri()

    def say(self, document: Document) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_bytes(written(document, below=self._function))
        beside.replace(self._path)


class MountedFile:
    """A file of a volume of Kubernetes: `file -> ..data/file`, and `..data -> ..1`, which is exchanged for `..2`."""

    def __init__(self, folder: Path, function: str = "completion") -> None:
        self._folder, self._function, self._versions = folder, function, 0
        (folder / "llmwire.json").symlink_to("..data/llmwire.json")
        self.source = (folder / "llmwire.json").as_uri()

    def say(self, document: Document) -> None:
        former = self._folder / f"..{self._versions}"
        self._versions += 1
        versioned = self._folder / f"..{self._versions}"
        versioned.mkdir()
        (versioned / "llmwire.json").write_bytes(written(document, below=self._function))
        beside = self._folder / "..data_tmp"
        beside.symlink_to(versioned.name)
        beside.replace(self._folder / "..data")
        if former.exists():  # as the kubelet does, at once
            (former / "llmwire.json").unlink()
            former.rmdir()


def written(document: Document, *, below: str | None = None) -> bytes:
    """A document as bytes.

    Args:
        below: the table of a whole file that it stands in.
    """
    if isinstance(document, bytes):
        return document
    if isinstance(document, str):
        return document.encode()
    return json.dumps(document if below is None else {below: document}).encode()


def naming(**urls: str) -> dict[str, Any]:
    """A document with these endpoints, each at its base URL."""
    return {"endpoints": {name: {"base_url": url} for name, url in urls.items()}}


def names(container: Any, function: str = "completion") -> list[str]:
    """The endpoints that are used now."""
    return [endpoint.name for endpoint in getattr(container, function).pool().endpoints]


def problem(container: Any, function: str = "completion") -> str | None:
    """Why the one source is silent, or why what it says now is not in force."""
    error: str | None = getattr(container, function).watcher().state()[0].error
    return error


def until(is_so: Callable[[], Any], what: str, *, timeout_s: float = PATIENCE_S) -> float:
    """Wait until something is so. Returns how long that took, in seconds."""
    began_s = time.monotonic()
    while not is_so():
        assert time.monotonic() < began_s + timeout_s, f"never happened: {what}"
        time.sleep(LOOK_S)
    return time.monotonic() - began_s
