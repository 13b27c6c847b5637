"""A file is read whole, however it is replaced, and a change of it is seen."""

import asyncio
import os
import threading
from contextlib import contextmanager

import pytest

from llmwire.services.discovery import file as module
from llmwire.services.discovery.catalogue import MAX_BYTES, Unreadable
from llmwire.services.discovery.file import FileCatalogue
from llmwire.services.errors import DiscoveryError

LOOKS = 50  #: of a watcher that should see nothing
PATIENCE_S = 30.0  #: for a watcher that should see something; reached only where it fails


@pytest.fixture
def path(tmp_path):
    return tmp_path / "llmwire.toml"


@pytest.fixture
def settled(monkeypatch):
    """No file is so young that it is looked at twice."""
    monkeypatch.setattr(module, "YOUNG_NS", 0)


def fetch(path):
    return asyncio.run(FileCatalogue(path).fetch())


def replace(path, text):
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


async def is_seen(catalogue, change, *, since=None):
    """Whether a watcher that has looked for a while returns after the change."""
    since = since or await catalogue.fetch()
    watcher = asyncio.create_task(catalogue.watch(since))
    for _ in range(LOOKS):
        await asyncio.sleep(0)
    assert not watcher.done()

    change()
    await asyncio.wait_for(watcher, PATIENCE_S)
    return (await catalogue.fetch()).content != since.content


def test_a_file_is_a_snapshot_of_its_bytes(path):
    path.write_bytes(b"[completion]\n")
    os.utime(path, (1_700_000_000, 1_700_000_000))

    found = fetch(path)

    assert (found.content, found.problem) == (b"[completion]\n", None)
    assert found.origin == path.as_uri()
    assert found.version == "written 2023-11-14T22:13:20Z"


def test_a_source_of_files_is_trusted_and_holds_all_functions(path):
    catalogue = FileCatalogue(path)

    assert (catalogue.is_remote, catalogue.is_whole) == (False, True)


def test_a_relative_path_is_that_of_the_moment_it_was_named(path, tmp_path, monkeypatch):
    path.write_text("a = 1")
    monkeypatch.chdir(tmp_path)
    catalogue = FileCatalogue(path.name)
    monkeypatch.chdir("/")

    found = asyncio.run(catalogue.fetch())

    assert (found.origin, found.content) == (path.as_uri(), b"a = 1")


def test_blanks_and_other_letters_of_a_path_are_encoded_in_its_name(tmp_path):
    assert FileCatalogue(tmp_path / "für uns.toml").name == f"{tmp_path.as_uri()}/f%C3%BCr%20uns.toml"


@pytest.mark.parametrize("name", ["llmwire.toml", "no/such/folder/llmwire.toml"])
def test_no_file_is_no_document(tmp_path, name):
    found = fetch(tmp_path / name)

    assert (found.content, found.problem, found.version) == (None, None, "no file")


def test_a_link_to_nothing_is_no_document(path, tmp_path):
    path.symlink_to(tmp_path / "gone.toml")

    assert fetch(path).content is None


def test_an_empty_file_is_an_empty_document_and_not_none(path):
    path.touch()

    assert fetch(path).content == b""


def test_the_largest_document_is_read(path):
    path.write_bytes(b"#" * MAX_BYTES)

    assert fetch(path).content == b"#" * MAX_BYTES


def test_a_larger_one_is_read_as_far_as_it_takes_to_refuse_it(path):
    with path.open("wb") as file:
        file.truncate(2**40)  # which nobody could hold

    found = fetch(path)

    assert len(found.content) == MAX_BYTES + 1
    with pytest.raises(Unreadable, match="is larger than 1024 KiB"):
        found.tree()


def test_a_time_beyond_all_calendars_is_no_error(path):
    seen = module._Seen(real=str(path), modified_ns=2**62 * 1000)

    assert module._written(seen) == "written at an unlikely time"


@contextmanager
def as_nobody():
    """As a user who is not the superuser, to whom nothing is forbidden."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_file_that_may_not_be_read_says_what_to_do(path):
    path.write_text("a = 1")
    path.chmod(0)

    with as_nobody(), pytest.raises(DiscoveryError) as caught:
        fetch(path)

    assert str(caught.value) == f"{path.as_uri()}: may not be read by this process. Let its user read the file."


def test_a_folder_is_no_document(tmp_path):
    with pytest.raises(DiscoveryError, match=r"cannot be read: it is no plain file\. Name a file"):
        fetch(tmp_path)


def test_a_pipe_is_no_document_and_is_not_waited_at(path):
    os.mkfifo(path)

    with pytest.raises(DiscoveryError, match="no plain file"):
        fetch(path)


def test_a_link_to_itself_is_no_document(path):
    path.symlink_to(path)

    with pytest.raises(DiscoveryError, match="cannot be read: Too many levels of symbolic links"):
        fetch(path)


def test_a_file_in_a_file_is_no_document(path):
    path.touch()

    with pytest.raises(DiscoveryError, match="cannot be read: Not a directory"):
        fetch(path / "llmwire.toml")


class WrittenMeanwhile(FileCatalogue):
    """Another process writes into the file while it is read, so many times."""

    def __init__(self, path, times):
        super().__init__(path)
        self.times = times

    def _read(self):
        found = super()._read()
        if self.times:
            self.times -= 1
            with self._path.open("a") as file:
                file.write("b = 2\n")
        return found


def test_a_file_that_changes_while_it_is_read_is_read_again(path):
    path.write_text("a = 1\n")

    found = asyncio.run(WrittenMeanwhile(path, times=2).fetch())

    assert found.content == b"a = 1\nb = 2\nb = 2\n"


def test_a_file_that_never_rests_is_not_read(path, monkeypatch):
    monkeypatch.setattr(module, "REST_S", 0.0)
    path.write_text("a = 1\n")
    catalogue = WrittenMeanwhile(path, times=100)

    with pytest.raises(DiscoveryError, match="changed each time it was read. Write a new file beside it"):
        asyncio.run(catalogue.fetch())

    assert catalogue.times == 100 - module.TRIES


def test_of_a_file_that_is_replaced_all_the_time_each_reading_is_one_of_them(path, monkeypatch):
    monkeypatch.setattr(module, "TRIES", 10_000)
    monkeypatch.setattr(module, "REST_S", 0.0)
    replace(path, "0" * 100_000)
    is_over = threading.Event()

    def write():
        for number in range(300):
            replace(path, str(number % 10) * 100_000)
        is_over.set()

    async def read():
        found = []
        while not is_over.is_set():
            found.append((await FileCatalogue(path).fetch()).content)
        return found

    writer = threading.Thread(target=write)
    writer.start()
    found = asyncio.run(read())
    writer.join()

    assert found
    assert {len(each) for each in found} == {100_000}
    assert all(len(set(each)) == 1 for each in found)


def rename(path):
    replace(path, "a = 2")


def rename_of_the_same_time(path):
    facts = path.stat()
    replace(path, "a = 2")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def write_in_place(path):
    path.write_text("a = 2")
    os.utime(path, (1, 1))


def write_in_place_of_the_same_time(path):
    facts = path.stat()
    while path.stat().st_ctime_ns == facts.st_ctime_ns:  # in another tick of the file system's clock
        path.write_text("a = 2")
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def remove(path):
    path.unlink()


IN_PLACE = [write_in_place, write_in_place_of_the_same_time]


@pytest.mark.parametrize("change", [rename, rename_of_the_same_time, *IN_PLACE, remove])
def test_a_change_is_seen_and_before_it_nothing(path, change, settled):
    path.write_text("a = 1")

    assert asyncio.run(is_seen(FileCatalogue(path, every_s=0), lambda: change(path)))


@pytest.mark.parametrize("name", ["llmwire.toml", "later/llmwire.toml"])
def test_a_file_that_comes_into_being_is_seen(tmp_path, name, settled):
    path = tmp_path / name

    def make():
        path.parent.mkdir(exist_ok=True)
        path.write_text("a = 1")

    assert asyncio.run(is_seen(FileCatalogue(path, every_s=0), make))


def test_a_file_that_becomes_readable_is_seen(path, settled):
    catalogue = FileCatalogue(path, every_s=0)
    path.mkdir()

    async def run():
        with pytest.raises(DiscoveryError):
            await catalogue.fetch()
        since = module.Snapshot(origin=catalogue.name, content=None, version="", index=hash(catalogue._look()))

        def change():
            path.rmdir()
            path.write_text("a = 1")

        return await is_seen(catalogue, change, since=since)

    assert asyncio.run(run())


def test_a_volume_of_kubernetes_that_is_swapped_is_seen(tmp_path, settled):
    # llmwire.toml -> ..data/llmwire.toml, and ..data -> a folder of the version: only that link is ever replaced.
    path, data = tmp_path / "llmwire.toml", tmp_path / "..data"
    for version in ("..1", "..2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "llmwire.toml").write_text(f"a = '{version}'")
        os.utime(tmp_path / version / "llmwire.toml", (1, 1))
    data.symlink_to("..1")
    path.symlink_to("..data/llmwire.toml")

    def swap():
        (tmp_path / "..data_tmp").symlink_to("..2")
        (tmp_path / "..data_tmp").replace(data)

    assert asyncio.run(is_seen(FileCatalogue(path, every_s=0), swap))
    assert fetch(path).content == b"a = '..2'"


def test_a_file_that_was_written_a_moment_ago_is_looked_at_again(path, monkeypatch):
    # In the tick of its clock it may be written once more, with the same size and the same time.
    monkeypatch.setattr(module, "YOUNG_NS", 10**15)
    path.write_text("a = 1")
    catalogue = FileCatalogue(path, every_s=0)

    async def run():
        await asyncio.wait_for(catalogue.watch(await catalogue.fetch()), PATIENCE_S)

    asyncio.run(run())


def test_a_watcher_rests_before_it_looks(path):
    path.write_text("a = 1")
    catalogue = FileCatalogue(path, every_s=3600)

    async def run():
        watcher = asyncio.create_task(catalogue.watch(module.Snapshot(origin="", content=None, version="", index=1)))
        for _ in range(LOOKS):
            await asyncio.sleep(0)
        is_done = watcher.done()
        watcher.cancel()
        await asyncio.wait([watcher])
        return is_done, watcher.cancelled()

    assert asyncio.run(run()) == (False, True)


def test_it_can_be_let_go_of_and_used_again(path):
    path.write_text("a = 1")
    catalogue = FileCatalogue(path)

    async def run():
        await catalogue.aclose()
        return await catalogue.fetch()

    assert asyncio.run(run()).content == b"a = 1"
