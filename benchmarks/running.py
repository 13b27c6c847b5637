"""What a benchmark is: how long it may take, what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rich.table import Table

from .figures import Goal, written

Say = Callable[[str], None]  #: what is being measured now


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured. Medians of many rounds in turn, so that the noise of a machine hits all alike."""

    rounds: int = 30
    calls: int = 50
    loads: tuple[int, ...] = (64, 256, 1000)
    load_rounds: int = 3
    load_s: float = 2.0
    kill_s: float = 4.0
    imports: int = 11


QUICK = Effort(rounds=10, calls=20, loads=(256, 1000), load_rounds=1, load_s=1.0, kill_s=2.5, imports=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The tables for a reader, the figures for the goals.

    Attributes:
        failures: peers that are installed and could not be measured, each with the reason.
    """

    tables: list[Table]
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def a_table(title: str, *headings: str) -> Table:
    """The first column is of names, the others of figures."""
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def goals_table(goals: Iterable[Goal], figures: Mapping[str, float]) -> Table:
    """Each goal, what the run gave, and whether that is enough."""
    table = a_table("to reach, in ratios of this run", "figure", "goal", "here", "")
    for goal in goals:
        verdict = {True: "reached", False: "missed", None: "not measured"}[goal.is_met(figures)]
        table.add_row(goal.says, goal.limit(), written(figures.get(goal.key), 2), verdict)
    return table
