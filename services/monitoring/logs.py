"""The log lines of llmwire: one for each change of state, none for each call. The only module that logs."""

from __future__ import annotations

import logging
import time
from typing import Final

from ..events import (
    AttemptEnded,
    BreakerChanged,
    ConfigWarned,
    EndpointDisabled,
    EndpointPaused,
    Event,
    RequestRouted,
    RouteFailed,
    StreamEnded,
)

logger = logging.getLogger("llmwire")

EVERY_S: Final = 60.0  #: a route that breaks for every request is told of so often

_KEYS = frozenset({"401", "402", "403", "429"})  #: reasons that only an operator can mend, with another key or account


def log(event: Event, /) -> None:
    """A Listener that writes what an operator should know to the logger `llmwire`."""
    match event:
        case ConfigWarned():
            logger.warning("%s (from %s): %s", event.key, event.origin, event.message)
        case EndpointDisabled(model=None):
            level = logging.ERROR if event.reason in _KEYS else logging.WARNING
            text = "%s endpoint %s is disabled after %s; it is asked again in %.0f s"
            logger.log(level, text, event.function, event.endpoint, event.reason, event.for_s)
        case EndpointDisabled():
            text = "%s endpoint %s does not know the model %s; it is asked for it again in %.0f s"
            logger.warning(text, event.function, event.endpoint, event.model, event.for_s)
        case EndpointPaused():
            logger.info("%s endpoint %s is paused for %.1f s", event.function, event.endpoint, event.for_s)
        case BreakerChanged(for_s=None):
            logger.info("%s endpoint %s is well again", event.function, event.endpoint)
        case BreakerChanged():
            text = "%s endpoint %s fails: it is left alone for %.1f s where another can answer"
            logger.warning(text, event.function, event.endpoint, event.for_s)
        case RouteFailed() if _is_due(event.function, event.route, event.problem):
            text = "%s route %s could not be decided, and was passed over: %s"
            logger.warning(text, event.function, event.route, event.problem)
        case AttemptEnded() | StreamEnded() | RequestRouted() | RouteFailed():
            pass


_last_told_s: dict[tuple[str, ...], float] = {}  # as many as there are routes, and problems of theirs


def _is_due(*what: str) -> bool:
    """Whether it was not told of lately. Two threads at once may both tell."""
    now_s = time.monotonic()
    if now_s - _last_told_s.get(what, -EVERY_S) < EVERY_S:
        return False
    _last_told_s[what] = now_s
    return True
