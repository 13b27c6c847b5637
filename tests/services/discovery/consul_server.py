"""A real Consul for a test: one agent that is its own server, killed and restarted by its id. It keeps nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import pytest

TRIES = 5  #: a free port may be taken before it is used
PATIENCE_S = 30.0  #: how long it may take to have a leader; reached only where it fails
LOOK_S = 0.02  #: between two looks
BOOTSTRAP_TOKEN = "3b6a0f5c-0000-4000-8000-00000000b007"  #: of the one who may do everything, where there are ACLs

# Now, and not when a test asks: its environment has none of them any more.
_NAMED, _IS_REQUIRED = os.environ.get("LLMWIRE_CONSUL"), os.environ.get("LLMWIRE_REQUIRE_CONSUL") == "1"

_open = build_opener(ProxyHandler({})).open


class ConsulServer:
    """One agent in development mode on the loopback. It comes back on its old port, and empty.

    Args:
        folder: for its log, and its configuration where there is any.
        has_acls: nothing may be read or written without a token that allows it.
        config: more of its configuration.
    """

    def __init__(self, folder: Path, *, has_acls: bool = False, config: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._token = BOOTSTRAP_TOKEN if has_acls else ""
        acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": BOOTSTRAP_TOKEN}}
        self._config = {**({"acl": acl} if has_acls else {}), **(config or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serve, and return when it has a leader."""
        for _ in range(TRIES):
            port = self.port or _free_ports(1)[0]
            if self._is_launched(port):
                self.port = port
                return
            self.kill()
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        """As `kill -9` does. Does nothing where it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def put(self, key: str, content: bytes) -> None:
        """Write a key."""
        assert self.ask("PUT", f"/v1/kv/{quote(key)}", content) is True

    def delete(self, key: str) -> None:
        """Remove a key."""
        self.ask("DELETE", f"/v1/kv/{quote(key)}")

    def register(
        self,
        id_: str,
        *,
        service: str = "llama",
        address: str = "127.0.0.1",
        port: int = 8000,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        weight: int | None = None,
    ) -> None:
        """An instance with a check that the test itself decides; it passes until `fail`."""
        check = {"CheckID": f"check-{id_}", "TTL": "1h", "Status": "passing"}
        told = {"ID": id_, "Name": service, "Address": address, "Port": port, "Tags": list(tags), "Meta": meta or {}}
        weights = {} if weight is None else {"Weights": {"Passing": weight, "Warning": 1}}
        self._put("/v1/agent/service/register", {**told, **weights, "Check": check})

    def deregister(self, id_: str) -> None:
        """It is gone."""
        self._put(f"/v1/agent/service/deregister/{quote(id_, safe='')}")

    def fail(self, id_: str) -> None:
        """Its check fails from now on."""
        self._put(f"/v1/agent/check/fail/{quote(f'check-{id_}', safe='')}")

    def recover(self, id_: str) -> None:
        """Its check passes again."""
        self._put(f"/v1/agent/check/pass/{quote(f'check-{id_}', safe='')}")

    def token(self, rules: str) -> str:
        """A new token with a policy, as in `key "a" { policy = "read" }`. Only with ACLs."""
        name = f"policy-{time.monotonic_ns()}"
        policy = self._put("/v1/acl/policy", {"Name": name, "Rules": rules})
        return str(self._put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"])

    def ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        """What its API gives to one who may do everything; None where that is empty."""
        headers = {"X-Consul-Token": self._token} if self._token else {}
        request = Request(f"{self.url}{path}", data=content, headers=headers, method=method)
        with _open(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read() or b"null")

    def _put(self, path: str, body: Any = None) -> Any:
        return self.ask("PUT", path, None if body is None else json.dumps(body).encode())

    @property
    def _log(self) -> Path:
        return self._folder / "consul.log"

    def _is_launched(self, port: int) -> bool:
        server, lan, wan = _free_ports(3)
        ports = {"http": port, "dns": -1, "grpc": -1, "server": server, "serf_lan": lan, "serf_wan": wan}
        written = self._folder / "consul.json"
        written.write_text(json.dumps({"ports": ports, "disable_update_check": True, **self._config}))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [_program(), "agent", "-dev", "-bind", "127.0.0.1", "-config-file", str(written)],
                stdout=log,
                stderr=log,
            )
        ends_at_s = time.monotonic() + PATIENCE_S
        while self._process.poll() is None and time.monotonic() < ends_at_s:
            if self._is_ready(port):
                return True
            time.sleep(LOOK_S)
        return False

    def _is_ready(self, port: int) -> bool:
        """Whether it leads itself, is registered as a node, and knows its tokens."""
        headers = {"X-Consul-Token": self._token} if self._token else {}
        try:
            with _open(Request(f"http://127.0.0.1:{port}/v1/catalog/nodes", headers=headers), timeout=1.0) as answer:
                return bool(json.loads(answer.read()))
        except (URLError, HTTPError, OSError):
            return False


def _program() -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    fetched = shutil.which(cache / "llmwire" / "consul")  # where .ci/consul puts it
    program = _NAMED or shutil.which("consul") or fetched
    if program is None:
        reason = "consul is not installed, and was not fetched by .ci/consul: with LLMWIRE_REQUIRE_CONSUL=1 a failure"
        (pytest.fail if _IS_REQUIRED else pytest.skip)(reason)
    return program


def _free_ports(number: int) -> list[int]:
    """Unlike each other, and free in TCP; Serf binds the same in UDP."""
    taken = [socket.socket() for _ in range(number)]
    try:
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in taken]
    finally:
        for each in taken:
            each.close()
