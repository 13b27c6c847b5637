"""Runs every benchmark and prints one table each."""

from __future__ import annotations

from rich.console import Console

from . import calls, imports


def main() -> None:
    """Print the tables."""
    console = Console()
    for benchmark in (imports, calls):
        console.print(benchmark.table())
        console.print()


main()
