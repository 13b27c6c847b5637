"""What stands behind the clients of a function, as the container puts it together."""

from __future__ import annotations

import threading
from typing import Any

from llmwire.container import LLMContainer
from llmwire.services.routing.outcome import CANCELLED


def test_an_abandoned_call_may_be_collected_while_its_own_thread_asks_the_pool():
    """As garbage is collected at any allocation, also at one under the pool's lock."""
    container: Any = LLMContainer(env={}, config={"completion": {"base_url": "http://127.0.0.1:9", "api_key": "k"}})
    pool = container.completion.pool()
    lease = pool.lease()

    def collect_while_asking() -> None:
        with pool._lock:
            lease.settle(CANCELLED, 0.0)

    thread = threading.Thread(target=collect_while_asking, daemon=True)
    thread.start()
    thread.join(5)

    assert not thread.is_alive()
    assert pool.snapshot()[0].in_flight == 0
