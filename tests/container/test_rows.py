from __future__ import annotations

import pytest

from llmwire.container.rows import rows_of
from llmwire.services import BudgetState, Report
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health

from .processes import attempt, call, failed_attempt, report, source, state


def the_only_row(told):
    [function] = rows_of(told)
    [row] = function.endpoints
    return row


def test_without_functions_there_are_no_rows():
    assert rows_of(Report(functions=())) == ()


def test_a_row_has_what_the_endpoint_did_in_the_last_minute_and_how_it_is():
    told = report(
        attempt(took_s=0.1, cost=0.5),
        attempt(took_s=0.1, cost=0.25, is_open=False),
        failed_attempt(),
        call(),
        call(),
        states=(state(in_flight=3, last_error="ConnectError"),),
    )

    row = the_only_row(told)

    assert (row.endpoint, row.server, row.health, row.breaker) == ("primary", "http://a:1", "ok", "closed")
    assert (row.calls, row.failed, row.in_flight, row.last_error) == (2, 1, 3, "ConnectError")
    assert (row.input_tokens, row.output_tokens, row.cost) == (20, 10, 0.75)
    assert row.p50_s == pytest.approx(0.1, rel=0.05)
    assert row.first_content_s is None


@pytest.mark.parametrize("rest", ["paused_for_s", "disabled_for_s"])
def test_a_row_says_for_how_long_an_endpoint_is_left_alone(rest):
    row = the_only_row(report(states=(state(health=Health.PAUSED, breaker=BreakerState.OPEN, **{rest: 8.0}),)))

    assert (row.health, row.breaker, row.rest_s) == ("paused", "open", 8.0)


def test_a_cost_that_nobody_knows_is_none_and_never_0():
    row = the_only_row(report(attempt(cost=None)))

    assert (row.cost, row.answers, row.unpriced) == (None, 1, 1)


def test_a_cost_that_is_known_in_part_says_how_many_answers_it_lacks():
    row = the_only_row(report(attempt(cost=0.5), attempt(cost=None)))

    assert (row.cost, row.answers, row.unpriced) == (0.5, 2, 1)


def test_tokens_that_no_server_told_are_none():
    row = the_only_row(report(attempt(usage=None)))

    assert (row.input_tokens, row.output_tokens) == (None, None)


def test_endpoints_stand_as_their_operator_named_them_and_those_that_are_gone_come_after():
    told = report(attempt("gone"), call(None, "NoRoute"), states=(state("z"), state("a")))

    [function] = rows_of(told)

    assert [(row.endpoint, row.health) for row in function.endpoints] == [
        ("z", "ok"),
        ("a", "ok"),
        ("gone", "gone"),
        ("(nobody)", ""),
    ]
    assert (function.calls, function.failed_calls) == (1, 1)


def test_budgets_are_those_of_the_function():
    budget = BudgetState(budget="5/day", endpoint=None, tag=None, limit=5.0, spent=1.0, ends_in_s=60.0)

    [function] = rows_of(report(budgets=(budget,)))

    assert function.budgets == (budget,)


def test_sources_are_those_of_the_function():
    [function] = rows_of(report(sources=(source(),)))

    assert function.sources == (source(),)
