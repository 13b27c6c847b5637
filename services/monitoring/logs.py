"""The log lines of llmwire: one for what an operator should know, none for each call. The only module that logs."""

from __future__ import annotations

import logging

from ..events import AttemptEnded, ConfigWarned, Event

logger = logging.getLogger("llmwire")


def log(event: Event, /) -> None:
    """A Listener that writes warnings about the configuration to the logger `llmwire`."""
    match event:
        case ConfigWarned():
            logger.warning("%s (from %s): %s", event.key, event.origin, event.message)
        case AttemptEnded():
            pass
