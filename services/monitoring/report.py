"""What a program's endpoints did and how they are, at one moment: to be shown, sent and added to that of others.

Knows figures and states; asks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import Any, Self

from ..routing.breaker import BreakerState
from ..routing.member import Health
from ..routing.pool import EndpointState
from ..routing.spending import BudgetState
from ..source import SourceState
from .figures import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionReport:
    """Of one function.

    Attributes:
        figures: what was counted.
        endpoints: how each is now, in the operator's order; of several processes each as the worst of them sees it.
        budgets: what is spent of each.
        sources: of the endpoints, how each is now; of several processes each as the worst of them sees it.
    """

    function: str
    figures: Snapshot
    endpoints: tuple[EndpointState, ...]
    budgets: tuple[BudgetState, ...] = ()
    sources: tuple[SourceState, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Of all functions that were used so far, or whose sources are watched."""

    functions: tuple[FunctionReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, and for `from_dict` in another process, as that of `llmwire top`. Holds no key and no text."""
        return {
            "functions": [
                {
                    "function": each.function,
                    "figures": each.figures.as_dict(),
                    "endpoints": [asdict(state) for state in each.endpoints],
                    "budgets": [asdict(state) for state in each.budgets],
                    "sources": [asdict(state) for state in each.sources],
                }
                for each in self.functions
            ]
        }

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> Self:
        """From what `as_dict` gave. Raises KeyError, TypeError or ValueError where it is something else."""
        return cls(
            functions=tuple(
                FunctionReport(
                    function=each["function"],
                    figures=Snapshot.from_dict(each["figures"]),
                    endpoints=tuple(map(_endpoint, each["endpoints"])),
                    budgets=tuple(BudgetState(**_known(BudgetState, state)) for state in each["budgets"]),
                    # A process of an earlier version knows of no sources.
                    sources=tuple(SourceState(**_known(SourceState, state)) for state in each.get("sources", ())),
                )
                for each in written["functions"]
            )
        )

    @classmethod
    def merged(cls, reports: Iterable[Report]) -> Self:
        """Of several processes together, function by function."""
        by_function: dict[str, list[FunctionReport]] = {}
        for each in (function for report in reports for function in report.functions):
            by_function.setdefault(each.function, []).append(each)
        return cls(functions=tuple(map(_together, by_function.values())))


def _endpoint(written: Mapping[str, Any]) -> EndpointState:
    known = _known(EndpointState, written)
    known["health"], known["breaker"] = Health(known["health"]), BreakerState(known["breaker"])
    return EndpointState(**known)


def _known(cls: type[Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """Names that this version does not know are left out."""
    return {each.name: written[each.name] for each in fields(cls) if each.name in written}


def _together(reports: list[FunctionReport]) -> FunctionReport:
    states: dict[str, EndpointState] = {}
    budgets: dict[tuple[str, str | None, str | None], BudgetState] = {}
    sources: dict[str, SourceState] = {}
    for report in reports:
        for state in report.endpoints:
            states[state.name] = _worse(states[state.name], state) if state.name in states else state
        for budget in report.budgets:
            key = budget.budget, budget.endpoint, budget.tag
            known = budgets.get(key)
            # Where they share what is spent, all say the same; else each keeps its own, and the largest is shown.
            budgets[key] = budget if known is None or budget.spent > known.spent else known
        for source in report.sources:
            sources[source.source] = max(sources.get(source.source, source), source, key=_trouble)
    return FunctionReport(
        function=reports[0].function,
        figures=Snapshot.merged(report.figures for report in reports),
        endpoints=tuple(states.values()),
        budgets=tuple(budgets.values()),
        sources=tuple(sources.values()),
    )


def _trouble(source: SourceState) -> tuple[bool, float]:
    """The more, the worse: it fails, and then since when it has last answered."""
    return source.error is not None, inf if source.asked_s is None else source.asked_s


_FROM_BEST = tuple(Health)


def _worse(one: EndpointState, other: EndpointState) -> EndpointState:
    worse, better = (one, other) if _FROM_BEST.index(one.health) >= _FROM_BEST.index(other.health) else (other, one)
    changed = {
        "in_flight": worse.in_flight + better.in_flight,
        "served": worse.served + better.served,
        "failed": worse.failed + better.failed,
    }
    return EndpointState(**{**{each.name: getattr(worse, each.name) for each in fields(worse)}, **changed})
