"""A clock that is moved by hand, seeded randomness, and a pool that tells what happened to it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmwire.services.events import Event
from llmwire.services.routing.pool import Pool, PoolSpec

from .actors import Clock, an_endpoint


@pytest.fixture
def clock() -> Clock:
    """Stands still until `clock.advance(3)`."""
    return Clock()


@pytest.fixture
def randomness() -> random.Random:
    """The same numbers in every run."""
    return random.Random(20240607)


@pytest.fixture
def events() -> list[Event]:
    """What the listener of `a_pool` was told."""
    return []


@pytest.fixture
def a_pool(clock: Clock, randomness: random.Random, events: list[Event]) -> Callable[..., Pool]:
    """Makes a pool: of names, or of endpoints."""

    def make(*endpoints: Any, **spec: Any) -> Pool:
        return Pool(
            [an_endpoint(one) if isinstance(one, str) else one for one in endpoints],
            spec=PoolSpec(**spec),
            clock=clock,
            randomness=randomness,
            make_lock=threading.RLock,
            listener=events.append,
        )

    return make
