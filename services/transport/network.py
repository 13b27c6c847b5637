"""Whether a real network call may be made now. Knows one switch; tests turn it, nothing else does."""

from __future__ import annotations

from typing import Protocol


class Gate(Protocol):
    """Is asked before each real request, with scheme, host and port of the server; raises to refuse."""

    def __call__(self, server: str, /) -> None: ...


def _open(server: str, /) -> None:
    pass


_gate: Gate = _open


def set_gate(gate: Gate | None) -> None:
    """Ask `gate` before each real request of any llmwire transport in this process; None lets all pass."""
    global _gate
    _gate = gate or _open


def check(server: str) -> None:
    """Let a request to the server pass, or raise what the gate raises."""
    _gate(server)
