"""A file of vectors is whole or not there, and says what it is of."""

import json
import resource
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.bulk import outputs as module
from llmwire.services.bulk.documents import Document, read
from llmwire.services.bulk.outputs import manifest_of, output
from llmwire.services.bulk.results import Block, Refused
from llmwire.services.errors import ConfigError
from llmwire.services.space import Space

WIDTH = 4
SPACE = Space(name="minilm", dimensions=WIDTH, is_normalised=False, revision=None, sketch=7).fingerprint
FORMATS = [".npy", ".parquet"]


def matrix(count, *, start=0):
    return np.arange(start * WIDTH, (start + count) * WIDTH, dtype=np.float32).reshape(count, WIDTH)


def documents(count, *, start=0):
    return [Document(text=f"text {row}", id=f"id {row}") for row in range(start, start + count)]


def block(count, *, start=0, refused=()):
    vectors = matrix(count, start=start)
    for position in refused:
        vectors[position - start] = np.nan
    return Block(start=start, vectors=vectors, refused=tuple(Refused(position=p, reason="is empty") for p in refused))


def opened(path, **options):
    return output(path, space=SPACE, model="all-minilm", **options)


def written(path, blocks, *, facts=None, **options):
    with opened(path, **options) as out:
        for each in blocks:
            out.write(documents(len(each.vectors), start=each.start), each)
        out.finish(facts or {})
    return path


def vectors_in(path):
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    column = parquet.read_table(path)["embedding"].combine_chunks()
    return column.flatten().to_numpy().reshape(-1, WIDTH)


def names(folder):
    return sorted(each.name for each in folder.iterdir())


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_vectors_of_all_blocks_are_in_the_file_in_order(tmp_path, suffix):
    path = written(tmp_path / f"vectors{suffix}", [block(3), block(1, start=3), block(0, start=4), block(5, start=4)])

    found = vectors_in(path)

    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, matrix(9))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_matrix_that_is_not_in_rows_is_written_as_it_reads(tmp_path, suffix):
    columns = Block(start=0, vectors=np.asfortranarray(matrix(3)))

    path = written(tmp_path / f"vectors{suffix}", [columns])

    np.testing.assert_array_equal(vectors_in(path), matrix(3))


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_texts_make_a_valid_file(tmp_path, suffix):
    path = written(tmp_path / f"vectors{suffix}", [])

    assert vectors_in(path).shape == (0, WIDTH)


def test_a_million_rows_need_no_longer_header_than_none(tmp_path):
    with opened(tmp_path / "vectors.npy") as out:
        for start in range(0, 2_000_000, 500_000):
            empty = Block(start=start, vectors=np.zeros((500_000, WIDTH), np.float32))
            out.write([Document(text="")] * 500_000, empty)
        out.finish({})

    assert np.load(tmp_path / "vectors.npy", mmap_mode="r").shape == (2_000_000, WIDTH)


def test_the_row_of_a_refused_text_is_nan_in_npy_and_the_manifest_says_why(tmp_path):
    path = written(tmp_path / "vectors.npy", [block(2), block(3, start=2, refused=[3])])

    found, manifest = vectors_in(path), json.loads(manifest_of(path).read_text())

    assert np.isnan(found).all(axis=1).tolist() == [False, False, False, True, False]
    assert manifest["refused"] == [{"position": 3, "reason": "is empty"}]


def test_the_manifest_of_a_npy_has_the_space_the_shape_and_the_facts_of_the_run(tmp_path):
    written(tmp_path / "vectors.npy", [block(2)], facts={"input": "a.txt", "texts": 2, "tokens": 9})

    assert json.loads((tmp_path / "vectors.manifest.json").read_text()) == {
        "input": "a.txt",
        "texts": 2,
        "tokens": 9,
        "space": SPACE,
        "model": "all-minilm",
        "rows": 2,
        "dimensions": WIDTH,
        "dtype": "float32",
        "refused": [],
    }
    assert names(tmp_path) == ["vectors.manifest.json", "vectors.npy"]


def test_facts_that_no_manifest_can_hold_are_found_before_the_npy_has_its_name(tmp_path):
    with opened(tmp_path / "vectors.npy") as out, pytest.raises(TypeError):
        out.finish({"input": tmp_path})

    assert names(tmp_path) == []


def test_an_old_manifest_is_not_beside_new_vectors(tmp_path, monkeypatch):
    path = written(tmp_path / "vectors.npy", [block(1)])
    monkeypatch.setattr(module, "_write_whole", lambda path, content: None)  # killed before it

    written(path, [block(2)])

    assert names(tmp_path) == ["vectors.npy"]


def test_a_row_of_parquet_has_position_id_text_vector_and_error(tmp_path):
    path = written(tmp_path / "vectors.parquet", [block(1), block(2, start=1, refused=[2])], has_ids=True)

    assert parquet.read_table(path).to_pylist() == [
        {"position": 0, "id": "id 0", "text": "text 0", "embedding": [0, 1, 2, 3], "error": None},
        {"position": 1, "id": "id 1", "text": "text 1", "embedding": [4, 5, 6, 7], "error": None},
        {"position": 2, "id": "id 2", "text": "text 2", "embedding": None, "error": "is empty"},
    ]


def test_the_schema_of_parquet_names_space_and_model_and_has_ids_only_where_there_are_some(tmp_path):
    schema = parquet.read_schema(written(tmp_path / "vectors.parquet", [block(1)]))

    assert schema.names == ["position", "text", "embedding", "error"]
    assert str(schema.field("embedding").type) == f"fixed_size_list<element: float>[{WIDTH}]"
    assert schema.metadata[b"llmwire.space"] == SPACE.encode()
    assert schema.metadata[b"llmwire.model"] == b"all-minilm"
    assert names(tmp_path) == ["vectors.parquet"]


def test_parquet_is_written_in_groups_of_whole_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROW_GROUP", 5)
    path = written(tmp_path / "vectors.parquet", [block(3, start=start) for start in (0, 3, 6)])

    metadata = parquet.read_metadata(path)

    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [6, 3]
    np.testing.assert_array_equal(vectors_in(path), matrix(9))


@given(st.lists(st.tuples(st.text(), st.none() | st.text()), max_size=5))
def test_every_text_and_id_comes_back_from_parquet(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("out") / "vectors.parquet"
    given = [Document(text=text, id=name) for text, name in pairs]

    with opened(path, has_ids=True) as out:
        out.write(given, block(len(given)))
        out.finish({})

    assert list(read(path, id_field="id")) == given


def test_half_a_surrogate_pair_is_shown_as_a_question_mark_in_parquet(tmp_path):
    with opened(tmp_path / "vectors.parquet") as out:
        out.write([Document(text="a\ud800"), Document(text="b")], block(2, refused=[0]))
        out.finish({})

    assert parquet.read_table(tmp_path / "vectors.parquet")["text"].to_pylist() == ["a?", "b"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    ("count", "wrong"),
    [
        (2, Block(start=1, vectors=matrix(2))),
        (1, Block(start=0, vectors=matrix(2))),
        (2, Block(start=0, vectors=np.zeros((2, WIDTH + 1), np.float32))),
    ],
)
def test_a_block_that_does_not_follow_or_fit_is_not_written(tmp_path, suffix, count, wrong):
    with opened(tmp_path / f"vectors{suffix}") as out:
        with pytest.raises(ValueError, match="were expected"):
            out.write(documents(count), wrong)

        out.write(documents(2), block(2))
        out.finish({})

    np.testing.assert_array_equal(vectors_in(tmp_path / f"vectors{suffix}"), matrix(2))


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_had_the_name_stays_until_the_new_file_is_whole(tmp_path, suffix):
    path = written(tmp_path / f"vectors{suffix}", [block(1)])

    with opened(path) as out:
        out.write(documents(3), block(3))
        during = vectors_in(path)
        out.finish({})

    assert during.shape == (1, WIDTH)
    assert vectors_in(path).shape == (3, WIDTH)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_run_that_is_left_without_finish_leaves_nothing(tmp_path, suffix):
    with opened(tmp_path / f"vectors{suffix}") as out:
        out.write(documents(3), block(3))

    out.abandon()
    assert names(tmp_path) == []


KILLED = """
import sys
import numpy as np
from llmwire.services.bulk.documents import Document
from llmwire.services.bulk.outputs import output
from llmwire.services.bulk.results import Block

out = output(sys.argv[1], space=sys.argv[2], model="m")
out.write([Document(text="t")] * 50_000, Block(start=0, vectors=np.zeros((50_000, 4), np.float32)))
print("written", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_run(path):
    command = [sys.executable, "-c", KILLED, str(path), SPACE]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "written\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_killed_run_leaves_no_half_file_and_the_next_one_clears_up(tmp_path, suffix):
    path = tmp_path / f"vectors{suffix}"
    with another_run(path):
        pass
    left = names(tmp_path)

    written(path, [block(2)])

    assert left == [f".vectors{suffix}.partial"]
    np.testing.assert_array_equal(vectors_in(path), matrix(2))
    assert not [name for name in names(tmp_path) if name.endswith(".partial")]


def test_two_runs_do_not_write_one_file_at_once(tmp_path):
    path = tmp_path / "vectors.npy"

    with another_run(path), pytest.raises(ConfigError, match=r"vectors\.npy: is being written by another run. Wait"):
        opened(path)

    assert written(path, [block(1)]).exists()


def test_a_partial_file_that_got_its_name_meanwhile_is_not_truncated(tmp_path, monkeypatch):
    path, lock = tmp_path / "vectors.npy", module.fcntl.flock
    first = opened(path)
    first.write(documents(2), block(2))

    def late(file, how):
        monkeypatch.setattr(module.fcntl, "flock", lock)
        first.finish({})  # between the second run's opening of the file and its lock
        lock(file, how)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with opened(path):
        found = np.array(vectors_in(path))

    np.testing.assert_array_equal(found, matrix(2))


@contextmanager
def files_of_at_most(size_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(module, "ROW_GROUP", 10)
    noise = Block(start=0, vectors=np.random.default_rng(0).random((500_000, WIDTH), np.float32))

    with (
        files_of_at_most(2**20),
        pytest.raises(ConfigError, match=rf"vectors{suffix}: cannot be written: .*Make room"),
        opened(tmp_path / f"vectors{suffix}") as out,
    ):
        out.write([Document(text="t")] * 500_000, noise)

    assert names(tmp_path) == []


def test_another_suffix_is_refused_with_the_two_that_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"\.csv is no format for vectors. Let its name end in \.npy or \.parquet"):
        opened(tmp_path / "vectors.csv")

    assert names(tmp_path) == []


def test_a_folder_is_no_output(tmp_path):
    (tmp_path / "vectors.npy").mkdir()

    with pytest.raises(ConfigError, match="it is a folder"):
        opened(tmp_path / "vectors.npy")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(ConfigError, match=r"pip install 'llmwire\[parquet\]'"):
        opened(tmp_path / "vectors.parquet")

    assert names(tmp_path) == []
