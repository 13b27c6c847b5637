import pytest

from benchmarks.concurrency import load_of
from benchmarks.processes import Failed, Missing, Upstreams, Worker, broken


@pytest.fixture(scope="module")
def upstreams():
    with Upstreams(ports=1) as started:
        yield started


def test_a_worker_measures_the_bare_sdk_one_call_after_another_and_many_at_once(upstreams):
    with Worker("openai", upstreams.base_urls) as worker:
        samples = [worker.ask(do="sync", kind=kind, calls=3) for kind in ("chat", "stream", "embed")]
        samples.append(worker.ask(do="async", calls=3))
        opened = worker.ask(do="concurrent", callers=20, seconds=0.1)
        load = load_of(worker.answer())

    assert all(sample["cpu_us"] > 0 and sample["wall_us"] > 0 for sample in samples)
    assert opened["opened_at"] > 0
    assert load.errors == 0
    assert load.per_s > 0
    assert upstreams.attempts() > 4 * 13 + 20


def test_a_peer_that_fails_says_so_in_its_row_and_stops_nothing_else(upstreams):
    with (
        Worker("openai", upstreams.base_urls) as worker,
        pytest.raises(Failed, match="failed: KeyError: 'no such kind'") as caught,
    ):
        worker.ask(do="sync", kind="no such kind", calls=1)

    assert broken("openai", caught.value) == ["openai failed: KeyError: 'no such kind'"]


def test_a_peer_that_is_not_installed_is_no_failure():
    missing = Missing("not installed (litellm): make bench installs it")

    assert broken("litellm", missing) == []


def test_a_call_to_an_upstream_that_was_killed_is_counted_as_an_error():
    with Upstreams(ports=1) as upstreams, Worker("openai", upstreams.base_urls) as worker:
        upstreams.kill()
        worker.ask(do="concurrent", callers=1, seconds=0)
        told = worker.answer()

    assert told["calls"] == []
    assert {text for _, _, text in told["errors"]} == {"APIConnectionError: Connection error."}
