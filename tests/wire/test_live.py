"""The endpoints change while calls are made: real config centres, real servers, and not one call that fails."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import openai
import pytest

from llmwire.container import DiscoveryError
from llmwire.services.events import DocumentRefused, DocumentTaken, SourceAnswered, SourceSilent
from llmwire.services.space import CANARY
from llmwire.services.testing.faultd import FaultServer
from llmwire.services.testing.vectors import distinct

from ..chaos.load import Tasks, Threads
from ..chaos.processes import Upstream
from ..services.discovery.consul_server import ConsulServer
from ..services.discovery.etcd_server import EtcdServer
from .callers import SYNC, saying, text_of
from .centres import ConsulKey, EtcdKey, MountedFile, ReplacedFile, names, naming, problem, until
from .pools import chatting, chunk_text, in_flight, is_async, states
from .routes import Heard

SEEN_S = 10.0  #: so soon is a change followed, where all the cores are busy elsewhere; it takes a quarter of a second
SERVICE_S = 0.3  #: keeps most of the callers' calls under way at any moment
CALLERS = 100

PROGRAM = Path(__file__).with_name("following.py")


@pytest.fixture
def consul(tmp_path):
    (tmp_path / "consul").mkdir()
    server = ConsulServer(tmp_path / "consul")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def etcd(tmp_path):
    (tmp_path / "etcd").mkdir()
    server = EtcdServer(tmp_path / "etcd")
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["consul", "etcd", "replaced file", "mounted file"])
def place(request, tmp_path):
    """Where the document stands."""
    name = f"llmwire/{uuid4().hex}"
    match request.param:
        case "consul":
            return ConsulKey(request.getfixturevalue("consul"), name)
        case "etcd":
            return EtcdKey(request.getfixturevalue("etcd"), name)
        case "replaced file":
            return ReplacedFile(tmp_path)
    return MountedFile(tmp_path)


#: where it plays no part in which of them it stands
anywhere = pytest.mark.parametrize("place", ["consul"], indirect=True)


@pytest.fixture
def upstream():
    """Starts a server process."""
    with ExitStack() as stack:

        def start(service_s=SERVICE_S):
            started = Upstream(service_s=service_s)
            stack.callback(started.kill)
            return started

        yield start


@pytest.fixture(params=[Threads, Tasks], ids=["sync", "async"])
def calling(request):
    """Callers of the synchronous client, and once more of the asynchronous one."""
    return request.param


def following(contain, source, **settings):
    return contain(completion={"source": source, "model": "a-model", **settings})


def is_used(container, name):
    state = states(container).get(name)
    return state is not None and (state.in_flight or state.served)


# A change is followed, and fails no call.


def test_an_added_endpoint_is_used_soon_and_a_removed_one_drains(place, calling, upstream, contain):
    one, two = upstream().base_url, upstream().base_url
    place.say(naming(one=one))
    container = following(contain, place.source)

    with calling(container, callers=CALLERS) as load:
        load.wait_for(CALLERS)
        place.say(naming(one=one, two=two))
        added_s = until(lambda: is_used(container, "two"), "two is used")
        load.wait_for(CALLERS)
        place.say(naming(two=two))
        removed_s = until(lambda: names(container) == ["two"], "one is gone")
        removed_at_s = time.monotonic()
        load.wait_for(2 * CALLERS)
        calls = load.stop()

    under_way = [call for call in calls.in_flight(removed_at_s) if call.attempts[0].endpoint == "one"]
    later = calls.begun_between(removed_at_s, time.monotonic())
    assert not calls.failed(), calls.errors()
    assert calls.attempts_a_call() == 1.0, "a call lost its connection"
    assert (added_s <= SEEN_S, removed_s <= SEEN_S) == (True, True), (added_s, removed_s)
    assert under_way, "nothing was to be drained"
    assert later.share_of("two") == 1.0
    assert list(states(container)) == ["two"]


@anywhere
def test_a_stream_goes_on_to_its_end_at_an_endpoint_that_was_removed(place, caller, contain):
    def ask(client):
        coming = chatting("one two three four five", stream=True)(client)
        return whole_async(coming) if is_async(client) else whole(coming)

    def whole(chunks):
        return "".join([chunk_text(chunk) for chunk in removing(chunks)])

    def removing(chunks):
        yield next(chunks)
        remove()
        yield from chunks

    async def whole_async(coming):
        chunks = await coming
        first = chunk_text(await anext(chunks))
        await asyncio.to_thread(remove)
        return first + "".join([chunk_text(chunk) async for chunk in chunks])

    def remove():
        place.say(naming(two=two.base_url))
        until(lambda: names(container) == ["two"], "one is gone")

    with FaultServer("trickle:every_s=0.02,size_bytes=200") as one, FaultServer() as two:
        place.say(naming(one=one.base_url))
        container = following(contain, place.source)
        expected = caller.run(contain(completion={"base_url": two.base_url}), lambda client: _text(client))

        text = caller.run(container, ask)

    assert text == expected
    assert (len(one.seen), len(two.seen)) == (1, 1)
    assert in_flight(container) == 0


def _text(client):
    async def awaited(coming):
        return "".join([chunk_text(chunk) async for chunk in await coming])

    coming = chatting("one two three four five", stream=True)(client)
    return awaited(coming) if is_async(client) else "".join([chunk_text(chunk) for chunk in coming])


@anywhere
def test_a_change_of_what_is_not_an_endpoint_is_followed_by_clients_that_exist(place, caller, contain):
    with FaultServer("slow:delay_s=0.5") as slow:
        place.say({**naming(a=slow.base_url), "deadline_s": 0.1})
        container = following(contain, place.source)
        with pytest.raises(openai.APITimeoutError):
            caller.run(container, saying("hi"))

        place.say({**naming(a=slow.base_url), "deadline_s": 30})
        until(lambda: container.completion.traffic().spec.deadline_s == 30, "it is taken")

        assert "hi" in text_of(caller.run(container, saying("hi")))


@anywhere
def test_pools_and_routes_change_under_load_and_every_call_finds_its_way(place, calling, upstream, contain):
    one, two = upstream(0.05).base_url, upstream(0.05).base_url
    documents = [routed(pool, **urls) for pool in ("short", "long", "other") for urls in ({"a": one}, {"b": two})]
    place.say(documents[0])
    container = following(contain, place.source, tokenizer="estimate")
    taken = []

    with calling(container, callers=20) as load:
        for document in documents[1:] + documents[:1]:
            load.wait_for(20)
            place.say(document)
            [name], [pool] = document["endpoints"], document["pools"]
            until(lambda name=name, pool=pool: is_in(container, name, pool), f"{name} serves {pool}")
            taken.append((name, pool))
        load.wait_for(20)
        calls = load.stop()

    assert len(taken) == 6
    assert not calls.failed(), calls.errors()


@anywhere
def test_a_call_whose_endpoint_goes_between_two_attempts_is_answered(place, caller, contain):
    def moved_meanwhile(request):
        place.say(routed("long", b=two.base_url))
        until(lambda: is_in(container, "b", "long"), "b is there alone")
        return "503"

    with FaultServer(moved_meanwhile, "ok") as one, FaultServer() as two:
        place.say(routed("short", a=one.base_url))
        container = following(contain, place.source, tokenizer="estimate")

        answer = caller.run(container, saying("hi"))

        assert "hi" in text_of(answer)
        assert [len(one.seen), len(two.seen)] == [2, 0]  # as it was decided for the pool of the first
        assert "hi" in text_of(caller.run(container, saying("hi")))
        assert [len(one.seen), len(two.seen)] == [2, 1]


def routed(pool, **urls):
    """A document with one pool, to which all requests are routed."""
    endpoints = {name: {"base_url": url, "pools": ["default", pool]} for name, url in urls.items()}
    return {"endpoints": endpoints, "pools": {pool: {"deadline_s": 20}}, "routes": [{"pool": pool}]}


def is_in(container, name, pool):
    [endpoint] = container.completion.pool().endpoints
    return (endpoint.name, endpoint.pools) == (name, ("default", pool))


# The config centre dies.


def test_a_killed_consul_fails_no_call_and_is_followed_when_it_is_back(consul, calling, upstream, contain):
    one, two = upstream(0.1).base_url, upstream(0.1).base_url
    place = ConsulKey(consul, "llmwire/prod")
    place.say(naming(one=one))
    container = following(contain, place.source)
    heard = Heard(container)

    with calling(container, callers=20) as load:
        load.wait_for(20)
        consul.kill()
        heard.wait_until(lambda heard: heard.of(SourceSilent), "it is silent")
        silence, kept = problem(container), [names(container)]
        load.wait_for(100)
        consul.start()  # and has forgotten everything
        until(lambda: problem(container) == "holds nothing", "it answers")
        kept.append(names(container))
        load.wait_for(100)
        place.say(naming(two=two))
        followed_s = until(lambda: is_used(container, "two"), "two is used")
        load.wait_for(100)
        calls = load.stop()

    assert not calls.failed(), calls.errors()
    assert kept == [["one"], ["one"]]
    assert silence in [event.reason for event in heard.of(SourceSilent)]
    assert len(heard.of(SourceSilent)) <= 2, "told again and again"
    assert [event.source for event in heard.of(SourceAnswered)] == [place.source]
    assert [event.reason.startswith("holds nothing") for event in heard.of(DocumentRefused)] == [True]
    assert len(heard.of(DocumentTaken)) == 2
    assert followed_s <= SEEN_S
    assert problem(container) is None


def test_a_killed_etcd_fails_no_call_and_is_followed_when_it_is_back(etcd, calling, upstream, contain):
    one, two = upstream(0.1).base_url, upstream(0.1).base_url
    place = EtcdKey(etcd, "llmwire/prod")
    place.say(naming(one=one))
    container = following(contain, place.source)
    heard = Heard(container)

    with calling(container, callers=20) as load:
        load.wait_for(20)
        etcd.kill()
        heard.wait_until(lambda heard: heard.of(SourceSilent), "it is silent")
        load.wait_for(100)
        etcd.start()
        heard.wait_until(lambda heard: heard.of(SourceAnswered), "it answers")
        place.say(naming(two=two))
        followed_s = until(lambda: is_used(container, "two"), "two is used")
        calls = load.stop()

    assert not calls.failed(), calls.errors()
    assert followed_s <= SEEN_S
    assert len(heard.of(DocumentTaken)) == 2  # what it said before is no news


def test_a_frozen_consul_fails_no_call_and_is_followed_when_it_thaws(consul, calling, upstream, contain):
    one, two = upstream(0.1).base_url, upstream(0.1).base_url
    place = ConsulKey(consul, "llmwire/prod")
    place.say(naming(one=one))
    container = following(contain, place.source)

    with calling(container, callers=20) as load:
        load.wait_for(20)
        consul._process.send_signal(signal.SIGSTOP)
        load.wait_for(200)
        consul._process.send_signal(signal.SIGCONT)
        place.say(naming(two=two))
        followed_s = until(lambda: is_used(container, "two"), "two is used")
        calls = load.stop()

    assert not calls.failed(), calls.errors()
    assert followed_s <= SEEN_S


def test_a_burst_of_changes_ends_with_the_last_one_in_force(place, calling, upstream, contain):
    one, two = upstream(0.1).base_url, upstream(0.1).base_url
    place.say(naming(one=one))
    container = following(contain, place.source)

    with calling(container, callers=20) as load:
        load.wait_for(20)
        for number in range(100):
            place.say(naming(**{f"e{number}": one, f"f{number}": two}))
        place.say(naming(two=two))
        followed_s = until(lambda: names(container) == ["two"], "the last one is in force")
        load.wait_for(40)
        calls = load.stop()

    assert not calls.failed(), calls.errors()
    assert followed_s <= SEEN_S
    assert list(states(container)) == ["two"]


# Several sources.


def test_the_endpoints_of_several_sources_are_one_pool_and_each_is_followed(
    consul, caller, upstream, contain, tmp_path
):
    one, two, three = (upstream(0).base_url for _ in range(3))
    central, local = ConsulKey(consul, "llmwire/prod"), ReplacedFile(tmp_path)
    central.say(naming(one=one))
    local.say(naming(two=two))
    container = following(contain, f"{central.source} {local.source}")
    caller.run(container, saying("hi"))
    begun_with = sorted(names(container))

    local.say(naming(three=three))
    until(lambda: sorted(names(container)) == ["one", "three"], "the file is followed")
    consul.kill()
    local.say(naming(two=two))
    until(lambda: sorted(names(container)) == ["one", "two"], "it is followed while the other is silent")

    assert begun_with == ["one", "two"]
    assert text_of(caller.run(container, saying("hi"))) == "hi"


# Instances of a service come and go.


def test_an_instance_whose_check_fails_is_left_alone_and_the_last_ones_stay(consul, calling, upstream, contain):
    servers = {name: upstream(0.1) for name in ("a", "b", "c")}
    for name, server in servers.items():
        port = int(server.base_url.removesuffix("/v1").rpartition(":")[2])
        consul.register(f"llama-{name}", port=port, meta={"base_path": "/v1"})
    container = following(contain, f"consul+service://127.0.0.1:{consul.port}/llama")
    all_of_them = ["llama-a", "llama-b", "llama-c"]

    with calling(container, callers=20) as load:
        load.wait_for(20)
        begun_with = sorted(names(container))
        consul.fail("llama-a")
        left_s = until(lambda: sorted(names(container)) == ["llama-b", "llama-c"], "a is left alone")
        load.wait_for(20)
        consul.recover("llama-a")
        back_s = until(lambda: sorted(names(container)) == all_of_them, "a is back")
        load.wait_for(20)
        for name in all_of_them:
            consul.fail(name)
        until(lambda: problem(container) == "holds nothing", "all are critical")
        stayed = names(container)
        load.wait_for(20)
        consul.recover("llama-b")
        until(lambda: names(container) == ["llama-b"], "b is back")
        calls = load.stop()

    assert not calls.failed(), calls.errors()
    assert begun_with == all_of_them
    assert (left_s <= SEEN_S, back_s <= SEEN_S) == (True, True), (left_s, back_s)
    assert stayed
    assert problem(container) is None


# The program begins while the config centre is down.


def test_it_begins_with_its_own_settings_and_follows_the_centre_when_that_comes(consul, calling, upstream, contain):
    own, two = upstream(0.1).base_url, upstream(0.1).base_url
    place = ConsulKey(consul, "llmwire/prod")
    consul.kill()
    container = following(contain, place.source, **naming(own=own))

    began_s = time.monotonic()
    assert text_of(SYNC.run(container, saying("hi"))) == "hi"
    took_s = time.monotonic() - began_s
    begun_with = names(container)
    with calling(container, callers=20) as load:
        load.wait_for(20)
        consul.start()
        place.say(naming(two=two))
        until(lambda: is_used(container, "two"), "two is used")
        calls = load.stop()

    assert took_s < SEEN_S  # it did not wait for what does not answer
    assert begun_with == ["own"]
    assert names(container) == ["two"]
    assert not calls.failed(), calls.errors()


def test_it_does_not_begin_where_it_shall_not_and_does_once_the_centre_is_there(consul, caller, contain):
    place = ConsulKey(consul, "llmwire/prod")
    consul.kill()
    with FaultServer() as server:
        container = following(contain, place.source, startup="fail", **naming(own=server.base_url))

        with pytest.raises(DiscoveryError, match="completion cannot begin: nothing listens at 127.0.0.1:"):
            caller.run(container, saying("hi"))
        consul.start()
        place.say(naming(two=server.base_url))

        def begins():
            with suppress(DiscoveryError):  # it may have been asked before the document was there
                return "hi" in text_of(caller.run(container, saying("hi")))

        until(begins, "it is asked again, and what it says is there")
    assert names(container) == ["two"]


def test_it_begins_with_what_an_earlier_process_kept_which_holds_no_key(consul, contain, tmp_path):
    place, folder, key = ConsulKey(consul, "llmwire/prod"), tmp_path / "cache", "sk-canary-of-vendor"
    with FaultServer(api_key=key) as one, FaultServer(api_key=key) as two:
        hosts = f"{one.base_url.removesuffix('/v1')} {two.base_url.removesuffix('/v1')}"
        place.say({"endpoints": {"one": {"base_url": one.base_url, "credential": "vendor"}}})
        first = begin(place.source, "cache", folder, key, hosts)
        consul.kill()

        second = begin(place.source, "cache", folder, key, hosts)
        credential = {"vendor": {"api_key": key, "hosts": hosts}}
        container = contain(
            completion={"source": place.source, "startup": "cache", "model": "a-model"},
            source_cache=str(folder),
            credentials=credential,
        )
        SYNC.run(container, saying("hi"))
        consul.start()
        place.say({"endpoints": {"two": {"base_url": two.base_url, "credential": "vendor"}}})
        until(lambda: names(container) == ["two"], "the centre is followed")
        SYNC.run(container, saying("hi"))

        assert (first["names"], first["is_cached"], first["error"]) == (["one"], False, None)
        assert (second["names"], second["is_cached"]) == (["one"], True)
        assert second["error"].startswith("nothing listens")
        assert [len(one.seen), len(two.seen)] == [3, 1]
    kept = list(folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in kept} == {0o600}
    assert len(kept) == 1
    assert key not in kept[0].read_text()


def begin(source, startup, folder, key, hosts):
    """What a program that begins now tells of itself."""
    return json.loads(run("begin", source, startup, str(folder), key, hosts))


# Processes and threads.


@pytest.mark.parametrize("program", ["parent_and_child_follow", "a_fork_of_a_program_that_never_asked"])
def test_a_child_follows_by_a_watch_of_its_own(program, consul, upstream):
    key_url = f"{consul.url}/v1/kv/llmwire/prod/completion"

    run(program, f"consul://127.0.0.1:{consul.port}/llmwire/prod", key_url, upstream(0).base_url, upstream(0).base_url)


def test_a_child_closes_no_socket_of_its_parents_when_an_endpoint_goes(consul, upstream):
    key_url = f"{consul.url}/v1/kv/llmwire/prod/completion"
    source, one, two = f"consul://127.0.0.1:{consul.port}/llmwire/prod", upstream(0).base_url, upstream(0).base_url

    done = ended("a_child_whose_endpoint_goes", source, key_url, one, two)

    assert "unclosed" not in done.stderr


@pytest.mark.parametrize("program", ["nothing_is_left_of_it", "nothing_is_left_of_one_that_nobody_shut_down"])
def test_no_thread_and_no_socket_is_left_behind(program, place, upstream):
    place.say(naming(one=upstream(0).base_url))

    done = ended(program, place.source)

    assert "unclosed" not in done.stderr


def run(program, *arguments):
    """What a program of following.py prints."""
    return ended(program, *arguments).stdout


def ended(program, *arguments):
    command = [sys.executable, "-W", "always::ResourceWarning", PROGRAM, program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    return done


# Embeddings: vectors of two models never mix.

TEXTS = [f"text {number}" for number in range(3)]
DIMENSIONS = 16


def model(name):
    """An answer of a server with this model: another name gives other directions for the same texts."""

    def answer(exchange):
        asked = exchange.seen.body
        rows = [distinct(f"{name}: {text}".encode(), DIMENSIONS) for text in asked["input"]]
        data = [{"object": "embedding", "index": place, "embedding": row} for place, row in enumerate(rows)]
        exchange.json({"object": "list", "model": asked["model"], "data": data, "usage": {"prompt_tokens": 1}})

    return answer


TRUTH = np.array([distinct(f"real: {text}".encode(), DIMENSIONS) for text in TEXTS], dtype=np.float32)


def embed(caller, container):
    answer = caller.run(
        container, lambda client: client.embeddings.create(model="m", input=TEXTS), function="embedding"
    )
    return np.array([item.embedding for item in answer.data], dtype=np.float32)


def test_the_successor_of_a_single_endpoint_gives_no_vector_of_another_space(serve, caller, consul, contain):
    real, foreign, again = serve(model("real")), serve(model("another")), serve(model("real"))
    place = ConsulKey(consul, "llmwire/prod", "embedding")
    place.say(naming(real=real.url))
    container = contain(embedding={"source": place.source, "model": "m"})
    first = embed(caller, container)

    place.say(naming(foreign=foreign.url))
    until(lambda: names(container, "embedding") == ["foreign"], "foreign is taken")
    for _ in range(3):
        with pytest.raises(openai.APIConnectionError) as refused:
            embed(caller, container)
        assert "another space than those of real" in str(refused.value.__cause__)
    place.say(naming(again=again.url))
    until(lambda: names(container, "embedding") == ["again"], "again is taken")

    assert np.array_equal(first, TRUTH)
    assert np.array_equal(embed(caller, container), TRUTH)
    assert {tuple(seen.body["input"]) for seen in foreign.seen} == {(CANARY,)}  # it was asked for nothing else


def test_the_same_name_at_another_server_is_another_endpoint_which_shows_its_space(serve, caller, consul, contain):
    real, foreign = serve(model("real")), serve(model("another"))
    place = ConsulKey(consul, "llmwire/prod", "embedding")
    place.say(naming(a=real.url))
    container = contain(embedding={"source": place.source, "model": "m"})
    embed(caller, container)

    place.say(naming(a=foreign.url))
    until(lambda: str(container.embedding.pool().endpoints[0].server) in foreign.url, "it is taken")

    with pytest.raises(openai.APIConnectionError) as refused:
        embed(caller, container)
    assert "another space than those of a" in str(refused.value.__cause__)


@pytest.mark.parametrize("has_routes", [False, True])
def test_a_retry_finds_the_endpoints_that_came_meanwhile_into_its_pool(has_routes, tmp_path, caller, contain):
    place = ReplacedFile(tmp_path)
    document = (lambda **urls: routed("short", **urls)) if has_routes else naming

    def moved_meanwhile(request):
        place.say(document(b=two.base_url))
        until(lambda: names(container) == ["b"], "b is there alone")
        return "503"

    with FaultServer(moved_meanwhile, "503") as one, FaultServer() as two:
        place.say(document(a=one.base_url))
        container = following(contain, place.source, tokenizer="estimate")
        assert "hi" in text_of(caller.run(container, saying("hi")))
