"""The benchmark of the meter measures what it says: calls that are counted, and a meter that has them all."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import metering
from benchmarks.running import Effort
from llmwire.services import Meter
from llmwire.services.testing import StandIn


def test_a_meter_alone_is_measured_with_all_that_was_booked(monkeypatch):
    monkeypatch.setattr(metering, "BOOKED", 2_000)
    monkeypatch.setattr(metering, "EARLY", 1_000)

    table, figures = metering._alone()

    assert table.row_count == 4
    assert figures.keys() == {"snapshot ms", "meter growth", "book us"}
    assert all(value > 0 for value in figures.values())


@pytest.mark.parametrize("kind", metering.KINDS)
def test_calls_are_made_by_turns_by_one_who_counts_and_one_who_does_not(monkeypatch, kind):
    monkeypatch.setattr(metering, "WARM_UP_CALLS", 2)
    with StandIn() as server, asyncio.Runner() as runner:
        times = metering._by_turns(kind, [server.base_url], runner, Effort(rounds=2, calls=3))

        made = len(server.requests)

    assert made == 2 * (2 + 2 * 3)
    assert min(times) > 0


def test_only_one_of_the_two_counts():
    with StandIn() as server:
        containers = [metering._container([server.base_url], is_metered=is_metered) for is_metered in (False, True)]
        for container in containers:
            container.completion_service().complete("hi")
        counted = [type(container.completion.meter()) for container in containers]
        calls = containers[1].completion.meter().snapshot().figures().calls
        for container in containers:
            container.shutdown_resources()

    assert (counted[0] is Meter, counted[1] is Meter, calls) == (False, True, 1)
