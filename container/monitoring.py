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
    """Of the lanes that were used, or whose sources are watched.

    Of the others there is nothing to tell, and their settings may not even be there.
    """
    reports = (_of_one(function, container.providers[function]) for function in FUNCTIONS)
    return Report(functions=tuple(each for each in reports if each is not None))


def _of_one(function: str, lane: Any) -> FunctionReport | None:
    sources = lane.watcher().state() if _is_built(lane.watcher) else ()
    if _is_built(lane.traffic):
        lane.traffic().wire.catch_up()
        return FunctionReport(
            function=function,
            figures=lane.meter().snapshot(),
            endpoints=lane.pool().snapshot(),
            budgets=lane.budgets(),
            sources=sources,
        )
    if sources:  # a function that cannot begin without what they say is the one that most needs to be seen
        return FunctionReport(function=function, figures=lane.meter().snapshot(), endpoints=(), sources=sources)
    return None


def _is_built(provider: Any) -> bool:
    given = provider.last_overriding or provider  # where another client is overridden, the traffic is built anew
    return bool(getattr(given, "initialized", True))
