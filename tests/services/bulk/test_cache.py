"""What was paid for once is found again, by every process, and survives every death."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llmwire.services.bulk import cache as module
from llmwire.services.bulk.cache import CHUNK, VectorCache
from llmwire.services.bulk.results import key_of
from llmwire.services.errors import ConfigError, SpaceMismatch
from llmwire.services.space import Space

WIDTH = 8


def fingerprint(*, name="minilm", width=WIDTH, sketch=0):
    return Space(name=name, dimensions=width, is_normalised=False, revision=None, sketch=sketch).fingerprint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.cache"


@pytest.fixture
def cache(path):
    with VectorCache.open(path, space=fingerprint()) as cache:
        yield cache


def keys(count, *, of="text"):
    return [key_of(f"{of} {number}") for number in range(count)]


def matrix(count, *, width=WIDTH):
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def test_what_is_put_is_got_and_what_was_never_put_is_not(cache):
    cache.put(keys(3), matrix(3))

    found = cache.get([*keys(3), key_of("unknown")])

    assert list(map(found.get, keys(3))) == [pytest.approx(row) for row in matrix(3)]
    assert key_of("unknown") not in found
    assert all(vector.dtype == np.float32 for vector in found.values())


def test_more_hashes_than_fit_into_one_question_are_found(cache):
    count = 2 * CHUNK + 1
    cache.put(keys(count), matrix(count))

    found = cache.get(keys(count))

    np.testing.assert_array_equal([found[key] for key in keys(count)], matrix(count))
    assert len(cache) == count


@given(arrays(np.float32, (3, WIDTH), elements=st.floats(width=32)))
def test_every_vector_comes_back_bit_for_bit(tmp_path_factory, vectors):
    path = tmp_path_factory.mktemp("cache") / "vectors"

    with VectorCache.open(path, space=fingerprint()) as cache:
        cache.put(keys(3), vectors)
        found = cache.get(keys(3))

    assert [found[key].tobytes() for key in keys(3)] == [row.tobytes() for row in vectors]


def test_a_matrix_that_is_not_in_rows_is_kept_as_it_reads(cache):
    columns = np.asfortranarray(matrix(4))

    cache.put(keys(4)[::2], columns[::2])

    found = cache.get(keys(4))
    np.testing.assert_array_equal([found[key] for key in keys(4)[::2]], matrix(4)[::2])


def test_a_known_text_keeps_its_vector(cache):
    cache.put(keys(1), matrix(1))

    cache.put(keys(2), matrix(2) + 1)

    found = cache.get(keys(2))
    np.testing.assert_array_equal(found[keys(2)[0]], matrix(2)[0])
    np.testing.assert_array_equal(found[keys(2)[1]], matrix(2)[1] + 1)


@pytest.mark.parametrize("shape", [(2, WIDTH), (1, WIDTH + 1), (WIDTH,)])
def test_vectors_of_another_shape_are_not_kept(cache, shape):
    with pytest.raises(ValueError, match="shape"):
        cache.put(keys(1), np.zeros(shape, np.float32))

    assert len(cache) == 0


def test_it_outlives_the_process_that_made_it(path):
    with VectorCache.open(path, space=fingerprint()) as cache:
        cache.put(keys(2), matrix(2))

    with VectorCache.open(path, space=fingerprint()) as again:
        assert again.get(keys(2)).keys() == set(keys(2))


def test_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "vectors"

    with VectorCache.open(path, space=fingerprint()) as cache:
        cache.put(keys(1), matrix(1))

    assert path.stat().st_size


def test_spaces_share_a_file_and_never_a_vector(path):
    wide = fingerprint(name="large", width=2 * WIDTH)
    with VectorCache.open(path, space=fingerprint()) as one, VectorCache.open(path, space=wide) as other:
        one.put(keys(1), matrix(1))

        before = other.get(keys(1))
        other.put(keys(1), matrix(1, width=2 * WIDTH))

        assert before == {}
        assert one.get(keys(1))[keys(1)[0]].shape == (WIDTH,)
        assert other.get(keys(1))[keys(1)[0]].shape == (2 * WIDTH,)
        assert (len(one), len(other)) == (1, 1)


def test_another_model_behind_the_same_name_is_refused(path):
    there, comes = fingerprint(), fingerprint(sketch=2**64 - 1)
    VectorCache.open(path, space=there).close()

    with pytest.raises(SpaceMismatch, match=r"vectors\.cache: .*Name another cache file") as caught:
        VectorCache.open(path, space=comes)

    assert (caught.value.expected, caught.value.found) == (there, comes)


def test_the_last_bits_of_a_sketch_make_no_other_model(path):
    with VectorCache.open(path, space=fingerprint()) as cache:
        cache.put(keys(1), matrix(1))

    with VectorCache.open(path, space=fingerprint(sketch=1)) as again:
        assert len(again) == 1


def test_a_vector_of_a_wrong_length_is_missing_and_can_be_put_again(cache, path):
    cache.put(keys(2), matrix(2))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE vectors SET vector = x'00' WHERE hash = ?", (keys(1)[0],))
    other.close()

    before = cache.get(keys(2))
    cache.put(keys(2), matrix(2))

    assert before.keys() == {keys(2)[1]}
    np.testing.assert_array_equal(cache.get(keys(1))[keys(1)[0]], matrix(1)[0])


def test_a_database_of_another_program_is_refused_and_left_as_it_was(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bills (sum)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(ConfigError, match=r"vectors\.cache: is a database of another program. Name another file"):
        VectorCache.open(path, space=fingerprint())

    assert path.read_bytes() == before


def test_a_cache_of_a_later_version_is_refused(path):
    VectorCache.open(path, space=fingerprint()).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(ConfigError, match="version 99, not 1. Update llmwire"):
        VectorCache.open(path, space=fingerprint())


def test_a_file_that_is_no_database_is_refused_and_left_as_it_was(path):
    path.write_text("all that I have written " * 100)

    with pytest.raises(ConfigError, match=r"vectors\.cache: .*Name another file"):
        VectorCache.open(path, space=fingerprint())

    assert path.read_text() == "all that I have written " * 100


def test_an_empty_file_becomes_a_cache(path):
    path.touch()

    with VectorCache.open(path, space=fingerprint()) as cache:
        assert len(cache) == 0


def test_a_folder_is_no_cache(tmp_path):
    with pytest.raises(ConfigError, match="Name a file"):
        VectorCache.open(tmp_path, space=fingerprint())


def test_a_folder_that_is_a_file_is_told(path):
    path.touch()

    with pytest.raises(ConfigError, match="Name a file in a folder"):
        VectorCache.open(path / "inner", space=fingerprint())


def test_a_full_disk_is_told_and_nothing_of_the_transaction_is_kept(cache):
    cache._connection.execute("PRAGMA max_page_count = 8")

    with pytest.raises(ConfigError, match=r"vectors\.cache: .*full. Make room"):
        cache.put(keys(50_000), np.zeros((50_000, WIDTH), np.float32))

    assert len(cache) == 0
    cache.put(keys(1), matrix(1))
    assert len(cache) == 1


def test_a_file_that_another_program_holds_for_too_long_is_told(path, monkeypatch):
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    with VectorCache.open(path, space=fingerprint()) as cache:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(ConfigError, match=r"vectors\.cache: .*locked. Stop the program"):
            cache.put(keys(1), matrix(1))

        other.execute("COMMIT")
        other.close()
        cache.put(keys(1), matrix(1))
        assert len(cache) == 1


def test_threads_share_one_cache(cache):
    def run(thread):
        mine = keys(20, of=f"thread {thread}")
        for start in range(0, 20, 5):
            cache.put(mine[start : start + 5], matrix(5) + thread)
            assert len(cache.get(mine)) == start + 5

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(8)))

    assert len(cache) == 8 * 20


def test_a_cache_that_was_opened_before_a_fork_is_not_used_after_it(cache):
    def child():
        try:
            cache.get(keys(1))
        except ConfigError as error:
            return 0 if "Open the cache in the process that uses it" in str(error) else 1
        return 2

    pid = os.fork()
    if pid == 0:
        os._exit(child())
    _, status = os.waitpid(pid, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_a_closed_cache_may_be_closed_again_and_not_be_used(cache):
    cache.close()
    cache.close()

    with pytest.raises(sqlite3.ProgrammingError):
        cache.get(keys(1))


WRITER = """
import sys
import numpy as np
from llmwire.services.bulk.cache import VectorCache
from llmwire.services.bulk.results import key_of

path, space, name, most = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
with VectorCache.open(path, space=space) as cache:
    for number in range(most):
        keys = [key_of(f"{name} {10 * number + row}") for row in range(10)]
        cache.put([*keys, key_of("shared")], np.full((11, 8), number, np.float32))
        print(number, flush=True)
"""


def writer(path, name, most):
    command = [sys.executable, "-c", WRITER, str(path), fingerprint(), name, str(most)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_that_make_and_fill_one_file_at_once_all_succeed(path):
    writers = [writer(path, f"w{number}", 10) for number in range(6)]

    for each in writers:
        go(each)
    for each in writers:
        each.communicate(timeout=60)

    assert [each.returncode for each in writers] == [0] * 6
    with VectorCache.open(path, space=fingerprint()) as cache:
        assert len(cache) == 6 * 100 + 1
        assert len(cache.get([key for n in range(6) for key in keys(100, of=f"w{n}")])) == 600


def test_a_file_that_another_is_making_at_this_moment_is_no_other_programs(tmp_path):
    together = Barrier(6)

    def make(path):
        together.wait()
        VectorCache.open(path, space=fingerprint()).close()

    with ThreadPoolExecutor(6) as threads:
        for number in range(60):
            made = list(threads.map(make, [tmp_path / str(number)] * 6))

            assert made == [None] * 6


def test_a_killed_writer_loses_nothing_that_it_had_committed(path):
    victim = writer(path, "victim", 10**6)
    go(victim)
    lines = [victim.stdout.readline() for _ in range(30)]

    victim.send_signal(signal.SIGKILL)
    rest, _ = victim.communicate(timeout=60)

    told = int([*lines, *rest.splitlines(keepends=True)][-1 if rest.endswith("\n") or not rest else -2])
    with VectorCache.open(path, space=fingerprint()) as cache:
        found = cache.get(keys(10 * (told + 1), of="victim"))
        assert len(found) == 10 * (told + 1)
        assert len(cache) % 10 == 1  # the transaction that was cut off left nothing
        assert cache._connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
