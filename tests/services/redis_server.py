"""A real Redis for a test: started, killed and restarted by its id. It keeps nothing on the disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess

import pytest

TRIES = 5  #: a free port may be taken before it is used


class RedisServer:
    """One server on the loopback. It comes back on its old port, and empty."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Serve, and return when it listens."""
        told = []
        for _ in range(1 if self.port else TRIES):
            port = self.port or _free_port()
            told = self._launched(port)
            if told[-1:] == ["ready"]:
                self.port = port
                return
            self.kill()
        raise AssertionError("\n".join(told))

    def kill(self) -> None:
        """As `kill -9` does. Does nothing where it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _launched(self, port: int) -> list[str]:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self._options]
        self._process = subprocess.Popen([_program(), *options], stdout=subprocess.PIPE, text=True)
        told = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "ready to accept connections" in line.lower():
                return [*told, "ready"]
            told.append(line.rstrip())
        return told


def _program() -> str:
    program = shutil.which("redis-server")
    if program is None:
        reason = "redis-server is not installed: with LLMWIRE_REQUIRE_REDIS=1 that is a failure"
        (pytest.fail if os.environ.get("LLMWIRE_REQUIRE_REDIS") == "1" else pytest.skip)(reason)
    return program


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
