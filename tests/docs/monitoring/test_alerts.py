"""The alert rules fire when they should, and then only."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ...services.prometheus_server import program

HERE = Path(__file__).parent
ALERTS = HERE.parents[2] / "docs/monitoring/alerts.yml"
CASES = HERE / "alerts_test.yml"


def promtool(*arguments):
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True)


def test_prometheus_accepts_the_rules():
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))

    assert checked.returncode == 0, checked.stderr


def test_each_rule_fires_when_it_should():
    tested = promtool("test", "rules", str(CASES))

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_rule_has_a_case_in_which_it_fires():
    rules = [line.split()[-1] for line in ALERTS.read_text().splitlines() if line.strip().startswith("- alert:")]

    assert [rule for rule in rules if rule not in CASES.read_text()] == []
    assert len(rules) > 5
