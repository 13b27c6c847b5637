"""What llmwire does with a client: completions, embeddings, wiring. Usable with plain constructors.

The names are looked up when first used: importing this package imports neither openai nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bulk.batches import BatchSpec
    from .bulk.cache import VectorCache
    from .bulk.plan import BulkSpec
    from .bulk.rate import RateLimit
    from .bulk.results import Block, Refused, Summary
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
        RequestRouted,
        RouteFailed,
        StreamEnded,
    )
    from .provenance import Attempt, Provenance, recorded
    from .routing.explanation import RouteExplanation
    from .routing.facts import Facts
    from .routing.pool import EndpointState
    from .routing.route import Route
    from .wanted import routed
    from .wiring import inject

__all__ = [
    "AsyncCompletionService",
    "AsyncEmbeddingService",
    "Attempt",
    "AttemptEnded",
    "BatchSpec",
    "Block",
    "BreakerChanged",
    "BulkSpec",
    "CompletionService",
    "ConfigWarned",
    "EmbeddingService",
    "EndpointDisabled",
    "EndpointPaused",
    "EndpointState",
    "Event",
    "Facts",
    "Listener",
    "Provenance",
    "RateLimit",
    "Refused",
    "RequestRouted",
    "Route",
    "RouteExplanation",
    "RouteFailed",
    "StreamEnded",
    "Summary",
    "VectorCache",
    "inject",
    "recorded",
    "routed",
]

_HOMES = {
    "AsyncCompletionService": "completion",
    "AsyncEmbeddingService": "embedding",
    "Attempt": "provenance",
    "AttemptEnded": "events",
    "BatchSpec": "bulk.batches",
    "Block": "bulk.results",
    "BreakerChanged": "events",
    "BulkSpec": "bulk.plan",
    "CompletionService": "completion",
    "ConfigWarned": "events",
    "EmbeddingService": "embedding",
    "EndpointDisabled": "events",
    "EndpointPaused": "events",
    "EndpointState": "routing.pool",
    "Event": "events",
    "Facts": "routing.facts",
    "Listener": "events",
    "Provenance": "provenance",
    "RateLimit": "bulk.rate",
    "Refused": "bulk.results",
    "RequestRouted": "events",
    "Route": "routing.route",
    "RouteExplanation": "routing.explanation",
    "RouteFailed": "events",
    "StreamEnded": "events",
    "Summary": "bulk.results",
    "VectorCache": "bulk.cache",
    "inject": "wiring",
    "recorded": "provenance",
    "routed": "wanted",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
