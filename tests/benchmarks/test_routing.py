import pytest

from benchmarks.figures import GOALS
from benchmarks.processes import Failed, Missing, Upstreams
from benchmarks.routes import KEYWORDS, MIXED, PATTERNS, SENDERS, TEXTS, a_lane, call_of
from benchmarks.routing import SETS, decision_us, in_turn, table_of, times_without
from llmwire.services.wanted import NOTHING

SIZES = {"300 B": 300, "40 kB": 40_000}


@pytest.fixture(scope="module")
def upstreams():
    with Upstreams(ports=3) as started:
        yield started


def test_the_requests_are_as_large_as_they_are_called():
    assert {text: len(call_of(said).content) for text, said in TEXTS.items()} == pytest.approx(SIZES, rel=0.03)


@pytest.mark.parametrize("text", list(TEXTS))
@pytest.mark.parametrize("routes", [MIXED, PATTERNS, KEYWORDS], ids=["mixed", "patterns", "keywords"])
def test_of_twenty_routes_the_last_alone_holds_so_that_all_are_looked_at(routes, text):
    lane = a_lane(routes)
    facts = lane.facts(call_of(TEXTS[text]), NOTHING)

    holding = [rule.name for rule in lane.router.rules if rule.missed(facts) is None]

    assert len(routes) == 20
    assert holding == ["route 20"]
    assert lane.question(call_of(TEXTS[text]), NOTHING).decision.route == "route 20"


def test_the_mixed_routes_are_of_all_kinds_but_that_which_asks_an_endpoint():
    conditions = [name for route in MIXED for name in route.conditions]

    assert conditions.count("pattern") == 3
    assert not any(route.is_semantic for route in MIXED)
    assert {
        *("has_images", "has_tools", "wants_structured_output", "is_streamed", "model", "tags", "min_tokens"),
        *("keywords", "script", "predicate"),
    } <= set(conditions)
    assert {condition for route in PATTERNS for condition in route.conditions} == {"pattern"}
    assert {condition for route in KEYWORDS for condition in route.conditions} == {"keywords"}


def test_without_routes_a_request_is_neither_read_nor_decided():
    assert a_lane(()).question(call_of(TEXTS["300 B"]), NOTHING) is None
    assert list(decision_us((), "300 B", rounds=1)) == ["whole"]


def test_with_routes_it_is_measured_what_each_part_takes():
    took = decision_us(MIXED, "300 B", rounds=1)

    assert set(took) == {"read", "decide", "whole"}
    assert min(took["read"], took["whole"]) > 0


def test_whole_calls_are_measured_with_routes_and_without(upstreams):
    before = upstreams.attempts()

    measured = in_turn(["llmwire", "llmwire-20"], upstreams, rounds=1, calls=2)

    assert upstreams.attempts() > before
    assert all(cpu_us > 0 for found in measured.values() for cpu_us in found.values())
    assert set(times_without(measured)) == {"llmwire-20 300 B", "llmwire-20 40 kB"}


def test_who_cannot_be_measured_is_told_of_in_its_row_and_has_no_figures():
    measured = {
        "llmwire": {"300 B": 500.0, "40 kB": 600.0},
        "llmwire-20": {"300 B": 550.0, "40 kB": 900.0},
        "litellm": Missing("not installed (litellm): make bench installs it"),
        "litellm-tags": Failed("failed: [red]"),
    }

    title, *cells = (list(column.cells) for column in table_of("", measured).columns)

    assert title == [SENDERS[sender].title for sender in measured]
    assert [column[1] for column in cells] == ["550", "1.10", "900", "1.50"]
    assert cells[0][2:] == ["not installed (litellm): make bench installs it", r"failed: \[red]"]
    assert times_without(measured) == {"llmwire-20 300 B": 1.1, "llmwire-20 40 kB": 1.5}


def test_what_has_nothing_to_be_compared_with_is_not_compared():
    measured = {"litellm": Failed("failed"), "litellm-tags": {"300 B": 2500.0, "40 kB": 2600.0}}

    assert times_without(measured) == {}


def test_every_goal_for_routes_is_for_a_figure_that_a_run_has():
    parts = ("", ": read", ": decide")
    of_a_run = {f"{name} {text}{part}" for name in SETS for text in TEXTS for part in parts}

    assert {goal.key for goal in GOALS if "routes" in goal.key} <= of_a_run


def test_every_sender_is_compared_with_itself_or_with_the_same_without_routing():
    assert all(SENDERS[sender.beside].beside == sender.beside for sender in SENDERS.values())
    assert all(SENDERS[sender.beside].needs == sender.needs for sender in SENDERS.values())
