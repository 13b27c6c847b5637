"""A real etcd for a test: one member, killed and restarted by its id. What was put into it is there after a restart."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

TRIES = 5  #: a free port may be taken before it is used
PATIENCE_S = 30.0  #: how long it may take to have a leader; reached only where it fails
LOOK_S = 0.02  #: between two looks
ROOT_PASSWORD = "root-pass"

_open = build_opener(ProxyHandler({})).open

# Now, and not when a test asks: its environment has none of them any more.
_IS_REQUIRED = os.environ.get("LLMWIRE_REQUIRE_ETCD") == "1"


class EtcdServer:
    """One member on the loopback. It comes back on its old port, with what it held.

    Args:
        folder: for its data and its log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = (0, 0)
        self._has_users = False

    @property
    def port(self) -> int:
        return self._ports[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, and return when it has a leader."""
        for _ in range(1 if self.port else TRIES):
            ports = self._ports if self.port else _two_free_ports()
            if self._is_launched(*ports):
                self._ports = ports
                return
            self.kill()
            if not self.port:  # it has written the ports into its data
                shutil.rmtree(self._data, ignore_errors=True)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        """As `kill -9` does. Does nothing where it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def forget(self) -> None:
        """Lose all that it held, while it is killed."""
        shutil.rmtree(self._data)
        self._has_users = False

    def put(self, key: str, content: bytes) -> None:
        """Write a key."""
        self.call("/v3/kv/put", {"key": _base64(key.encode()), "value": _base64(content)})

    def get(self, key: str) -> bytes | None:
        """Read a key; None where there is none."""
        entries = self.call("/v3/kv/range", {"key": _base64(key.encode())}).get("kvs")
        return base64.b64decode(entries[0].get("value", "")) if entries else None

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.call("/v3/kv/deleterange", {"key": _base64(key.encode())})

    def compact(self) -> None:
        """Forget what was before the last change of anything."""
        revision = self.call("/v3/kv/range", {"key": _base64(b"any")})["header"]["revision"]
        self.call("/v3/kv/compaction", {"revision": revision, "physical": True})

    def demand_users(self) -> None:
        """Nothing may be read or written from now on, except by users who have the right to."""
        self.call("/v3/auth/user/add", {"name": "root", "password": ROOT_PASSWORD})
        self.call("/v3/auth/role/add", {"name": "root"})
        self.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
        self.call("/v3/auth/enable", {})
        self._has_users = True

    def add_user(self, name: str, password: str, *, may: str | None, key: str) -> None:
        """One who may `READ` or `READWRITE` a key, or nothing."""
        self.call("/v3/auth/user/add", {"name": name, "password": password})
        self.call("/v3/auth/role/add", {"name": f"role of {name}"})
        self.call("/v3/auth/user/grant", {"user": name, "role": f"role of {name}"})
        if may is not None:
            right = {"permType": may, "key": _base64(key.encode())}
            self.call("/v3/auth/role/grant", {"name": f"role of {name}", "perm": right})

    def change_password(self, name: str, password: str) -> None:
        """Another one from now on."""
        self.call("/v3/auth/user/changepw", {"name": name, "password": password})

    def call(self, path: str, message: dict[str, Any]) -> Any:
        """What its gateway gives to the one who may do everything."""
        root = {"name": "root", "password": ROOT_PASSWORD}
        token = _post(f"{self.url}/v3/auth/authenticate", root)["token"] if self._has_users else None
        return _post(f"{self.url}{path}", message, token)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "etcd.log"

    def _is_launched(self, port: int, peer_port: int) -> bool:
        url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        options = {
            "--data-dir": str(self._data),
            "--listen-client-urls": url,
            "--advertise-client-urls": url,
            "--listen-peer-urls": peer_url,
            "--initial-advertise-peer-urls": peer_url,
            "--initial-cluster": f"default={peer_url}",
            "--logger": "zap",
            "--heartbeat-interval": "10",  # alone it elects itself after ten of these
            "--election-timeout": "100",
        }
        given = [each for pair in options.items() for each in pair]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([_program(), *given], stdout=log, stderr=log)
        ends_at_s = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < ends_at_s:
            if _is_ready(url):
                return True
            time.sleep(LOOK_S)
        return False


def _is_ready(url: str) -> bool:
    try:
        with _open(f"{url}/health", timeout=1.0) as answer:
            return bool(json.load(answer)["health"] == "true")
    except OSError:  # a URLError, an HTTPError or a timeout
        return False


def _post(url: str, message: dict[str, Any], token: str | None = None) -> Any:
    headers = {"Authorization": token} if token else {}
    with _open(Request(url, json.dumps(message).encode(), headers), timeout=PATIENCE_S) as answer:
        return json.load(answer)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _program() -> str:
    program = shutil.which("etcd")
    if program is None:
        reason = "etcd is not installed: with LLMWIRE_REQUIRE_ETCD=1 that is a failure"
        (pytest.fail if _IS_REQUIRED else pytest.skip)(reason)
    return program


def _two_free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1]), int(other.getsockname()[1])
