"""Which servers we hold connections to: those of the pool, and those that still owe an answer.

Knows that a pool changes; knows nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from ..routing.endpoint import Endpoint
from ..routing.pool import Pool


class _Held(Protocol):
    def retire(self) -> None:
        """Keep no connection for later; calls under way keep theirs until they end."""


H = TypeVar("H", bound=_Held)


class Servers(Generic[H]):
    """The connections to each server of a pool. Safe among threads.

    Args:
        connect: makes the connections to one server, of its name; opens none yet.
    """

    def __init__(self, pool: Pool, connect: Callable[[str], H]) -> None:
        self._pool, self._connect = pool, connect
        self._by_server: dict[str, H] = {}
        self._version = pool.version

    def __iter__(self) -> Iterator[H]:
        return iter(list(self._by_server.values()))

    def of(self, endpoint: Endpoint) -> H:
        """The connections to the endpoint's server. Whoever asks holds a lease on it."""
        if self._version != self._pool.version:
            self._let_go()
        held = self._by_server.get(endpoint.server)
        return held if held is not None else self._by_server.setdefault(endpoint.server, self._connect(endpoint.server))

    def _let_go(self) -> None:
        """Retire what has left the pool. While a server there still owes an answer, the next call looks again."""
        version = self._pool.version  # first: a swap from here on is seen by the next call
        in_use, named = self._pool.in_use(), {endpoint.server for endpoint in self._pool.endpoints}
        for server in list(self._by_server):
            if server not in in_use and (gone := self._by_server.pop(server, None)) is not None:
                gone.retire()
        if named.issuperset(self._by_server):
            self._version = version
