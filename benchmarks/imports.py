"""What an import costs: a new interpreter for each, the names in turn, the interpreter's own time taken off."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from rich.table import Table

ROUNDS = 11
NAMES = ("dependency_injector.containers", "llmwire.container", "openai")


def table() -> Table:
    """Median wall time of each import in ms, and its ratio to dependency-injector's."""
    took: dict[str, list[float]] = {name: [] for name in ("", *NAMES)}
    for _ in range(ROUNDS):
        for name, samples in took.items():
            samples.append(_import_ms(name))
    start_ms = median(took.pop(""))
    net_ms = {name: median(samples) - start_ms for name, samples in took.items()}
    result = Table(title=f"import, median of {ROUNDS} new interpreters (the bare one takes {start_ms:.0f} ms)")
    for heading in ("module", "ms", "x dependency_injector", "modules loaded"):
        result.add_column(heading, justify="left" if heading == "module" else "right")
    for name, ms in net_ms.items():
        result.add_row(name, f"{ms:.0f}", f"{ms / net_ms[NAMES[0]]:.2f}", str(_modules(name)))
    return result


def _import_ms(name: str) -> float:
    started_at = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {name}" if name else "pass"], check=True)
    return (time.perf_counter() - started_at) * 1000


def _modules(name: str) -> int:
    script = f"import sys; before = len(sys.modules); import {name}; print(len(sys.modules) - before)"
    return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
