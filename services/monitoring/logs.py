"""The log lines of llmwire: one for each change of state, none for each call. The only module that logs."""

from __future__ import annotations

import logging

from ..events import (
    AttemptEnded,
    BreakerChanged,
    ConfigWarned,
    EndpointDisabled,
    EndpointPaused,
    Event,
    StreamEnded,
)

logger = logging.getLogger("llmwire")

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
        case AttemptEnded() | StreamEnded():
            pass
