"""`llmwire embed` as real processes, killed, interrupted and refused: nothing is paid for twice, and nothing lost."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmwire.services.testing import FaultServer, standin

from .embedding_counter import DIMENSIONS, POISON, EmbeddingCounter, truth
from .servers import PATIENCE_S

COMMAND = [sys.executable, "-c", "from llmwire.container.cli import main; main()"]
#: the same, but it gets a Ctrl-C just after a block was written, while nobody waits for the next one
COMMAND_STOPPED_BETWEEN = """
import os, signal
from llmwire.container import embed

embed.LINE_EVERY_S = 0.0
embed._rate = lambda summary: os.kill(os.getpid(), signal.SIGINT)
from llmwire.container.cli import main; main()
"""
CACHE = ".llmwire-embeddings.sqlite"

TEXTS = [f"text {number}" for number in range(20_000)]
PARALLEL, BATCH = 4, 100

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the texts in it."""
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    return tmp_path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `llmwire embed` with pipes, in the test's folder; none outlives the test."""
    with ExitStack() as stack:

        def start(
            base_url: str, *arguments: object, out: str = "out.npy", command: list[str] = COMMAND, **env: str
        ) -> subprocess.Popen[str]:
            options = ["--parallel", PARALLEL, "--batch", BATCH]
            process = subprocess.Popen(
                [*command, "embed", "texts.txt", "--out", out, *map(str, [*options, *arguments])],
                cwd=tmp_path,
                env={**os.environ, "EMBEDDING_BASE_URL": base_url, "EMBEDDING_MODEL": "a-model", **env},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(ended, process)
            stack.callback(process.kill)
            return process

        yield start


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code, and what it wrote."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def kept(folder: Path) -> int:
    """How many vectors are in the cache, as another process sees it."""
    try:
        with closing(sqlite3.connect(f"file:{folder / CACHE}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM vectors").fetchone()[0])
    except sqlite3.OperationalError:  # it is not there yet, or has no tables yet
        return 0


def wait_until_kept(folder: Path, count: int) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while kept(folder) < count:
        assert time.monotonic() < give_up_s, f"{kept(folder)} of {count} were kept"
        time.sleep(0.005)


def stopped_in_the_middle(server: EmbeddingCounter, start: Start, folder: Path) -> subprocess.Popen[str]:
    """A run that has kept all that was answered, about the half, and waits for answers that are held back."""
    server.hold(after=len(TEXTS) // 2)
    process = start(server.base_url)
    server.wait_until(lambda server: server.held == PARALLEL, "all requests under way are held")
    wait_until_kept(folder, server.answered.total())
    assert kept(folder) == len(server.answered) == len(TEXTS) // 2
    return process


def vectors_in(folder: Path, name: str = "out.npy") -> np.ndarray:
    return np.load(folder / name)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Killed.


def test_after_a_kill_no_text_that_was_answered_is_sent_again(folder, start):
    with EmbeddingCounter() as server:
        killed = stopped_in_the_middle(server, start, folder)
        killed.kill()
        killed.wait()
        server.release()
        under_way = set(server.asked) - set(server.answered)

        code, _, err = ended(start(server.base_url))

    assert (code, err) == (0, "")
    assert set(server.answered.values()) == {1}
    assert len(under_way) == PARALLEL * BATCH
    assert server.asked == {text: 2 if text in under_way else 1 for text in TEXTS}
    assert files(folder) == [CACHE, "out.manifest.json", "out.npy", "texts.txt"]
    np.testing.assert_array_equal(vectors_in(folder), truth(TEXTS))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_at_any_moment_costs_at_most_what_was_under_way(folder, start, seed):
    moments, kills = random.Random(seed), 0
    with EmbeddingCounter() as server:
        for _ in range(3):
            process = start(server.base_url)
            enough = server.answered.total() + moments.randrange(len(TEXTS) // 6)
            server.wait_until(lambda server, enough=enough: server.answered.total() > enough, f"{enough} texts")
            kills += process.poll() is None
            process.kill()
            process.wait()
        before = kept(folder)

        code, out, _ = ended(start(server.base_url, "--json"))

    summary = json.loads(out)
    assert (code, kills) == (0, 3)
    assert (summary["embedded"], summary["cached"]) == (len(TEXTS) - before, before)
    assert set(server.answered) == set(TEXTS)
    assert server.answered.total() - len(TEXTS) <= kills * PARALLEL * BATCH
    np.testing.assert_array_equal(vectors_in(folder), truth(TEXTS))


# Interrupted.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_one_that_is_asked_to_stop_keeps_what_is_under_way_and_leaves_no_half_file(folder, start, number):
    with EmbeddingCounter() as server:
        process = stopped_in_the_middle(server, start, folder)
        process.send_signal(number)
        said = process.stderr.readline()
        server.release()
        code, out, err = ended(process)
        left, answered = files(folder), len(server.answered)

        again, _, _ = ended(start(server.base_url))

    assert said == "Stopping: what is under way is waited for and kept. Once more ends at once.\n"
    assert (code, out) == (130, "")
    assert err == "Stopped. What was answered is kept: the same command goes on where this one was.\n"
    assert left == [CACHE, "texts.txt"]
    assert answered == len(TEXTS) // 2 + PARALLEL * BATCH
    assert again == 0
    assert server.asked == server.answered == dict.fromkeys(TEXTS, 1)
    np.testing.assert_array_equal(vectors_in(folder), truth(TEXTS))


def test_one_that_is_asked_to_stop_between_two_blocks_keeps_what_is_under_way(folder, start):
    with EmbeddingCounter() as server:
        server.hold(after=PARALLEL * BATCH)
        process = start(server.base_url, command=[sys.executable, "-c", COMMAND_STOPPED_BETWEEN])
        said = process.stderr.readline()
        server.release()
        code, _, err = ended(process)
        left = files(folder)

    assert said.startswith("Stopping: ")
    assert (code, err.splitlines()[:-1]) == (130, [])
    assert kept(folder) == len(server.answered) > PARALLEL * BATCH
    assert left == [CACHE, "texts.txt"]


def test_one_that_waits_for_its_first_answer_stops_at_once(folder, start):
    with FaultServer("hang") as server:
        process = start(server.base_url)
        server.wait_until(lambda server: len(server.seen) == 1)
        process.send_signal(signal.SIGINT)

        code, _, err = ended(process)

    assert code == 130
    assert "Traceback" not in err
    assert files(folder) == ["texts.txt"]


def test_what_was_there_before_stays_when_a_run_is_stopped(folder, start):
    (folder / "out.npy").write_bytes(b"of the run before")
    with EmbeddingCounter() as server:
        process = stopped_in_the_middle(server, start, folder)
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        server.release()
        code, _, _ = ended(process)

    assert code == 130
    assert (folder / "out.npy").read_bytes() == b"of the run before"


def test_a_second_ctrl_c_waits_for_nothing(folder, start):
    with EmbeddingCounter() as server:
        process = stopped_in_the_middle(server, start, folder)
        process.send_signal(signal.SIGINT)
        process.stderr.readline()
        process.send_signal(signal.SIGINT)

        code, _, err = ended(process)

        assert server.held == PARALLEL
    assert (code, err) == (-signal.SIGINT, "")
    assert kept(folder) == len(server.answered)
    assert "out.npy" not in files(folder)


# At once, and against servers that fail.


def test_two_at_once_share_a_cache_and_both_succeed(folder, start):
    with EmbeddingCounter() as server:
        both = [start(server.base_url, out=f"{name}.npy") for name in ("one", "other")]

        results = [ended(process) for process in both]

    assert [(code, err) for code, _, err in results] == [(0, "")] * 2
    assert set(server.answered) == set(TEXTS)
    assert max(server.answered.values()) <= 2
    assert kept(folder) == len(TEXTS)
    for name in ("one.npy", "other.npy"):
        np.testing.assert_array_equal(vectors_in(folder, name), truth(TEXTS))


def test_a_server_that_is_busy_now_and_then_gets_each_text_answered_once(folder, start):
    with EmbeddingCounter(busy_every=10) as server:
        code, _, err = ended(start(server.base_url))

    assert code == 0
    assert "Traceback" not in err
    assert server.refused >= len(TEXTS) // BATCH // 10
    assert server.answered == dict.fromkeys(TEXTS, 1)
    np.testing.assert_array_equal(vectors_in(folder), truth(TEXTS))


def test_a_text_that_breaks_the_server_is_found_and_reported_and_the_rest_arrives(folder, start):
    texts = [f"{POISON if number == 77 else 'text'} {number}" for number in range(400)]
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    with EmbeddingCounter() as server:
        code, out, _ = ended(start(server.base_url, "--json", "--batch", 2))

    (refused,) = json.loads(out)["refused"]
    vectors = vectors_in(folder)
    assert code == 1
    assert refused["position"] == 77
    assert refused["reason"].startswith("no server could embed it: ")
    assert np.isnan(vectors[77]).all()
    np.testing.assert_array_equal(np.delete(vectors, 77, 0), truth(texts[:77] + texts[78:]))
    assert server.answered == dict.fromkeys(texts[:77] + texts[78:], 1)


def test_a_server_that_dies_in_the_middle_loses_no_text(folder, start):
    texts = TEXTS[:4000]
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    with ExitStack() as stack:
        dies, lives = (stack.enter_context(_server_process("slow:0.1")) for _ in range(2))
        endpoints = {
            "EMBEDDING_ENDPOINTS": "dies,lives",
            "EMBEDDING_DIES_BASE_URL": dies.stdout.readline().strip(),
            "EMBEDDING_LIVES_BASE_URL": lives.stdout.readline().strip(),
            "EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        }
        process = start("", "--json", "--batch", 40, **endpoints)
        wait_until_kept(folder, len(texts) // 4)
        dies.kill()
        was_in_the_middle = kept(folder) < len(texts) and process.poll() is None

        code, out, err = ended(process)

    used = json.loads(out)["endpoints"]
    assert was_in_the_middle
    assert code == 0
    assert "Traceback" not in err
    assert used["dies"]["texts"] > 0
    assert used["dies"]["texts"] + used["lives"]["texts"] == len(texts)
    np.testing.assert_array_equal(vectors_in(folder), np.array([standin.embed(text, DIMENSIONS) for text in texts]))


@contextlib.contextmanager
def _server_process(*faults: str) -> Iterator[Any]:
    command = [sys.executable, "-m", "llmwire.services.testing.faultd", *faults]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
