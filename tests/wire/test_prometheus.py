"""A real Prometheus scrapes the running example; each query of the dashboard and of the alerts has data there.

An alert's expression has data only while it fires. So each is one figure and its limit, and the figure is asked for:
what stands before the last comparison.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from llmwire.services.testing import StandIn

from ..services.prometheus_server import PATIENCE_S, program, prometheus_server

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "docs/monitoring/dashboard.json").read_text())
ALERTS = ROOT / "docs/monitoring/alerts.yml"

QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", ())
]
VARIABLES = {"$__rate_interval": "1m", "$job": ".+", "$function": ".+"}
LIMIT = re.compile(r"\s*[<>]=?\s*[\d.]+\s*$")

QUESTION = "At what wind is the goods lift stopped?"
FEW, MANY = 3, 20  #: more than 0.02 a second, in five minutes, is asked of the alerts about shares


class Page:
    """The example application in a process of its own, with two endpoints for completions, of which one is down.

    A file that is watched says in which order they are asked.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.embedding = stack.enter_context(StandIn(functions=("embedding",)))
        self.backup = stack.enter_context(StandIn(functions=("completion",)))
        with StandIn(functions=("completion",)) as primary:
            is_down = primary.base_url
        self._source = folder / "live.toml"
        self.say('completion.strategy = "in-order"')
        settings = {
            "EMBEDDING_BASE_URL": self.embedding.base_url,
            "COMPLETION_ENDPOINTS": "primary,backup",
            "COMPLETION_PRIMARY_BASE_URL": is_down,
            "COMPLETION_BACKUP_BASE_URL": self.backup.base_url,
            "COMPLETION_SOURCE": str(self._source),
            "COMPLETION_PRICE": "0.5/1.5",
            "COMPLETION_BUDGET": "20/day, overnight: 5/day",
        }
        serving = [sys.executable, "-m", "app_example", "serve", "--examples", "--port", "0", "--database", "db.sqlite"]
        process = subprocess.Popen(
            serving,
            cwd=folder,
            env=_environment() | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        stack.callback(process.communicate)
        stack.callback(process.kill)
        self.address = next(match[1] for line in process.stdout if (match := re.search(r"http://(\S+:\d+)", line)))

    def say(self, document: str) -> None:
        """In the file, from now on."""
        beside = self._source.with_suffix(".new")
        beside.write_text(document)
        beside.replace(self._source)

    def ask(self) -> bytes:
        body = json.dumps({"question": QUESTION}).encode()
        asking = Request(f"http://{self.address}/api/ask", body, {"content-type": "application/json"})
        with build_opener(ProxyHandler({})).open(asking, timeout=PATIENCE_S) as answer:
            return answer.read()


def _environment() -> dict[str, str]:
    prefixes = ("OPENAI_", "COMPLETION_", "EMBEDDING_", "AZURE_", "LLMWIRE_", "ASK_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) and not name.lower().endswith("_proxy")
    }
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def _scraped(tmp_path_factory):
    program("prometheus")  # before anything is started
    folder = tmp_path_factory.mktemp("scraped")
    with ExitStack() as stack:
        page = Page(folder, stack)
        prometheus = stack.enter_context(prometheus_server(folder, page.address, ALERTS))
        answers = [page.ask() for _ in range(FEW)]
        page.backup.stop()
        answers.append(page.ask())
        page.backup.start()
        prometheus.wait_for('llmwire_call_errors_total{function="completion"}')
        answers += [page.ask() for _ in range(MANY)]
        prometheus.wait_for(f'increase(llmwire_calls_total{{endpoint="backup"}}[1m]) >= {MANY // 2}')
        prometheus.wait_for('increase(llmwire_calls_total{function="embedding"}[1m]) > 0')
        assert [b'"done"' in answer for answer in answers] == [True] * FEW + [False] + [True] * MANY
        yield prometheus, page


@pytest.fixture
def prometheus(_scraped):
    return _scraped[0]


@pytest.fixture
def page(_scraped):
    return _scraped[1]


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_of_the_dashboard_has_data(prometheus, query):
    for name, value in VARIABLES.items():
        query = query.replace(name, value)

    values = [value for _, value in prometheus.query(query)]

    assert values
    assert [value for value in values if value == value], "nothing but NaN"


def test_each_expression_of_the_alerts_is_a_figure_that_has_data_and_its_limit(prometheus):
    [group] = prometheus.get("rules")["groups"]
    figures = {rule["name"]: LIMIT.subn("", rule["query"]) for rule in group["rules"]}

    without_data = [
        name for name, (figure, _) in figures.items() if not [v for _, v in prometheus.query(figure) if v == v]
    ]

    assert without_data == []
    assert {limits for _, limits in figures.values()} == {1}
    assert {rule["health"] for rule in group["rules"]} == {"ok"}


def test_the_scrapes_have_nothing_that_prometheus_minds(prometheus):
    [target] = prometheus.get("targets")["activeTargets"]

    assert (target["health"], target["lastError"]) == ("up", "")


def test_what_prometheus_has_is_what_the_servers_were_asked(prometheus, page):
    asked = len(page.backup.requests)
    prometheus.wait_for(f'llmwire_served_total{{endpoint="backup"}} == {asked}')

    [(labels, count)] = prometheus.query('llmwire_call_errors_total{function="completion"}')
    tokens = prometheus.query('llmwire_tokens_total{function="completion", endpoint="backup", type="input"}')

    assert asked == FEW + MANY
    assert (labels["error"], count) == ("ConnectError", 1)
    assert [value > 0 for _, value in tokens] == [True]


def test_the_endpoint_that_is_down_is_seen(prometheus):
    found = prometheus.query('llmwire_endpoint_health{endpoint="primary", health!="ok"} == 1')
    failovers = prometheus.query('llmwire_attempt_errors_total{endpoint="primary", error="ConnectError"} > 0')

    assert len(found) == len(failovers) == 1


def test_a_source_that_says_what_is_refused_is_seen_until_it_says_something_better(prometheus, page):
    prometheus.wait_for('llmwire_source_failing{function="completion"} == 0')

    page.say('completion.strategy = "no such"')
    prometheus.wait_for('llmwire_source_failing{function="completion"} == 1')

    page.say('completion.strategy = "in-order"')
    prometheus.wait_for('llmwire_source_failing{function="completion"} == 0')
    [(_, answered_s)] = prometheus.query("llmwire_source_answered_seconds")
    assert 0 <= answered_s < PATIENCE_S
