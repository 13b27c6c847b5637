from __future__ import annotations

import base64
import json
from contextlib import closing

import apsw
import httpx2
import numpy as np
import pytest

from app_example.failures import FolderError, SpaceError
from app_example.ingest import Ingesting
from app_example.store import Space, Store
from llmwire.services import EmbeddingService
from llmwire.services.testing import FakeEmbeddings


class OutageError(Exception):
    """What the embeddings below fail with."""


class Embedding:
    """A real service over a fake client; fails at the given request. Remembers which texts it was sent."""

    def __init__(self, *, model: str = "m", dimensions: int = 8, fails_at: int | None = None) -> None:
        self._service = EmbeddingService(FakeEmbeddings(dimensions=dimensions), model=model)
        self._fails_at = fails_at
        self.model = model
        self.requests: list[list[str]] = []
        self.space, self.require_space = self._service.space, self._service.require_space

    def embed(self, texts):
        if len(self.requests) == self._fails_at:
            raise OutageError
        self.requests.append(list(texts))
        return self._service.embed(texts)


class Mirrored(FakeEmbeddings):
    """Another model: every vector points the other way."""

    def post(self, *args, **kwargs):
        reply = super().post(*args, **kwargs)
        fields = json.loads(reply.content)
        for row in fields["data"]:
            row["embedding"] = (-np.frombuffer(base64.b64decode(row["embedding"]), np.float32)).tolist()
        return httpx2.Response(200, json=fields)


ANOTHER = EmbeddingService(Mirrored(dimensions=8), model="m")


@pytest.fixture
def ingesting(database):
    def make(embedding: Embedding, *, batch: int = 2) -> Ingesting:
        return Ingesting(store=lambda: Store.create(database), embedding=embedding, batch=batch)

    return make


@pytest.fixture
def ingest(ingesting, folder):
    """Ingest the folder once; the texts that had to be embedded."""

    def run(embedding: Embedding | None = None) -> list[str]:
        embedding = embedding or Embedding()
        made = ingesting(embedding)
        list(made.carry_out(made.plan(folder)))
        return [text for request in embedding.requests for text in request]

    return run


@pytest.fixture
def kept(database):
    def texts() -> set[str]:
        with Store.open(database) as store:
            width = store.space().dimensions
            everything = store.nearest(FakeVector(width), model=store.space().model, count=100)
            assert len(everything) == store.count()
            return {near.passage.text for near in everything}

    return texts


def FakeVector(width):  # noqa: N802  # reads as what it is
    return EmbeddingService(FakeEmbeddings(dimensions=width), model="m").embed_one("anything")


def test_every_passage_is_embedded_below_its_headings_and_kept(ingest, kept):
    sent = ingest()

    assert sent[:2] == ["Cats\n\nCats sleep a lot.", "Cats > Food\n\nCats eat fish."]
    assert kept() == {
        "Cats sleep a lot.",
        "Cats eat fish.",
        "Dogs bark.",
        "Dogs eat bones.",
        "Birds sing in the morning.",
    }


def test_progress_tells_what_is_kept(ingesting, folder):
    made = ingesting(Embedding(), batch=2)

    assert list(made.carry_out(made.plan(folder))) == [2, 4, 5]


def test_a_second_run_embeds_nothing(ingest, kept):
    ingest()
    before = kept()

    assert ingest() == []
    assert kept() == before


def test_only_a_changed_passage_is_embedded_and_its_old_text_goes(ingest, kept, folder):
    ingest()
    (folder / "cats.md").write_text("# Cats\n\nCats sleep a lot.\n\n## Food\n\nCats eat mice.\n")

    assert ingest() == ["Cats > Food\n\nCats eat mice."]
    assert "Cats eat mice." in kept()
    assert "Cats eat fish." not in kept()


def test_the_passages_of_a_vanished_file_go(ingest, kept, folder):
    ingest()
    (folder / "dogs.md").unlink()

    assert ingest() == []
    assert not any("Dogs" in text for text in kept())


def test_another_folder_leaves_the_first_alone(ingest, ingesting, kept, tmp_path):
    ingest()
    other = tmp_path / "other"
    other.mkdir()
    (other / "fish.md").write_text("Fish swim.")
    made = ingesting(Embedding())

    list(made.carry_out(made.plan(other)))

    assert {"Fish swim.", "Dogs bark."} <= kept()


def test_a_passage_that_stands_twice_in_a_file_is_embedded_once(ingest, folder):
    (folder / "echo.txt").write_text("Echo.\n\n" + "x" * 790 + "\n\nEcho.")

    assert ingest().count("Echo.") == 1


def test_an_interrupted_run_keeps_its_batches_and_the_next_goes_on(ingest, kept):
    with pytest.raises(OutageError):
        ingest(Embedding(fails_at=2))
    assert len(kept()) == 4

    assert len(ingest()) == 1
    assert len(kept()) == 5


def test_old_passages_stay_until_their_replacements_are_there(ingest, kept, folder):
    ingest()
    (folder / "cats.md").write_text("# Cats\n\nCats purr.")

    with pytest.raises(OutageError):
        ingest(Embedding(fails_at=0))

    assert "Cats sleep a lot." in kept()


def test_a_generator_closed_in_the_middle_keeps_its_batches(ingesting, folder, kept):
    made = ingesting(Embedding(), batch=2)
    steps = made.carry_out(made.plan(folder))
    next(steps)
    steps.close()

    assert len(kept()) == 2


def test_another_model_is_refused_before_anything_is_sent(ingest, kept):
    ingest()
    other = Embedding(model="other")

    with pytest.raises(SpaceError, match=r"m \(8 dimensions\).*the model other.*--fresh"):
        ingest(other)

    assert other.requests == []
    assert len(kept()) == 5


def test_other_dimensions_are_refused_before_anything_is_kept(ingest, kept, folder):
    ingest()
    (folder / "new.md").write_text("New.")

    with pytest.raises(SpaceError, match=r"m \(9 dimensions\).*--fresh"):
        ingest(Embedding(dimensions=9))

    assert "New." not in kept()


def test_another_model_of_the_same_name_is_refused_before_anything_is_kept(ingest, kept, folder, database):
    ingest()
    (folder / "new.md").write_text("New.")
    other = Embedding()
    other.embed, other.space, other.require_space = ANOTHER.embed, ANOTHER.space, ANOTHER.require_space

    with pytest.raises(SpaceError, match=r"another model answers under the same name m.*--fresh"):
        ingest(other)

    assert "New." not in kept()


def test_a_database_of_an_earlier_version_gets_its_fingerprint_with_the_next_passage(ingest, folder, database):
    ingest()
    with closing(apsw.Connection(str(database))) as connection:
        connection.execute("alter table stamp drop column fingerprint")
    (folder / "new.md").write_text("New.")

    ingest()

    with Store.open(database) as store:
        assert store.fingerprint() == Embedding().space()


def test_a_fresh_start_takes_another_model(ingest, ingesting, kept, folder, database):
    ingest()
    made = ingesting(Embedding(model="other", dimensions=5))

    list(made.carry_out(made.plan_afresh(folder)))

    assert len(kept()) == 5
    with Store.open(database) as store:
        assert store.space() == Space(model="other", dimensions=5)


def test_a_fresh_start_forgets_nothing_before_the_server_has_answered(ingest, ingesting, kept, folder):
    ingest()
    made = ingesting(Embedding(model="other", fails_at=0))

    with pytest.raises(OutageError):
        list(made.carry_out(made.plan_afresh(folder)))

    assert len(kept()) == 5


def test_a_folder_that_became_empty_removes_nothing(ingest, kept, folder):
    ingest()
    for path in folder.rglob("*.*"):
        path.unlink()

    with pytest.raises(FolderError):
        ingest()

    assert len(kept()) == 5
