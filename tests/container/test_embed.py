"""The command `llmwire embed`, as its user runs it: files in, files out, and a sentence where something is wrong."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from llmwire.container.commands import app
from llmwire.services.bulk.rate import NeverGoes
from llmwire.services.space import CANARY
from llmwire.services.testing import FaultServer, StandIn
from llmwire.services.testing.standin import embed

COMMAND = [sys.executable, "-c", "from llmwire.container.cli import main; main()"]
CACHE = ".llmwire-embeddings.sqlite"
DIMENSIONS = 16
LIMIT_S = 60

TEXTS = ["the sea is deep", "mountains, high", 'a "quoted" word', "the sea is deep", "\u6d77 is cold"]
IDS = ["a", "b", "c", "d", "e"]
TRUTH = np.array([embed(text, DIMENSIONS) for text in TEXTS], dtype=np.float32)

Ran = subprocess.CompletedProcess[str]
Run = Callable[..., Ran]


class AnotherModel(ThreadingHTTPServer):
    """Answers to the same name with vectors of the same width, of other features. Remembers what it was given."""

    def __init__(self) -> None:
        self.inputs: list[list[str]] = []
        super().__init__(("127.0.0.1", 0), AnotherHandler)
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self._thread.join()
        super().__exit__(*error)


class AnotherHandler(BaseHTTPRequestHandler):
    server: AnotherModel

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        self.server.inputs.append(texts)
        vectors = [np.array(embed(text[::-1], DIMENSIONS), dtype="<f4") for text in texts]
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(vector).decode()}
            for index, vector in enumerate(vectors)
        ]
        body = json.dumps({"object": "list", "data": data, "model": "bert"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer(dimensions=DIMENSIONS) as serving:
        yield serving


@pytest.fixture
def env(server: FaultServer) -> dict[str, str]:
    """Settings for that server."""
    return settings(server)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `llmwire embed` in the test's folder; its output goes into pipes."""

    def run_command(*arguments: str, env: dict[str, str], **options: Any) -> Ran:
        return subprocess.run(
            [*COMMAND, "embed", *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **env},
            **options,
        )

    return run_command


def settings(server: StandIn) -> dict[str, str]:
    return {"EMBEDDING_BASE_URL": server.base_url, "EMBEDDING_API_KEY": "sk-secret", "EMBEDDING_MODEL": "bert"}


def sent(server: StandIn) -> list[str]:
    """The texts that the server was asked for, the canary of the space aside, in their order."""
    return [text for request in server.requests for text in request.body["input"] if text != CANARY]


def jsonl(path: Path, texts: list[str] = TEXTS) -> str:
    rows = [{"id": name, "text": text} for name, text in zip(IDS, texts, strict=False)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path.name


def table(path: Path, separator: str) -> str:
    quoted = [text.replace('"', '""') for text in TEXTS]
    rows = [f'{name}{separator}"{text}"\n' for name, text in zip(IDS, quoted, strict=True)]
    path.write_text(f"id{separator}text\n{''.join(rows)}")
    return path.name


def columns(path: Path) -> str:
    parquet.write_table(pyarrow.table({"id": IDS, "text": TEXTS}), path)
    return path.name


def lines(path: Path) -> str:
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path.name


WRITERS: dict[str, Callable[[Path], str]] = {
    "texts.jsonl": jsonl,
    "texts.csv": lambda path: table(path, ","),
    "texts.tsv": lambda path: table(path, "\t"),
    "texts.parquet": columns,
    "texts.txt": lines,
}


def cached(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM vectors").fetchone()[0])


def is_one_complaint(ran: Ran, code: int) -> bool:
    """Whether it failed so, and says so on stderr in a sentence of its own, without a traceback."""
    return (
        ran.returncode == code
        and ran.stdout == ""
        and ran.stderr.startswith("llmwire: ")
        and ran.stderr.count("llmwire: ") == 1
        and "Traceback" not in ran.stderr
    )


def written(folder: Path) -> list[str]:
    """What is in the folder of vectors, whole or half."""
    return sorted(path.name for path in folder.iterdir() if ".npy" in path.name or "out.parquet" in path.name)


# From each kind of file to each.


@pytest.mark.parametrize("source", WRITERS)
def test_the_vectors_of_any_file_go_into_a_matrix_in_its_order(run, env, tmp_path, source):
    WRITERS[source](tmp_path / source)

    ran = run(source, "--out", "out.npy", env=env)

    assert (ran.returncode, ran.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), TRUTH)
    manifest = json.loads((tmp_path / "out.manifest.json").read_text())
    assert (manifest["rows"], manifest["dimensions"], manifest["model"]) == (len(TEXTS), DIMENSIONS, "bert")
    assert (manifest["input"], manifest["embedded"], manifest["refused"]) == (source, 4, [])


@pytest.mark.parametrize("source", WRITERS)
def test_the_vectors_of_any_file_go_into_a_table_with_their_texts_and_ids(run, env, tmp_path, source):
    WRITERS[source](tmp_path / source)
    has_ids = source != "texts.txt"

    ran = run(source, "--out", "out.parquet", *(["--id", "id"] if has_ids else []), env=env)

    assert (ran.returncode, ran.stderr) == (0, "")
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(found["embedding"], dtype=np.float32), TRUTH)
    assert (found["text"], found["position"]) == (TEXTS, list(range(len(TEXTS))))
    assert found["error"] == [None] * len(TEXTS)
    assert found.get("id") == (IDS if has_ids else None)


def test_texts_may_come_through_a_pipe(run, env, tmp_path):
    piped = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS)

    ran = run("-", "--kind", "jsonl", "--text", "body", "--out", "out.npy", env=env, input=piped)

    assert (ran.returncode, ran.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), TRUTH)


# What is sent.


def test_a_text_that_repeats_is_sent_once(run, server, env, tmp_path):
    ran = run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", "--batch", "1", env=env)

    assert sorted(sent(server)) == sorted(set(TEXTS))
    assert "5 texts into out.npy in " in ran.stdout
    assert ": 4 embedded, 0 from the cache, 1 repeated, 0 refused; " in ran.stdout


def test_the_second_run_sends_no_text(run, server, env, tmp_path):
    source = jsonl(tmp_path / "a.jsonl")
    run(source, "--out", "out.npy", env=env)
    before = len(sent(server))

    ran = run(source, "--out", "out.parquet", env=env)

    assert ran.returncode == 0
    assert len(sent(server)) == before
    assert ": 0 embedded, 5 from the cache, 0 repeated, 0 refused; 0 tokens\n" in ran.stdout
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    np.testing.assert_array_equal(np.array(found["embedding"], dtype=np.float32), TRUTH)


def test_the_cache_may_be_elsewhere(run, server, env, tmp_path):
    source = jsonl(tmp_path / "a.jsonl")

    run(source, "--out", "one/out.npy", "--cache", "kept/here.sqlite", env=env)
    ran = run(source, "--out", "other/out.npy", "--cache", "kept/here.sqlite", env=env)

    assert ran.returncode == 0
    assert sorted(sent(server)) == sorted(set(TEXTS))
    assert cached(tmp_path / "kept" / "here.sqlite") == len(set(TEXTS))
    assert not list(tmp_path.rglob(CACHE))


def test_a_request_carries_no_more_texts_than_it_may(run, server, env, tmp_path):
    run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", "--batch", "2", env=env)

    assert max(len(request.body["input"]) for request in server.requests) == 2


# Texts without a vector.


def _refusing(text: str) -> Callable[[Any], str]:
    return lambda request: "400" if text in request.body["input"] else "ok"


def test_texts_without_a_vector_are_reported_and_the_rest_is_there(run, server, env, tmp_path):
    server.script(_refusing(TEXTS[1]))
    source = jsonl(tmp_path / "a.jsonl", [*TEXTS[:4], " "])

    ran = run(source, "--out", "out.npy", env=env)

    assert (ran.returncode, ran.stderr) == (1, "")
    assert re.search(r"^  text 1: .*400", ran.stdout, re.MULTILINE)
    assert "  text 4: input 4 is empty: no server can embed it\n" in ran.stdout
    assert "1 repeated, 2 refused; " in ran.stdout
    vectors = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(vectors[[0, 2, 3]], TRUTH[[0, 2, 3]])
    assert np.isnan(vectors[[1, 4]]).all()
    refused = json.loads((tmp_path / "out.manifest.json").read_text())["refused"]
    assert [one["position"] for one in refused] == [1, 4]


def test_in_a_table_a_text_without_a_vector_has_the_reason_in_its_row(run, server, env, tmp_path):
    server.script(_refusing(TEXTS[1]))
    source = jsonl(tmp_path / "a.jsonl", [*TEXTS[:4], ""])

    ran = run(source, "--out", "out.parquet", "--id", "id", "--json", env=env)

    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    refused = {one["position"]: one["reason"] for one in json.loads(ran.stdout)["refused"]}
    assert ran.returncode == 1
    assert [vector is None for vector in found["embedding"]] == [False, True, False, False, True]
    assert found["error"] == [None, refused[1], None, None, refused[4]]
    assert (found["id"][1], found["text"][1]) == ("b", TEXTS[1])


def test_of_many_texts_without_a_vector_the_first_ten_are_shown(run, env, tmp_path):
    (tmp_path / "a.txt").write_text("\n" * 12 + "a text\n")

    ran = run("a.txt", "--out", "out.npy", env=env)

    assert ran.returncode == 1
    assert ran.stdout.count("is empty: no server can embed it") == 10
    assert ran.stdout.endswith("  and 2 more, which the output names\n")


# The summary.


def test_the_summary_is_json_for_other_programs(run, env, tmp_path):
    ran = run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", "--json", env={**env, "EMBEDDING_PRICE": "2.0"})

    summary = json.loads(ran.stdout)
    counts = {name: summary[name] for name in ("out", "texts", "embedded", "cached", "repeated", "refused")}
    assert counts == {"out": "out.npy", "texts": 5, "embedded": 4, "cached": 0, "repeated": 1, "refused": []}
    assert summary["tokens"] > 0
    assert summary["seconds"] > 0
    assert summary["cost"] == pytest.approx(summary["tokens"] * 2.0 / 1e6)
    assert summary["endpoints"]["default"]["texts"] == 4


def test_the_endpoints_of_a_pool_share_the_work_and_each_has_its_line(run, tmp_path):
    texts = [f"text {number}" for number in range(60)]
    (tmp_path / "a.txt").write_text("".join(f"{text}\n" for text in texts))
    with FaultServer("slow:0.02", dimensions=DIMENSIONS) as a, FaultServer("slow:0.02", dimensions=DIMENSIONS) as b:
        env = {
            "EMBEDDING_ENDPOINTS": "a,b",
            "EMBEDDING_A_BASE_URL": a.base_url,
            "EMBEDDING_B_BASE_URL": b.base_url,
            "EMBEDDING_MODEL": "bert",
            "EMBEDDING_PRICE": "1000",
        }
        ran = run("a.txt", "--out", "out.npy", "--batch", "4", "--parallel", "4", env=env)
        shares = {"a": len(sent(a)), "b": len(sent(b))}

    assert ran.returncode == 0
    assert sum(shares.values()) == len(texts)
    shown = {
        name: (int(count), float(cost))
        for name, count, cost in re.findall(r"^ +([ab]) +\d+ +(\d+) +\d+ +([\d.]+) *$", ran.stdout, re.MULTILINE)
    }
    assert {name: count for name, (count, _) in shown.items()} == shares
    assert min(shares.values()) >= 4
    (total,) = re.findall(r" tokens, cost ([\d.]+)$", ran.stdout, re.MULTILINE)
    assert float(total) == pytest.approx(sum(cost for _, cost in shown.values()), abs=1e-3)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), np.array([embed(text, DIMENSIONS) for text in texts]))


# Progress.


def test_into_a_pipe_goes_no_progress_bar(run, env, tmp_path):
    ran = run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", env=env)

    assert ran.stderr == ""
    assert "\x1b" not in ran.stdout


def test_a_terminal_sees_a_bar_that_ends_at_the_number_of_texts(env, tmp_path):
    jsonl(tmp_path / "a.jsonl")
    terminal = {"TERM": "xterm", "COLUMNS": "120", "LC_ALL": "C.UTF-8"}

    shown, code = on_a_terminal("a.jsonl", "--out", "out.npy", cwd=tmp_path, env={**os.environ, **env, **terminal})

    words = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert code == 0
    assert "embedding" in words
    assert "5/5" in words
    assert "4 embedded" in words


def on_a_terminal(*arguments: str, **options: Any) -> tuple[str, int]:
    """What the command writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "embed", *arguments]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True, **options)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # how Linux tells the end of a terminal
        pass
    finally:
        os.close(ours)
    return shown.decode(), process.wait(timeout=LIMIT_S)


# What is configured wrongly.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl", "--out", "out.npy"], "none.jsonl: there is no such file. Name a file with texts"),
        (["a.json", "--out", "out.npy"], "a.json: does not tell its kind. Give the kind"),
        (["a.jsonl", "--out", "out.npy", "--kind", "xml"], "'xml' is no kind of file. Give one of jsonl, csv"),
        (["a.jsonl", "--out", "out.csv"], "out.csv: .csv is no format for vectors. Let its name end in .npy"),
        (["a.jsonl", "--out", "out.npy", "--text", "body"], "has no field 'body'. Name one of those that there are"),
        (["a.csv", "--out", "out.npy", "--text", "body"], "there is no column 'body'. Name one of those"),
        (["a.csv", "--out", "out.npy", "--id", "key"], "there is no column 'key'. Name one of those"),
        (["a.jsonl", "--out", "out.npy", "--cache", "a.csv"], "a.csv: cannot be used as a cache: "),
        (
            ["a.jsonl", "--out", "out.npy", "--requests-per-minute", "9", "--limit-store", "mysql://a"],
            "store: is none that is known. Write memory://",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence_with_what_to_do(run, env, tmp_path, arguments, message):
    jsonl(tmp_path / "a.jsonl")
    table(tmp_path / "a.csv", ",")
    (tmp_path / "a.json").write_text("[]")

    ran = run(*arguments, env=env)

    assert is_one_complaint(ran, 2)
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert written(tmp_path) == []


def test_without_an_endpoint_the_setting_that_is_missing_is_named(run, tmp_path):
    ran = run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", env={})

    assert is_one_complaint(ran, 2)
    assert "embedding.api_key: is not set. Set EMBEDDING_API_KEY" in ran.stderr
    assert written(tmp_path) == []


@pytest.mark.parametrize(("option", "number"), [("--parallel", "0"), ("--patience", "-1"), ("--patience", "nan")])
def test_a_number_that_is_out_of_range_is_refused_by_its_option(run, env, tmp_path, option, number):
    ran = run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", option, number, env=env)

    assert ran.returncode == 2
    assert option in ran.stderr
    assert "Traceback" not in ran.stderr


# What a server does.


def test_a_server_that_is_not_there_is_one_sentence_and_exit_code_1(run, tmp_path):
    env = {"EMBEDDING_BASE_URL": "http://127.0.0.1:1/v1", "EMBEDDING_MODEL": "bert"}

    ran = run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", env=env)

    assert is_one_complaint(ran, 1)
    assert "http://127.0.0.1:1" in ran.stderr
    assert "llmwire ping says how to mend it.\n" in ran.stderr
    assert "the same command goes on where this one was" in ran.stderr
    assert written(tmp_path) == []


def test_a_key_that_is_refused_is_one_sentence_and_exit_code_1(run, tmp_path):
    with StandIn(api_key="right", dimensions=DIMENSIONS) as server:
        ran = run(jsonl(tmp_path / "a.jsonl"), "--out", "out.npy", env=settings(server))

    assert is_one_complaint(ran, 1)
    assert "401" in ran.stderr
    assert "llmwire ping says how to mend it.\n" in ran.stderr
    assert "sk-secret" not in ran.stderr
    assert written(tmp_path) == []


def test_a_server_that_fails_in_the_middle_says_what_is_missing_and_what_came_is_kept(run, server, env, tmp_path):
    server.script(lambda request: "503" if TEXTS[2] in request.body["input"] else "ok")
    source = jsonl(tmp_path / "a.jsonl", TEXTS[:3])

    ran = run(source, "--out", "out.npy", "--batch", "1", "--parallel", "1", "--patience", "0", env=env)

    assert ran.returncode == 1
    assert "missing are the texts at 2. llmwire ping says how to mend it.\n" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert cached(tmp_path / CACHE) == 2
    assert written(tmp_path) == []


def test_another_model_behind_the_same_name_is_refused_and_nothing_is_mixed(run, env, tmp_path):
    source = jsonl(tmp_path / "a.jsonl", TEXTS[:2])
    run(source, "--out", "out.npy", env=env)
    before = (tmp_path / "out.npy").read_bytes()
    jsonl(tmp_path / "a.jsonl")
    with AnotherModel() as other:
        ran = run(source, "--out", "out.npy", env={**env, "EMBEDDING_BASE_URL": other.base_url})

    assert is_one_complaint(ran, 1)
    assert "another model answers under the same name bert" in ran.stderr
    assert "Name another cache file, or set the endpoint back to the model it had.\n" in ran.stderr
    assert other.inputs == [[CANARY]]
    assert cached(tmp_path / CACHE) == 2
    assert (tmp_path / "out.npy").read_bytes() == before


def test_where_all_texts_are_refused_there_is_a_file_that_says_so(run, env, tmp_path):
    (tmp_path / "in.txt").write_text("\n \n")

    ran = run("in.txt", "--out", "out.npy", env=env)

    assert (ran.returncode, "Traceback" in ran.stderr) == (1, False)
    matrix = np.load(tmp_path / "out.npy")
    assert matrix.shape == (2, DIMENSIONS)
    assert np.isnan(matrix).all()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["in.parquet", "--out", "in.parquet"], "--out (from in.parquet): is INPUT too"),
        (["in.parquet", "--out", "./in.parquet"], "is INPUT too"),
        (["in.parquet", "--out", "out.npy", "--cache", "in.parquet"], "--cache (from in.parquet): is INPUT too"),
        (["in.parquet", "--out", "out.npy", "--cache", "out.npy"], "--cache (from out.npy): is --out too"),
        (["in.parquet", "--out", "link.parquet"], "--out (from link.parquet): is INPUT too"),
        (["in.parquet", "--out", "hard.parquet"], "--out (from hard.parquet): is INPUT too"),
        (
            ["in.manifest.json", "--kind", "jsonl", "--out", "in.npy"],
            "the manifest of --out (from in.manifest.json): is INPUT too",
        ),
    ],
    ids=["out", "out in another spelling", "cache", "cache and out", "symbolic link", "hard link", "manifest"],
)
def test_no_file_of_the_users_is_written_over(run, server, env, tmp_path, arguments, told):
    parquet.write_table(pyarrow.table({"text": TEXTS, "title": IDS}), tmp_path / "in.parquet")
    (tmp_path / "link.parquet").symlink_to("in.parquet")
    (tmp_path / "hard.parquet").hardlink_to(tmp_path / "in.parquet")
    jsonl(tmp_path / "in.manifest.json")

    ran = run(*arguments, env=env)

    assert ran.returncode == 2
    assert told in ran.stderr
    assert parquet.read_table(tmp_path / "in.parquet").column_names == ["text", "title"]


@pytest.mark.parametrize("name", ["[/x]", ":warning:"])
def test_what_a_terminal_could_read_as_markup_in_a_name_is_only_a_name(run, env, tmp_path, name):
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "[").mkdir()

    ran = run("in.txt", "--out", f"{name}.npy", env=env)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"into {name}.npy in" in ran.stdout


def test_a_minute_of_few_tokens_makes_small_requests_and_refuses_the_text_that_would_never_go(
    server, env, tmp_path, monkeypatch
):
    asked = []

    class Limit:
        def __init__(self, requests, tokens, **where):
            self._tokens = tokens

        def delay_s(self, texts, tokens):
            asked.append((texts, tokens))
            if tokens > self._tokens:
                raise NeverGoes("too large", key="tokens_per_minute", remedy="Raise it.")
            return 0.0

    monkeypatch.setattr("llmwire.container.embed.RateLimit", Limit)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "in.txt").write_text("0123456789\n" + "much too long " * 4 + "\n" + "abcdefghij\n" + "ABCDEFGHIJ\n")
    arguments = ["embed", str(tmp_path / "in.txt"), "--out", str(tmp_path / "out.npy"), "--tokens-per-minute", "12"]

    ran = CliRunner().invoke(app, arguments)

    assert ran.exit_code == 1
    assert sorted(sent(server)) == ["0123456789", "ABCDEFGHIJ", "abcdefghij"]
    assert sorted(asked) == [(1, 5), (1, 28), (2, 10)]
    assert "text 1: may have 28 tokens, more than the limit ever lets go" in ran.stdout
