"""Fakes, a stand-in server and one that fails on demand, for the tests of applications that use llmwire.

The vocabulary of faults is a module of its own, `faults`: its words are too short to stand alone.
The names are looked up when first used: importing this package imports neither openai, httpx2 nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .failures import Failure
    from .fakes import AsyncFakeCompletions, AsyncFakeEmbeddings, FakeCompletions, FakeEmbeddings
    from .faultd import FaultServer, SeenRequest
    from .faults import Fault
    from .script import RecordedCall, ScriptExhausted
    from .server import StandIn

__all__ = [
    "AsyncFakeCompletions",
    "AsyncFakeEmbeddings",
    "Failure",
    "FakeCompletions",
    "FakeEmbeddings",
    "Fault",
    "FaultServer",
    "RecordedCall",
    "ScriptExhausted",
    "SeenRequest",
    "StandIn",
]

_HOMES = {
    "AsyncFakeCompletions": "fakes",
    "AsyncFakeEmbeddings": "fakes",
    "Failure": "failures",
    "FakeCompletions": "fakes",
    "FakeEmbeddings": "fakes",
    "Fault": "faults",
    "FaultServer": "faultd",
    "RecordedCall": "script",
    "ScriptExhausted": "script",
    "SeenRequest": "faultd",
    "StandIn": "server",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
