"""`python -m benchmarks [--quick] [--only calls,kill]`: runs the benchmarks, prints their tables and the goals."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from rich.console import Console

from .figures import GOALS
from .processes import versions
from .running import QUICK, Effort, Result, goals_table

NAMES = ("imports", "picks", "routing", "calls", "metering", "reloading", "concurrency", "kill")


def main() -> int:
    """Print the tables. 1 where a peer that is installed could not be measured."""
    arguments = _arguments()
    effort = QUICK if arguments.quick else Effort()
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(
        f"{versions()}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; all in one run", highlight=False
    )
    figures: dict[str, float] = {}
    failures: list[str] = []
    for name in arguments.only:
        result = _run(name, effort, console)
        for table in result.tables:
            console.print()
            console.print(table)
        figures |= result.figures
        failures += result.failures
    console.print()
    console.print(goals_table(GOALS, figures))
    for failure in failures:
        console.print(failure, markup=False)
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(NAMES):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: choose from {','.join(NAMES)}")
        return [name for name in NAMES if name in chosen]

    parser = argparse.ArgumentParser(prog="benchmarks", description="What llmwire costs, beside its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under two minutes, and noisier")
    parser.add_argument("--only", type=names, default=list(NAMES), metavar=",".join(NAMES))
    return parser.parse_args()


def _run(name: str, effort: Effort, console: Console) -> Result:
    """One benchmark, imported when its turn comes, under a line that says what is going on."""
    result: Result
    benchmark = import_module(f".{name}", __package__)
    if not console.is_terminal:
        console.print(f"{name} ...")
        result = benchmark.run(effort, lambda _text: None)
        return result
    with console.status(name) as status:
        result = benchmark.run(effort, status.update)
    return result


if __name__ == "__main__":
    sys.exit(main())
