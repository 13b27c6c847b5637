"""Real processes of a real Ray cluster on this machine, against a server under the tests' control.

These run in the environment of the frameworks, which `make test` makes: Ray is large.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import openai
import pytest

from llmwire.container import LLMContainer
from llmwire.container.ray import Embedder, RayWorkers, _cluster, settings_of
from llmwire.services.bulk.batches import BatchSpec
from llmwire.services.bulk.cache import VectorCache
from llmwire.services.bulk.run import BulkSpec, Run
from llmwire.services.space import Space

from .servers import PATIENCE_S, Server, in_turn, numbers_of, refuse, speak

MUST_BE_HERE = os.environ.get("LLMWIRE_REQUIRE_FRAMEWORKS") == "1"
CPUS = 4  #: on paper: two for the workers of a run, two for the actors of Ray Data
KEY = "sk-canary-1f8b7c2e"
DISTINCT = [f"text number {place} of the file" for place in range(2000)]
TEXTS = [DISTINCT[place - (place % 4 == 3)] for place in range(2000)]  #: each fourth as the one before it
SPEC = BulkSpec(parallel=4, patience_s=PATIENCE_S, batches=BatchSpec(max_inputs=50))
TWO_AT_ONCE = BulkSpec(
    parallel=2, patience_s=PATIENCE_S, batches=BatchSpec(max_inputs=50)
)  # of two workers each has one at a time

pytestmark = [pytest.mark.frameworks]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Ray's own, of a cluster on this machine that all tests share."""
    if importlib.util.find_spec("ray") is None:
        remedy = "ray must be installed; make test has an environment with it"
        pytest.fail(remedy) if MUST_BE_HERE else pytest.skip(remedy)
    with _cluster(None, CPUS) as ray:
        yield Path(ray._private.worker.global_worker.node.get_session_dir_path())


@pytest.fixture
def server(folder) -> Iterator[Server]:
    with Server() as server:
        yield server


def container_of(server, **more):
    table = {"base_url": f"{server.url}/v1", "api_key": KEY, "model": "m", "canary": False, "max_attempts": 1, **more}
    return LLMContainer(config={"embedding": table}, env={})


def workers_for(server, *, spec=SPEC, **more):
    return RayWorkers(settings_of(container_of(server, **more)), workers=2, parallel=spec.parallel)


def ran(run):
    """All of its vectors, in order, and the texts that it refused."""
    blocks = list(run)
    return np.vstack([block.vectors for block in blocks]), [each for block in blocks for each in block.refused]


def expected(texts):
    return np.array([numbers_of(text) for text in texts], dtype=np.float32)


def pids(workers):
    import ray

    return ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in workers._load])


def inputs(server):
    """How often each text was asked for."""
    return Counter(text for seen in server.seen for text in seen.body["input"])


def test_the_matrix_is_that_of_the_local_engine(server):
    container = container_of(server)
    local = container.embedding_service().embed_many(TEXTS, bulk=SPEC)
    of_here = ran(local)
    asked_here = inputs(server)
    container.shutdown_resources()
    server.seen.clear()

    with workers_for(server) as workers:
        run = Run(TEXTS, workers.send, spec=SPEC)
        of_workers = ran(run)

    np.testing.assert_array_equal(of_workers[0], of_here[0])
    np.testing.assert_array_equal(of_workers[0], expected(TEXTS))
    assert of_workers[1] == []
    assert inputs(server) == asked_here == Counter(set(TEXTS))
    assert run.summary.repeated == local.summary.repeated == 500
    assert run.summary.endpoints.keys() == local.summary.endpoints.keys()
    assert run.summary.tokens > 0


def test_every_worker_has_its_share(server):
    both = threading.Barrier(2)

    def answer(exchange):
        both.wait(PATIENCE_S)  # nobody is answered before two are asked: a single worker would wait for ever
        speak(exchange)

    with workers_for(server, spec=TWO_AT_ONCE) as workers:
        server.answer = answer
        vectors, _ = ran(Run(DISTINCT[:200], workers.send, spec=TWO_AT_ONCE))
        assert len(set(pids(workers))) == 2

    np.testing.assert_array_equal(vectors, expected(DISTINCT[:200]))


def test_a_worker_that_is_killed_costs_only_what_it_had_under_way(server):
    both = threading.Barrier(2)
    left = iter(range(len(DISTINCT)))
    victim = None

    def answer(exchange):
        if next(left) < 2 and both.wait(PATIENCE_S) == 0:  # each worker has one request under way
            os.kill(victim, signal.SIGKILL)
        speak(exchange)

    with workers_for(server, spec=TWO_AT_ONCE) as workers:
        victim, _ = before = pids(workers)
        server.answer = answer
        vectors, refused = ran(Run(DISTINCT, workers.send, spec=TWO_AT_ONCE))
        after = pids(workers)

    np.testing.assert_array_equal(vectors, expected(DISTINCT))
    assert refused == []
    assert after[0] != before[0]
    assert after[1] == before[1]
    again = {text for text, times in inputs(server).items() if times > 1}
    assert again in (set(DISTINCT[:50]), set(DISTINCT[50:100]))


def test_a_text_that_no_server_takes_is_reported_and_the_others_arrive(server):
    texts = [*TEXTS[:400], "a poison text", *TEXTS[400:600]]

    def answer(exchange):
        is_poisoned = "a poison text" in exchange.seen.body["input"]
        (refuse(400) if is_poisoned else speak)(exchange)

    server.answer = answer
    with workers_for(server) as workers:
        vectors, refused = ran(Run(texts, workers.send, spec=SPEC))

    assert [each.position for each in refused] == [400]
    assert "400" in refused[0].reason
    others = [place for place in range(len(texts)) if place != 400]
    np.testing.assert_array_equal(vectors[others], expected(texts)[others])


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(server):
    asked_s = []
    answers = in_turn(refuse(429, headers={"retry-after-ms": "400"}), speak)

    def answer(exchange):
        asked_s.append(time.monotonic())
        answers(exchange)

    server.answer = answer
    one = BulkSpec(parallel=1, patience_s=PATIENCE_S, batches=BatchSpec(max_inputs=50))
    with workers_for(server, spec=one) as workers:
        vectors, refused = ran(Run(TEXTS[:200], workers.send, spec=one))

    np.testing.assert_array_equal(vectors, expected(TEXTS[:200]))
    assert refused == []
    assert asked_s[1] - asked_s[0] >= 0.4


def test_a_key_that_is_refused_ends_the_run_with_the_error_of_the_sdk(server):
    server.answer = refuse(401)

    with workers_for(server) as workers, pytest.raises(openai.AuthenticationError) as error:
        ran(Run(TEXTS, workers.send, spec=SPEC))

    assert error.value.status_code == 401


def test_what_was_answered_is_kept_by_the_driver_and_not_asked_for_again(server, tmp_path):
    path, space = tmp_path / "cache.sqlite", Space.of(expected(["a"])[0], name="m", revision=None).fingerprint
    with workers_for(server) as workers:
        with VectorCache.open(path, space=space) as cache, Run(TEXTS, workers.send, spec=SPEC, cache=cache) as run:
            next(run)  # and no more

        with VectorCache.open(path, space=space) as cache:
            vectors, _ = ran(Run(TEXTS, workers.send, spec=SPEC, cache=cache))

    np.testing.assert_array_equal(vectors, expected(TEXTS))
    assert max(inputs(server).values()) == 1


def test_a_key_is_in_no_file_of_ray_and_in_no_error(server, folder):
    with workers_for(server) as workers:
        ran(Run(TEXTS[:200], workers.send, spec=SPEC))
        server.answer = refuse(401)
        with pytest.raises(openai.AuthenticationError) as error:
            workers.send(["a text"])
        written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert server.seen[0].header("authorization") == f"Bearer {KEY}"
    assert any(b"Embedder" in content for content in written.values())  # it would be here
    assert [path for path, content in written.items() if KEY.encode() in content] == []
    assert KEY not in "".join(traceback.format_exception(error.value)) + repr(vars(error.value))


def test_the_workers_are_gone_afterwards_and_the_cluster_of_others_is_not(server):
    import ray

    with workers_for(server) as workers:
        had = pids(workers)

    for pid in had:
        wait_for_end_of(pid)
    assert ray.is_initialized()


def wait_for_end_of(pid):
    """Fails where the process, which is none of our children, does not end."""
    give_up_s = time.monotonic() + PATIENCE_S
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < give_up_s, f"{pid} still runs"
        time.sleep(0.01)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # of Ray Data's own
def test_an_embedder_serves_ray_data_as_it_is(server):
    import ray

    rows = [{"id": place, "text": text} for place, text in enumerate(TEXTS[:400])]
    settings = settings_of(container_of(server))

    with quiet_data():
        embedded = ray.data.from_items(rows, override_num_blocks=4).map_batches(
            Embedder,
            fn_constructor_kwargs={"settings": settings},
            batch_size=100,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        found = sorted(embedded.take_all(), key=lambda row: row["id"])

    assert [row["text"] for row in found] == TEXTS[:400]
    np.testing.assert_array_equal(np.array([row["embedding"] for row in found]), expected(TEXTS[:400]))


@contextmanager
def quiet_data():
    """Without progress bars."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, former = False, context.enable_progress_bars
    yield
    context.enable_progress_bars = former


# The command, in a process of its own with a cluster of its own.


@pytest.fixture
def home() -> Iterator[Path]:
    """Where the command has its files; its path is short, as sockets stand below it."""
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        yield Path(folder)


@contextmanager
def command(server, home, *options):
    """`llmwire embed` over the distinct texts, as a session of its own."""
    (home / "texts.txt").write_text("\n".join(DISTINCT))
    program = Path(sys.executable).with_name("llmwire")
    asked = ["embed", "texts.txt", "--out", "out.npy", "--engine", "ray", "--workers", "2", "--parallel", "2"]
    variables = {
        "EMBEDDING_BASE_URL": f"{server.url}/v1",
        "EMBEDDING_API_KEY": KEY,
        "EMBEDDING_MODEL": "m",
        "EMBEDDING_CANARY": "no",
        "EMBEDDING_MAX_ATTEMPTS": "1",
        "HOME": str(home),
        "TMPDIR": str(home),
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | variables
    process = subprocess.Popen(
        [program, *asked, "--batch", "50", "--patience", str(PATIENCE_S), *options],
        cwd=home,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def workers_below(process):
    """The ids of its workers' processes: their environment is the command's."""
    mark = f"HOME={Path(f'/proc/{process.pid}/cwd').readlink()}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_worker = (folder / "cmdline").read_bytes().startswith(b"ray::Embedder")
            if is_worker and mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def test_the_command_writes_all_also_where_a_worker_is_killed(server, home):
    killed = []
    with command(server, home, "--json") as process:

        def answer(exchange):
            if len(server.seen) == 5:
                victim, *_ = workers_below(process)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
            speak(exchange)

        server.answer = answer
        said, complained = process.communicate(timeout=3 * PATIENCE_S)

    assert (process.returncode, len(killed)) == (0, 1), complained
    assert json.loads(said)["embedded"] == len(DISTINCT)  # nothing of Ray's is among it
    np.testing.assert_array_equal(np.load(home / "out.npy"), expected(DISTINCT))
    assert KEY not in said + complained
    assert not (home / ".ray").exists()
    assert list(home.glob("llmwire-*")) == []


@pytest.mark.parametrize(
    "stop",
    [
        lambda process: os.killpg(process.pid, signal.SIGINT),  # as a terminal does: Ray's own processes get it too
        lambda process: process.terminate(),
    ],
    ids=["ctrl-c", "terminated"],
)
def test_what_is_under_way_at_a_stop_is_kept_and_a_run_of_another_engine_goes_on(server, home, stop):
    is_stopped = threading.Event()

    def answer(exchange):
        if len(server.seen) >= 8:
            is_stopped.wait(PATIENCE_S)
        speak(exchange)

    server.answer = answer
    with command(server, home) as process:
        server.wait_for_requests(9)  # two are under way
        stop(process)
        assert process.stderr.readline().startswith("Stopping")
        is_stopped.set()
        _, complained = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, complained
    assert KEY not in complained

    with command(server, home, "--engine", "local") as process:
        _, complained = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, complained
    np.testing.assert_array_equal(np.load(home / "out.npy"), expected(DISTINCT))
    times = inputs(server)
    assert [text for text in DISTINCT if times[text] != 1] == []
