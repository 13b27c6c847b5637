"""Which servers tell the usage of a stream where they are asked for it. Pure: knows what they took and refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..routing.endpoint import Endpoint
from .call import Call, Kind

REFUSED: Final = frozenset({400, 422})  #: what servers say to a field that they do not know
NAMED_S: Final = 3600.0  #: a server that does not know the question learns it with its next version
UNNAMED_S: Final = 300.0  #: where it was perhaps another thing that it refused
MOST_KNOWN: Final = 1000  #: a caller who makes up models fills no memory


class TellingUsage:
    """Which endpoints tell the usage of a stream where they are asked; of the others nobody knows it.

    A refusal is of one model: a gateway may have several servers behind it. That it takes the question is of all, as it
    only says that a refusal without a reason will have another one.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._takes: set[_Place] = set()
        self._refuses_until_s: dict[tuple[_Place, str | None], float] = {}

    def may_be_asked(self, endpoint: Endpoint, call: Call) -> bool:
        """Whether it did not refuse the question lately."""
        if not (call.may_ask_usage and endpoint.stream_usage):
            return False
        until_s = self._refuses_until_s.get(_model(endpoint, call)) if self._refuses_until_s else None
        return until_s is None or self._clock() >= until_s

    def takes(self, endpoint: Endpoint, call: Call) -> bool:
        """Whether it has taken the question before: a refusal that does not name it is of something else."""
        return _place(endpoint, call) in self._takes

    def taken(self, endpoint: Endpoint, call: Call) -> None:
        """It took a request with the question."""
        if len(self._takes) < MOST_KNOWN:
            self._takes.add(_place(endpoint, call))

    def refused(self, endpoint: Endpoint, call: Call, for_s: float) -> None:
        """It took a request without the question after it had refused one with it."""
        if len(self._refuses_until_s) >= MOST_KNOWN:  # each is soon known again
            self._refuses_until_s.clear()
        self._refuses_until_s[_model(endpoint, call)] = self._clock() + for_s


_Place = tuple[str, str | None, str | None, Kind]


def _place(endpoint: Endpoint, call: Call) -> _Place:
    return endpoint.base_url, endpoint.deployment, endpoint.api_version, call.kind


def _model(endpoint: Endpoint, call: Call) -> tuple[_Place, str | None]:
    return _place(endpoint, call), endpoint.model or call.model
