"""The log lines of llmwire: one for each change of state, none for each call. The only one that says what the log says.

Every record carries its event's fields as `record.llmwire`, a dict, for formatters that write JSON.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any, Final

from ..events import (
    AttemptEnded,
    BreakerChanged,
    BudgetReached,
    CallEnded,
    ConfigWarned,
    DocumentRefused,
    DocumentTaken,
    EndpointDisabled,
    EndpointPaused,
    EndpointsChanged,
    Event,
    FailoverDenied,
    LedgerFailed,
    RequestRouted,
    RouteFailed,
    SourceAnswered,
    SourceSilent,
    StreamEnded,
)

logger = logging.getLogger("llmwire")

EVERY_S: Final = 60.0  #: what goes wrong for every request is told of so often

_KEYS = frozenset({"401", "402", "403", "429"})  #: reasons that only an operator can mend, with another key or account
_OF_CALLS = frozenset({AttemptEnded, StreamEnded, CallEnded, RequestRouted})

_Line = tuple[int, str, tuple[Any, ...]]


def log(event: Event, /) -> None:
    """A Listener that writes what an operator should know to the logger `llmwire`."""
    if type(event) in _OF_CALLS or (line := _line(event)) is None:
        return
    level, text, values = line
    if logger.isEnabledFor(level):
        fields = {each.name: getattr(event, each.name) for each in dataclasses.fields(event)}
        logger.log(level, text, *values, extra={"llmwire": {"event": type(event).__name__, **fields}})


def _line(event: Event) -> _Line | None:
    """How grave it is, and in which words; None where there is nothing to tell."""
    match event:
        case ConfigWarned():
            return logging.WARNING, "%s (from %s): %s", (event.key, event.origin, event.message)
        case EndpointDisabled() | EndpointPaused() | BreakerChanged():
            return _of_health(event)
        case EndpointsChanged():
            text = "%s endpoints changed: added %s; removed %s; changed %s"
            lists = (", ".join(names) or "none" for names in (event.added, event.removed, event.changed))
            return logging.INFO, text, (event.function, *lists)
        case BudgetReached():
            return _of_budget(event)
        case LedgerFailed():
            text = "what %s spends cannot be shared with other processes now, each goes by its own: %s"
            return logging.WARNING, text, (event.function, event.problem)
        case DocumentTaken() | DocumentRefused() | SourceSilent() | SourceAnswered():
            return _of_source(event)
        case FailoverDenied() if _is_due(event.function):
            text = "a %s call failed at %s and was not sent elsewhere: failovers have used up their budget"
            return logging.WARNING, text, (event.function, event.endpoint)
        case RouteFailed() if _is_due(event.function, event.route, event.problem):
            text = "%s route %s could not be decided, and was passed over: %s"
            return logging.WARNING, text, (event.function, event.route, event.problem)
    return None


def _of_health(event: EndpointDisabled | EndpointPaused | BreakerChanged) -> _Line:
    whose = event.function, event.endpoint
    match event:
        case EndpointDisabled(model=None):
            level = logging.ERROR if event.reason in _KEYS else logging.WARNING
            text = "%s endpoint %s is disabled after %s; it is asked again in %.0f s"
            return level, text, (*whose, event.reason, event.for_s)
        case EndpointDisabled():
            text = "%s endpoint %s does not know the model %s; it is asked for it again in %.0f s"
            return logging.WARNING, text, (*whose, event.model, event.for_s)
        case EndpointPaused():
            return logging.INFO, "%s endpoint %s is paused for %.1f s", (*whose, event.for_s)
        case BreakerChanged(for_s=None):
            return logging.INFO, "%s endpoint %s is well again", whose
        case BreakerChanged():
            text = "%s endpoint %s fails: it is left alone for %.1f s where another can answer"
            return logging.WARNING, text, (*whose, event.for_s)


def _of_budget(event: BudgetReached) -> _Line:
    if event.endpoint is not None:
        text = "%s endpoint %s has spent its budget of %s: it is left alone for %.0f s"
        return logging.WARNING, text, (event.function, event.endpoint, event.budget, event.for_s)
    whose = "calls" if event.tag is None else f"calls with the tag {event.tag}"
    text = "%s has spent its budget of %s: its %s are refused for %.0f s"
    return logging.WARNING, text, (event.function, event.budget, whose, event.for_s)


def _of_source(event: DocumentTaken | DocumentRefused | SourceSilent | SourceAnswered) -> _Line:
    whose = event.function, event.source
    match event:
        case DocumentTaken(is_cached=True):
            text = "%s goes by what %s said last (%s, from the disk), as it is silent"
            return logging.WARNING, text, (*whose, event.version)
        case DocumentTaken():
            return logging.INFO, "%s goes by %s (%s)", (*whose, event.version)
        case DocumentRefused():
            text = "%s does not take what %s says (%s), and goes on as before: %s"
            return logging.ERROR, text, (*whose, event.version, event.reason)
        case SourceSilent():
            return logging.WARNING, "%s goes on as before, as %s is silent: %s", (*whose, event.reason)
        case SourceAnswered():
            return logging.INFO, "%s: %s answers again, after %.0f s", (*whose, event.after_s)


_last_told_s: dict[tuple[str, ...], float] = {}  # as many as there are routes, and problems of theirs


def _is_due(*what: str) -> bool:
    """Whether it was not told of lately. Two threads at once may both tell."""
    now_s = time.monotonic()
    if now_s - _last_told_s.get(what, -EVERY_S) < EVERY_S:
        return False
    _last_told_s[what] = now_s
    return True
