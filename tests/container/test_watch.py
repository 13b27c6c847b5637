"""`llmwire watch`, as its user runs it, beside a real Consul, a real etcd and real files; and what it shows."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from llmwire.container.difference import Change
from llmwire.container.watch import Entry, lines_of, view

from ..services.discovery.consul_server import ConsulServer
from ..services.discovery.etcd_server import EtcdServer

COMMAND = [sys.executable, "-c", "from llmwire.container.cli import main; main()", "watch"]
LIMIT_S = 60
ONE = {"endpoints": {"a": {"base_url": "http://127.0.0.1:1", "model": "llama"}}}
TWO = {"endpoints": {**ONE["endpoints"], "b": {"base_url": "http://127.0.0.1:2", "model": "llama", "weight": 3}}}


class Watching:
    """The command, and what it has written so far: on a terminal of its own where that has a width, else in a pipe."""

    def __init__(self, *arguments, columns=None, **variables):
        ours, theirs = pty.openpty() if columns else os.pipe()
        env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns or 80), "LINES": "40", **variables}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=theirs if columns else None, stdout=theirs, stderr=theirs, env=env
        )
        os.close(theirs)
        self._ours, self._rest, self.shown = ours, "", ""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with suppress(OSError):  # how Linux tells the end of a terminal
            while part := os.read(self._ours, 65_536):
                with self._changed:
                    self._rest += part.decode(errors="replace")
                    self.shown += part.decode(errors="replace")
                    self._changed.notify_all()

    def until(self, text):
        """Wait until this is shown, counted from what was waited for before."""
        with self._changed:
            assert self._changed.wait_for(lambda: text in self._rest, timeout=LIMIT_S), self.shown
            self._rest = self._rest.partition(text)[2]

    def end(self):
        """Its exit code after Ctrl-C, once all is read that it wrote."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=LIMIT_S)
        self._reader.join(LIMIT_S)
        return code

    def close(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)


@pytest.fixture
def watch():
    """Starts the command: `watch("--json", LLMWIRE_SOURCE=…)`."""
    started = []

    def start(*arguments, **options):
        started.append(Watching(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture
def file(tmp_path):
    """Writes the whole document of a file of settings, beside it and renamed over it. Has its path as `path`."""

    def write(document):
        written = document if isinstance(document, str) else json.dumps(document)
        beside = write.path.with_suffix(".new")
        beside.write_text(written)
        beside.replace(write.path)

    write.path = tmp_path / "endpoints.json"
    return write


@pytest.fixture(scope="module")
def consul(tmp_path_factory):
    server = ConsulServer(tmp_path_factory.mktemp("consul"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mortal(tmp_path):
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.kill()


class SilentPort:
    """Takes a connection, and says nothing."""

    def __init__(self, listening):
        self.port = listening.getsockname()[1]
        self._listening, self._taken = listening, None

    def until_asked(self):
        """Wait until somebody asks something."""
        self._taken, _ = self._listening.accept()
        self._taken.settimeout(LIMIT_S)
        assert self._taken.recv(1)

    def close(self):
        if self._taken is not None:
            self._taken.close()


@pytest.fixture
def silent_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(LIMIT_S)
        port = SilentPort(listening)
        yield port
        port.close()


def text_of(entry):
    return [str(line) for line in lines_of(entry)]


# What is shown.

AT = datetime(2026, 5, 4, 13, 14, 15, tzinfo=UTC)
LONG = Entry(
    at=AT,
    function="completion",
    event="taken",
    source="consul://consul.service.eu-central.example.com:8500/llmwire/production",
    version="index 42",
    changes=(
        Change(key="completion.endpoints.a", before=None, after="https://a-long-name.eu-central.example.com:8443/v1"),
        Change(key="completion.endpoints.b.weight", before="1", after="3"),
        Change(key="completion.endpoints.c", before="http://c", after=None),
    ),
    warnings=("the key travels unencrypted",),
)


def test_an_entry_says_what_happened_and_what_is_another_now():
    assert text_of(LONG) == [
        f"completion: {LONG.source}, index 42, is in force",
        "+ completion.endpoints.a: https://a-long-name.eu-central.example.com:8443/v1",
        "~ completion.endpoints.b.weight: 1 -> 3",
        "- completion.endpoints.c: http://c",
        "warning: the key travels unencrypted",
    ]


def test_where_nothing_that_is_shown_changes_that_is_said():
    entry = Entry(at=AT, function="completion", event="taken", source="file:///a", version="written now")

    assert text_of(entry)[1:] == ["nothing that may be shown is another now"]


def test_a_refusal_gives_its_reason_and_says_that_nothing_else_happens():
    entry = Entry(at=AT, function="embedding", event="refused", source="s", version="index 7", reason="a.b: is wrong.")

    assert text_of(entry) == ["embedding: s, index 7, is refused; what was in force stays so", "a.b: is wrong."]


def test_what_a_document_says_cannot_control_the_terminal():
    entry = Entry(
        at=AT, function="completion", event="refused", source="s", version="\x1b[2J", reason="\x1b]0;a\n[red]"
    )

    console = Console(file=StringIO(), width=80)
    console.print(view(entry))

    assert "\x1b" not in console.file.getvalue()
    assert "?]0;a?[red]" in console.file.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_at_each_width_all_is_there_beside_the_time(width):
    console = Console(file=StringIO(), width=width)

    console.print(view(LONG))

    shown = console.file.getvalue().splitlines()
    assert max(map(len, shown)) <= width
    assert shown[0].startswith("13:14:15 completion")
    assert all(line.startswith(" " * 9) for line in shown[1:])
    joined = "".join(line[9:].rstrip() for line in shown).replace(" ", "")
    assert all(str(line).replace(" ", "") in joined for line in lines_of(LONG))


# The command.


def test_it_tells_the_first_state_each_change_and_each_refusal_until_ctrl_c(watch, file):
    file({"completion": ONE})
    watching = watch(COMPLETION_SOURCE=str(file.path))
    watching.until("completion: 1 endpoint\n")
    watching.until(f"  source {file.path.as_uri()}: written ")
    watching.until("  a: http://127.0.0.1:1/v1\n")

    file({"completion": TWO})
    watching.until("is in force\n")
    watching.until("  + completion.endpoints.b: http://127.0.0.1:2/v1\n")
    watching.until("  + completion.endpoints.b.weight: 3\n")
    file({"completion": {**TWO, "strategi": "p2c"}})
    watching.until("is refused; what was in force stays so\n")
    watching.until("Did you mean completion.strategy?\n")
    file({"completion": ONE})
    watching.until("  - completion.endpoints.b: http://127.0.0.1:2/v1\n")

    assert watching.end() == 0
    assert "embedding" not in watching.shown  # it has no source
    assert "Traceback" not in watching.shown
    assert all(re.match(r"  |\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]", line) for line in watching.shown.splitlines())


def test_both_functions_are_followed_and_one_alone_where_it_is_named(watch, consul):
    consul.put("both/completion", json.dumps(ONE).encode())
    consul.put("both/embedding", json.dumps({"base_url": "http://127.0.0.1:3", "model": "bert"}).encode())
    source = f"consul://127.0.0.1:{consul.port}/both"

    both, one = watch(LLMWIRE_SOURCE=source), watch("embedding", LLMWIRE_SOURCE=source)
    both.until("completion: 1 endpoint\n")
    both.until("embedding: 1 endpoint\n")
    one.until("  default: http://127.0.0.1:3/v1\n")
    consul.put("both/embedding", json.dumps({"base_url": "http://127.0.0.1:4", "model": "bert"}).encode())
    for each in (both, one):
        each.until("~ embedding: http://127.0.0.1:3/v1 -> http://127.0.0.1:4/v1\n")

    assert (both.end(), one.end()) == (0, 0)
    assert "completion" not in one.shown


def test_another_embedding_is_told_to_be_one_that_running_programs_refuse(watch, consul):
    consul.put("moved/embedding", json.dumps({"base_url": "http://127.0.0.1:3", "model": "bert"}).encode())
    watching = watch("embedding", EMBEDDING_SOURCE=f"consul://127.0.0.1:{consul.port}/moved")
    watching.until("  default: ")

    consul.put("moved/embedding", json.dumps({"base_url": "http://127.0.0.1:3", "model": "other"}).encode())

    watching.until("~ embedding.model: bert -> other\n")
    watching.until("warning: the embedding is another: programs that run refuse this")


def test_a_source_that_falls_silent_is_told_of_and_so_is_its_return(watch, mortal):
    mortal.put("llmwire/completion", json.dumps(ONE).encode())
    watching = watch("completion", LLMWIRE_SOURCE=f"etcd://127.0.0.1:{mortal.port}/llmwire")
    watching.until("  a: ")

    mortal.kill()
    watching.until("is silent; what is in force stays so\n")
    watching.until(f"nothing listens at 127.0.0.1:{mortal.port}.")
    mortal.start()
    watching.until("answers again\n")
    mortal.put("llmwire/completion", json.dumps(TWO).encode())
    watching.until("+ completion.endpoints.b: ")

    assert watching.end() == 0


def test_a_source_that_is_silent_from_the_start_is_waited_for_even_where_a_program_would_not_begin(watch, mortal):
    mortal.put("llmwire/completion", json.dumps(ONE).encode())
    mortal.kill()
    watching = watch(
        "completion",
        LLMWIRE_SOURCE=f"etcd://127.0.0.1:{mortal.port}/llmwire",
        LLMWIRE_STARTUP="fail",
        OPENAI_API_KEY="k",
    )
    watching.until("completion: 0 endpoints\n")
    watching.until("nothing of it is in force; nothing listens")
    watching.until("error: no source names a server, and no setting does\n")

    mortal.start()

    watching.until("+ completion.endpoints.a: http://127.0.0.1:1/v1\n")


def test_where_the_sources_name_no_endpoint_any_longer_those_of_the_settings_are_told(watch, file):
    file({"completion": ONE})
    watching = watch("completion", LLMWIRE_SOURCE=str(file.path), COMPLETION_BASE_URL="http://127.0.0.1:9")
    watching.until("  a: ")

    file({"completion": {"deadline_s": 5}})

    watching.until("+ completion: http://127.0.0.1:9/v1\n")
    watching.until("+ completion.deadline_s: 5\n")
    watching.until("- completion.endpoints.a: http://127.0.0.1:1/v1\n")


def test_json_is_one_object_a_line_and_holds_no_key(watch, file):
    file({"completion": {**ONE, "api_key": "sk-secret"}})
    watching = watch("completion", "--json", LLMWIRE_SOURCE=str(file.path))
    watching.until("\n")

    file({"completion": {**TWO, "api_key": "sk-other-secret"}})
    watching.until("\n")
    file("no document")
    watching.until("\n")

    assert watching.end() == 0
    begun, taken, refused = map(json.loads, watching.shown.splitlines())
    assert (begun["event"], begun["endpoints"]) == ("begun", {"a": "http://127.0.0.1:1/v1"})
    assert [source["source"] for source in begun["sources"]] == [file.path.as_uri()]
    assert taken["event"] == "taken"
    assert {"key": "completion.endpoints.b.weight", "before": None, "after": "3"} in taken["changes"]
    assert datetime.fromisoformat(taken["at"]).tzinfo is not None
    assert (refused["event"], refused["changes"]) == ("refused", [])
    assert "is no TOML" in refused["reason"]
    assert "secret" not in watching.shown


def test_a_key_that_is_renewed_in_a_file_is_told_of_as_a_document_that_shows_nothing_else(watch, file):
    file({"completion": {**ONE, "api_key": "sk-secret"}})
    watching = watch("completion", LLMWIRE_SOURCE=str(file.path))
    watching.until("  a: ")

    file({"completion": {**ONE, "api_key": "sk-other-secret"}})

    watching.until("is in force\n  nothing that may be shown is another now\n")


@pytest.mark.parametrize("columns", [60, 120])
def test_on_a_terminal_it_is_coloured_and_fits(watch, file, columns):
    file({"completion": ONE})
    watching = watch("completion", LLMWIRE_SOURCE=str(file.path), columns=columns)
    watching.until("http://127.0.0.1:1/v1")

    file({"completion": TWO})
    watching.until("completion.endpoints.b.weight: 3")

    assert watching.end() == 0
    assert "\x1b[32m" in watching.shown
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", watching.shown).replace("^C", "").splitlines()
    assert max(map(len, plain)) <= columns
    assert "Traceback" not in watching.shown


@pytest.mark.parametrize(
    ("function", "own"), [([], "COMPLETION_SOURCE or EMBEDDING_SOURCE"), (["embedding"], "EMBEDDING_SOURCE")]
)
def test_without_a_source_one_sentence_names_what_to_set(watch, function, own):
    watching = watch(*function, COMPLETION_BASE_URL="http://127.0.0.1:1")

    assert watching.process.wait(timeout=LIMIT_S) == 2
    watching.until("llmwire: source: is ")
    watching.until(f"Set LLMWIRE_SOURCE, or {own}, as in consul://127.0.0.1:8500/llmwire/prod.\n")
    assert "Traceback" not in watching.shown


def test_a_source_that_cannot_be_one_is_told_of_in_one_sentence(watch):
    watching = watch(LLMWIRE_SOURCE="consul:/127.0.0.1/a")

    assert watching.process.wait(timeout=LIMIT_S) == 2
    watching.until("llmwire: completion.source (from env.LLMWIRE_SOURCE): ")


def test_ctrl_c_before_anything_is_shown_ends_it_as_a_shell_would(watch, silent_port):
    watching = watch(LLMWIRE_SOURCE=f"etcd://127.0.0.1:{silent_port.port}/llmwire")
    silent_port.until_asked()

    assert watching.end() == 130
    assert watching.shown == ""
