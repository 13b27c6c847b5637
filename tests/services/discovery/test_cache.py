"""The last good document is there at the next start, or it is as if there had been none: never an error."""

import json
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.discovery.cache import Cache
from llmwire.services.discovery.catalogue import MAX_BYTES, Snapshot

ORIGIN = "consul://127.0.0.1:8500/llmwire/prod/completion"
TOML = "[endpoints.a]\nbase_url = 'http://10.0.0.1/v1' # für uns\n".encode()


def snapshot(content=TOML, *, origin=ORIGIN, **facts):
    return Snapshot(origin=origin, content=content, version="index 42", index=42, **facts)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "state" / "llmwire"


@pytest.fixture
def cache(folder):
    return Cache(folder)


@pytest.fixture
def file(cache, folder):
    """The only one there is, with a document in it."""
    assert cache.save("completion", snapshot()) is None
    [file] = folder.iterdir()
    return file


def test_what_was_kept_is_there_at_the_next_start(folder, file):
    found = Cache(folder).load("completion", ORIGIN)

    assert (found.content, found.origin, found.problem) == (TOML, ORIGIN, None)
    assert found.digest == snapshot().digest


def test_what_was_kept_says_so_and_since_when(cache, file):
    found = cache.load("completion", ORIGIN)

    assert found.version == f"index 42, kept at {json.loads(file.read_text())['saved_at']}"


def test_what_was_kept_is_no_place_to_wait_from(cache, file):
    # A config centre that lost its data counts from the beginning.
    assert cache.load("completion", ORIGIN).index == 0


def test_there_is_nothing_before_something_was_kept(cache, folder):
    assert cache.load("completion", ORIGIN) is None
    assert not folder.exists()


def test_the_last_one_is_kept_and_nothing_beside_it(cache, folder, file):
    cache.save("completion", snapshot(b"a = 2"))

    assert cache.load("completion", ORIGIN).content == b"a = 2"
    assert list(folder.iterdir()) == [file]


def test_documents_of_functions_and_sources_are_kept_apart(cache):
    other = "etcd://127.0.0.1:2379/llmwire/completion"
    cache.save("completion", snapshot(b"a = 1"))
    cache.save("embedding", snapshot(b"a = 2"))
    cache.save("completion", snapshot(b"a = 3", origin=other))

    found = [cache.load(*each) for each in (("completion", ORIGIN), ("embedding", ORIGIN), ("completion", other))]

    assert [each.content for each in found] == [b"a = 1", b"a = 2", b"a = 3"]


@given(content=st.text().map(str.encode), origin=st.text(), function=st.text())
def test_every_text_comes_back_as_it_was(tmp_path_factory, content, origin, function):
    cache = Cache(tmp_path_factory.getbasetemp() / "every")

    assert cache.save(function, snapshot(content, origin=origin)) is None
    assert cache.load(function, origin).content == content


def test_the_largest_document_comes_back_however_it_is_written(cache):
    largest = b"\x01" * MAX_BYTES

    assert cache.save("completion", snapshot(largest)) is None
    assert cache.load("completion", ORIGIN).content == largest


@pytest.mark.parametrize("held", [snapshot(None), snapshot(None, problem="is too large"), snapshot(problem="is none")])
def test_what_is_no_document_does_not_replace_one(cache, file, held):
    assert cache.save("completion", held) == "there is no document to keep"

    assert cache.load("completion", ORIGIN).content == TOML


def test_what_is_no_text_is_not_kept(cache, file):
    assert "no text in UTF-8" in cache.save("completion", snapshot(b"\xff\xfe"))

    assert cache.load("completion", ORIGIN).content == TOML


@pytest.mark.parametrize("umask", [0, 0o077])
def test_file_and_folder_are_for_this_user_alone_whatever_the_umask(cache, folder, umask):
    was = os.umask(umask)
    try:
        cache.save("completion", snapshot())
    finally:
        os.umask(was)

    [file] = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0


def test_a_folder_that_exists_keeps_its_rights(tmp_path):
    tmp_path.chmod(0o755)

    assert Cache(tmp_path).save("completion", snapshot()) is None

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def fields(file, **changed):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))


GARBLED = {
    "of another source": lambda file: fields(file, origin="consul://10.0.0.9:8500/evil/completion"),
    "of another function": lambda file: fields(file, function="embedding"),
    "of another format": lambda file: fields(file, format=2),
    "with another content": lambda file: fields(file, content="a = 1"),
    "with half a character": lambda file: fields(file, content="\ud800"),
    "with a number for a text": lambda file: fields(file, content=1),
    "without a time": lambda file: fields(file, saved_at=None),
    "empty": lambda file: file.write_bytes(b""),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "zeroes": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "no text": lambda file: file.write_bytes(b"\xff" * 100),
    "a list": lambda file: file.write_text("[]"),
    "nested": lambda file: file.write_text("[" * 200_000),
    "a number": lambda file: file.write_text("1" * 5_000),
    "huge": lambda file: os.truncate(file, 2**40),
    "open to all": lambda file: file.chmod(0o666),
    "not to be read": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "a link": lambda file: (file.rename(file.with_suffix(".moved")), file.symlink_to(file.with_suffix(".moved"))),
}


@pytest.mark.parametrize("garble", GARBLED.values(), ids=GARBLED)
def test_a_file_that_is_not_what_was_kept_is_not_taken(cache, file, garble):
    garble(file)

    assert cache.load("completion", ORIGIN) is None


def test_a_file_of_another_user_is_not_taken(cache, file, monkeypatch):
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody_else)

    assert cache.load("completion", ORIGIN) is None


@pytest.mark.parametrize("name", ["cut off", "open to all", "a link", "a pipe"])
def test_the_next_document_replaces_a_file_that_is_not_taken(cache, file, name):
    GARBLED[name](file)

    assert cache.save("completion", snapshot()) is None

    assert cache.load("completion", ORIGIN).content == TOML


def test_a_link_that_somebody_laid_is_replaced_and_not_written_through(cache, file, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    file.unlink()
    file.symlink_to(precious)

    cache.save("completion", snapshot())

    assert precious.read_text() == "mine"
    assert not file.is_symlink()


def test_a_folder_that_is_a_file_is_told(tmp_path):
    (tmp_path / "taken").touch()
    cache = Cache(tmp_path / "taken")

    assert cache.save("completion", snapshot()) == f"cannot be kept in {tmp_path / 'taken'}: File exists"
    assert cache.load("completion", ORIGIN) is None


@pytest.mark.parametrize("name", ["a\0b", "a" * 300])
def test_an_impossible_folder_is_told(tmp_path, name):
    cache = Cache(tmp_path / name)

    assert cache.save("completion", snapshot()).startswith("cannot be kept in ")
    assert cache.load("completion", ORIGIN) is None


FULL = """
import resource, signal, sys
from llmwire.services.discovery.cache import Cache
from llmwire.services.discovery.catalogue import Snapshot

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
print(Cache(sys.argv[1]).save("completion", Snapshot(origin=sys.argv[2], content=b"#" * 8192, version="index 43")))
"""


def test_where_no_room_is_left_the_one_before_stays_and_nothing_half_written(cache, folder, file):
    # No file of that process may have more than 4 KiB.
    command = [sys.executable, "-c", FULL, str(folder), ORIGIN]

    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert told == f"cannot be kept in {folder}: File too large\n"
    assert list(folder.iterdir()) == [file]
    assert cache.load("completion", ORIGIN).content == TOML
