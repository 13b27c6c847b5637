"""`llmwire top`, as its user runs it, over real HTTP; and what it shows at each width."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from llmwire.container.remote import Source
from llmwire.container.top import Absences, Seen, view
from llmwire.services import BudgetState, Report
from llmwire.services.errors import ConfigError
from llmwire.services.routing.breaker import BreakerState
from llmwire.services.routing.member import Health

from .processes import Process, attempt, call, failed_attempt, report, source, state

COMMAND = [sys.executable, "-c", "from llmwire.container.cli import main; main()", "top"]
LIMIT_S = 60

BUSY = report(
    *(attempt(cost=0.5), attempt(), failed_attempt(), call(), call("backup"), attempt("backup", cost=None)),
    states=(
        state(health=Health.OPEN, breaker=BreakerState.OPEN, last_error="ConnectError"),
        state("backup", health=Health.PAUSED, paused_for_s=8.0, in_flight=2),
    ),
    budgets=(
        BudgetState(budget="5/day", endpoint=None, tag=None, limit=5.0, spent=5.0, ends_in_s=7_300.0),
        BudgetState(budget="100 tokens/hour", endpoint=None, tag="x", limit=100.0, spent=50.0, ends_in_s=60.0),
    ),
)


def run(*arguments, env=None):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, **(env or {})},
    )


# What is shown.


def shown(told=BUSY, *, width=200, problems=()):
    console = Console(width=width, file=StringIO())
    console.print(view([Seen(source=Source(url="http://a/"), report=told)], problems, width=width))
    return console.file.getvalue()


def cells(text, name):
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return re.split(r" {2,}", line.strip())


def test_a_row_says_how_an_endpoint_is_and_what_it_does():
    text = shown()

    assert cells(text, "endpoint") == [
        *("endpoint", "server", "health", "breaker", "in flight", "calls", "failed", "p50", "p95", "first"),
        *("tokens in", "tokens out", "cost", "last error"),
    ]
    primary = cells(text, "primary")
    assert primary[:6] == ["primary", "http://a:1", "open", "open", "0", "1"]
    assert primary[-1] == "ConnectError"
    assert "0.5000+" in primary  # one of its answers has no price
    backup = cells(text, "backup")
    assert backup[2:5] == ["paused 8 s", "closed", "2"]
    assert backup[-1] == "unknown"


def test_budgets_say_whose_they_are_and_what_is_left():
    text = shown()

    assert "budget 5/day: 5.0000 spent, used up, 2 h left" in text
    assert "budget 100 tokens/hour of tag x: 50 spent, 50%, 60 s left" in text


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({}, "source consul://a/b: index 42, in force for 60 s"),
        ({"is_cached": True}, "source consul://a/b: index 42, from the disk, in force for 60 s"),
        ({"error": "is silent"}, "source consul://a/b: index 42, in force for 60 s; is silent"),
        ({"version": None, "taken_s": None}, "source consul://a/b: nothing of it is in force yet"),
    ],
)
def test_a_source_says_what_of_it_is_in_force_since_when_and_what_is_wrong(told, line):
    assert line in shown(report(sources=(source(**told),))).splitlines()


def test_without_sources_there_is_no_line_of_them():
    assert "source" not in shown()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
def test_a_narrow_terminal_has_fewer_columns_and_none_is_cut(width):
    text = shown(width=width)

    assert max(map(len, text.splitlines())) <= width
    assert {"endpoint", "health", "calls", "failed"} <= set(cells(text, "endpoint"))
    assert len([line for line in text.splitlines() if line.startswith("primary")]) == 1
    assert "…" not in text


def test_where_there_is_hardly_any_room_what_matters_is_folded():
    text = shown(width=20)

    assert max(map(len, text.splitlines())) <= 20


def test_all_functions_have_the_same_columns_in_the_same_places():
    [function] = BUSY.functions
    [other] = report(attempt("a-longer-name", cost=0.1), states=(state("a-longer-name"),)).functions

    text = shown(Report(functions=(function, replace(other, function="embedding"))))

    heads = [line for line in text.splitlines() if line.startswith("endpoint")]
    assert len(heads) == 2
    assert heads[0] == heads[1]


def test_where_nobody_was_asked_it_says_so():
    assert "No endpoint has been asked yet." in shown(Report(functions=()))


def test_what_a_process_says_cannot_control_the_terminal():
    name = "\x1b[2Jevil\n[red]"

    text = shown(report(states=(state(name),)))

    assert "\x1b" not in text
    assert "?[2Jevil?[red]" in text


def test_a_process_that_is_away_is_told_of_with_since_when_until_it_is_back():
    gone, source = Absences(), Source(url="http://a/")
    away = Seen(source=source, error=ConfigError("does not answer", key="http://a/", remedy="Start it."))

    [first] = gone.told([away])
    [second] = gone.told([away])
    back = gone.told([Seen(source=source, report=BUSY)])

    assert re.fullmatch(r"away since \d\d:\d\d:\d\d: http://a/: does not answer\. Start it\.", first)
    assert second == first
    assert back == []
    assert gone.rounds == 3


# The command.


def test_one_round_is_printed_into_a_pipe():
    with Process(BUSY) as process:
        ended = run(process.url)

    assert ended.returncode == 0
    assert ended.stderr == ""
    assert cells(ended.stdout, "primary")[0] == "primary"
    assert "\x1b" not in ended.stdout


def test_several_processes_are_shown_together():
    with Process(report(call(), call())) as one, Process(report(call())) as other:
        ended = run("--json", one.url, other.url, one.url)

    [function] = json.loads(ended.stdout)["functions"]
    assert ended.returncode == 0
    assert function["calls"] == 3  # a URL that is named twice is one process


def test_json_has_the_rows_and_what_is_wrong():
    with Process(BUSY) as process, Process(b"", status=404) as other:
        ended = run("--json", process.url, other.url)

    told = json.loads(ended.stdout)
    [completion] = told["functions"]
    assert ended.returncode == 1
    assert completion["sources"] == []
    assert [row["endpoint"] for row in completion["endpoints"]] == ["primary", "backup"]
    assert completion["endpoints"][1]["cost"] is None
    assert "404" in told["problems"][other.url]


def test_one_that_tells_nothing_among_others_is_named_and_ends_it_with_1():
    with Process(BUSY) as process, Process(b"{}") as other:
        ended = run("--once", process.url, other.url)

    assert ended.returncode == 1
    assert "1 of 2 processes" in ended.stdout
    assert f"{other.url}: answers JSON that is no report" in ended.stdout
    assert "primary" in ended.stdout


@pytest.mark.parametrize("options", [[], ["--once"], ["--json"]])
def test_where_no_process_tells_anything_it_ends_with_2_and_a_sentence(options):
    with Process(b"<html>") as process:
        ended = run(*options, process.url)

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        f"llmwire: {process.url}: answers something that is no JSON."
        " Serve there, as JSON: container.report().as_dict().\n"
    )


# On a terminal.


class Terminal:
    """A command on a terminal of its own, and what it has written so far."""

    def __init__(self, *arguments, columns=100):
        ours, theirs = pty.openpty()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, env=env
        )
        os.close(theirs)
        self._ours, self._shown = ours, ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with suppress(OSError):  # how Linux tells the end of a terminal
            while part := os.read(self._ours, 65_536):
                with self._changed:
                    self._shown += part.decode(errors="replace")
                    self._changed.notify_all()

    def until(self, text):
        """Wait until this is shown, counted from what was waited for before."""
        with self._changed:
            assert self._changed.wait_for(lambda: text in self._shown, timeout=LIMIT_S), self._shown
            self._shown = self._shown.partition(text)[2]

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=LIMIT_S)

    def close(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
def terminal():
    started = []

    def start(*arguments, **options):
        started.append(Terminal(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_it_goes_on_until_ctrl_c_and_ends_with_0(terminal):
    with Process(BUSY) as process:
        watching = terminal(process.url, "--every", "0.1")
        watching.until("primary")
        process.answer = report(attempt("new"), states=(state("newcomer"),))
        watching.until("newcomer")
        code = watching.interrupt()

    assert code == 0
    assert "Traceback" not in watching._shown


def test_a_process_that_goes_away_is_shown_as_such_and_comes_back(terminal):
    with Process(BUSY) as process:
        watching = terminal(process.url, "--every", "0.1", columns=160)
        watching.until("primary")
        process.stop()
        watching.until("away since")
        process.start()
        watching.until("primary")

        assert watching.interrupt() == 0
