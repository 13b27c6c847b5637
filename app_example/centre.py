"""A place that says where the endpoints are: a real Consul where there is one, else a file. For the demo alone.

Each holds one document for completions, which the application watches while it runs.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.request import ProxyHandler, Request, build_opener

from app_example.failures import AppError

if TYPE_CHECKING:
    from collections.abc import Mapping

READY_S = 30.0  #: a Consul has a leader in two
LOOK_S = 0.05
KEY = "ask-your-documents"

_open = build_opener(ProxyHandler({})).open


class Centre(Protocol):
    """Where a document is written, and what the setting `source` says of it."""

    title: str

    @property
    def source(self) -> str:
        """As the setting names it."""

    def write(self, document: Mapping[str, Any] | str) -> None:
        """Say this from now on; a text as it stands, which may be no document at all."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def centre(folder: Path) -> Centre:
    """Consul where its program is found, or named in LLMWIRE_CONSUL; a file in the folder where it is not."""
    program = os.environ.get("LLMWIRE_CONSUL", "").strip() or shutil.which("consul")
    return ConsulCentre(program, folder) if program else FileCentre(folder)


class FileCentre:
    """A file that is replaced as a whole."""

    title = "A file (no consul is installed here)"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "endpoints.json"

    @property
    def source(self) -> str:
        return self._path.as_uri()

    def write(self, document: Mapping[str, Any] | str) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(document if isinstance(document, str) else json.dumps({"completion": document}))
        beside.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs."""


class ConsulCentre:
    """An agent in development mode, on the loopback, for as long as the context lasts."""

    title = "A Consul"

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._ports = _free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def source(self) -> str:
        return f"consul://127.0.0.1:{self._ports[0]}/{KEY}"

    def write(self, document: Mapping[str, Any] | str) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        request = Request(self._url(f"kv/{KEY}/completion"), data=text.encode(), method="PUT")  # noqa: S310  # http
        _open(request, timeout=READY_S).close()

    def __enter__(self) -> Self:
        http, server, lan, wan = self._ports
        ports = {"http": http, "server": server, "serf_lan": lan, "serf_wan": wan, "dns": -1, "grpc": -1}
        config = self._folder / "consul.json"
        config.write_text(json.dumps({"ports": ports, "disable_update_check": True}))
        options = ["agent", "-dev", "-bind", "127.0.0.1", "-config-file", str(config)]
        self._process = subprocess.Popen(  # noqa: S603  # the program that the user has
            [self._program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ends_at_s = time.monotonic() + READY_S
        while not self._has_leader():
            if self._process.poll() is not None or time.monotonic() > ends_at_s:
                self.__exit__()
                raise AppError(f"{self._program} did not start", "Set LLMWIRE_CONSUL to one that does.")
            time.sleep(LOOK_S)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _has_leader(self) -> bool:
        try:
            with _open(self._url("catalog/nodes"), timeout=1.0) as answer:
                return bool(json.load(answer))
        except OSError:
            return False

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._ports[0]}/v1/{path}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
