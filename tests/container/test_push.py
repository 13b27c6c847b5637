"""`llmwire push`, as its user runs it, into a real Consul and a real etcd."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.error import HTTPError

import pytest

from llmwire.container import LLMContainer

from ..services.discovery.consul_server import ConsulServer
from ..services.discovery.etcd_server import EtcdServer

COMMAND = [sys.executable, "-c", "from llmwire.container.cli import main; main()", "push"]
LIMIT_S = 60
ONE = """
[completion.endpoints.a]
base_url = "http://127.0.0.1:1"
model = "llama"
"""
BOTH = f"""{ONE}
[embedding]
base_url = "http://127.0.0.1:2"
model = "bert"
"""


@pytest.fixture
def push(tmp_path):
    """Runs the command on a file of this content: `push(source, ONE, "--dry-run")`."""

    def run(source, content, *options, name="endpoints.toml", **variables):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return subprocess.run(
            [*COMMAND, source, name, *options],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **variables},
        )

    return run


@pytest.fixture(scope="module")
def consul(tmp_path_factory):
    server = ConsulServer(tmp_path_factory.mktemp("consul"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def mortal(tmp_path_factory):
    """For one test, which kills it."""
    server = ConsulServer(tmp_path_factory.mktemp("consul"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    server = ConsulServer(tmp_path_factory.mktemp("consul"), has_acls=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory):
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def key(request):
    return "llmwire/" + re.sub(r"\W+", "-", request.node.name)


@pytest.fixture
def source(consul, key):
    return f"consul://127.0.0.1:{consul.port}/{key}"


def held(server, key):
    """The document that a Consul has there; None where it has none."""
    try:
        [entry] = server.ask("GET", f"/v1/kv/{key}")
    except HTTPError:  # a 404
        return None
    return base64.b64decode(entry["Value"])


# What is written.


def test_each_function_becomes_a_document_of_its_own_as_json(push, consul, source, key):
    ended = push(source, BOTH)

    assert ended.returncode == 0
    assert ended.stderr == ""
    endpoint = '    "a": {\n      "base_url": "http://127.0.0.1:1",\n      "model": "llama"\n    }\n'
    assert held(consul, f"{key}/completion").decode() == f'{{\n  "endpoints": {{\n{endpoint}  }}\n}}\n'
    assert json.loads(held(consul, f"{key}/embedding")) == {"base_url": "http://127.0.0.1:2", "model": "bert"}
    assert ended.stdout == (
        f"completion: {source}/completion ({version(ended.stdout)[0]})\n"
        "  + completion.endpoints.a: http://127.0.0.1:1\n"
        "  + completion.endpoints.a.model: llama\n"
        f"embedding: {source}/embedding ({version(ended.stdout)[1]})\n"
        "  + embedding.base_url: http://127.0.0.1:2\n"
        "  + embedding.model: bert\n"
        "Written: completion, embedding.\n"
    )


def version(shown):
    return re.findall(r"\((index \d+, no such key)\)", shown)


def test_a_reader_takes_what_was_written(push, etcd, key):
    source = f"etcd://127.0.0.1:{etcd.port}/{key}"

    ended = push(source, BOTH)

    container = LLMContainer(env={}, config={"source": source})
    try:
        settled = [container.providers[name].watcher().settled() for name in ("completion", "embedding")]
    finally:
        container.shutdown_resources()
    assert ended.returncode == 0
    assert [each.endpoint.base_url for each in settled] == ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]


def test_the_order_and_the_letters_of_the_file_are_kept(push, etcd, key):
    table = {"routes": [{"name": "größer", "pool": "default"}], "endpoints": {}}
    table["endpoints"] = {name: {"base_url": f"http://127.0.0.1:{port}"} for port, name in enumerate("zay", start=1)}

    ended = push(f"etcd://127.0.0.1:{etcd.port}/{key}", json.dumps({"completion": table}), name="endpoints.json")

    assert ended.returncode == 0, ended.stderr
    written = etcd.get(f"{key}/completion").decode()
    assert list(json.loads(written)["endpoints"]) == ["z", "a", "y"]
    assert "größer" in written


def test_only_what_is_in_the_file_is_written_and_told(push, consul, source, key):
    consul.put(f"{key}/embedding", b'{"base_url": "http://127.0.0.1:2", "model": "bert"}')

    ended = push(source, ONE)

    assert ended.stdout.endswith("Written: completion.\n")
    assert "embedding" not in ended.stdout
    assert json.loads(held(consul, f"{key}/embedding"))["model"] == "bert"


def test_what_changes_is_told_against_what_is_there(push, source):
    push(source, BOTH)

    ended = push(source, BOTH.replace("127.0.0.1:1", "127.0.0.1:3").replace('"llama"', '"llama"\nweight = 3'))

    assert "  ~ completion.endpoints.a: http://127.0.0.1:1 -> http://127.0.0.1:3\n" in ended.stdout
    assert "  + completion.endpoints.a.weight: 3\n" in ended.stdout
    assert re.search(r"embedding: .*/embedding says that already \(index \d+\)\.\n", ended.stdout)
    assert ended.stdout.endswith("Written: completion.\n")


def test_what_says_the_same_is_not_written_again_however_it_is_spelt(push, consul, source, key):
    consul.put(f"{key}/completion", f"# by hand\n{ONE.replace('completion.', '')}".encode())

    ended = push(source, ONE)

    assert ended.returncode == 0
    assert re.fullmatch(r"completion: .*/completion says that already \(index \d+\)\.\n", ended.stdout)
    assert held(consul, f"{key}/completion").startswith(b"# by hand")


def test_another_order_is_a_change_that_has_no_line(push, source, key, consul):
    other = '[completion.endpoints.b]\nbase_url = "http://127.0.0.1:2"\nmodel = "llama"\n'
    push(source, ONE + other)

    ended = push(source, other + ONE)

    assert "  It differs in its order alone" in ended.stdout
    assert list(json.loads(held(consul, f"{key}/completion"))["endpoints"]) == ["b", "a"]


@pytest.mark.parametrize("there", [b'{"weight": 1, "weight": 2}', b"no document", b"", b"\xff"])
def test_what_cannot_be_read_is_replaced_and_that_is_said(push, consul, source, key, there):
    consul.put(f"{key}/completion", there)

    ended = push(source, ONE)

    assert ended.returncode == 0
    assert "  What is there now cannot be read, and is replaced: it is " in ended.stdout
    assert json.loads(held(consul, f"{key}/completion"))["endpoints"]["a"]["model"] == "llama"


def test_a_key_that_stands_there_by_mistake_is_not_shown(push, consul, source, key):
    consul.put(f"{key}/completion", b'{"api_key": "sk-secret", "base_url": "http://127.0.0.1:1"}')

    ended = push(source, ONE)

    assert "  - completion.api_key: ********\n" in ended.stdout
    assert "sk-secret" not in ended.stdout + ended.stderr


def test_a_dry_run_tells_all_and_writes_nothing(push, consul, source, key):
    ended = push(source, BOTH, "--dry-run")

    assert ended.returncode == 0
    assert "  + completion.endpoints.a: http://127.0.0.1:1\n" in ended.stdout
    assert ended.stdout.endswith("Nothing is written: --dry-run was given.\n")
    assert held(consul, f"{key}/completion") is None


def test_another_embedding_is_warned_of(push, source):
    push(source, BOTH)

    ended = push(source, BOTH.replace("bert", "other"), "--dry-run")

    assert "  ~ embedding.model: bert -> other\n  warning: the embedding is another: programs that run" in ended.stdout


def test_what_a_reader_would_be_warned_of_is_told(push, source):
    twice = ONE + ONE.replace("endpoints.a", "endpoints.b")

    ended = push(source, twice, "--dry-run")

    assert "  warning: completion.endpoints: a and b are one server with one key and one model\n" in ended.stdout


# What is not.


def test_where_a_reader_would_refuse_any_document_all_reasons_are_told_and_none_is_written(push, consul, source, key):
    wrong = ONE + 'wieght = 3\n[embedding]\nbase_url = "ftp://127.0.0.1"\n'

    ended = push(source, wrong)
    half = push(source, ONE + '[embedding]\nbase_url = "ftp://127.0.0.1"\n')

    assert (ended.returncode, half.returncode) == (1, 1)
    assert ended.stdout == half.stdout == ""
    first, second, third = ended.stderr.splitlines()
    assert first == (
        "llmwire: completion would be refused: completion.endpoints.a.wieght"
        " (from config.completion.endpoints.a.wieght (endpoints.toml)): is no setting."
        " Did you mean completion.endpoints.a.weight?"
    )
    assert "llmwire: embedding would be refused: embedding.base_url" in second
    assert third == "llmwire: Nothing is written."
    assert held(consul, f"{key}/completion") is None


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('[completion]\napi_key = "sk-secret"\n', "is not taken from a document that others may write"),
        ('[completion]\nsource = "consul://127.0.0.1/a"\n', "is not taken from a source"),
        ('[completion]\nbase_url = "http://169.254.169.254"\n', "completion.base_url"),
        ("[completion]\n", "is empty"),
    ],
)
def test_a_document_of_a_source_may_say_here_what_it_may_there(push, source, table, reason):
    ended = push(source, table)

    assert ended.returncode == 1
    assert reason in ended.stderr
    assert "sk-secret" not in ended.stderr


def test_a_document_is_tried_with_the_settings_of_those_who_read_it(push, source, tmp_path):
    (tmp_path / "readers.toml").write_text(
        '[credentials.vendor]\napi_key = "sk-secret"\nhosts = ["https://vendor.example"]\n'
    )
    named = '[completion]\nbase_url = "https://vendor.example"\ncredential = "vendor"\n'

    without, with_them = push(source, named), push(source, named, "--config", "readers.toml")

    assert (without.returncode, with_them.returncode) == (1, 0)
    assert "completion.credential" in without.stderr
    assert "sk-secret" not in with_them.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            f'{ONE}[openai]\napi_key = "sk-secret"\n',
            "llmwire: openai (from endpoints.toml): is no table of one function, and a document of a source",
        ),
        (f"key_fallback = 'warn'\n{ONE}", "llmwire: key_fallback (from endpoints.toml): is no setting of one function"),
        ("[completions]\nmodel = 'a'\n", "is no function. Did you mean [completion]?"),
        ("completion = 'sk-secret'\n", "llmwire: completion (from endpoints.toml): is no table. Write [completion]"),
        ("[completion]\nweight = nan\n", "holds a date, a time or a number that is not finite"),
        ("[completion]\nmodel = 2026-01-01\n", "holds a date, a time or a number that is not finite"),
        ("a = ", "llmwire: endpoints.toml: is no TOML: "),
        ("", "llmwire: endpoints.toml: is empty. "),
        (b"\xff", "llmwire: endpoints.toml: is no text in UTF-8. "),
    ],
)
def test_a_file_that_cannot_be_pushed_is_told_of_in_one_sentence(push, source, content, message):
    ended = push(source, content)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "sk-secret" not in ended.stderr
    assert ended.stdout == ""


def test_a_file_that_is_not_there_is_told_of(push, source, tmp_path):
    ended = subprocess.run(
        [*COMMAND, source, "none.toml"], capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=tmp_path
    )

    assert ended.returncode == 2
    assert ended.stderr == (
        "llmwire: none.toml: cannot be read: No such file or directory. Name a TOML or JSON file.\n"
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "file:///etc/llmwire.toml",
            "llmwire: file:///etc/llmwire.toml: is a file, which is not written this way.",
        ),
        ("consul+service://127.0.0.1/llama", "is what Consul knows of the instances of a service"),
        ("consul://127.0.0.1/a,consul://127.0.0.1/b", "llmwire: SOURCE: names several sources."),
        ("consul://127.0.0.1/a?token=sk-secret", "llmwire: SOURCE: has a secret in it."),
        ("http://127.0.0.1:8500", "llmwire: SOURCE: has the scheme http"),
        ("consul://127.0.0.1:1/a", "llmwire: consul://127.0.0.1:1/a: nothing listens at 127.0.0.1:1."),
    ],
)
def test_a_source_that_cannot_be_written_is_told_of_in_one_sentence(push, target, message):
    ended = push(target, ONE)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "sk-secret" not in ended.stderr


# While it writes.


class Between(ThreadingHTTPServer):
    """Hands everything on to a Consul. `meddle` is asked before that; where it says so, the answer is lost.

    It is given the number of the request, and its method and path as in `PUT /v1/kv/a`.
    """

    def __init__(self, consul: ConsulServer) -> None:
        self.consul = consul
        self.asked = 0
        self.meddle: Callable[[int, str], bool | None] = lambda number, asked: None
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Between

    def hand_on(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked += 1
        is_lost = self.server.meddle(self.server.asked, f"{self.command} {self.path}")
        with suppress(ConnectionError):
            onwards = HTTPConnection("127.0.0.1", self.server.consul.port, timeout=LIMIT_S)
            onwards.request(self.command, self.path, content)
            answer = onwards.getresponse()
            body = answer.read()
            onwards.close()
            if not is_lost:
                self.send_response(answer.status)
                self.send_header("X-Consul-Index", answer.getheader("X-Consul-Index") or "1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
        self.close_connection = True

    do_GET = do_PUT = hand_on  # noqa: N815  # the standard library's names

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def between(consul):
    with Between(consul) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


OTHERS = b'{"base_url": "http://127.0.0.1:9"}'


@pytest.mark.parametrize("number", [2, 3])  # between the two looks at what is there, and after them
def test_what_another_has_written_meanwhile_is_not_written_over(push, consul, between, key, number):
    between.meddle = lambda asked, _: consul.put(f"{key}/completion", OTHERS) if asked == number else None

    ended = push(f"consul://127.0.0.1:{between.server_port}/{key}", ONE)

    assert ended.returncode == 1
    assert ended.stderr == (
        f"llmwire: consul://127.0.0.1:{between.server_port}/{key}/completion:"
        " the document was changed meanwhile. Run it again.\n"
    )
    assert ended.stdout.endswith("Not written: completion.\n")
    assert held(consul, f"{key}/completion") == OTHERS


def test_where_the_second_cannot_be_written_it_is_said_which_was(push, consul, between, key):
    def meddle(number, asked):
        if asked.startswith("PUT") and "embedding" in asked:
            consul.put(f"{key}/embedding", OTHERS)

    between.meddle = meddle

    ended = push(f"consul://127.0.0.1:{between.server_port}/{key}", BOTH)

    assert ended.returncode == 1
    assert ended.stdout.endswith("Written: completion.\nNot written: embedding.\n")
    assert json.loads(held(consul, f"{key}/completion"))["endpoints"]["a"]["model"] == "llama"
    assert held(consul, f"{key}/embedding") == OTHERS


def test_where_the_first_cannot_be_written_the_second_is_not_tried(push, consul, between, key):
    def meddle(number, asked):
        if asked.startswith("PUT"):
            consul.put(f"{key}/completion", OTHERS)

    between.meddle = meddle

    ended = push(f"consul://127.0.0.1:{between.server_port}/{key}", BOTH)

    assert ended.stdout.endswith("Not written: completion, embedding.\n")
    assert held(consul, f"{key}/embedding") is None


def test_what_was_written_while_the_answer_was_lost_counts_as_written(push, consul, between, key):
    between.meddle = lambda number, asked: asked.startswith("PUT")

    ended = push(f"consul://127.0.0.1:{between.server_port}/{key}", BOTH)

    assert ended.returncode == 0
    assert ended.stderr == ""
    assert ended.stdout.endswith("Written: completion, embedding.\n")
    assert held(consul, f"{key}/embedding") is not None


def test_what_cannot_be_told_is_said_to_be_so(push, mortal, between, key):
    between.consul = mortal
    between.meddle = lambda number, asked: mortal.kill() if asked.startswith("PUT") else None

    ended = push(f"consul://127.0.0.1:{between.server_port}/{key}", BOTH)

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"llmwire: consul://127.0.0.1:{between.server_port}/{key}")
    assert ended.stdout.endswith("Perhaps written: completion.\nNot written: embedding.\n")


def test_what_may_not_be_written_is_told_with_the_right_that_is_missing(push, guarded, key):
    may = f'key_prefix "{key}" {{ policy = "read" }} key "{key}/completion" {{ policy = "write" }}'
    token = guarded.token(may)

    ended = push(f"consul://127.0.0.1:{guarded.port}/{key}", BOTH, CONSUL_HTTP_TOKEN=token)

    assert ended.returncode == 2
    assert ended.stdout.endswith("Written: completion.\nNot written: embedding.\n")
    assert f'key "{key}/embedding" {{ policy = "write" }}' in ended.stderr
    assert token not in ended.stdout + ended.stderr


# On a terminal.


def test_on_a_terminal_it_is_coloured(source, tmp_path):
    (tmp_path / "endpoints.toml").write_text(ONE)
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "60"}

    with subprocess.Popen(
        [*COMMAND, source, "endpoints.toml"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env=env
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # how Linux tells the end of a terminal
            while part := os.read(ours, 65_536):
                shown += part
        os.close(ours)

    assert process.returncode == 0
    assert b"\x1b[32m+ completion.endpoints.a: http://127.0.0.1:1\x1b[0m" in shown
