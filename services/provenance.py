"""Where an answer came from, and what was tried before. Knows attempts; knows nothing of HTTP.

`recorded()` gathers the provenance of every call that is made inside its block, by whatever client or framework.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one endpoint. Carries nothing that the server said: no key or prompt can be in it.

    Attributes:
        endpoint: its name.
        server: scheme, host and port.
        blame: whose fault it was, as in `endpoint`, `load`, `key`, `caller`; None where it served.
        label: what happened in one word, as in `served`, `503`, `ConnectError`.
        status: of the HTTP answer, where there was one.
        took_s: seconds until its end; of a stream until its first content.
    """

    endpoint: str
    server: str
    blame: str | None
    label: str
    status: int | None
    took_s: float

    def __str__(self) -> str:
        return f"{self.endpoint} ({self.server}): {self.label} after {self.took_s:.2f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Of one call.

    Attributes:
        function: `completion` or `embedding`.
        endpoint: the name of the one that answered; None where none did.
        attempts: in their order, the one that served at the end.
        is_degraded: the answer came after a failed attempt, from a higher tier, or from an endpoint that is not well.
        price: of a million input tokens at the one that answered, as the settings have it; None where they do not say.
        is_hedged: a second endpoint was asked while the first had not answered. Of the two, `attempts` has those of the
            one that answered; where neither did, those of both.
        pool: the name of the pool that it was sent to.
        route: the name of the route that chose it; None where none did.
    """

    function: str
    endpoint: str | None
    attempts: tuple[Attempt, ...]
    is_degraded: bool
    price: float | None = None
    is_hedged: bool = False
    pool: str = "default"
    route: str | None = None


_recorder: ContextVar[list[Provenance] | None] = ContextVar("llmwire_provenance", default=None)


@contextmanager
def recorded() -> Iterator[list[Provenance]]:
    """A list of the provenance of each call inside the block, in the order in which they were answered.

    Holds for the calls of this thread, and of the asyncio tasks that are started inside. Fakes record nothing.
    """
    calls: list[Provenance] = []
    token = _recorder.set(calls)
    try:
        yield calls
    finally:
        _recorder.reset(token)


def record(provenance: Provenance) -> None:
    """Add to the list of the block that the caller is in, if it is in one."""
    if (calls := _recorder.get()) is not None:
        calls.append(provenance)
