"""What `llmwire top` shows of a report: a row for each endpoint. Pure: knows figures; knows no terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from llmwire.services.monitoring.figures import Figures
from llmwire.services.monitoring.report import FunctionReport, Report
from llmwire.services.routing.pool import EndpointState
from llmwire.services.routing.spending import BudgetState
from llmwire.services.source import SourceState

MINUTES: Final = 1  #: of all that is no sum since the start: what happens now
NOBODY: Final = "(nobody)"  #: calls without a route, or over a budget: no endpoint was asked


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRow:
    """One endpoint. Counts and times are of the last minute, but those that say otherwise. None: not known.

    Attributes:
        health: in one word; `gone` of what is in the figures and no longer in the pool.
        rest_s: for how long it is paused or disabled, 0 where it is not.
        calls: that ended here, answered or not.
        failed: attempts.
        p50_s, p95_s: of answers, to their end.
        first_content_s: the median, of streams.
        cost: since the start; None also where nothing was answered.
        answers, unpriced: since the start: how many there were, and those whose cost is in no sum.
    """

    endpoint: str
    server: str
    health: str
    rest_s: float
    breaker: str
    in_flight: int
    calls: int
    failed: int
    p50_s: float | None
    p95_s: float | None
    first_content_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    cost: float | None
    answers: int
    unpriced: int
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRows:
    """One function: its calls of the last minute, its endpoints, and the sources that say which these are."""

    function: str
    calls: int
    failed_calls: int
    endpoints: tuple[EndpointRow, ...]
    budgets: tuple[BudgetState, ...]
    sources: tuple[SourceState, ...]


def rows_of(report: Report) -> tuple[FunctionRows, ...]:
    """In the order of the report; endpoints as their operator named them, then what is left of those that are gone."""
    return tuple(map(_function, report.functions))


def _function(report: FunctionReport) -> FunctionRows:
    figures = report.figures.figures(minutes=MINUTES)
    here = [_row(report, state.name, state) for state in report.endpoints]
    known = {state.name for state in report.endpoints}
    others = sorted({each.endpoint for each in report.figures.series} - known, key=lambda name: (not name, name))
    return FunctionRows(
        function=report.function,
        calls=figures.calls,
        failed_calls=figures.failed_calls,
        endpoints=(*here, *(_row(report, name, None) for name in others)),
        budgets=report.budgets,
        sources=report.sources,
    )


def _row(report: FunctionReport, name: str, state: EndpointState | None) -> EndpointRow:
    total, lately = report.figures.figures(endpoint=name), report.figures.figures(minutes=MINUTES, endpoint=name)
    answers = total.priced + total.unpriced
    return EndpointRow(
        endpoint=name or NOBODY,
        server=state.server if state else "",
        health=str(state.health) if state else "gone" if name else "",
        rest_s=max(state.paused_for_s, state.disabled_for_s) if state else 0.0,
        breaker=str(state.breaker) if state else "",
        in_flight=state.in_flight if state else 0,
        calls=lately.calls,
        failed=lately.failed,
        p50_s=lately.took.quantile_s(0.5),
        p95_s=lately.took.quantile_s(0.95),
        first_content_s=lately.first_content.quantile_s(0.5),
        input_tokens=lately.input_tokens if _are_tokens_told(lately) else None,
        output_tokens=lately.output_tokens if _are_tokens_told(lately) else None,
        cost=total.cost if answers else None,
        answers=answers,
        unpriced=total.unpriced,
        last_error=state.last_error if state else "",
    )


def _are_tokens_told(figures: Figures) -> bool:
    """Whether the sums say anything: none was answered, or of one answer at least they are known."""
    return not figures.untold or figures.priced + figures.unpriced > figures.untold
