"""What is made of the samples of one table: medians, ratios to the bare SDK's of the same run, the goals. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ..figures import Goal, ratio
from ..processes import Failed
from .texts import DIMENSIONS

BARE = "openai"  #: what the others are compared with

Measured = Mapping[str, "Row | Failed"]  #: by peer: its medians, or why there are none


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a peer took.

    Attributes:
        rest_mb: what its process held before the first request: the interpreter, the libraries, the client, the texts.
        peak_mb: the most that it held.
    """

    wall_s: float
    cpu_s: float
    rest_mb: float
    peak_mb: float
    rounds: int


def row_of(samples: Sequence[Mapping[str, float]]) -> Row:
    """The medians."""
    names = ("wall_s", "cpu_s", "rest_mb", "peak_mb")
    return Row(**{name: median(sample[name] for sample in samples) for name in names}, rounds=len(samples))


def matrix_mb(count: int) -> float:
    """So many vectors as float32, in MB of 10**6 bytes."""
    return count * DIMENSIONS * 4 / 1e6


def figures(encoding: str, count: int, measured: Measured) -> dict[str, float]:
    """Ratios and peaks of each peer, as "base64 100000 llmwire time": those that the goals are for, and others."""
    bare = measured.get(BARE)
    bare_wall_s, bare_cpu_s = (bare.wall_s, bare.cpu_s) if isinstance(bare, Row) else (None, None)
    found: dict[str, float | None] = {}
    for peer, row in measured.items():
        if isinstance(row, Failed):
            continue
        name = f"{encoding} {count} {peer}"
        found[f"{name} time"] = ratio(row.wall_s, bare_wall_s)
        found[f"{name} cpu"] = ratio(row.cpu_s, bare_cpu_s)
        found[f"{name} peak"] = ratio(row.peak_mb, matrix_mb(count))
        found[f"{name} peak mb"] = row.peak_mb
    return {key: value for key, value in found.items() if value is not None}


GOALS = (
    Goal(says="base64, 100,000 texts: time, of bare openai's", key="base64 100000 llmwire time", most=0.15),
    Goal(says="base64, 100,000 texts: CPU, of bare openai's", key="base64 100000 llmwire cpu", most=0.15),
    Goal(says="numbers, 10,000 texts: time, of bare openai's", key="numbers 10000 llmwire time", most=0.10),
    Goal(says="numbers, 10,000 texts: CPU, of bare openai's", key="numbers 10000 llmwire cpu", most=0.10),
    Goal(says="numbers, 100,000 texts: time, of bare openai's", key="numbers 100000 llmwire time", most=0.10),
    Goal(says="numbers, 100,000 texts: CPU, of bare openai's", key="numbers 100000 llmwire cpu", most=0.10),
    Goal(says="base64, 100,000 texts: peak memory, of the matrix", key="base64 100000 llmwire peak", most=1.15),
    Goal(
        says="base64, 100,000 texts, memory-mapped: peak memory, MB",
        key="base64 100000 llmwire-mapped peak mb",
        most=300,
    ),
)
