"""Upstreams as real processes: started, killed, frozen, restarted by their id. None outlives the test."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("upstream.py")


class Upstream:
    """One server. It comes back on its old port, and with the seed that it had.

    Args:
        options: of upstream.py, by their names, as in `service_s=0.5`.
    """

    def __init__(self, **options: float) -> None:
        self._options = {f"--{name.replace('_', '-')}": str(value) for name, value in options.items()}
        self._process: subprocess.Popen[str] | None = None
        self.base_url = ""
        self.start()

    def start(self) -> None:
        """Serve, and return when it listens."""
        self.launch()
        self.wait_until_it_listens()

    def launch(self) -> None:
        """Serve soon."""
        arguments = [part for option in self._options.items() for part in option]
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(PROGRAM), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait_until_it_listens(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().strip()
        assert self.base_url, f"{self._options} ended with {self._process.poll()}"
        self._options["--port"] = self.base_url.removesuffix("/v1").rpartition(":")[2]

    def kill(self) -> None:
        """As `kill -9` does. Does nothing where it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # ends a frozen one, too
            process.communicate()

    def freeze(self) -> None:
        """As `kill -STOP` does: connections are still accepted by the system, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
