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
        Listener,
        Listeners,
        RequestRouted,
        RouteFailed,
        SourceAnswered,
        SourceSilent,
        StreamEnded,
    )
    from .monitoring.figures import Figures, Series, Snapshot
    from .monitoring.histogram import Histogram
    from .monitoring.logs import log
    from .monitoring.meter import Meter
    from .monitoring.opentelemetry import OpenTelemetry
    from .monitoring.prometheus import PrometheusCollector
    from .monitoring.queued import Queued
    from .monitoring.report import FunctionReport, Report
    from .provenance import Attempt, Provenance, recorded
    from .routing.explanation import RouteExplanation
    from .routing.facts import Facts
    from .routing.pool import EndpointState
    from .routing.route import Route
    from .routing.spending import BudgetState
    from .source import SourceState
    from .usage import Usage
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
    "BudgetReached",
    "BudgetState",
    "BulkSpec",
    "CallEnded",
    "CompletionService",
    "ConfigWarned",
    "DocumentRefused",
    "DocumentTaken",
    "EmbeddingService",
    "EndpointDisabled",
    "EndpointPaused",
    "EndpointState",
    "EndpointsChanged",
    "Event",
    "Facts",
    "FailoverDenied",
    "Figures",
    "FunctionReport",
    "Histogram",
    "LedgerFailed",
    "Listener",
    "Listeners",
    "Meter",
    "OpenTelemetry",
    "PrometheusCollector",
    "Provenance",
    "Queued",
    "RateLimit",
    "Refused",
    "Report",
    "RequestRouted",
    "Route",
    "RouteExplanation",
    "RouteFailed",
    "Series",
    "Snapshot",
    "SourceAnswered",
    "SourceSilent",
    "SourceState",
    "StreamEnded",
    "Summary",
    "Usage",
    "VectorCache",
    "inject",
    "log",
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
    "BudgetReached": "events",
    "BudgetState": "routing.spending",
    "BulkSpec": "bulk.plan",
    "CallEnded": "events",
    "CompletionService": "completion",
    "ConfigWarned": "events",
    "DocumentRefused": "events",
    "DocumentTaken": "events",
    "EmbeddingService": "embedding",
    "EndpointDisabled": "events",
    "EndpointPaused": "events",
    "EndpointState": "routing.pool",
    "EndpointsChanged": "events",
    "Event": "events",
    "Facts": "routing.facts",
    "FailoverDenied": "events",
    "Figures": "monitoring.figures",
    "FunctionReport": "monitoring.report",
    "Histogram": "monitoring.histogram",
    "LedgerFailed": "events",
    "Listener": "events",
    "Listeners": "events",
    "Meter": "monitoring.meter",
    "OpenTelemetry": "monitoring.opentelemetry",
    "PrometheusCollector": "monitoring.prometheus",
    "Provenance": "provenance",
    "Queued": "monitoring.queued",
    "RateLimit": "bulk.rate",
    "Refused": "bulk.results",
    "Report": "monitoring.report",
    "RequestRouted": "events",
    "Route": "routing.route",
    "RouteExplanation": "routing.explanation",
    "RouteFailed": "events",
    "Series": "monitoring.figures",
    "Snapshot": "monitoring.figures",
    "SourceAnswered": "events",
    "SourceSilent": "events",
    "SourceState": "source",
    "StreamEnded": "events",
    "Summary": "bulk.results",
    "Usage": "usage",
    "VectorCache": "bulk.cache",
    "inject": "wiring",
    "log": "monitoring.logs",
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
