"""The dashboard is whole, and asks for what there is; whether it has data, tests/wire/test_prometheus.py tells."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from llmwire.services.monitoring.prometheus import PrometheusCollector
from llmwire.services.monitoring.report import Report
from llmwire.services.routing.member import Health

FOLDER = Path(__file__).parents[3] / "docs/monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
DRAWN = [panel for panel in PANELS if panel["type"] != "row"]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",), "gauge": ("",)}


def known_metrics():
    families = PrometheusCollector(lambda: Report(functions=())).describe()
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES[family.type]}


def expressions():
    queries = [target["expr"] for panel in DRAWN for target in panel["targets"]]
    variables = [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    return [*queries, *variables]


def test_it_and_the_alerts_ask_for_no_metric_that_there_is_not():
    asked = set(re.findall(r"\bllmwire_\w+", "\n".join([*expressions(), (FOLDER / "alerts.yml").read_text()])))

    assert asked - known_metrics() == set()


def test_each_query_is_of_the_chosen_job_and_function():
    queries = [target["expr"] for panel in DRAWN for target in panel["targets"]]
    selections = [found for query in queries for found in re.findall(r"llmwire_\w+(\{[^}]*\})?", query)]

    assert len(selections) > len(queries)
    assert [each for each in selections if 'job=~"$job", function=~"$function"' not in each] == []


def test_each_panel_and_query_is_of_the_chosen_data_source():
    chosen = {"type": "prometheus", "uid": "${datasource}"}

    assert [panel["title"] for panel in DRAWN if panel["datasource"] != chosen] == []
    assert [target for panel in DRAWN for target in panel["targets"] if target["datasource"] != chosen] == []
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"


def test_each_variable_that_a_query_names_is_defined():
    named = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}

    assert named == {each["name"] for each in DASHBOARD["templating"]["list"]}


def test_no_panel_covers_another():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert [(one["title"], other["title"]) for one, other in combinations(PANELS, 2) if overlap(one, other)] == []
    assert [panel["title"] for panel in PANELS if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24] == []


def overlap(one, other):
    here, there = one["gridPos"], other["gridPos"]
    return (
        here["x"] < there["x"] + there["w"]
        and there["x"] < here["x"] + here["w"]
        and here["y"] < there["y"] + there["h"]
        and there["y"] < here["y"] + here["h"]
    )


@pytest.mark.parametrize("panel", DRAWN, ids=lambda panel: panel["title"])
def test_each_panel_says_what_it_shows_and_in_which_unit(panel):
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_each_state_of_health_has_a_name_and_a_number():
    [panel] = [panel for panel in DRAWN if panel["title"] == "Health"]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]

    numbers = dict(re.findall(r'health="([\w-]+)"\} \* (\d)', panel["targets"][0]["expr"]))

    assert {option["text"]: number for number, option in mapping["options"].items()} == numbers
    assert numbers.keys() == set(Health)
