"""What is made of the samples: medians, percentiles, ratios, and whether a goal is met. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of them does not exceed; nan without samples.

    Raises:
        ValueError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share is above 0 and at most 1, not {share}")
    return sorted(samples)[math.ceil(share * len(samples)) - 1] if samples else math.nan


def ratio(value: float | None, of: float | None) -> float | None:
    """How many times `of` the value is; None where one of them is not known."""
    return value / of if value is not None and of else None


def written(value: float | None, digits: int = 0) -> str:
    """A cell of a table."""
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure to reach.

    Attributes:
        key: the figure's name among those of a run.
        most: the largest value that will do; None where there is none.
        least: the smallest.
    """

    says: str
    key: str
    most: float | None = None
    least: float | None = None

    def limit(self) -> str:
        """As in "at most 1.05"."""
        return f"at most {self.most:g}" if self.most is not None else f"at least {self.least:g}"

    def is_met(self, figures: Mapping[str, float]) -> bool | None:
        """None where the run did not measure it."""
        value = figures.get(self.key)
        if value is None or math.isnan(value):
            return None
        return (self.most is None or value <= self.most) and (self.least is None or value >= self.least)


GOALS = (
    Goal(says="sync: CPU of a call, of bare openai's", key="sync llmwire/openai", most=1.05),
    Goal(says="async: CPU of a call, of bare openai's", key="async llmwire/openai", most=0.80),
    Goal(says="async without aiohttp: CPU of a call, of bare openai's", key="async llmwire-plain/openai", most=1.05),
    Goal(says="sync: CPU of a call, of LiteLLM Router's", key="sync llmwire/litellm", most=0.27),
    Goal(says="async: CPU of a call, of LiteLLM Router's", key="async llmwire/litellm", most=0.27),
    Goal(says="256 concurrent calls: throughput, of bare openai's", key="256 llmwire/openai", least=1.7),
    Goal(says="1,000 concurrent calls: throughput, of bare openai's", key="1000 llmwire/openai", least=3.5),
    Goal(says="1,000 concurrent calls: errors", key="1000 llmwire errors", most=0),
    Goal(says="a pick at 10 endpoints, us", key="pick 10", most=5),
    Goal(says="20 mixed routes decide of a short request, us", key="20 mixed routes 300 B: decide", most=10),
    Goal(says="sync: CPU of a call that is metered, of one that is not", key="metering sync chat", most=1.03),
    Goal(says="async: the same", key="metering async chat", most=1.03),
    Goal(says="a snapshot of 20 endpoints, ms", key="snapshot ms", most=1),
    Goal(says="memory of a meter after 600,000 calls, of that after 400,000", key="meter growth", most=1.01),
    Goal(says="3 endpoints changed while it runs: checked and exchanged, ms", key="apply 3 ms", most=5),
    Goal(says="20 endpoints: the same, ms", key="apply 20 ms", most=5),
    Goal(says="20 endpoints: exchanged, ms", key="exchange 20 ms", most=5),
    Goal(says="sync: CPU of a call with a source, of one without", key="watched call", most=1.01),
    Goal(says="no routes, us", key="no routes 300 B", most=0.5),
)
