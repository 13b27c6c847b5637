from __future__ import annotations

import apsw
import numpy as np
import pytest

from app_example.failures import EmptyStoreError, SpaceError, StoreError
from app_example.store import Space, Store

AXES = np.eye(3, dtype=np.float32)


@pytest.fixture
def store(database, some_passages):
    with Store.create(database) as made:
        made.add(some_passages, AXES, model="m")
        yield made


def test_the_nearest_passages_come_first(store):
    found = store.nearest(np.array([0.9, 0.5, 0.1], np.float32), model="m", count=2)

    assert [near.passage.text for near in found] == ["one", "two"]
    assert found[0].distance < found[1].distance


def test_length_does_not_matter_only_direction(store):
    found = store.nearest(AXES[1] * 1_000, model="m", count=1)

    assert found[0].passage.text == "two"
    assert found[0].distance == pytest.approx(0)


def test_a_vector_without_direction_is_unrelated_to_all(store):
    found = store.nearest(np.zeros(3, np.float32), model="m", count=3)

    assert [near.distance for near in found] == [1, 1, 1]


def test_what_was_added_is_there_after_reopening(store, database, some_passages):
    store.close()

    with Store.open(database) as reopened:
        assert reopened.count() == 3
        assert reopened.space() == Space(model="m", dimensions=3)
        assert reopened.keys("/texts") == {passage.key for passage in some_passages}
        assert reopened.keys("/elsewhere") == set()


def test_a_passage_is_kept_once(store, some_passages):
    store.add(some_passages, AXES, model="m")

    assert store.count() == 3
    assert len(store.nearest(AXES[0], model="m", count=9)) == 3


def test_a_removed_passage_is_not_found_any_more(store, some_passages):
    store.remove("/texts", [some_passages[0].key, ("absent.md", "x")])

    found = store.nearest(AXES[0], model="m", count=9)
    assert {near.passage.text for near in found} == {"two", "three"}


@pytest.mark.parametrize(("model", "width"), [("other", 3), ("m", 4)], ids=["model", "dimensions"])
def test_vectors_of_another_space_are_refused(store, a_passage, model, width):
    with pytest.raises(SpaceError, match=r"holds vectors of m \(3 dimensions\).*--fresh"):
        store.add([a_passage("four")], np.ones((1, width), np.float32), model=model)
    with pytest.raises(SpaceError):
        store.nearest(np.ones(width, np.float32), model=model, count=1)
    assert store.count() == 3


def test_a_cleared_store_takes_another_space(store, a_passage):
    store.clear()
    store.add([a_passage("four")], np.ones((1, 5), np.float32), model="other")

    assert store.space() == Space(model="other", dimensions=5)
    assert store.count() == 1


def test_a_transaction_is_undone_whole(store, a_passage):
    def add_and_fail() -> None:
        with store.transaction():
            store.clear()
            store.add([a_passage("four")], np.ones((1, 5), np.float32), model="other")
            raise KeyError

    with pytest.raises(KeyError):
        add_and_fail()

    assert store.space() == Space(model="m", dimensions=3)
    assert [near.passage.text for near in store.nearest(AXES[2], model="m", count=1)] == ["three"]


def test_a_question_before_any_document_says_to_ingest(database):
    with pytest.raises(EmptyStoreError, match="python -m app_example ingest FOLDER"):
        Store.open(database)
    assert not database.exists()

    with Store.create(database) as empty, pytest.raises(EmptyStoreError, match="ingest FOLDER"):
        empty.nearest(AXES[0], model="m", count=1)


def test_documents_are_called_by_their_outermost_heading(store):
    assert store.titles(9) == ["A"]


def test_another_programs_database_is_left_alone(database):
    database.parent.mkdir()
    foreign = apsw.Connection(str(database))
    foreign.execute("create table important (x)")
    foreign.close()
    before = database.read_bytes()

    with pytest.raises(StoreError, match="another program's database"):
        Store.create(database)
    assert database.read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(database):
    database.parent.mkdir()
    database.write_text("Dear diary, " * 100)

    with pytest.raises(StoreError, match=r"is not a database\. Choose another --database"):
        Store.create(database)
    assert database.read_text().startswith("Dear diary")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match=r"cannot be made: .*Choose another --database"):
        Store.create(tmp_path / "file" / "below" / "documents.sqlite")
    with pytest.raises(StoreError, match="cannot be used"):
        Store.create(tmp_path)


def test_two_openers_see_each_others_passages(store, database, a_passage):
    with Store.create(database) as other:
        other.add([a_passage("four")], AXES[:1], model="m")

    assert store.count() == 4
