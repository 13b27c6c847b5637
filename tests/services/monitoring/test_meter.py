"""A meter counts every event once, where it belongs; its windows move on; its memory has an end."""

from __future__ import annotations

import json
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.events import AttemptEnded, BreakerChanged, CallEnded, EndpointsChanged, StreamEnded
from llmwire.services.monitoring.figures import Figures, Snapshot, together
from llmwire.services.monitoring.meter import MOST_SERIES, OTHERS, REMOVED, SLOT_S, Meter
from llmwire.services.usage import Usage


class Clock:
    """Seconds, as the test says."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s

    def advance(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def meter(clock):
    return Meter("completion", clock=clock, wall_clock=clock)


def attempt(endpoint="a", **fields):
    known = {"function": "completion", "server": "http://a.test:80", "operation": "chat/completions", "model": "m"}
    return AttemptEnded(endpoint=endpoint, **{**known, "status": 200, "error": None, "took_s": 0.5, **fields})


def failed(endpoint="a", *, status=None, error=None, blame="endpoint", **fields):
    return attempt(endpoint, status=status, error=error, blame=blame, **fields)


def stream_ended(endpoint="a", *, error=None, took_s=2.0, **fields):
    known = {"function": "completion", "model": "m"}
    return StreamEnded(endpoint=endpoint, error=error, took_s=took_s, **{**known, **fields})


def call_ended(endpoint="a", *, error=None, **fields):
    known = {"function": "completion", "call": 1, "operation": "chat/completions", "pool": "default", "route": None}
    more = {"server": None, "model": "m", "reply_model": None, "took_s": 1.0, "first_content_s": None, "attempts": 1}
    return CallEnded(endpoint=endpoint, error=error, **{**known, **more, "usage": None, "cost": None, **fields})


def told(meter, *events):
    for event in events:
        meter(event)
    return meter.snapshot()


# What is counted.


def test_every_attempt_is_booked_on_the_endpoint_that_made_it(meter):
    snapshot = told(
        meter,
        failed("a", status=503),
        failed("a", error="ConnectError", was_sent=False),
        attempt("b", usage=Usage(input=10, output=5, cached=4, reasoning=2), cost=0.25, sent_bytes=7, received_bytes=9),
        call_ended("b"),
    )

    a, b = snapshot.figures(endpoint="a"), snapshot.figures(endpoint="b")
    assert (a.attempts, a.served, a.failed, a.errors, a.never_sent) == (2, 0, 2, {"503": 1, "ConnectError": 1}, 1)
    assert (b.attempts, b.served, b.calls, b.errors) == (1, 1, 1, {})
    assert (b.input_tokens, b.output_tokens, b.cached_tokens, b.reasoning_tokens) == (10, 5, 4, 2)
    assert (b.cost, b.unpriced, b.untold, b.sent_bytes, b.received_bytes) == (0.25, 0, 0, 7, 9)
    assert (b.took.count, b.took.sum_s, b.call_took.sum_s) == (1, 0.5, 1.0)


def test_a_stream_has_served_when_it_is_complete(meter):
    begun = told(meter, attempt(is_open=True, took_s=0.25, received_bytes=3)).figures()
    ended = told(meter, stream_ended(usage=Usage(input=1, output=2), cost=0.5, received_bytes=30)).figures()

    assert (begun.attempts, begun.served, begun.first_content.sum_s, begun.cost) == (1, 0, 0.25, 0.0)
    assert (ended.attempts, ended.served, ended.took.sum_s, ended.output_tokens) == (1, 1, 2.0, 2)
    assert (ended.cost, ended.received_bytes, ended.untold) == (0.5, 33, 0)


@pytest.mark.parametrize("error", ["StreamInterrupted", "StreamTruncated", "cancelled"])
def test_a_stream_that_breaks_is_an_error_and_its_tokens_stay_unknown(meter, error):
    figures = told(meter, attempt(is_open=True), stream_ended(error=error), call_ended(error=error)).figures()

    assert (figures.served, figures.errors, figures.untold, figures.unpriced) == (0, {error: 1}, 1, 1)
    assert (figures.failed, figures.failed_calls) == ((0, 0) if error == "cancelled" else (1, 1))
    assert figures.cost is None


def test_an_answer_without_usage_is_told_as_such_and_never_as_0(meter):
    figures = told(meter, attempt(), attempt(usage=Usage(input=3, output=4), cost=0.5)).figures()

    assert (figures.untold, figures.unpriced, figures.input_tokens, figures.cost) == (1, 1, 3, 0.5)


def test_nothing_is_unknown_where_nobody_was_asked_for_anything_that_costs(meter):
    figures = told(meter, attempt(operation="models"), attempt(operation="models/a")).figures()

    assert (figures.served, figures.untold, figures.unpriced, figures.cost) == (2, 0, 0, 0.0)


def test_hedges_and_duplicates_stand_apart_from_what_served(meter):
    cut = attempt("a", blame="cancelled", status=None, error="cancelled", is_duplicate=True)
    late = attempt("a", is_duplicate=True, usage=Usage(input=5, output=0), cost=0.5)

    snapshot = told(meter, cut, late, attempt("b", is_hedge=True, usage=Usage(input=5, output=0), cost=0.5))

    a, b = snapshot.figures(endpoint="a"), snapshot.figures(endpoint="b")
    assert (a.attempts, a.served, a.duplicates, a.errors, a.took.count) == (2, 0, 2, {}, 0)
    assert (a.input_tokens, a.cost) == (5, 0.5)  # it was paid for
    assert (b.attempts, b.served, b.hedges, b.duplicates) == (1, 1, 1, 0)


def test_what_llmwire_asks_for_itself_stands_apart(meter):
    usage = Usage(input=1, output=0)
    figures = told(
        meter,
        attempt(is_canary=True, usage=usage, cost=0.1),
        attempt(is_for_routing=True, usage=usage, cost=0.1),
        failed(status=401, is_repeated=True),
        attempt(usage=usage, cost=0.1),
    ).figures()

    assert (figures.attempts, figures.served, figures.canaries, figures.for_routing) == (4, 2, 1, 1)
    assert (figures.repeated, figures.errors, figures.input_tokens) == (1, {}, 3)
    assert figures.cost == pytest.approx(0.3)


def test_a_call_that_nobody_was_asked_for_is_counted_without_an_endpoint(meter):
    snapshot = told(meter, call_ended(None, error="NoRoute"), call_ended("a"))

    assert snapshot.figures(endpoint="").call_errors == {"NoRoute": 1}
    assert snapshot.figures().calls == 2
    assert snapshot.endpoints == ("a",)


def test_pools_and_models_are_told_apart_and_together(meter):
    snapshot = told(meter, attempt(pool="long", model="x"), attempt(pool="default", model="x"), attempt(model=None))

    assert [(each.pool, each.model) for each in snapshot.series] == [("default", ""), ("default", "x"), ("long", "x")]
    assert snapshot.figures(model="x").attempts == 2
    assert snapshot.figures(pool="default").attempts == 2


def test_other_events_are_not_counted(meter):
    assert told(meter, BreakerChanged(function="completion", endpoint="a", state="open", for_s=1.0)).series == ()


# Windows.


def test_a_window_forgets_what_is_older_and_the_total_does_not(meter, clock):
    meter(attempt())
    clock.advance(60 - SLOT_S)
    assert meter.snapshot().figures(minutes=1).attempts == 1

    clock.advance(2 * SLOT_S)
    meter(attempt("b"))
    snapshot = meter.snapshot()

    assert snapshot.figures(minutes=1).attempts == 1
    assert snapshot.figures(minutes=5).attempts == 2
    clock.advance(16 * 60)
    assert [meter.snapshot().figures(minutes=minutes).attempts for minutes in (1, 5, 15, None)] == [0, 0, 0, 2]


def test_there_is_no_other_window(meter):
    with pytest.raises(ValueError, match="1, 5, 15 minutes, not 2"):
        meter.snapshot().figures(minutes=2)


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from("ab")), max_size=60))
def test_a_window_has_what_came_within_it_and_at_most_one_slot_more(steps):
    clock = Clock()
    meter = Meter("completion", clock=clock, wall_clock=clock)
    at = []
    for seconds, endpoint in steps:
        clock.advance(seconds)
        meter(attempt(endpoint))
        at.append((clock.now_s, endpoint))

    snapshot = meter.snapshot()

    for minutes in (1, 5, 15):
        for name in "ab":
            ages = [clock.now_s - when for when, endpoint in at if endpoint == name]
            counted = snapshot.figures(minutes=minutes, endpoint=name).attempts
            assert sum(age < minutes * 60 for age in ages) <= counted
            assert counted <= sum(age < minutes * 60 + SLOT_S for age in ages)


@given(st.lists(st.integers(0, 100), max_size=40))
def test_the_history_has_all_that_came_within_it_each_in_its_slot(steps):
    clock = Clock()
    meter = Meter("completion", clock=clock, wall_clock=clock)
    at = []
    for seconds in steps:
        clock.advance(seconds)
        meter(attempt())
        at.append(int(clock.now_s // SLOT_S))

    history = meter.history("a")

    last = int(clock.now_s // SLOT_S)
    slots = range(last - len(history) + 1, last + 1)
    assert [each.attempts for each in history] == [at.count(slot) for slot in slots]
    assert len(history) <= 60


# Its life.


def test_it_can_begin_anew(meter):
    told(meter, attempt())

    meter.reset()

    assert meter.snapshot().series == ()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_process_begins_anew(meter):
    told(meter, attempt())
    read, write = os.pipe()
    if os.fork() == 0:
        meter.renew_after_fork()
        os.write(write, b"%d" % told(meter, attempt(), attempt()).figures().attempts)
        os._exit(0)
    os.wait()

    assert os.read(read, 10) == b"2"
    assert meter.snapshot().figures().attempts == 1
    os.close(read)
    os.close(write)


def test_models_that_a_caller_makes_up_fill_no_memory(meter):
    snapshot = told(meter, *(attempt(model=f"made up {number}") for number in range(MOST_SERIES + 50)))

    assert len(snapshot.series) == MOST_SERIES + 1
    assert snapshot.figures(model=OTHERS).attempts == 50


def test_of_an_endpoint_that_is_removed_its_share_in_the_sums_stays(meter, clock):
    told(meter, attempt("a"), attempt("b"), call_ended("a"))
    clock.advance(20)
    swapped = EndpointsChanged(function="completion", added=("c",), removed=("a",), changed=())

    snapshot = told(meter, swapped, attempt("a"), attempt("c"))

    assert snapshot.endpoints == (REMOVED, "b", "c")
    assert snapshot.figures(endpoint=REMOVED).attempts == 2
    assert snapshot.figures(minutes=1).attempts == 4


def test_an_endpoint_that_comes_back_has_its_name_again(meter):
    gone = EndpointsChanged(function="completion", added=(), removed=("a",), changed=())
    back = EndpointsChanged(function="completion", added=("a",), removed=(), changed=())

    snapshot = told(meter, attempt("a"), gone, back, attempt("a"))

    assert [(name, snapshot.figures(endpoint=name).attempts) for name in snapshot.endpoints] == [(REMOVED, 1), ("a", 1)]


def test_many_threads_lose_nothing(meter):
    def work():
        for _ in range(500):
            meter(attempt())
            if _ % 100 == 0:
                meter.snapshot()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert meter.snapshot().figures().attempts == 4000


def test_an_event_that_is_told_while_it_books_is_booked_later(meter):
    """As of a stream that is collected while its thread takes a snapshot."""
    with meter._lock:
        for _ in range(200):
            meter(attempt())

    assert meter.snapshot().figures().attempts == 200


# Snapshots.


def test_those_of_several_processes_are_added_series_by_series(clock):
    one, other = (Meter("completion", clock=clock, wall_clock=clock) for _ in range(2))
    told(one, attempt("a"), failed("b", status=503))
    told(other, attempt("a"), attempt("c"))

    written = [json.loads(json.dumps(meter.snapshot().as_dict())) for meter in (one, other)]
    merged = Snapshot.merged(map(Snapshot.from_dict, written))

    assert {name: merged.figures(endpoint=name).attempts for name in merged.endpoints} == {"a": 2, "b": 1, "c": 1}
    assert merged.figures(minutes=1).attempts == 4
    assert merged.figures(endpoint="b").errors == {"503": 1}


def test_those_of_two_functions_are_not_added(clock):
    snapshots = [Meter(name, clock=clock, wall_clock=clock).snapshot() for name in ("completion", "embedding")]

    with pytest.raises(ValueError, match="of one function can be merged, not of completion, embedding"):
        Snapshot.merged(snapshots)


def test_a_snapshot_does_not_change_any_more(meter):
    before = told(meter, attempt())
    told(meter, attempt())

    assert before.figures().attempts == 1


def test_figures_of_a_later_version_can_be_read():
    written = {**Figures(calls=3).as_dict(), "something_new": 7}

    assert Figures.from_dict(written) == Figures(calls=3)


def test_nothing_together_is_zeros():
    assert together([]) == Figures()
