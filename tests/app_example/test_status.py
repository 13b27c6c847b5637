"""What the status page shows, and how it gets there: the pure part, the routes, the events."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, aclosing
from dataclasses import asdict
from itertools import islice

import httpx2
import pytest
from fastapi.testclient import TestClient

from app_example.application import Application
from app_example.live import Watch
from app_example.status import status_of
from app_example.web import create_app
from llmwire.services import (
    AttemptEnded,
    BudgetState,
    CallEnded,
    EndpointState,
    FunctionReport,
    Meter,
    Report,
    SourceState,
    StreamEnded,
    Usage,
)
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health
from llmwire.services.testing import StandIn

MOST = 60  #: events that are waited for

# The pure part.


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def meter(clock):
    return Meter("completion", clock=clock, wall_clock=clock)


def attempt(endpoint="a", *, status=200, error=None, blame=None, took_s=0.1, **more):
    return AttemptEnded(
        function="completion",
        endpoint=endpoint,
        server="http://a:1",
        operation="chat/completions",
        status=status,
        error=error,
        blame=blame,
        took_s=took_s,
        **more,
    )


def a_failed_attempt(endpoint="a"):
    return attempt(endpoint, status=None, error="ConnectError", blame="endpoint")


def a_call(endpoint="a", error=None):
    return CallEnded(
        function="completion",
        call=1,
        operation="chat/completions",
        pool="default",
        route=None,
        endpoint=endpoint,
        server=None if endpoint is None else "http://a:1",
        model="m",
        reply_model=None,
        error=error,
        took_s=0.1,
        first_content_s=None,
        attempts=1,
        usage=None,
        cost=None,
    )


def a_state(name="a", **changed):
    state = {
        "server": "http://a:1",
        "tier": 0,
        "health": Health.OK,
        "breaker": BreakerState.CLOSED,
        "in_flight": 0,
        "ewma_s": None,
        "paused_for_s": 0.0,
        "disabled_for_s": 0.0,
        "reason": "",
        "served": 0,
        "failed": 0,
        "last_error": "",
    }
    return EndpointState(name=name, **{**state, **changed})


def shown(meter, *states, budgets=(), sources=()):
    function = FunctionReport(
        function="completion",
        figures=meter.snapshot(),
        endpoints=states or (a_state(),),
        budgets=budgets,
        sources=sources,
    )
    [told] = status_of(Report(functions=(function,)), lambda _, endpoint: meter.history(endpoint))["functions"]
    return told


def test_without_traffic_there_are_no_functions():
    assert status_of(Report(functions=()), lambda *_: ()) == {"minutes": 5, "functions": []}


@pytest.mark.parametrize(
    ("state", "health"),
    [
        ({}, {"level": "good", "words": "well", "rest_s": 0, "why": ""}),
        ({"last_error": "503"}, {"level": "good", "words": "well", "rest_s": 0, "why": ""}),
        (
            {"health": Health.OPEN, "last_error": "ConnectError"},
            {"level": "bad", "words": "down", "rest_s": 0, "why": "ConnectError"},
        ),
        (
            {"health": Health.PAUSED, "paused_for_s": 7.77, "last_error": "429"},
            {"level": "care", "words": "paused", "rest_s": 7.8, "why": "429"},
        ),
        (
            {"health": Health.DISABLED, "disabled_for_s": 60, "reason": "the key was refused", "last_error": "401"},
            {"level": "bad", "words": "disabled", "rest_s": 60, "why": "the key was refused"},
        ),
        ({"health": Health.PROBING}, {"level": "care", "words": "on trial", "rest_s": 0, "why": ""}),
        ({"health": Health.DRAINING}, {"level": "care", "words": "leaving", "rest_s": 0, "why": ""}),
    ],
)
def test_health_is_told_in_words_with_the_reason(meter, state, health):
    [endpoint] = shown(meter, a_state(**state))["endpoints"]

    assert endpoint["health"] == health


@pytest.mark.parametrize("health", list(Health))
def test_there_are_words_for_every_health(meter, health):
    [endpoint] = shown(meter, a_state(health=health))["endpoints"]

    assert endpoint["health"]["words"]


def test_an_endpoint_that_failed_in_the_last_minute_is_not_called_well(meter, clock):
    meter(a_failed_attempt())

    [now] = shown(meter, a_state(last_error="ConnectError"))["endpoints"]
    clock.now_s += 120
    [later] = shown(meter, a_state(last_error="ConnectError"))["endpoints"]

    assert now["health"] == {"level": "care", "words": "failing at times", "rest_s": 0, "why": "ConnectError"}
    assert later["health"]["words"] == "well"


def test_calls_and_failed_attempts_are_those_of_their_endpoint(meter):
    for event in (a_failed_attempt("a"), attempt("b"), a_call("b")):
        meter(event)

    a, b = shown(meter, a_state("a"), a_state("b", in_flight=3))["endpoints"]

    assert (a["calls"], a["failed"], a["errors"]) == (0, 1, {"ConnectError": 1})
    assert (b["calls"], b["failed"], b["errors"], b["in_flight"]) == (1, 0, {}, 3)


def test_a_cancelled_attempt_is_no_failure(meter):
    meter(attempt(status=None, error="cancelled", blame="cancelled"))

    [endpoint] = shown(meter)["endpoints"]

    assert (endpoint["failed"], endpoint["errors"]) == (0, {})


def test_a_call_that_asked_nobody_is_in_the_sum_of_the_function(meter):
    meter(a_call(None, error="NoRoute"))

    told = shown(meter)

    assert (told["calls"], told["failed_calls"], told["call_errors"], told["elsewhere"]) == (1, 1, {"NoRoute": 1}, 1)
    assert told["endpoints"][0]["calls"] == 0


def test_times_are_those_of_the_last_five_minutes(meter, clock):
    meter(attempt(took_s=60.0))
    clock.now_s += 400
    for _ in range(18):
        meter(attempt(took_s=0.1))
    for _ in range(2):
        meter(attempt(took_s=1.0))
    meter(attempt(took_s=0.02, is_open=True))
    meter(StreamEnded(function="completion", endpoint="a", error=None, took_s=0.1))

    [endpoint] = shown(meter)["endpoints"]

    assert endpoint["p50_s"] == pytest.approx(0.1, rel=0.05)
    assert endpoint["p95_s"] == pytest.approx(1.0, rel=0.05)
    assert endpoint["first_content_s"] == pytest.approx(0.02, rel=0.05)


def test_the_plot_has_a_gap_where_nothing_was_asked(meter, clock):
    meter(attempt(took_s=0.1))
    clock.now_s += 30
    meter(a_failed_attempt())
    clock.now_s += 15

    [endpoint] = shown(meter)["endpoints"]

    first, *others = [slot for slot in endpoint["history"] if slot != [None, None, 0]]
    assert first[:2] == [pytest.approx(0.1, rel=0.05)] * 2
    assert others == [[None, None, 1]]
    assert endpoint["history"][-1] == [None, None, 0]
    assert len(endpoint["history"]) == 4


def test_a_cost_that_nobody_knows_is_unknown(meter):
    meter(attempt(usage=Usage(input=10, output=5)))

    [endpoint] = shown(meter)["endpoints"]

    assert endpoint["cost"] == {"known": None, "answers": 1, "unpriced": 1}


def test_a_cost_that_is_known_in_part_says_of_how_many_answers_it_is_not(meter):
    meter(attempt(usage=Usage(input=10, output=5), cost=0.25))
    meter(attempt())

    [endpoint] = shown(meter)["endpoints"]

    assert endpoint["cost"] == {"known": 0.25, "answers": 2, "unpriced": 1}


def test_tokens_that_no_server_told_are_unknown(meter):
    meter(attempt())

    [endpoint] = shown(meter)["endpoints"]

    assert endpoint["tokens"] == {"input": None, "output": None, "cached": None, "reasoning": None, "untold": 1}


def test_tokens_are_added_up_and_the_untold_answers_are_counted(meter):
    meter(attempt(usage=Usage(input=10, output=5, cached=4, reasoning=2)))
    meter(attempt(usage=Usage(input=1, output=1)))
    meter(attempt())

    [endpoint] = shown(meter)["endpoints"]

    assert endpoint["tokens"] == {"input": 11, "output": 6, "cached": 4, "reasoning": 2, "untold": 1}


@pytest.mark.parametrize(
    ("endpoint", "tag", "of"),
    [(None, None, "all calls"), ("a", None, "endpoint a"), (None, "overnight", "tag overnight")],
)
def test_a_budget_says_whose_it_is_and_whether_it_is_used_up(meter, endpoint, tag, of):
    budget = BudgetState(budget="5/day", endpoint=endpoint, tag=tag, limit=5.0, spent=5.0, ends_in_s=60.0)

    [told] = shown(meter, budgets=(budget,))["budgets"]

    assert (told["of"], told["is_spent"], told["spent"], told["limit"]) == (of, True, 5.0, 5.0)


@pytest.mark.parametrize(
    ("taken_s", "error", "level"), [(60.0, None, "good"), (60.0, "is silent", "care"), (None, "is silent", "bad")]
)
def test_a_source_that_fails_is_worse_where_nothing_of_it_is_in_force(meter, taken_s, error, level):
    version = None if taken_s is None else "index 42"
    source = SourceState(
        source="consul://a/b", version=version, is_cached=False, taken_s=taken_s, asked_s=1.0, error=error
    )

    [told] = shown(meter, sources=(source,))["sources"]

    assert told == {**asdict(source), "level": level}


def test_all_of_it_is_json_without_numbers_that_are_none(meter):
    meter(attempt())

    json.dumps(shown(meter, a_state(), a_state("b")), allow_nan=False)


# The events.


def test_the_first_event_comes_at_once_and_each_is_one_line_of_json():
    async def look():
        async with aclosing(Watch(lambda: {"text": "two\nlines"}).events()) as events:
            return await anext(events), await anext(events)

    head, event = asyncio.run(look())

    assert head == b"retry: 2000\n\n"
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event[6:]) == {"text": "two\nlines"}
    assert event.count(b"\n") == 2


def test_nobody_looks_while_nobody_listens_and_all_who_listen_look_together():
    looks = []

    async def listen():
        watch = Watch(lambda: {"look": looks.append(1)}, every_s=60)
        assert looks == []
        async with aclosing(watch.events()) as one, aclosing(watch.events()) as other:
            for events in (one, other):
                await anext(events)
                await anext(events)

    asyncio.run(listen())

    assert looks == [1]


def test_what_is_seen_is_looked_for_again_after_a_while():
    looks = iter(range(10))

    async def listen():
        async with aclosing(Watch(lambda: {"look": next(looks)}, every_s=0.001).events()) as events:
            return [await anext(events) for _ in range(3)]

    _, first, second = asyncio.run(listen())

    assert (first, second) == (b'data: {"look": 0}\n\n', b'data: {"look": 1}\n\n')


def test_a_closed_watch_ends_its_events():
    async def listen():
        watch = Watch(dict, every_s=60)
        events = watch.events()
        told = [await anext(events), await anext(events)]
        asyncio.get_running_loop().call_soon(watch.close)
        return told + [event async for event in events]

    assert asyncio.run(asyncio.wait_for(listen(), timeout=20)) == [b"retry: 2000\n\n", b"data: {}\n\n"]


# The routes.


@pytest.fixture
def two_endpoints(database):
    """An application with two real completion endpoints, of which the first one is asked."""
    application = Application()
    application.config.database.from_value(database)
    with ExitStack() as running:
        servers = {name: running.enter_context(StandIn(functions=("completion",))) for name in ("primary", "backup")}
        endpoints = {name: {"base_url": server.base_url, "api_key": "none"} for name, server in servers.items()}
        application.config.llm.from_dict({"completion": {"strategy": "in-order", "endpoints": endpoints, "model": "m"}})
        yield application
        application.shutdown_resources()
        application.unwire()


def ask(application):
    message = {"role": "user", "content": "Which way?"}
    application.llm.completion_client().chat.completions.create(model="m", messages=[message])


def test_figures_can_be_read_as_a_report(two_endpoints):
    with TestClient(create_app(two_endpoints)) as client:
        before = client.get("/api/figures").json()
        ask(two_endpoints)
        report = Report.from_dict(client.get("/api/figures").json())

    assert before == {"functions": []}
    [completion] = report.functions
    assert completion.figures.figures(endpoint="primary").calls == 1
    assert [state.name for state in completion.endpoints] == ["primary", "backup"]


def test_events_tell_of_what_happened_since(two_endpoints, serving):
    with ExitStack() as listening:
        url = listening.enter_context(serving(create_app(two_endpoints)))
        answer = listening.enter_context(httpx2.stream("GET", f"{url}/api/status/events", trust_env=False))
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        before = json.loads(next(lines)[6:])
        ask(two_endpoints)
        after = next(told for line in islice(lines, MOST) if (told := json.loads(line[6:]))["functions"])

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert before == {"minutes": 5, "functions": []}
    [completion] = after["functions"]
    assert [(each["name"], each["calls"]) for each in completion["endpoints"]] == [("primary", 1), ("backup", 0)]


def test_a_server_that_is_told_to_stop_waits_for_no_events(two_endpoints, serving, caplog):
    with ExitStack() as listening:
        with serving(create_app(two_endpoints)) as url:
            answer = listening.enter_context(httpx2.stream("GET", f"{url}/api/status/events", trust_env=False))
            lines = answer.iter_lines()
            assert next(lines) == "retry: 2000"

        rest = list(islice(lines, MOST))  # whole: a server that cuts it off lets this raise

    assert json.loads(rest[1].removeprefix("data: ")) == {"minutes": 5, "functions": []}
    assert "Cancel" not in caplog.text


def test_the_status_page_loads_nothing_from_elsewhere_and_writes_no_html(application):
    with TestClient(create_app(application)) as client:
        page = client.get("/status")
        parts = {name: client.get(f"/static/{name}") for name in ("status.css", "status.js")}
        main = client.get("/").text
    application.unwire()

    assert "default-src 'none'" in page.headers["content-security-policy"]
    for text in (page.text, parts["status.css"].text):
        assert "://" not in text
        assert "style=" not in text
    assert [part.status_code for part in parts.values()] == [200, 200]
    unsafe = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write")
    assert not [word for word in unsafe if word in parts["status.js"].text]
    assert 'href="/status"' in main
    assert 'href="/"' in page.text
