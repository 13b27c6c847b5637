"""What a fault server counts, over all its restarts. Knows numbers and who waits for them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

CREDENTIALS = ("authorization", "api-key", "cookie", "openai-organization", "openai-project")


class Tally:
    """Counts connections and requests. Whoever waits, or must see several numbers of one moment, holds `changed`."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.accepted = self.open = self.received = 0
        self._attempts: Counter[str] = Counter()
        self._credentials: dict[str, Counter[str]] = {}

    def connection_opened(self) -> None:
        with self.changed:
            self.accepted, self.open = self.accepted + 1, self.open + 1
            self.changed.notify_all()

    def connection_closed(self) -> None:
        with self.changed:
            self.open -= 1
            self.changed.notify_all()

    def request_began(self, path: str) -> None:
        with self.changed:
            self._attempts[path] += 1
            self.changed.notify_all()

    def request_received(self, headers: Mapping[str, str]) -> None:
        with self.changed:
            self.received += 1
            for name in CREDENTIALS:
                if name in headers:
                    self._credentials.setdefault(name, Counter())[headers[name]] += 1
            self.changed.notify_all()

    def attempts(self) -> dict[str, int]:
        """How many requests began, by their path."""
        with self.changed:
            return dict(self._attempts)

    def credentials(self) -> dict[str, dict[str, int]]:
        """How often each value of each header that may carry a secret came."""
        with self.changed:
            return {name: dict(values) for name, values in self._credentials.items()}
