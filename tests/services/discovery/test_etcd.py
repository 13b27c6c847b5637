"""A document in etcd is read, waited for and written; what goes wrong with it is said in a sentence."""

import asyncio
import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.discovery import etcd as module
from llmwire.services.discovery.catalogue import MAX_BYTES, Snapshot, Unreadable
from llmwire.services.discovery.etcd import EtcdDocument
from llmwire.services.discovery.http import Access, Answer, Refused, Session
from llmwire.services.errors import DiscoveryError
from llmwire.services.secrets import Secret

from .etcd_server import EtcdServer

PATIENCE_S = 30.0  #: for what must happen; reached only where it fails
KEY = "llmwire/prod/completion"
NAME = f"etcd://127.0.0.1:2379/{KEY}"
TOML = "[endpoints.a]\nbase_url = 'http://10.0.0.1/v1' # für uns\n".encode()
PASSWORD = "hidden-pass-\u00fc"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def etcd(shared):
    """One that holds nothing of the key; to be killed is not for it."""
    shared.delete(KEY)
    return shared


@pytest.fixture
def own(tmp_path):
    """One of the test's own."""
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.kill()


def document(server, **options):
    return EtcdDocument(Session(Access(name=NAME, url=server.url)), key=KEY, name=NAME, **options)


def played(server, play, **options):
    """What a coroutine gives that is handed the document, which is let go of at the end."""

    async def run():
        one = document(server, **options)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await play(one)
        finally:
            await one.aclose()

    return asyncio.run(run())


def fetch(server, **options):
    return played(server, EtcdDocument.fetch, **options)


def as_user(user, password=PASSWORD):
    return {"user": user, "password": lambda: Secret(password)}


@pytest.mark.parametrize("content", [TOML, b"", b"\xff\x00", b"#" * MAX_BYTES], ids=["toml", "empty", "bytes", "large"])
def test_a_document_is_the_value_of_its_key(etcd, content):
    etcd.put(KEY, content)

    found = fetch(etcd)

    assert (found.content, found.problem, found.origin) == (content, None, NAME)


def test_a_value_that_is_too_large_is_no_document(etcd):
    etcd.put(KEY, b"#" * (MAX_BYTES + 1))

    with pytest.raises(Unreadable, match="is larger than 1024 KiB"):
        fetch(etcd).tree()


def test_no_key_is_no_document(etcd):
    etcd.put(f"{KEY}/more", TOML)

    found = fetch(etcd)

    assert found.content is None
    assert found.version == f"revision {found.index}, no such key"


def test_a_version_is_the_revision_of_the_keys_own_last_change(etcd):
    etcd.put(KEY, TOML)
    first = fetch(etcd)
    etcd.put("another", b"1")

    second = fetch(etcd)

    assert first.version == f"revision {first.index}"
    assert second.version == first.version
    assert second.index == first.index + 1


def test_a_document_of_others_is_not_trusted_and_holds_one_function(etcd):
    one = document(etcd)

    assert (one.name, one.is_remote, one.is_whole) == (NAME, True, False)


def put(etcd):
    etcd.put(KEY, b"a = 2")


def delete(etcd):
    etcd.delete(KEY)


@pytest.mark.parametrize("before", [None, b"a = 1"])
@pytest.mark.parametrize("change", [put, delete])
def test_a_change_is_seen_and_another_keys_is_not(etcd, before, change):
    if before is not None:
        etcd.put(KEY, before)
    elif change is delete:
        etcd.put(KEY, b"")

    async def play(one):
        since = await one.fetch()
        watcher = asyncio.create_task(one.watch(since))
        for number in range(5):
            etcd.put(f"{KEY}{number}", b"1")
            await one.fetch()
        was_done = watcher.done()
        change(etcd)
        await watcher
        return was_done, (await one.fetch()).content != since.content

    assert played(etcd, play) == (False, True)


def test_a_change_between_reading_and_waiting_is_seen(etcd):
    async def play(one):
        since = await one.fetch()
        etcd.put(KEY, b"a = 2")
        await one.watch(since)
        return await one.fetch()

    assert played(etcd, play).content == b"a = 2"


def test_a_change_that_etcd_has_compacted_is_seen(etcd, monkeypatch):
    monkeypatch.setattr(module, "REST_S", 0.0)

    async def play(one):
        since = await one.fetch()
        for number in range(3):
            etcd.put(KEY, b"a = %d" % number)
        etcd.delete(KEY)
        etcd.put("another", b"1")
        etcd.compact()
        await one.watch(since)

    played(etcd, play)


def test_a_snapshot_from_before_the_start_is_waited_from_too(etcd, monkeypatch):
    monkeypatch.setattr(module, "REST_S", 0.0)
    etcd.put(KEY, TOML)
    kept = Snapshot(origin=NAME, content=TOML, version="revision 9, kept at noon")

    played(etcd, lambda one: one.watch(kept))


def test_to_wait_can_be_cancelled_and_the_document_used_on(etcd):
    async def play(one):
        watcher = asyncio.create_task(one.watch(await one.fetch()))
        await one.fetch()
        watcher.cancel()
        await asyncio.wait([watcher])
        return watcher.cancelled(), (await one.fetch()).content

    assert played(etcd, play) == (True, None)


def test_it_can_be_let_go_of_and_used_again(etcd):
    async def play(one):
        await one.fetch()
        await one.aclose()
        return await one.fetch()

    assert played(etcd, play).content is None


def test_one_that_is_killed_is_silent_and_what_it_held_is_there_when_it_is_back(own):
    own.put(KEY, TOML)

    async def play(one):
        since = await one.fetch()
        watcher = asyncio.create_task(one.watch(since))
        await one.fetch()
        own.kill()
        [broken] = await asyncio.gather(watcher, return_exceptions=True)
        with pytest.raises(DiscoveryError, match="nothing listens at 127.0.0.1") as caught:
            await one.fetch()
        own.start()
        own.put(KEY, b"a = 2")
        await one.watch(since)
        return broken, caught.value, await one.fetch()

    broken, error, found = played(own, play)

    assert isinstance(broken, DiscoveryError | None)
    assert error.source == NAME
    assert found.content == b"a = 2"


def test_one_that_was_restored_from_long_ago_is_read_anew(own, monkeypatch):
    monkeypatch.setattr(module, "REST_S", 0.0)
    for number in range(5):
        own.put(KEY, b"a = %d" % number)

    async def play(one):
        since = await one.fetch()
        own.kill()
        own.forget()
        own.start()
        await one.aclose()
        await one.watch(since)
        return since.index, await one.fetch()

    before, found = played(own, play)

    assert found.content is None
    assert found.index < before


async def read_and_publish(one, content=b"a = 2"):
    await one.publish(content, index=await one.read_index())


def test_a_document_is_made_and_then_replaced(etcd):
    played(etcd, lambda one: read_and_publish(one, TOML))
    first = etcd.get(KEY)

    played(etcd, read_and_publish)

    assert (first, etcd.get(KEY)) == (TOML, b"a = 2")


@pytest.mark.parametrize("change", [put, delete])
def test_a_document_that_was_changed_meanwhile_is_not_replaced(etcd, change):
    etcd.put(KEY, b"a = 1")

    async def play(one):
        index = await one.read_index()
        change(etcd)
        await one.publish(TOML, index=index)

    with pytest.raises(DiscoveryError) as caught:
        played(etcd, play)

    assert str(caught.value) == f"{NAME}: the document was changed meanwhile. Run it again."
    assert etcd.get(KEY) != TOML


def test_a_document_that_must_not_exist_and_does_is_not_replaced(etcd):
    etcd.put(KEY, b"a = 1")

    with pytest.raises(DiscoveryError, match="changed meanwhile"):
        played(etcd, lambda one: one.publish(TOML, index=0))

    assert etcd.get(KEY) == b"a = 1"


def test_a_document_that_etcd_does_not_take_says_how_it_would(etcd):
    with pytest.raises(DiscoveryError, match="larger than it takes. Make it smaller"):
        played(etcd, lambda one: read_and_publish(one, b"#" * 2_000_000))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """One that holds a document, where nobody may do anything who is not known to it."""
    server = EtcdServer(tmp_path_factory.mktemp("guarded"))
    server.start()
    server.put(KEY, TOML)
    server.demand_users()
    server.add_user("reader", PASSWORD, may="READ", key=KEY)
    server.add_user("writer", PASSWORD, may="READWRITE", key=KEY)
    server.add_user("nobody", PASSWORD, may=None, key=KEY)
    yield server
    server.kill()


def test_a_user_who_may_read_reads_and_waits(guarded):
    async def play(one):
        watcher = asyncio.create_task(one.watch(await one.fetch()))
        await one.fetch()
        guarded.put(KEY, TOML)
        await watcher
        return await one.fetch()

    assert played(guarded, play, **as_user("reader")).content == TOML


def test_a_user_who_may_write_writes(guarded):
    played(guarded, lambda one: read_and_publish(one, TOML), **as_user("writer"))

    assert guarded.get(KEY) == TOML


NOT_ALLOWED = {
    "nobody": (as_user("nobody"), f"its user may not do it. .*: etcdctl role grant-permission ROLE read {KEY}$"),
    "no user": ({}, r"it wants a user and a password\. They are user and password_file"),
    "wrong password": (as_user("reader", f"{PASSWORD}x"), "does not know this user with this password. They are"),
    "wrong user": (as_user("nemo"), "does not know this user with this password"),
    "no password": ({"user": "reader"}, "does not know this user with this password"),
}


@pytest.mark.parametrize(("options", "reason"), NOT_ALLOWED.values(), ids=NOT_ALLOWED)
def test_who_may_not_read_is_told_what_to_do_and_no_password(guarded, options, reason):
    with pytest.raises(DiscoveryError, match=reason) as caught:
        fetch(guarded, **options)

    assert PASSWORD not in repr((caught.value, caught.value.__cause__, caught.value.__context__))


def test_who_may_not_write_is_told_which_right_is_missing(guarded):
    with pytest.raises(DiscoveryError, match=f"ROLE readwrite {KEY}$"):
        played(guarded, read_and_publish, **as_user("reader"))


def test_a_password_that_cannot_be_read_is_told_as_it_is(guarded):
    def unreadable():
        raise DiscoveryError("password_file /run/key cannot be read", source=NAME)

    with pytest.raises(DiscoveryError, match="password_file /run/key cannot be read"):
        fetch(guarded, user="reader", password=unreadable)


def test_a_watch_that_is_not_allowed_ends_and_to_read_says_why(guarded, monkeypatch):
    monkeypatch.setattr(module, "REST_S", 0.0)
    since = Snapshot(origin=NAME, content=None, version="", index=1)

    played(guarded, lambda one: one.watch(since), **as_user("nobody"))


def test_a_user_is_not_sent_to_an_etcd_that_has_none(etcd):
    etcd.put(KEY, TOML)

    assert fetch(etcd, **as_user("reader")).content == TOML


def test_users_that_come_and_passwords_that_change_are_noticed(own):
    own.put(KEY, TOML)
    passwords = ["first", "second"]

    async def play(one):
        found = [await one.fetch()]  # no users yet
        own.demand_users()
        own.add_user("reader", "first", may="READ", key=KEY)
        found.append(await one.fetch())
        own.change_password("reader", "second")
        passwords.pop(0)
        own.kill()  # it forgets whom it has given tokens to
        own.start()
        found.append(await one.fetch())
        return found

    found = played(own, play, user="reader", password=lambda: Secret(passwords[0]))

    assert [each.content for each in found] == [TOML] * 3


class ScriptedSession:
    """An etcd that is none: to each path its answers in order, the last one for ever. Remembers what it was asked."""

    def __init__(self, **answers):
        self.answers = {path: list(given) for path, given in answers.items()}
        self.asked = []

    async def ask(self, method, path, *, json=None, headers=None):
        self.asked.append((path, dict(headers or {})))
        given = self.answers[path.rpartition("/")[2]]
        return given.pop(0) if len(given) > 1 else given[0]

    async def stream(self, method, path, *, json=None, headers=None, idle_s):
        self.asked.append((path, dict(headers or {})))
        for line in self.answers["watch"]:
            if isinstance(line, Exception):
                raise line
            yield line

    async def aclose(self):
        pass


def answer(content, status=200):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status=status, headers={}, content=content)


def refusal(message, status=400):
    return answer({"error": message, "message": message, "code": 3}, status)


def scripted(play, *, user=None, **answers):
    session = ScriptedSession(**answers)
    options = as_user(user) if user else {}
    return session, asyncio.run(play(EtcdDocument(session, key=KEY, name=NAME, **options)))


def entry(**fields):
    return {"header": {"revision": "7"}, "kvs": [{"mod_revision": "3", "value": "YQ==", **fields}]}


FOREIGN = {
    "html": answer(b"<html>It works!"),
    "nested": answer(b"[" * 100_000),
    "a list": answer([]),
    "nothing": answer({}),
    "no header": answer({"header": None}),
    "no revision": answer({"header": {}}),
    "revision as a number": answer({"header": {"revision": 7}}),
    "revision below zero": answer({"header": {"revision": "-7"}}),
    "revision without end": answer({"header": {"revision": "7" * 5000}}),
    "revision in other digits": answer({"header": {"revision": "\u0667"}}),
    "two keys": answer({"header": {"revision": "7"}, "kvs": [{"mod_revision": "3"}, {"mod_revision": "4"}]}),
    "a key that is none": answer({"header": {"revision": "7"}, "kvs": ["a"]}),
    "no list of keys": answer({"header": {"revision": "7"}, "kvs": {"mod_revision": "3"}}),
    "no revision of the key": answer(entry(mod_revision=None)),
    "a value that is no base64": answer(entry(value="a")),
    "a value with something else in it": answer(entry(value="Y!Q==")),
    "a value in other letters": answer(entry(value="\u00fc===")),
    "a value that is a number": answer(entry(value=7)),
    "not found": answer(b"Not Found", 404),
    "forbidden by another": answer(b"Forbidden", 403),
}


@pytest.mark.parametrize("given", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_answer_of_etcd_is_told_and_what_to_look_at(given):
    with pytest.raises(DiscoveryError, match="Look whether etcd's JSON gateway is what answers there"):
        scripted(EtcdDocument.fetch, range=[given])


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "7", "YQ==", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["header", "revision", "kvs", "mod_revision", "value"]), inner)
    ),
)


@given(given=anything)
def test_every_answer_is_a_snapshot_or_an_error_that_names_the_source(given):
    try:
        _, found = scripted(EtcdDocument.fetch, range=[answer(given)])
    except DiscoveryError as error:
        found = error

    assert isinstance(found, Snapshot) or found.source == NAME


SAID = {
    "no leader": (refusal("etcdserver: no leader", 503), "it has no leader. Look at the health"),
    "timeout": (refusal("etcdserver: request timed out", 503), "come to no decision. Look at the health"),
    "full": (refusal("etcdserver: mvcc: database space exceeded", 429), "is full. Compact"),
    "redirect": (answer(b"", 307), "redirects, which is not followed. Write the address"),
    "broken": (answer(b"oh", 500), "status 500. Look at etcd's log"),
}


@pytest.mark.parametrize(("given", "reason"), SAID.values(), ids=SAID)
def test_what_ails_etcd_is_told_and_what_to_do(given, reason):
    with pytest.raises(DiscoveryError, match=reason):
        scripted(EtcdDocument.fetch, range=[given])


def test_nothing_that_a_server_says_is_repeated():
    # It may say what was sent to it.
    with pytest.raises(DiscoveryError) as caught:
        scripted(EtcdDocument.fetch, range=[refusal(f"unknown: {PASSWORD}")])

    assert PASSWORD not in str(caught.value)


TOKENS = [answer({"token": "first"}), answer({"token": "second"})]
LOGIN = "/v3/auth/authenticate"


@pytest.mark.parametrize("said", ["invalid auth token", "user name is empty", "revision of auth store is old"])
def test_a_token_that_is_refused_is_renewed_once(said):
    given = [refusal(f"etcdserver: {said}", 401), answer(entry())]

    session, found = scripted(EtcdDocument.fetch, user="reader", range=given, authenticate=TOKENS)

    assert found.content == b"a"
    assert session.asked == [
        (LOGIN, {}),
        ("/v3/kv/range", {"authorization": "first"}),
        (LOGIN, {}),
        ("/v3/kv/range", {"authorization": "second"}),
    ]


def test_a_token_is_not_renewed_for_ever():
    given = [refusal("etcdserver: invalid auth token", 401)]

    with pytest.raises(DiscoveryError, match="does not take the token that it gave"):
        scripted(EtcdDocument.fetch, user="reader", range=given, authenticate=TOKENS)


def test_a_login_without_a_token_is_no_answer_of_etcd():
    with pytest.raises(DiscoveryError, match="something else than etcd does"):
        scripted(EtcdDocument.fetch, user="reader", authenticate=[answer({"token": None})])


def test_without_a_user_nothing_is_logged_in_or_sent_twice():
    session = ScriptedSession(range=[refusal("etcdserver: user name is empty")])

    with pytest.raises(DiscoveryError, match="wants a user"):
        asyncio.run(EtcdDocument(session, key=KEY, name=NAME).fetch())

    assert session.asked == [("/v3/kv/range", {})]


SINCE = Snapshot(origin=NAME, content=None, version="revision 7", index=7)
CREATED = b'{"result": {"header": {"revision": "7"}, "created": true}}'
CHANGED = b'{"result": {"header": {"revision": "8"}, "events": [{}]}}'
STALE = b'{"result": {"header": {}, "created": true, "canceled": true, "cancel_reason": "invalid auth token"}}'
RESTORED = b'{"result": {"header": {"revision": "6"}, "created": true}}'


@pytest.mark.parametrize("lines", [[], [CREATED], [STALE, CHANGED], [RESTORED, CHANGED]])
def test_a_watch_that_ends_without_a_change_rests_before_it_returns(lines, monkeypatch):
    rests = []

    async def rest(seconds):
        rests.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", rest)

    scripted(lambda one: one.watch(SINCE), watch=lines)

    assert rests == [module.REST_S]


def test_a_change_is_not_kept_waiting(monkeypatch):
    monkeypatch.setattr(module, "REST_S", 3600.0)

    session, _ = scripted(lambda one: one.watch(SINCE), watch=[CREATED, CHANGED])

    assert session.asked == [("/v3/watch", {})]


BROKEN = {
    "no json": (b"<html>", "is no JSON"),
    "no result": (b"{}", "something else than etcd does"),
    "no table": (b"7", "something else than etcd does"),
    "no revision": (b'{"result": {"header": {}}}', "something else than etcd does"),
    "no leader": (b'{"error": {"grpc_code": 14, "message": "etcdserver: no leader"}}', "it has no leader"),
    "an end": (b'{"error": {"grpc_code": 14, "message": "transport is closing"}}', "it ended the watch"),
    "refused": (Refused("status 503", source=NAME, answer=refusal("etcdserver: no leader", 503)), "has no leader"),
    "refused by another": (Refused("status 404", source=NAME, answer=answer(b"", 404)), "answered with status 404"),
    "silent": (DiscoveryError("the connection broke", source=NAME), "the connection broke"),
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_watch_that_breaks_says_why(line, reason):
    with pytest.raises(DiscoveryError, match=reason):
        scripted(lambda one: one.watch(SINCE), watch=[line])


def test_what_is_published_is_compared_with_what_was_read():
    sent = []

    class Listening(ScriptedSession):
        async def ask(self, method, path, *, json=None, headers=None):
            sent.append(json)
            return await super().ask(method, path, json=json, headers=headers)

    session = Listening(txn=[answer({"header": {"revision": "8"}, "succeeded": True})])

    asyncio.run(EtcdDocument(session, key=KEY, name=NAME).publish(b"a = 2", index=7))

    key = base64.b64encode(KEY.encode()).decode()
    assert sent == [
        {
            "compare": [{"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": "7"}],
            "success": [{"request_put": {"key": key, "value": base64.b64encode(b"a = 2").decode()}}],
        }
    ]
