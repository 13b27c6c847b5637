from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from llmwire.services.discovery import consul
from llmwire.services.discovery.catalogue import Snapshot
from llmwire.services.discovery.consul import ConsulDocument
from llmwire.services.discovery.http import Access, Session
from llmwire.services.errors import DiscoveryError

from .consul_server import ConsulServer
from .scripted_server import Broken, Hanging, Said, Server, answer, scripted

PATIENCE_S = 20.0  #: for what must happen; reached only where a test fails
NAME = "consul://centre/llmwire/prod/completion"

Play = Callable[[ConsulDocument], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = ConsulServer(tmp_path_factory.mktemp("consul"))
    found.start()
    yield found
    found.kill()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    found = ConsulServer(tmp_path_factory.mktemp("consul"), has_acls=True)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def mortal(tmp_path):
    found = ConsulServer(tmp_path)
    found.start()
    yield found
    found.kill()


@pytest.fixture
def key(request):
    return f"llmwire/{request.node.name}"


def play(url: str, plan: Play, *, key: str = "llmwire/prod/completion", token: str = "", **options: Any) -> Any:
    """What comes of it."""

    async def played() -> Any:
        headers = {"x-consul-token": token} if token else {}
        session = Session(Access(name=NAME, url=url, headers=lambda: headers))
        document = ConsulDocument(session, key=key, name=NAME, **options)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await plan(document)
        finally:
            await document.aclose()

    return asyncio.run(played())


def error_of(url: str, plan: Play, **options: Any) -> DiscoveryError:
    with pytest.raises(DiscoveryError) as caught:
        play(url, plan, **options)
    return caught.value


async def fetch(document: ConsulDocument) -> Snapshot:
    return await document.fetch()


async def watch(document: ConsulDocument) -> None:
    await document.watch(await document.fetch())


def watched_while(change: Callable[[], object]) -> Play:
    """Fetch, watch, make the change, and fetch again when the watch returns."""

    async def plan(document: ConsulDocument) -> Snapshot:
        since = await document.fetch()
        watching = asyncio.create_task(document.watch(since))
        await asyncio.to_thread(change)
        await watching
        return await document.fetch()

    return plan


@pytest.mark.parametrize("name", ["plain", "a b/ä%41+c?d#e", "with.dots/and~tilde"])
def test_a_document_is_the_value_of_its_key(server, key, name):
    server.put(f"{key}/{name}", b'{"model": "m"}')

    found = play(server.url, fetch, key=f"{key}/{name}")

    assert (found.origin, found.content, found.problem) == (NAME, b'{"model": "m"}', None)
    assert found.version.startswith("index ")
    assert found.index > 1


def test_a_key_that_is_not_there_is_no_document(server, key):
    server.put(f"{key}/below", b"{}")

    found = play(server.url, fetch, key=key)

    assert found.content is None
    assert found.version.endswith("no such key")


def test_a_value_that_is_empty_is_a_document(server, key):
    server.put(key, b"")

    assert play(server.url, fetch, key=key).content == b""


def test_a_key_that_is_written_ends_the_watch(server, key):
    server.put(key, b"old")

    assert play(server.url, watched_while(lambda: server.put(key, b"new")), key=key).content == b"new"


def test_a_key_that_is_made_ends_the_watch(server, key):
    assert play(server.url, watched_while(lambda: server.put(key, b"new")), key=key).content == b"new"


def test_a_key_that_is_removed_ends_the_watch(server, key):
    server.put(key, b"old")

    assert play(server.url, watched_while(lambda: server.delete(key)), key=key).content is None


def test_what_was_written_between_the_fetch_and_the_watch_ends_it(server, key):
    async def late(document):
        since = await document.fetch()
        await asyncio.to_thread(server.put, key, b"new")
        await document.watch(since)
        return await document.fetch()

    assert play(server.url, late, key=key).content == b"new"


def test_a_watch_goes_on_while_only_other_keys_change(server, key):
    server.put(key, b"old")

    async def patient(document):
        watching = asyncio.create_task(document.watch(await document.fetch()))
        await asyncio.to_thread(server.put, f"{key}-other", b"new")
        done, _ = await asyncio.wait([watching], timeout=0.5)
        watching.cancel()
        return done

    assert not play(server.url, patient, key=key, wait_s=0.1)


def test_a_document_is_written_where_there_was_none(server, key):
    async def publish(document):
        await document.publish(b"first", index=await document.read_index())
        return await document.fetch()

    assert play(server.url, publish, key=key).content == b"first"


def test_a_document_is_written_over_the_one_that_was_read(server, key):
    server.put(key, b"old")

    async def publish(document):
        await document.publish(b"new", index=await document.read_index())
        return await document.fetch()

    assert play(server.url, publish, key=key).content == b"new"


def test_a_document_that_was_changed_meanwhile_is_not_written_over(server, key):
    server.put(key, b"old")

    async def publish(document):
        index = await document.read_index()
        await asyncio.to_thread(server.put, key, b"foreign")
        await document.publish(b"own", index=index)

    error = error_of(server.url, publish, key=key)

    assert str(error) == f"{NAME}: the document was changed meanwhile. Run it again."
    assert play(server.url, fetch, key=key).content == b"foreign"


def test_a_document_that_is_larger_than_consul_takes_is_not_written(server, key):
    async def publish(document):
        await document.publish(b"a" * 600_000, index=0)

    error = error_of(server.url, publish, key=key)

    assert error.problem == "585 KiB are more than it takes"


def test_an_unknown_datacenter_is_told(server):
    assert error_of(server.url, fetch, datacenter="mars").problem == "it knows no such datacenter"


def test_a_namespace_where_there_are_none_is_told(server):
    assert error_of(server.url, fetch, namespace="mars").problem == "it knows no namespaces"


def test_a_key_that_consul_redirects_is_told(server):
    assert error_of(server.url, fetch, key="/llmwire//a").problem == "it redirects, which is not followed"


def test_a_token_that_may_read_the_key_reads_it(guarded, key):
    guarded.put(key, b"{}")
    token = guarded.token(f'key "{key}" {{ policy = "read" }}')

    assert play(guarded.url, fetch, key=key, token=token).content == b"{}"


def test_a_token_that_may_not_read_the_key_is_told_what_it_needs(guarded, key):
    guarded.put(key, b"{}")
    token = guarded.token(f'key "{key}-other" {{ policy = "read" }}')

    error = error_of(guarded.url, fetch, key=key, token=token)

    assert error.problem == "its ACLs do not allow it"
    assert f'key "{key}" {{ policy = "read" }}' in error.remedy
    assert "CONSUL_HTTP_TOKEN" in error.remedy
    assert token not in str(error)


def test_a_token_that_is_unknown_is_told_apart(guarded):
    error = error_of(guarded.url, fetch, token="00000000-0000-4000-8000-000000000000")

    assert error.problem == "it does not know the token that it was sent"


def test_a_token_that_may_only_read_does_not_write(guarded, key):
    token = guarded.token(f'key "{key}" {{ policy = "read" }}')

    async def publish(document):
        await document.publish(b"{}", index=0)

    error = error_of(guarded.url, publish, key=key, token=token)

    assert f'key "{key}" {{ policy = "write" }}' in error.remedy


def test_a_watch_of_a_consul_that_is_killed_is_an_error(mortal):
    mortal.put("llmwire/prod/completion", b"{}")

    error = error_of(mortal.url, watched_while(mortal.kill))

    assert isinstance(error, DiscoveryError)


def test_a_consul_that_came_back_with_a_smaller_index_is_read_anew(mortal):
    async def restarted(document):
        for number in range(20):
            await asyncio.to_thread(mortal.put, "llmwire/prod/completion", b"%d" % number)
        since = await document.fetch()
        await asyncio.to_thread(mortal.kill)
        await asyncio.to_thread(mortal.start)
        await asyncio.to_thread(mortal.put, "llmwire/prod/completion", b"new")
        await document.watch(since)
        return since, await document.fetch()

    since, found = play(mortal.url, restarted, wait_s=0.1)

    assert found.index < since.index
    assert found.content == b"new"


def entry(content: bytes = b"{}", *, index: object = 7, modified: object = 7, **headers: str) -> bytes:
    value = base64.b64encode(content).decode()
    return answer([{"Value": value, "ModifyIndex": modified}], headers={"X-Consul-Index": str(index), **headers})


def scripted_play(*script: Said, plan: Play, **options: Any) -> tuple[Any, Server]:
    """What comes of a server that is not in order, or the DiscoveryError; and the server."""

    async def played() -> tuple[Any, Server]:
        async with scripted(*script) as server, asyncio.timeout(PATIENCE_S):
            document = ConsulDocument(Session(Access(name=NAME, url=server.url)), key="a", name=NAME, **options)
            try:
                return await plan(document), server
            except DiscoveryError as error:
                return error, server
            finally:
                await document.aclose()

    return asyncio.run(played())


def since(index: int) -> Snapshot:
    return Snapshot(origin=NAME, content=b"{}", version=f"index {index}", index=index)


def watch_since(index: int, *, for_s: float = PATIENCE_S) -> Play:
    """Whether the watch returned in that time."""

    async def plan(document: ConsulDocument) -> bool:
        try:
            async with asyncio.timeout(for_s):
                await document.watch(since(index))
        except TimeoutError:
            return False
        return True

    return plan


@pytest.mark.parametrize("index", [0, -7])
def test_an_index_below_1_is_1_for_a_watch_from_0_would_return_at_once(index):
    found, _ = scripted_play(entry(index=index), plan=fetch)
    _, server = scripted_play(entry(index=8), plan=watch_since(0))

    assert found.index == 1
    assert server.asked[0].params["index"] == "1"


def test_a_watch_asks_for_less_time_than_it_waits_itself():
    _, server = scripted_play(entry(index=8), plan=watch_since(7), wait_s=30.0)

    assert (server.asked[0].params["index"], server.asked[0].params["wait"]) == ("7", "30s")


@pytest.mark.parametrize("index", [6, 1, 0, 8])
def test_an_index_that_is_another_ends_the_watch_also_where_it_went_back(index):
    returned, server = scripted_play(entry(index=index), plan=watch_since(7))

    assert returned is True
    assert len(server.asked) == 1


def test_the_same_index_is_asked_for_again():
    returned, server = scripted_play(entry(index=7), entry(index=8), plan=watch_since(7))

    assert returned is True
    assert [asked.params["index"] for asked in server.asked] == ["7", "7"]


def test_a_server_that_always_says_the_same_at_once_is_not_flooded():
    returned, server = scripted_play(entry(index=7), plan=watch_since(7, for_s=0.5))

    assert returned is False
    assert len(server.asked) <= 3


def test_a_watch_that_hangs_for_longer_than_was_asked_is_an_error(monkeypatch):
    monkeypatch.setattr(consul, "TIMEOUT_S", 0.1)

    error, _ = scripted_play(Hanging(), plan=watch_since(7), wait_s=0.1)

    assert isinstance(error, DiscoveryError)
    assert "no whole answer" in error.problem


def test_a_document_of_a_server_that_lost_its_leader_is_taken():
    headers = {"X-Consul-KnownLeader": "false", "X-Consul-LastContact": "900000"}

    found, _ = scripted_play(entry(b"{}", **headers), plan=fetch)

    assert found.content == b"{}"


@pytest.mark.parametrize(
    "said",
    [
        answer(b"<html>", headers={"X-Consul-Index": "7"}),
        answer(b"[" * 100_000, headers={"X-Consul-Index": "7"}),
        answer({"Value": "e30="}, headers={"X-Consul-Index": "7"}),
        answer([], headers={"X-Consul-Index": "7"}),
        answer([{"Value": "e30=", "ModifyIndex": "7"}], headers={"X-Consul-Index": "7"}),
        answer([{"Value": "no base64!", "ModifyIndex": 7}], headers={"X-Consul-Index": "7"}),
        answer([{"Value": "e30=", "ModifyIndex": 7}]),
        entry(index="seven"),
        answer(status=404),
        answer(status=204, headers={"X-Consul-Index": "7"}),
        Broken(),
    ],
    ids=[
        "no JSON",
        "deep JSON",
        "no list",
        "no entry",
        "no number",
        "no base64",
        "no index",
        "an index of letters",
        "a 404 of another server",
        "nothing",
        "cut off",
    ],
)
def test_what_consul_would_not_answer_is_an_error_and_no_document(said):
    error, _ = scripted_play(said, plan=fetch)

    assert isinstance(error, DiscoveryError)
    assert error.source == NAME
    assert error.remedy


@pytest.mark.parametrize("plan", [fetch, watch_since(7)], ids=["fetch", "watch"])
@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (answer(b"No cluster leader", status=500), "it has no leader"),
        (answer(b"rpc error: No cluster leader", status=500), "it has no leader"),
        (answer(b"panic", status=500), "it answered with status 500"),
        (answer(b"Permission denied", status=403), "its ACLs do not allow it"),
        (answer(b"ACL not found", status=403), "it does not know the token that it was sent"),
        (answer(b"who are you", status=401), "its ACLs do not allow it"),
        (answer(status=302, headers={"Location": "/"}), "it redirects, which is not followed"),
        (answer(b"slow down", status=429), "it answered with status 429"),
    ],
)
def test_a_refusal_says_what_it_means(said, problem, plan):
    error, _ = scripted_play(said, plan=plan)

    assert isinstance(error, DiscoveryError)
    assert error.problem == problem


def test_what_a_server_says_is_not_shown():
    error, _ = scripted_play(answer(b"X-Consul-Token: geheim", status=500), plan=fetch)

    assert isinstance(error, DiscoveryError)
    assert "geheim" not in str(error)


def test_an_answer_to_a_write_that_is_neither_yes_nor_no_is_an_error():
    async def publish(document):
        await document.publish(b"{}", index=0)

    error, _ = scripted_play(answer(b"<html>"), plan=publish)

    assert isinstance(error, DiscoveryError)


@pytest.mark.parametrize("plan", [fetch, watch_since(6)], ids=["fetch", "watch"])
def test_a_key_is_asked_for_in_its_place(plan):
    _, server = scripted_play(entry(), plan=plan, datacenter="mars", namespace="team")

    (asked,) = server.asked
    assert (asked.path, asked.params["dc"], asked.params["ns"]) == ("/v1/kv/a", "mars", "team")


def test_a_source_that_others_write_is_remote_and_of_one_function():
    document = ConsulDocument(Session(Access(name=NAME, url="http://127.0.0.1:1")), key="a", name=NAME)

    assert (document.name, document.is_remote, document.is_whole) == (NAME, True, False)
