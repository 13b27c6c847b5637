"""What the status page shows of each endpoint. Pure: knows reports and figures; knows no requests and no clock."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmwire.services import BudgetState, EndpointState, Figures, FunctionReport, Report, SourceState

    History = Callable[[str, str], Sequence[Figures]]

MINUTES: Final = 5  #: of the times that are told in numbers: one slow answer is soon forgotten
JUST_NOW_MIN: Final = 1  #: a failure in so many minutes makes a healthy endpoint worth a look

GOOD, CARE, BAD = "good", "care", "bad"

_WORDS: Final = {
    "ok": (GOOD, "well"),
    "probing": (CARE, "on trial"),
    "open": (BAD, "down"),
    "paused": (CARE, "paused"),
    "disabled": (BAD, "disabled"),
    "draining": (CARE, "leaving"),
}


def status_of(report: Report, history: History) -> dict[str, Any]:
    """All that the page shows, for JSON. Times are in seconds; None is what nobody knows.

    Args:
        history: of a function and one of its endpoints, what each quarter of a minute brought, the oldest first.
    """
    return {"minutes": MINUTES, "functions": [_function(each, history) for each in report.functions]}


def _function(report: FunctionReport, history: History) -> dict[str, Any]:
    names = [state.name for state in report.endpoints]
    total = report.figures.figures()
    return {
        "function": report.function,
        "since": report.figures.since_s,
        "calls": total.calls,
        "failed_calls": total.failed_calls,
        "call_errors": total.call_errors,
        "elsewhere": sum(each.total.calls for each in report.figures.series if each.endpoint not in names),
        "endpoints": [_endpoint(report, state, history(report.function, state.name)) for state in report.endpoints],
        "budgets": [_budget(state) for state in report.budgets],
        "sources": [_source(state) for state in report.sources],
    }


def _endpoint(report: FunctionReport, state: EndpointState, history: Sequence[Figures]) -> dict[str, Any]:
    total = report.figures.figures(endpoint=state.name)
    lately = report.figures.figures(endpoint=state.name, minutes=MINUTES)
    just_now = report.figures.figures(endpoint=state.name, minutes=JUST_NOW_MIN)
    return {
        "name": state.name,
        "server": state.server,
        "health": _health(state, failed_lately=just_now.failed),
        "breaker": str(state.breaker),
        "in_flight": state.in_flight,
        "calls": total.calls,
        "failed": total.failed,
        "errors": {label: count for label, count in total.errors.items() if label != "cancelled"},
        "p50_s": lately.took.quantile_s(0.5),
        "p95_s": lately.took.quantile_s(0.95),
        "first_content_s": lately.first_content.quantile_s(0.5),
        "tokens": _tokens(total),
        "cost": {"known": total.cost, "answers": total.priced + total.unpriced, "unpriced": total.unpriced},
        "history": [_slot(each) for each in history],
    }


def _health(state: EndpointState, *, failed_lately: int) -> dict[str, Any]:
    """How it is: in words, how good that is, for how many seconds it stays so, and why."""
    level, words = _WORDS[state.health]
    if level == GOOD and failed_lately:
        level, words = CARE, "failing at times"
    rest_s = max(state.paused_for_s, state.disabled_for_s)
    why = state.reason or (state.last_error if level != GOOD else "")
    return {"level": level, "words": words, "rest_s": round(rest_s, 1), "why": why}


def _tokens(total: Figures) -> dict[str, Any]:
    """Of all answers whose server told them; None where none did."""
    untold = total.untold
    is_told = total.priced + total.unpriced > untold
    return {
        "input": total.input_tokens if is_told or not untold else None,
        "output": total.output_tokens if is_told or not untold else None,
        "cached": total.cached_tokens or None,  # as often as not a server does not tell them
        "reasoning": total.reasoning_tokens or None,
        "untold": untold,
    }


def _slot(figures: Figures) -> list[float | int | None]:
    """Of a quarter of a minute: the median and the 95th percentile, None where nothing was answered; failures."""
    return [_rounded(figures.took.quantile_s(0.5)), _rounded(figures.took.quantile_s(0.95)), figures.failed]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else float(f"{seconds:.3g}")


def _budget(state: BudgetState) -> dict[str, Any]:
    of = f"endpoint {state.endpoint}" if state.endpoint else f"tag {state.tag}" if state.tag else "all calls"
    return {**asdict(state), "of": of, "is_spent": state.spent >= state.limit}


def _source(state: SourceState) -> dict[str, Any]:
    """How it is; where it fails, what it said before may still be in force."""
    level = GOOD if state.error is None else BAD if state.taken_s is None else CARE
    return {**asdict(state), "level": level}
