"""Starts the upstreams and the workers, each in a process of its own, and talks to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parent.parent
PATIENCE_S = 5.0  #: for a process that was asked to end


class Failed(Exception):  # noqa: N818  # a state of a row
    """A peer could not be measured. The text is for its row."""


class Missing(Failed):
    """It is not installed here."""


class Upstreams:
    """Servers on this machine, in one process.

    Args:
        module: the program that serves, which takes `--ports`.
    """

    def __init__(self, *, ports: int, delay_ms: float = 0, module: str = "benchmarks.upstream") -> None:
        delay = ["--delay-ms", str(delay_ms)] if delay_ms else []
        self._process = _python(module, ["--ports", str(ports), *delay], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.base_urls: list[str] = json.loads(self._process.stdout.readline())

    def attempts(self) -> int:
        """How many requests this process has seen."""
        address = self.base_urls[0].removesuffix("/v1") + "/attempts"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=10) as reply:
            return int(json.load(reply))

    def kill(self) -> None:
        """As `kill -9` does."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def several_upstreams(count: int, *, delay_ms: float) -> Iterator[list[Upstreams]]:
    """So many servers, each in a process of its own."""
    with ExitStack() as stack:
        yield [stack.enter_context(Upstreams(ports=1, delay_ms=delay_ms)) for _ in range(count)]


class Worker:
    """One peer in its own process.

    Args:
        module: the program that measures it.
    """

    def __init__(self, peer: str, base_urls: Sequence[str], *, module: str = "benchmarks.worker") -> None:
        self._says = tempfile.TemporaryFile()  # noqa: SIM115  # closed in __exit__
        self._process = _python(
            module,
            [peer, *base_urls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._says.fileno(),
        )

    def ask(self, **request: object) -> dict[str, Any]:
        """Have it measure something. Raises Failed where the peer cannot."""
        self.start(**request)
        return self.answer()

    def start(self, **request: object) -> None:
        """Ask, without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise Failed(self._last_words()) from error

    def answer(self) -> dict[str, Any]:
        """The next answer. Raises Failed where there is none."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise Missing(f"not installed ({answer['missing']}): make bench installs it")
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._says.seek(0)
        lines = self._says.read().decode(errors="replace").strip().splitlines()
        return f"failed: {lines[-1] if lines else self._process.returncode}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(PATIENCE_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._says.close()


def broken(peer: str, failure: object) -> list[str]:
    """What to complain of: nothing, where a peer was measured or is only not installed."""
    return [f"{peer} {failure}"] if isinstance(failure, Failed) and not isinstance(failure, Missing) else []


def versions() -> str:
    """What is measured, for the head of the tables."""
    names = ("openai", "httpx2", "aiohttp", "litellm", "langchain-openai")
    python = ".".join(map(str, sys.version_info[:3]))
    return ", ".join([f"Python {python}", *(f"{name} {_version(name)}" for name in names)])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _python(module: str, arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    # Nothing of the caller's environment that a client could read: neither keys nor servers nor proxies.
    kept = {name: value for name, value in os.environ.items() if name in {"HOME", "LANG", "PATH", "TMPDIR"}}
    env = {**kept, "OPENBLAS_NUM_THREADS": "1"}  # numpy's threads spin for a while, which is no client's work
    return subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, env=env, text=True, **options)
