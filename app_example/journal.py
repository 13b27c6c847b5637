"""Which endpoint answered what: a listener that remembers. Knows events; changes nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING

from llmwire.services import AttemptEnded, ConfigWarned

if TYPE_CHECKING:
    from llmwire.services import Event

KEPT = 1_000  #: attempts that are remembered one by one; the records count all


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one endpoint has done for one function so far. `status` and the rest are those of its last attempt."""

    function: str
    endpoint: str
    server: str
    answered: int = 0
    failed: int = 0
    status: int | None = None
    error: str | None = None
    took_ms: int = 0


class Journal:
    """Told of every attempt by the container; asked by whoever wants to show it. Safe on any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._attempts: deque[AttemptEnded] = deque(maxlen=KEPT)
        self._warnings: deque[ConfigWarned] = deque(maxlen=KEPT)
        self._records: dict[tuple[str, str, str], Record] = {}

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case AttemptEnded():
                    self._attempts.append(event)
                    if not _is_given_up(event):
                        self._count(event)
                case ConfigWarned():
                    self._warnings.append(event)

    def attempts(self) -> list[AttemptEnded]:
        """The last attempts, in the order in which they ended."""
        with self._lock:
            return list(self._attempts)

    def warnings(self) -> list[str]:
        """What the container found odd in the configuration, once each."""
        with self._lock:
            return list(dict.fromkeys(warning.message for warning in self._warnings))

    def records(self) -> list[Record]:
        """One record for each endpoint of each function that was asked; requests that were given up do not count."""
        with self._lock:
            return sorted(self._records.values(), key=lambda record: (record.function, record.endpoint, record.server))

    def _count(self, event: AttemptEnded) -> None:
        key = event.function, event.endpoint, event.server
        so_far = self._records.get(key) or Record(function=event.function, endpoint=event.endpoint, server=event.server)
        is_answer = answered(event)
        self._records[key] = replace(
            so_far,
            answered=so_far.answered + is_answer,
            failed=so_far.failed + (not is_answer),
            status=event.status,
            error=event.error,
            took_ms=round(event.took_s * 1000),
        )


def answered(event: AttemptEnded) -> bool:
    """Whether the attempt brought what was asked for."""
    return event.error is None and event.status is not None and event.status < 400


def _is_given_up(event: AttemptEnded) -> bool:
    return event.blame == "cancelled"  # the reader went away: no fault of the endpoint's


COLUMNS = ("function", "server", "answered", "failed", "last")
"""What the cells of `row_of` mean."""


def row_of(record: Record) -> tuple[str, str, str, str, str]:
    """A record as cells of a table."""
    last = f"{record.status or record.error}, {record.took_ms} ms"
    return record.function, record.server, str(record.answered), str(record.failed), last
