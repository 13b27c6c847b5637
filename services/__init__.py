"""What llmwire does with a client: completions, embeddings, wiring. Usable with plain constructors.

The names are looked up when first used: importing this package imports neither openai nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bulk.batches import BatchSpec
    from .completion import AsyncCompletionService, CompletionService
    from .embedding import AsyncEmbeddingService, EmbeddingService
    from .events import (
        AttemptEnded,
        BreakerChanged,
        ConfigWarned,
        EndpointDisabled,
        EndpointPaused,
        Event,
        Listener,
        StreamEnded,
    )
    from .provenance import Attempt, Provenance, recorded
    from .routing.pool import EndpointState
    from .wiring import inject

__all__ = [
    "AsyncCompletionService",
    "AsyncEmbeddingService",
    "Attempt",
    "AttemptEnded",
    "BatchSpec",
    "BreakerChanged",
    "CompletionService",
    "ConfigWarned",
    "EmbeddingService",
    "EndpointDisabled",
    "EndpointPaused",
    "EndpointState",
    "Event",
    "Listener",
    "Provenance",
    "StreamEnded",
    "inject",
    "recorded",
]

_HOMES = {
    "AsyncCompletionService": "completion",
    "AsyncEmbeddingService": "embedding",
    "Attempt": "provenance",
    "AttemptEnded": "events",
    "BatchSpec": "bulk.batches",
    "BreakerChanged": "events",
    "CompletionService": "completion",
    "ConfigWarned": "events",
    "EmbeddingService": "embedding",
    "EndpointDisabled": "events",
    "EndpointPaused": "events",
    "EndpointState": "routing.pool",
    "Event": "events",
    "Listener": "events",
    "Provenance": "provenance",
    "StreamEnded": "events",
    "inject": "wiring",
    "recorded": "provenance",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
