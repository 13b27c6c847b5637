"""How many requests may be under way. Knows counts; knows nothing of what is sent, or of time."""

from __future__ import annotations


class Pace:
    """As many as the servers take: one more for a round trip that goes well, half as many where they are busy.

    Begins at `most`: bulk work is given as many as are wanted, and the busy ones say so soon enough.

    Source: D.-M. Chiu, R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance", 1989.
    """

    __slots__ = ("_allowed", "_most", "era", "under_way")

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"most must be above 0, not {most}")
        self._most, self._allowed = most, float(most)
        self.under_way = 0
        self.era = 0  #: decreases until now; a request remembers the one that it was sent in

    @property
    def allowed(self) -> int:
        """Requests that may be under way at once: 1 to `most`."""
        return int(self._allowed)

    @property
    def has_room(self) -> bool:
        """Whether one more may be sent."""
        return self.under_way < self.allowed

    def sent(self) -> int:
        """One more is under way. Returns its era."""
        self.under_way += 1
        return self.era

    def ended(self) -> None:
        """One less is under way, whatever became of it."""
        self.under_way -= 1

    def served(self) -> None:
        """A request went well."""
        self._allowed = min(self._most, self._allowed + 1.0 / self._allowed)

    def busy(self, era: int) -> None:
        """A server had too much to do. What was sent before the last decrease says nothing of the time after it."""
        if era == self.era:
            self._allowed = max(1.0, self._allowed / 2.0)
            self.era += 1
