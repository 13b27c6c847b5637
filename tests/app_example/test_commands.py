"""The command line as a person uses it: a real process, real endpoints on this machine."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

import app_example
from app_example.application import EXAMPLES
from llmwire.services.testing import StandIn

ROOT = Path(app_example.__file__).parent.parent
LIMIT_S = 60

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the process sees: no settings but those that a test adds."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ASK_DATABASE": str(tmp_path / "documents.sqlite"),
        "COLUMNS": "80",
    }


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def call(*arguments: object, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "app_example", *map(str, arguments)],
            env={**environment, **settings},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    return call


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "app_example", *map(str, arguments)],
            env={**environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def embedding() -> Iterator[StandIn]:
    with StandIn(functions=("embedding",)) as server:
        yield server


@pytest.fixture
def completion() -> Iterator[StandIn]:
    with StandIn(functions=("completion",)) as server:
        yield server


@pytest.fixture
def settings(embedding: StandIn, completion: StandIn) -> dict[str, str]:
    """Both functions, each at a server of its own."""
    return {"EMBEDDING_BASE_URL": embedding.base_url, "COMPLETION_BASE_URL": completion.base_url}


def is_one_sentence(process: subprocess.CompletedProcess[str]) -> bool:
    """One line, no traceback."""
    return process.stderr.startswith("error: ") and process.stderr.count("\n") == 1


def test_help_tells_a_newcomer_what_there_is(run):
    shown = run("--help")

    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("ingest", "ask", "serve", "demo", "EMBEDDING_BASE_URL", "stand-in"))
    assert not re.search(r"[\x1b╭│]", shown.stdout)


def test_ingest_and_ask_use_the_servers_that_are_set(run, settings, embedding, completion):
    ingested = run("ingest", EXAMPLES, **settings)
    answered = run("ask", "At what wind is the goods lift stopped?", **settings)

    assert ingested.returncode == 0
    assert "42 passages embedded, 0 unchanged, 0 removed." in ingested.stdout
    assert "Embedding passages: 42 of 42" in ingested.stderr
    assert answered.returncode == 0
    assert answered.stderr == ""
    assert "60 kilometres an hour at the anemometer. [1]" in answered.stdout
    assert re.search(r"\[1\]  goods-lift\.md +The goods lift > Wind and ice", answered.stdout)
    assert re.search(rf"embedding +{embedding.base_url.removesuffix('/v1')} +2 +0 +200,", answered.stdout)
    assert re.search(rf"completion +{completion.base_url.removesuffix('/v1')} +1 +0 +200,", answered.stdout)


def test_a_second_ingest_asks_no_server(run, settings, embedding, folder):
    run("ingest", folder, **settings)
    before = len(embedding.requests)

    again = run("ingest", folder, **settings)

    assert "0 passages embedded, 5 unchanged, 0 removed." in again.stdout
    assert len(embedding.requests) == before


def test_without_settings_stand_ins_answer_and_it_says_so(run, folder):
    ingested = run("ingest", folder)
    answered = run("ask", "What do dogs eat?")

    assert "Nothing is set for embedding: a local stand-in answers" in ingested.stderr
    assert "completion" not in ingested.stderr
    assert "It is no language model" in answered.stderr
    assert "Dogs eat bones." in answered.stdout
    assert answered.returncode == 0


def test_settings_in_a_dotenv_file_count(run, settings, folder, tmp_path, embedding):
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    ingested = run("ingest", folder)

    assert ingested.returncode == 0
    assert "stand-in" not in ingested.stderr
    assert embedding.requests


def test_a_question_before_any_document_says_to_ingest(run, tmp_path):
    asked = run("ask", "Anything?")

    assert asked.returncode == 1
    assert "ingest FOLDER" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert not (tmp_path / "documents.sqlite").exists()


@pytest.mark.parametrize(
    "arguments",
    [("ingest", "/absent"), ("ingest",), ("ask", " "), ("ask",), ("serve", "--port", "x"), ("sing",)],
    ids=" ".join,
)
def test_a_wrong_call_ends_with_2_and_no_traceback(run, arguments):
    called = run(*arguments)

    assert called.returncode == 2
    assert "Traceback" not in called.stderr
    assert "Usage:" in called.stderr


def test_a_folder_without_documents_is_an_error(run, settings, tmp_path):
    (tmp_path / "empty").mkdir()

    ingested = run("ingest", tmp_path / "empty", **settings)

    assert ingested.returncode == 1
    assert is_one_sentence(ingested)
    assert "Name a folder that does" in ingested.stderr


def test_a_server_that_is_down_is_named(run, folder):
    with StandIn() as gone:
        url = gone.base_url

    ingested = run("ingest", folder, EMBEDDING_BASE_URL=url)

    assert ingested.returncode == 1
    assert is_one_sentence(ingested)
    assert url.removesuffix("/v1") in ingested.stderr
    assert "EMBEDDING_BASE_URL" in ingested.stderr


def test_a_wrong_key_is_told(run, folder):
    with StandIn(api_key="right-key") as server:
        ingested = run("ingest", folder, EMBEDDING_BASE_URL=server.base_url, EMBEDDING_API_KEY="wrong-key")

    assert ingested.returncode == 1
    assert is_one_sentence(ingested)
    assert "refused the key (401). Set EMBEDDING_API_KEY" in ingested.stderr


def test_a_setting_that_cannot_be_used_is_named(run, folder):
    ingested = run("ingest", folder, EMBEDDING_API_KEY="two words")

    assert ingested.returncode == 1
    assert is_one_sentence(ingested)
    assert "EMBEDDING_API_KEY" in ingested.stderr
    assert "two words" not in ingested.stderr


def test_the_sources_are_shown_when_the_completion_server_is_down(run, settings, completion, folder):
    run("ingest", folder, **settings)
    completion.stop()

    asked = run("ask", "What do cats eat?", **settings)

    assert asked.returncode == 1
    assert "cats.md" in asked.stdout
    assert "COMPLETION_BASE_URL" in asked.stderr


def test_another_model_is_refused_until_a_fresh_start(run, settings, folder):
    run("ingest", folder, **settings)
    other = {**settings, "EMBEDDING_MODEL": "another-model"}

    refused = run("ingest", folder, **other)
    asked = run("ask", "What do cats eat?", **other)
    fresh = run("ingest", folder, "--fresh", **other)

    assert (refused.returncode, asked.returncode, fresh.returncode) == (1, 1, 0)
    assert is_one_sentence(refused)
    assert "ingest FOLDER --fresh" in refused.stderr
    assert "cannot be compared" in asked.stderr


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["ctrl-c", "killed"]
)
def test_what_was_embedded_before_an_interruption_is_kept(start, run, tmp_path, sent, code):
    big = tmp_path / "big"
    big.mkdir()
    for number in range(320):
        (big / f"{number}.txt").write_text(f"Text number {number}.")

    with StandIn(delay_s=0.5) as slow:
        process = start("ingest", big, EMBEDDING_BASE_URL=slow.base_url)
        first = process.stderr.readline()
        process.send_signal(sent)
        _, rest = process.communicate(timeout=LIMIT_S)
    with StandIn() as quick:
        again = run("ingest", big, EMBEDDING_BASE_URL=quick.base_url)

    assert first == "Embedding passages: 32 of 320\n"
    assert process.returncode == code
    assert "Traceback" not in rest
    embedded, unchanged = map(int, re.search(r"(\d+) passages embedded, (\d+) unchanged", again.stdout).groups())
    assert unchanged >= 32
    assert embedded + unchanged == 320


def test_the_page_is_served_until_ctrl_c(start, run, settings, folder):
    run("ingest", folder, **settings)
    process = start("serve", "--port", "0", **settings)
    url = re.search(r"http://\S+", process.stdout.readline())[0]

    health = httpx2.get(f"{url}/healthz", trust_env=False)
    answer = httpx2.post(f"{url}/api/ask", json={"question": "What do cats eat?"}, trust_env=False)
    process.send_signal(signal.SIGINT)
    said, complaints = process.communicate(timeout=LIMIT_S)

    assert health.json() == {"status": "ok"}
    assert "Cats eat fish." in answer.text
    assert process.returncode == 0
    assert said == "Stopped.\n"
    assert complaints == ""


def test_a_port_that_is_taken_is_an_error(run, settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        served = run("serve", "--port", taken.getsockname()[1], **settings)

    assert served.returncode == 1
    assert is_one_sentence(served)
    assert "--port 0" in served.stderr


def test_the_page_can_be_served_over_the_shipped_documents(start, settings):
    process = start("serve", "--examples", "--port", "0", **settings)

    assert process.stdout.readline() == "42 passages embedded, 0 unchanged, 0 removed.\n"
    assert process.stdout.readline().startswith("Open http://127.0.0.1:")
