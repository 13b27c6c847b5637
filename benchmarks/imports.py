"""What an import costs: a new interpreter for each, the names in turn, the interpreter's own time taken off."""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from .running import Effort, Result, Say, a_table

NAMES = ("dependency_injector.containers", "llmwire.container", "openai")


def run(effort: Effort, say: Say) -> Result:
    """Median wall time of each import in ms, and its ratio to dependency-injector's."""
    say("imports")
    took: dict[str, list[float]] = {name: [] for name in ("", *NAMES)}
    for _ in range(effort.imports):
        for name, samples in took.items():
            samples.append(_import_ms(name))
    start_ms = median(took.pop(""))
    net_ms = {name: median(samples) - start_ms for name, samples in took.items()}
    title = f"import, median of {effort.imports} new interpreters (the bare one takes {start_ms:.0f} ms)"
    table = a_table(title, "module", "ms", "x dependency_injector", "modules loaded")
    for name, ms in net_ms.items():
        table.add_row(name, f"{ms:.0f}", f"{ms / net_ms[NAMES[0]]:.2f}", str(_modules(name)))
    return Result(tables=[table])


def _import_ms(name: str) -> float:
    started_at = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {name}" if name else "pass"], check=True)
    return (time.perf_counter() - started_at) * 1000


def _modules(name: str) -> int:
    script = f"import sys; before = len(sys.modules); import {name}; print(len(sys.modules) - before)"
    return int(subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout)
