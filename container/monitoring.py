"""The meters of a container's lanes, and the report of them. Connects; counts nothing itself."""

from __future__ import annotations

from typing import Any

from llmwire.services.forking import renew_in_child
from llmwire.services.monitoring.meter import Meter
from llmwire.services.monitoring.report import FunctionReport, Report

from .settings import FUNCTIONS


def meter(function: str) -> Meter:
    """What counts for one function."""
    made = Meter(function)
    renew_in_child(made)
    return made


def report(container: Any) -> Report:
    """Of the lanes that were used: of the others there is nothing to tell, and their settings may not even be there."""
    lanes = [(function, container.providers[function]) for function in FUNCTIONS]
    return Report(functions=tuple(_of_one(function, lane) for function, lane in lanes if _is_used(lane)))


def _is_used(lane: Any) -> bool:
    traffic = lane.traffic.last_overriding or lane.traffic  # where another client is overridden, it is built anew
    return bool(getattr(traffic, "initialized", True))


def _of_one(function: str, lane: Any) -> FunctionReport:
    lane.traffic().wire.catch_up()
    return FunctionReport(
        function=function, figures=lane.meter().snapshot(), endpoints=lane.pool().snapshot(), budgets=lane.budgets()
    )
