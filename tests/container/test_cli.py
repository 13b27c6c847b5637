"""The command `llmwire`, as its user runs it: in a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from ..services.discovery.etcd_server import EtcdServer

COMMAND = [sys.executable, "-c", "from llmwire.container.cli import main; main()"]
USABLE = {"COMPLETION_BASE_URL": "http://localhost:1/v1", "EMBEDDING_BASE_URL": "http://localhost:2/v1"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in an empty folder; its output goes into a pipe."""

    def run_command(*arguments: str, env: dict[str, str] | None = None, cwd: Path = tmp_path) -> Any:
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )

    return run_command


class Server(ThreadingHTTPServer):
    """Answers each path with a status and a body, and remembers what it was asked."""

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        self.answers, self.asked = answers, []  # type: ignore[var-annotated]  # lines of text
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('authorization')}")
        status, answer = self.server.answers.get(self.path, (404, {"error": {"message": "no such path"}}))
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html" if isinstance(answer, str) else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815  # the standard library's names

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


MODELS = {"object": "list", "data": [{"id": "llama", "object": "model"}, {"id": "bert", "object": "model"}]}
CHAT = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "llama",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "a"}}],
}
VECTORS = {"object": "list", "model": "bert", "data": [{"object": "embedding", "index": 0, "embedding": [1.0, 2.0]}]}


@pytest.fixture
def serving() -> Iterator[Callable[[dict[str, tuple[int, Any]]], Server]]:
    """Starts a server with the answers that it gives: `serving({"/v1/models": (200, MODELS)})`."""
    with ExitStack() as stack:

        def serving(answers: dict[str, tuple[int, Any]]) -> Server:
            running = stack.enter_context(Server(answers))
            thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(running.shutdown)
            return running

        yield serving


@pytest.fixture
def server(serving: Callable[..., Server]) -> Server:
    """A server that knows the models `llama` and `bert`."""
    answers = {"/v1/models": MODELS, "/v1/chat/completions": CHAT, "/v1/embeddings": VECTORS}
    return serving({path: (200, answer) for path, answer in answers.items()})


@pytest.fixture
def served(server: Server) -> dict[str, str]:
    """Settings for that server."""
    return {
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "sk-secret",
        "COMPLETION_MODEL": "llama",
        "EMBEDDING_MODEL": "bert",
    }


# explain


def test_explain_prints_plain_text_into_a_pipe(run):
    ended = run("explain", env={**USABLE, "COMPLETION_API_KEY": "sk-secret"})

    assert ended.returncode == 0
    assert ended.stdout.startswith("completion: http://localhost:1/v1 (openai, with a key)\n  completion.base_url   = ")
    assert "completion.api_key    = ********  [env.COMPLETION_API_KEY]" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert ended.stderr == ""


def test_explain_ends_with_1_where_a_function_cannot_be_used(run):
    ended = run("explain", env={"COMPLETION_BASE_URL": "http://localhost:1"})

    assert ended.returncode == 1
    assert "error: embedding.api_key: is not set. Set EMBEDDING_API_KEY, or OPENAI_API_KEY" in ended.stdout


@pytest.mark.parametrize(("env", "code"), [(USABLE, 0), ({}, 1)])
def test_explain_prints_json_for_other_programs(run, env, code):
    ended = run("explain", "--json", env={**env, "OPENAI_ORG_ID": "org"})

    read = json.loads(ended.stdout)
    assert ended.returncode == code
    assert list(read) == ["completion", "embedding"]
    assert read["completion"]["server"] == env.get("COMPLETION_BASE_URL")


def test_explain_draws_a_table_on_a_terminal(tmp_path):
    terminal = {"TERM": "xterm", "COLUMNS": "160", "LC_ALL": "C.UTF-8"}
    env = {**os.environ, **terminal, **USABLE, "COMPLETION_API_KEY": "sk-secret"}

    shown, code = on_a_terminal([*COMMAND, "explain"], cwd=tmp_path, env=env)

    words = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert code == 0
    assert "\u2500" in words  # the line of a table
    assert re.search(r"setting .* value .* from .* shadows", words)
    assert re.search(r"completion\.api_key .* \*{8} .* env\.COMPLETION_API_KEY", words)
    assert "\x1b[" in shown
    assert "sk-secret" not in shown


def on_a_terminal(command: list[str], **options: Any) -> tuple[str, int]:
    """What a command writes to a terminal, and its exit code."""
    ours, theirs = pty.openpty()
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
    return shown.decode(), process.wait(timeout=60)


def test_the_command_reads_the_dotenv_file_of_its_folder_and_above(run, tmp_path):
    (tmp_path / ".env").write_text("COMPLETION_MODEL=llama\nEMBEDDING_MODEL=bert\n")
    (tmp_path / "below").mkdir()

    ended = run("explain", env={**USABLE, "EMBEDDING_MODEL": "of the process"}, cwd=tmp_path / "below")

    assert f"= llama  [env.COMPLETION_MODEL ({tmp_path}/.env)]" in ended.stdout
    assert "= of the process  [env.EMBEDDING_MODEL]" in ended.stdout


def test_files_may_be_named(run, tmp_path):
    (tmp_path / ".env").write_text("COMPLETION_MODEL=of the wrong file\n")
    (tmp_path / "my.env").write_text("COMPLETION_MODEL=llama\n")
    (tmp_path / "my.toml").write_text("[embedding]\nmodel = 'bert'\n")

    ended = run("explain", "--config", "my.toml", "--env-file", "my.env", env=USABLE)

    assert "= llama  [env.COMPLETION_MODEL (my.env)]" in ended.stdout
    assert "= bert  [config.embedding.model (my.toml)]" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "--env-file", "none.env"], "llmwire: none.env: is no file. Name a .env file that exists."),
        (["explain", "--config", "none.toml"], "llmwire: none.toml: cannot be read: No such file or directory."),
        (["ping", "--config", "broken.toml"], "llmwire: broken.toml: is no TOML: "),
        (["explain", "--colour"], "No such option"),
        (["explane"], "No such command"),
    ],
)
def test_where_nothing_could_be_checked_it_ends_with_2_and_says_why(run, tmp_path, arguments, message):
    (tmp_path / "broken.toml").write_text("a = ")

    ended = run(*arguments)

    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


# explain and others, with sources


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    (tmp_path / "etcd").mkdir()
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.kill()


def a_document(base_url: str, model: str = "llama") -> bytes:
    return json.dumps({"endpoints": {"a": {"base_url": base_url, "model": model}}, "model": model}).encode()


def test_explain_asks_the_sources_and_shows_what_they_say(run, etcd):
    etcd.put("llmwire/completion", a_document("http://127.0.0.1:1"))
    source = f"etcd://127.0.0.1:{etcd.port}/llmwire"

    ended = run("explain", env={**USABLE, "COMPLETION_SOURCE": source})
    as_json = run("explain", "--json", env={**USABLE, "COMPLETION_SOURCE": source})

    assert ended.returncode == 0
    assert re.search(rf"  source {source}: revision \d+, answered 0 s ago\n", ended.stdout)
    assert "  a: http://127.0.0.1:1/v1 (openai, without a key)\n    completion.endpoints.a.base_url" in ended.stdout
    assert f"[config.completion.endpoints.a.base_url ({source}/completion), shadows env.COMPLETION" in ended.stdout
    assert ended.stderr == ""
    [told] = json.loads(as_json.stdout)["completion"]["sources"]
    assert (told["source"], told["error"]) == (source, None)
    assert json.loads(as_json.stdout)["embedding"]["sources"] == []


def test_explain_shows_why_what_a_source_says_is_not_in_force(run, etcd):
    etcd.put("llmwire/completion", b'{"wieght": 1}')

    ended = run("explain", env={**USABLE, "COMPLETION_SOURCE": f"etcd://127.0.0.1:{etcd.port}/llmwire"})

    assert ended.returncode == 0  # the settings do without it
    assert re.search(r"nothing of it is in force, answered \d s ago; completion\.wieght .* is no setting", ended.stdout)
    assert ended.stderr == ""


@pytest.mark.parametrize("env", [{"LLMWIRE_STARTUP": "fail", **USABLE}, {"OPENAI_API_KEY": "sk-secret"}])
def test_where_a_function_cannot_begin_without_its_source_that_is_its_error(run, env):
    ended = run("explain", env={**env, "COMPLETION_SOURCE": "consul://127.0.0.1:1/llmwire"})

    assert ended.returncode == 1
    assert "  source consul://127.0.0.1:1/llmwire: nothing of it is in force; nothing listens at" in ended.stdout
    assert (
        "  error: consul://127.0.0.1:1/llmwire: completion cannot begin: nothing listens at 127.0.0.1:1."
        in ended.stdout
    )
    assert ended.stdout.count("error:") == 1
    assert ended.stderr == ""


def test_a_source_is_shown_on_a_terminal_too(tmp_path):
    (tmp_path / "endpoints.json").write_text('{"completion": {"model": "llama"}}')
    env = {**os.environ, **USABLE, "TERM": "xterm", "COLUMNS": "160", "COMPLETION_SOURCE": "endpoints.json"}

    shown, code = on_a_terminal([*COMMAND, "explain"], cwd=tmp_path, env=env)

    words = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert code == 0
    assert re.search(r"  source file:///.*/endpoints\.json: written .*, answered 0 s ago", words)


def test_ping_and_endpoints_ask_those_that_a_source_names(run, server, served, tmp_path):
    named = {name: {"base_url": server.base_url} for name in ("a", "b")}
    (tmp_path / "endpoints.json").write_text(json.dumps({"completion": {"endpoints": named}}))
    env = {**served, "COMPLETION_BASE_URL": "http://127.0.0.1:1", "COMPLETION_SOURCE": "endpoints.json"}

    pinged, states = run("ping", env=env), run("endpoints", "--json", env=env)

    assert (pinged.returncode, states.returncode) == (0, 0)
    assert f"completion/a ok GET /models {server.base_url}" in pinged.stdout
    assert [each["name"] for each in json.loads(states.stdout)["endpoints"]] == ["a", "b", "default"]


@pytest.mark.parametrize("command", ["ping", "endpoints"])
def test_a_source_without_which_nothing_can_begin_is_told_of_beside_the_other_function(run, served, command):
    ended = run(command, "--json", env={**served, "LLMWIRE_STARTUP": "fail", "COMPLETION_SOURCE": "none.json"})

    assert ended.returncode == 1
    assert "completion cannot begin: holds nothing (no file)." in ended.stdout
    assert "embedding" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_route_goes_by_what_a_source_says(run, tmp_path):
    routes = [{"name": "small", "pool": "small", "model": "tiny"}]
    endpoints = {"a": {"base_url": "http://127.0.0.1:1", "pools": ["small"]}, "b": {"base_url": "http://127.0.0.1:2"}}
    (tmp_path / "endpoints.json").write_text(
        json.dumps({"completion": {"model": "tiny", "routes": routes, "endpoints": endpoints}})
    )

    ended = run("route", "hello", env={"COMPLETION_SOURCE": "endpoints.json"})

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("small (")


def test_a_source_that_cannot_be_asked_is_told_of_in_one_sentence_where_nothing_can_be_done(run):
    ended = run("route", "hello", env={"OPENAI_API_KEY": "sk-secret", "COMPLETION_SOURCE": "consul://127.0.0.1:1/a"})

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "llmwire: consul://127.0.0.1:1/a: completion cannot begin: nothing listens at 127.0.0.1:1." in ended.stderr
    assert "Traceback" not in ended.stderr


# help


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_the_help_names_the_commands(run, arguments):
    ended = run(*arguments)

    shown = ended.stdout + ended.stderr
    assert all(word in shown for word in ("explain", "ping", "serve-fake", "where it comes from"))


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_packages_one_sentence_says_what_to_install(tmp_path, missing):
    script = f"import sys; sys.modules[{missing!r}] = None; from llmwire.container.cli import main; main()"

    ended = subprocess.run(
        [sys.executable, "-c", script, "explain"], capture_output=True, text=True, cwd=tmp_path, check=False
    )

    assert ended.returncode == 2
    assert ended.stderr == "llmwire: the command needs two packages more: pip install 'llmwire[cli]'\n"


# ping


def test_ping_asks_each_server_for_its_models_and_pays_for_nothing(run, server, served):
    ended = run("ping", env=served)

    assert ended.returncode == 0
    assert server.asked == ["GET /v1/models Bearer sk-secret"] * 2
    lines = ended.stdout.splitlines()
    assert [re.sub(r"\d+ ms", "5 ms", line) for line in lines] == [
        f"completion ok GET /models {server.base_url} 5 ms",
        f"embedding ok GET /models {server.base_url} 5 ms",
    ]


def test_ping_pays_only_when_asked(run, server, served):
    ended = run("ping", "--paid", env=served)

    assert ended.returncode == 0
    assert [line.rpartition(" Bearer")[0] for line in server.asked] == [
        "GET /v1/models",
        "POST /v1/chat/completions",
        "GET /v1/models",
        "POST /v1/embeddings",
    ]
    assert "POST /chat/completions" in ended.stdout


def test_ping_prints_json_for_other_programs(run, server, served):
    ended = run("ping", "--json", env=served)

    first, second = json.loads(ended.stdout)
    assert (first["function"], second["function"]) == ("completion", "embedding")
    assert (first["is_ok"], first["check"], first["server"]) == (True, "GET /models", server.base_url)
    assert first["took_ms"] > 0


def test_ping_names_the_models_there_are(run, served):
    ended = run("ping", env={**served, "COMPLETION_MODEL": "gpt"})

    assert ended.returncode == 0
    assert "it does not list gpt, but llama, bert: set COMPLETION_MODEL" in ended.stdout


def test_ping_ends_with_1_where_one_server_fails_and_says_how_to_mend_it(run, served):
    ended = run("ping", env={**served, "EMBEDDING_BASE_URL": "http://127.0.0.1:1/v1", "EMBEDDING_API_KEY": "none"})

    assert ended.returncode == 1
    assert "completion ok" in ended.stdout
    assert "embedding failed GET /models http://127.0.0.1:1/v1" in ended.stdout
    assert "Start the server, or correct EMBEDDING_BASE_URL." in ended.stdout


def test_ping_tells_of_settings_that_do_not_fit(run, served):
    ended = run("ping", "--json", env={**served, "EMBEDDING_BASE_URL": "localhost"})

    first, second = json.loads(ended.stdout)
    assert ended.returncode == 1
    assert first["is_ok"]
    assert (second["is_ok"], second["check"], second["took_ms"]) == (False, "settings", None)
    assert "has no scheme" in second["problem"]


def test_a_warning_goes_where_it_does_not_disturb(run, server):
    env = {"COMPLETION_BASE_URL": server.base_url, "EMBEDDING_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-secret"}

    ended = run("ping", "--json", env=env)

    assert len(json.loads(ended.stdout)) == 2
    assert "the shared key env.OPENAI_API_KEY goes to" in ended.stderr
    assert "sk-secret" not in ended.stdout + ended.stderr


def test_ping_leaves_no_client_unclosed(served, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", *COMMAND[1:], "ping"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **served},
        check=False,
    )

    assert ended.stderr == ""


def test_ping_asks_each_endpoint_of_a_pool(run, serving):
    good, broken = serving({"/v1/models": (200, MODELS)}), serving({"/v1/models": (401, {"error": {"message": "no"}})})
    env = {
        "COMPLETION_ENDPOINTS": "good,broken",
        "COMPLETION_GOOD_BASE_URL": good.base_url,
        "COMPLETION_BROKEN_BASE_URL": broken.base_url,
        "COMPLETION_MODEL": "llama",
        "EMBEDDING_BASE_URL": good.base_url,
        "EMBEDDING_MODEL": "bert",
    }

    ran = run("ping", env=env)

    assert ran.returncode == 1
    assert f"completion/good ok GET /models {good.base_url}" in ran.stdout
    assert f"completion/broken failed GET /models {broken.base_url}" in ran.stdout
    assert "COMPLETION_BROKEN_API_KEY" in ran.stdout
    assert "embedding ok" in ran.stdout


def test_endpoints_shows_the_state_of_each(run, serving):
    good, busy = serving({"/v1/models": (200, MODELS)}), serving({"/v1/models": (429, {"error": {"message": "no"}})})
    env = {
        "COMPLETION_ENDPOINTS": "good,busy",
        "COMPLETION_GOOD_BASE_URL": good.base_url,
        "COMPLETION_BUSY_BASE_URL": busy.base_url,
        "EMBEDDING_BASE_URL": good.base_url,
    }

    ran = run("endpoints", "--json", env=env)

    states = {(state["function"], state["name"]): state for state in json.loads(ran.stdout)["endpoints"]}
    assert ran.returncode == 1
    assert list(states) == [("completion", "good"), ("completion", "busy"), ("embedding", "default")]
    assert states["completion", "good"]["served"] == states["embedding", "default"]["served"] == 1
    assert (states["completion", "busy"]["health"], states["completion", "busy"]["last_error"]) == ("paused", "429")


def test_endpoints_shows_a_table_and_ends_with_0_where_all_are_well(run, serving):
    good = serving({"/v1/models": (200, MODELS)})

    ran = run("endpoints", env={"COMPLETION_BASE_URL": good.base_url, "EMBEDDING_BASE_URL": good.base_url})

    assert ran.returncode == 0
    assert re.search(r"completion +default +\S+ +ok +closed", ran.stdout)


def test_endpoints_tells_of_settings_that_do_not_fit_and_shows_the_other_function(run, serving):
    good = serving({"/v1/models": (200, MODELS)})

    ran = run("endpoints", env={"EMBEDDING_BASE_URL": good.base_url, "COMPLETION_BASE_URL": "no-url"})

    assert ran.returncode == 1
    assert "completion.base_url" in ran.stdout
    assert "embedding" in ran.stdout


def test_endpoints_asks_again_and_again_until_ctrl_c(serving, tmp_path):
    good = serving({"/v1/models": (200, MODELS)})
    env = {**os.environ, "COMPLETION_BASE_URL": good.base_url, "EMBEDDING_BASE_URL": good.base_url}
    watching = [*COMMAND, "endpoints", "--watch", "--every", "0.1"]

    with subprocess.Popen(watching, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while len(good.asked) < 6:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    assert (process.returncode, errors) == (0, b"")


def test_serve_faults_fails_as_it_is_told_until_ctrl_c(tmp_path):
    command = [*COMMAND, "serve-faults", "503", "--port", "0"]

    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        base_url = process.stdout.readline().strip()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{base_url}/models", timeout=20)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)

    assert process.returncode == 0


def test_serve_faults_names_a_wrong_word(run):
    ran = run("serve-faults", "hnag")

    assert ran.returncode == 2
    assert "hnag" in ran.stderr
