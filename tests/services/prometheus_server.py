"""A real Prometheus for a test: its programs, and a server that scrapes one target each second."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest

TRIES = 5  #: a free port may be taken before it is used
PATIENCE_S = 30.0  #: how long a test waits for what must happen; reached only where it fails
LOOK_S = 0.1  #: between two looks

_open = build_opener(ProxyHandler({})).open


def program(name: str) -> str:
    """Where `prometheus` or `promtool` is. Where it is not, the test is skipped, or fails if it is required."""
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed: with LLMWIRE_REQUIRE_PROMETHEUS=1 that is a failure"
        (pytest.fail if os.environ.get("LLMWIRE_REQUIRE_PROMETHEUS") == "1" else pytest.skip)(reason)
    return found


class PrometheusServer:
    """Asked as Grafana asks it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an expression has now."""
        found = self.get("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def get(self, path: str, **parameters: str) -> Any:
        """What its API gives."""
        with _open(f"{self._url}/api/v1/{path}?{urlencode(parameters)}", timeout=PATIENCE_S) as answer:
            return json.load(answer)["data"]

    def wait_for(self, expression: str) -> None:
        """Until an expression has a series."""
        ends_at_s = time.monotonic() + PATIENCE_S
        while not self.query(expression):
            assert time.monotonic() < ends_at_s, f"never had a series: {expression}"
            time.sleep(LOOK_S)


@contextmanager
def prometheus_server(folder: Path, target: str, rules: Path) -> Iterator[PrometheusServer]:
    """One that keeps its things in a folder, scrapes a host and port, and evaluates rules.

    Stopped by its own process at the end.
    """
    config = folder / "prometheus.json"  # which is YAML
    jobs = [{"job_name": "app", "static_configs": [{"targets": [target]}]}]
    every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config.write_text(json.dumps({"global": every, "scrape_configs": jobs, "rule_files": [str(rules)]}))
    process, url = _started(folder, config)
    try:
        yield PrometheusServer(url)
    finally:
        process.kill()
        process.wait()


def _started(folder: Path, config: Path) -> tuple[subprocess.Popen[bytes], str]:
    log = folder / "prometheus.log"
    for _ in range(TRIES):
        address = f"127.0.0.1:{_free_port()}"
        options = [
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
        ]
        with log.open("wb") as written:
            process = subprocess.Popen([program("prometheus"), *options], stdout=written, stderr=written)
        if _is_ready(process, f"http://{address}"):
            return process, f"http://{address}"
        process.kill()
        process.wait()
    raise AssertionError(log.read_text())


def _is_ready(process: subprocess.Popen[bytes], url: str) -> bool:
    ends_at_s = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < ends_at_s:
        try:
            with _open(f"{url}/-/ready", timeout=PATIENCE_S):
                return True
        except (URLError, ConnectionError):
            time.sleep(LOOK_S)
    return False


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
