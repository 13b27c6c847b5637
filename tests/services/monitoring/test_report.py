"""A report has all at one moment; it can be sent, and those of several processes are one."""

from __future__ import annotations

import json

import pytest

from llmwire.services.events import AttemptEnded
from llmwire.services.monitoring.meter import Meter
from llmwire.services.monitoring.report import FunctionReport, Report
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health
from llmwire.services.routing.pool import EndpointState
from llmwire.services.routing.spending import BudgetState
from llmwire.services.source import SourceState


def state(name="a", *, health=Health.OK, in_flight=1, served=2, failed=3):
    return EndpointState(
        name=name,
        server="http://a.test:80",
        tier=0,
        health=health,
        breaker=BreakerState.CLOSED,
        in_flight=in_flight,
        ewma_s=0.5,
        paused_for_s=0.0,
        disabled_for_s=0.0,
        reason="",
        served=served,
        failed=failed,
        last_error="",
    )


def budget(spent):
    return BudgetState(budget="5/day", endpoint=None, tag=None, limit=5.0, spent=spent, ends_in_s=60.0)


def source(name="consul://a/b", *, asked_s=1.0, error=None):
    return SourceState(source=name, version="index 42", is_cached=False, taken_s=60.0, asked_s=asked_s, error=error)


def report(*states, function="completion", attempts=1, spent=1.0, sources=()):
    meter = Meter(function)
    for _ in range(attempts):
        meter(
            AttemptEnded(
                function=function,
                endpoint="a",
                server="http://a.test:80",
                operation="chat/completions",
                status=200,
                error=None,
                took_s=0.1,
            )
        )
    of_function = FunctionReport(
        function=function, figures=meter.snapshot(), endpoints=states, budgets=(budget(spent),), sources=sources
    )
    return Report(functions=(of_function,))


def test_it_can_be_written_as_json_and_read():
    told = report(state(), state("b", health=Health.DISABLED), sources=(source(), source("b", error="is silent")))

    assert Report.from_dict(json.loads(json.dumps(told.as_dict()))) == told


def test_what_a_later_version_says_beside_it_is_left_out():
    written = report(state(), sources=(source(),)).as_dict()
    written["functions"][0]["endpoints"][0]["later"] = 1
    written["functions"][0]["budgets"][0]["later"] = 1
    written["functions"][0]["sources"][0]["later"] = 1

    [read] = Report.from_dict(written).functions
    assert (read.endpoints, read.budgets, read.sources) == ((state(),), (budget(1.0),), (source(),))


def test_that_of_a_version_that_knew_of_no_sources_is_read():
    written = report(state()).as_dict()
    del written["functions"][0]["sources"]

    [read] = Report.from_dict(written).functions
    assert (read.endpoints, read.sources) == ((state(),), ())


def test_those_of_several_processes_are_added_and_each_endpoint_is_as_the_worst_sees_it():
    one = report(state(), attempts=2, spent=1.0)
    other = report(state(health=Health.OPEN), state("b"), attempts=3, spent=2.0)

    [merged] = Report.merged([one, other]).functions

    assert merged.figures.figures().attempts == 5
    assert {each.name: each.health for each in merged.endpoints} == {"a": Health.OPEN, "b": Health.OK}
    assert (merged.endpoints[0].in_flight, merged.endpoints[0].served, merged.endpoints[0].failed) == (2, 4, 6)
    assert [each.spent for each in merged.budgets] == [2.0]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (source(asked_s=9.0), source(asked_s=1.0, error="is silent")),
        (source(asked_s=1.0), source(asked_s=9.0)),
        (source(asked_s=9.0), source(asked_s=None)),
        (source(asked_s=1.0, error="is silent"), source(asked_s=9.0, error="holds nothing")),
    ],
)
def test_of_several_processes_each_source_is_told_once_as_the_worst_sees_it(better, worse):
    other = source("etcd://a/b")

    for several in ([(better, other), (worse,)], [(worse,), (better, other)]):
        [merged] = Report.merged(report(state(), sources=sources) for sources in several).functions
        assert merged.sources == (worse, other)


def test_functions_are_kept_apart():
    merged = Report.merged([report(state()), report(state(), function="embedding")])

    assert [each.function for each in merged.functions] == ["completion", "embedding"]
