from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.container.endpoints import RESERVED
from llmwire.container.settings import SETTINGS
from llmwire.services.discovery.http import Access, Session
from llmwire.services.discovery.instances import SETTING_WORDS, ConsulInstances
from llmwire.services.errors import DiscoveryError

from .consul_server import ConsulServer
from .scripted_server import Server, answer, scripted

PATIENCE_S = 20.0  #: for what must happen; reached only where a test fails
NAME = "consul+service://centre/llama"

Play = Callable[[ConsulInstances], Coroutine[Any, Any, Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    found = ConsulServer(tmp_path_factory.mktemp("consul"), config={"node_name": "node-1"})
    found.start()
    yield found
    found.kill()


@pytest.fixture
def service(request):
    return request.node.name.replace("_", "-")


def play(url: str, plan: Play, *, service: str = "llama", function: str = "completion", **options: Any) -> Any:
    """What comes of it."""

    async def played() -> Any:
        session = Session(Access(name=NAME, url=url))
        instances = ConsulInstances(session, service=service, function=function, name=NAME, **options)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await plan(instances)
        finally:
            await instances.aclose()

    return asyncio.run(played())


async def endpoints(instances: ConsulInstances) -> dict[str, Any]:
    snapshot = await instances.fetch()
    return {} if snapshot.content is None else dict(snapshot.tree()["endpoints"])


def endpoints_after(change: Callable[[], object]) -> Play:
    """Fetch, watch, make the change; then look whenever the watch returns, until the document is another."""

    async def plan(instances: ConsulInstances) -> dict[str, Any]:
        before = await instances.fetch()
        watching = asyncio.create_task(instances.watch(before))
        await asyncio.to_thread(change)
        await watching
        while (now := await instances.fetch()).digest == before.digest:
            await instances.watch(now)
        return {} if now.content is None else dict(now.tree()["endpoints"])

    return plan


def test_each_healthy_instance_is_an_endpoint(server, service):
    server.register("llama-1", service=service, port=8001)
    server.register("llama-2", service=service, port=8002)

    found = play(server.url, endpoints, service=service)

    assert found == {
        "llama-1": {"base_url": "http://127.0.0.1:8001", "weight": 1.0},
        "llama-2": {"base_url": "http://127.0.0.1:8002", "weight": 1.0},
    }


def test_an_instance_whose_check_fails_is_none(server, service):
    server.register("sick-1", service=service)
    server.register("sick-2", service=service)

    found = play(server.url, endpoints_after(lambda: server.fail("sick-1")), service=service)

    assert list(found) == ["sick-2"]


def test_an_instance_that_recovers_is_one_again(server, service):
    server.register("back-1", service=service)
    server.fail("back-1")

    found = play(server.url, endpoints_after(lambda: server.recover("back-1")), service=service)

    assert list(found) == ["back-1"]


def test_an_instance_that_is_registered_is_found(server, service):
    found = play(server.url, endpoints_after(lambda: server.register("new-1", service=service)), service=service)

    assert list(found) == ["new-1"]


def test_an_instance_that_is_deregistered_is_gone(server, service):
    server.register("gone-1", service=service)

    assert play(server.url, endpoints_after(lambda: server.deregister("gone-1")), service=service) == {}


def test_where_no_instance_is_healthy_there_is_no_document(server, service):
    found = play(server.url, lambda instances: instances.fetch(), service=service)

    assert found.content is None
    assert found.version.endswith("no healthy instance to be seen")


def test_an_instance_must_have_all_the_tags_that_are_asked_for(server, service):
    server.register("tagged-1", service=service, tags=["eu", "gpu"])
    server.register("tagged-2", service=service, tags=["eu"])

    found = play(server.url, endpoints, service=service, tag=("eu", "gpu"))

    assert list(found) == ["tagged-1"]
    assert found["tagged-1"]["tags"] == ["eu", "gpu"]


def test_the_weight_of_an_instance_is_that_of_its_endpoint(server, service):
    server.register("weighed-1", service=service, weight=5)
    server.register("weighed-2", service=service, weight=5, meta={"weight": "0.5"})

    found = play(server.url, endpoints, service=service)

    assert [each["weight"] for each in found.values()] == [5.0, 0.5]


def test_an_instance_says_in_its_meta_what_its_endpoint_is_like(server, service):
    meta = {"scheme": "https", "base_path": "/openai/v1/", "model": "llama-3", "tier": "1", "credential": "Vendor"}
    more = {"trust": "private", "context_length": "8192", "dialect": "openai", "owner": "team a", "model_url": "x"}
    server.register("meta-1", service=service, meta={**meta, **more})

    found = play(server.url, endpoints, service=service)

    assert found["meta-1"] == {
        "base_url": "https://127.0.0.1:8000/openai/v1",
        "weight": 1.0,
        "model": "llama-3",
        "tier": 1,
        "credential": "vendor",
        "trust": "private",
        "context_length": 8192,
        "dialect": "openai",
    }


def test_an_embedding_space_is_of_an_embedding_alone(server, service):
    server.register("space-1", service=service, meta={"space": "bge-m3", "revision": "2"})

    as_embedding = play(server.url, endpoints, service=service, function="embedding")
    as_completion = play(server.url, endpoints, service=service)

    assert (as_embedding["space-1"]["space"], as_embedding["space-1"]["revision"]) == ("bge-m3", "2")
    assert not {"space", "revision"} & set(as_completion["space-1"])


def test_an_instance_without_an_address_has_that_of_its_node(server, service):
    server.register("node-1", service=service, address="")

    assert play(server.url, endpoints, service=service)["node-1"]["base_url"] == "http://127.0.0.1:8000"


def test_an_instance_with_an_impossible_meta_is_left_out_and_the_others_stay(server, service):
    server.register("good-1", service=service)
    server.register("bad-1", service=service, meta={"tier": "x"})

    found = play(server.url, lambda instances: instances.fetch(), service=service)

    assert list(found.tree()["endpoints"]) == ["good-1"]
    assert found.version.endswith("1 healthy, 1 instance left out: bad-1 has tier 'x'")


def test_an_instance_whose_id_is_the_name_of_its_service_is_called_after_its_node_too(server, service):
    server.register(service, service=service)

    assert list(play(server.url, endpoints, service=service)) == [f"{service}-node-1"]


def test_a_consul_that_is_gone_is_an_error(tmp_path):
    mortal = ConsulServer(tmp_path)
    mortal.start()
    mortal.kill()

    with pytest.raises(DiscoveryError):
        play(mortal.url, endpoints)


def entry(id_: str = "llama-1", *, node: str = "node-1", service: str = "llama", **more: Any) -> dict[str, Any]:
    """As /v1/health/service has it."""
    registered = {"ID": id_, "Service": service, "Address": "10.0.0.1", "Port": 8000, "Tags": [], "Meta": {}, **more}
    return {"Node": {"Node": node, "Address": "10.0.0.9"}, "Service": registered, "Checks": []}


def scripted_play(said: Any, *, plan: Play = endpoints, **headers: str) -> tuple[Any, Server]:
    """What comes of an answer, or the DiscoveryError; and the server."""

    async def played() -> tuple[Any, Server]:
        script = answer(said, headers={"X-Consul-Index": "7", **headers})
        async with scripted(script) as server, asyncio.timeout(PATIENCE_S):
            session = Session(Access(name=NAME, url=server.url))
            instances = ConsulInstances(session, service="llama", function="completion", name=NAME)
            try:
                return await plan(instances), server
            except DiscoveryError as error:
                return error, server
            finally:
                await instances.aclose()

    return asyncio.run(played())


def version_of(*entries: Any) -> str:
    found, _ = scripted_play(list(entries), plan=lambda instances: instances.fetch())
    return str(found.version)


def names_of(*entries: Any) -> dict[str, str]:
    """The endpoint's name by the base URL of its instance."""
    found, _ = scripted_play(list(entries))
    return {table["base_url"]: name for name, table in found.items()}


@pytest.mark.parametrize(
    ("address", "base_url"),
    [
        ("10.0.0.1", "http://10.0.0.1:8000"),
        ("fd00::1", "http://[fd00::1]:8000"),
        ("FD00:0:0::1", "http://[fd00::1]:8000"),
        ("GPU-1.internal", "http://gpu-1.internal:8000"),
        ("", "http://10.0.0.9:8000"),
    ],
)
def test_an_address_is_the_host_of_a_url(address, base_url):
    (found,) = scripted_play([entry(Address=address)])[0].values()

    assert found["base_url"] == base_url


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"Port": 0}, "has no port"),
        ({"Port": 70_000}, "has no port"),
        ({"Port": "80"}, "is not described as Consul does"),
        ({"Address": "user:geheim@host"}, "has address 'user:geheim@host'"),
        ({"Address": "host/path?x=1"}, "has address 'host/path?x=1'"),
        ({"Address": "fe80::1%eth0\n"}, "has address 'fe80::1%eth0\\n'"),
        ({"Meta": {"scheme": "ftp"}}, "has scheme 'ftp'"),
        ({"Meta": {"base_path": "/a?b"}}, "has base_path '/a?b'"),
        ({"Meta": {"base_path": "//other.host/"}}, "has base_path '//other.host/'"),
        ({"Meta": {"base_path": "@other.host/"}}, "has base_path '@other.host/'"),
        ({"Meta": {"weight": "heavy"}}, "has weight 'heavy'"),
        ({"Meta": {"weight": "0"}}, "has weight '0'"),
        ({"Meta": {"weight": "inf"}}, "has weight 'inf'"),
        ({"Meta": {"weight": "nan"}}, "has weight 'nan'"),
        ({"Weights": {"Passing": 0}}, "has weight 0"),
        ({"Weights": {"Passing": 10**400}}, "has weight 1000"),
        ({"Meta": {"tier": "-1"}}, "has tier '-1'"),
        ({"Meta": {"tier": "1.5"}}, "has tier '1.5'"),
        ({"Meta": {"context_length": "0"}}, "has context_length '0'"),
        ({"Meta": {"trust": "two words"}}, "has trust 'two words'"),
        ({"Meta": {"dialect": "klingon"}}, "has dialect 'klingon'"),
        ({"Meta": {"model": "a\x1b[31m"}}, "has model 'a\\x1b[31m'"),
        ({"Meta": {"model": "\ud800"}}, "has model '\\ud800'"),
    ],
)
def test_an_instance_that_says_something_impossible_is_left_out_with_its_reason(more, reason):
    version = version_of(entry("bad", **more), entry("good-1"))

    assert version.startswith(f"index 7, 1 healthy, 1 instance left out: bad {reason}")


def test_tags_of_others_that_are_no_text_are_passed_over():
    (found,) = scripted_play([entry(Tags=["eu", "\ud800", " ", 7, "eu"])])[0].values()

    assert found["tags"] == ["eu"]


def test_a_value_that_is_shown_is_cut():
    assert len(version_of(entry("bad", Meta={"model": "\n" + "x" * 10_000 + "\n" + "y"}))) < 200


def test_a_credential_that_is_no_name_is_not_shown():
    version = version_of(entry("bad", Meta={"credential": "sk-geheim/abc="}))

    assert version == "index 7, no healthy instance to be seen, 1 instance left out: bad has credential that is no name"


@pytest.mark.parametrize("odd", [None, 7, "x", {}, {"Service": None}, {"Service": {"ID": 7}}])
def test_an_entry_that_is_none_is_left_out_and_the_others_stay(odd):
    found, _ = scripted_play([odd, entry("good-1")])

    assert list(found) == ["good-1"]


def test_of_many_that_are_left_out_only_some_are_named():
    version = version_of(*(entry(f"bad-{number}", Port=0) for number in range(9)))

    assert "9 instances left out: bad-0 has no port; bad-1 has no port; bad-2 has no port; and 6 more" in version


@pytest.mark.parametrize(
    ("id_", "name"),
    [
        ("Llama.3/7", "llama-3-7"),
        ("_nomad-task-1f-web", "nomad-task-1f-web"),
        ("7-llama", "llama-7-llama"),
        ("\u00e4\u00f6", "llama-node-1"),
        ("llama", "llama-node-1"),
        ("pools", "pools-node-1"),
        ("openai", "openai-node-1"),
        ("azure_openai", "azure_openai-node-1"),
    ],
)
def test_an_endpoint_is_called_after_the_id_of_its_instance(id_, name):
    assert list(scripted_play([entry(id_)])[0]) == [name]


def test_two_of_one_id_are_called_after_their_nodes_too():
    names = names_of(entry("a", node="n1", Address="10.0.0.1"), entry("a", node="n2", Address="10.0.0.2"))

    assert names == {"http://10.0.0.1:8000": "a-n1", "http://10.0.0.2:8000": "a-n2"}


def test_two_that_the_environment_would_not_tell_apart_have_other_names():
    names = names_of(entry("a-1", Address="10.0.0.1"), entry("a_1", Address="10.0.0.2"))

    assert len({name.replace("-", "_") for name in names.values()}) == 2


def test_an_instance_that_is_told_twice_is_one_endpoint():
    assert list(scripted_play([entry("a"), entry("a")])[0].values()) == [
        {"base_url": "http://10.0.0.1:8000", "weight": 1.0}
    ]


IDS = st.sampled_from(["a", "A", "a-1", "a_1", "a.1", "llama", "1", "-", "openai", "pools", "a-n", "a-n-1"])
ENTRIES = st.lists(
    st.builds(
        entry,
        IDS,
        node=st.sampled_from(["n", "n-1", "1"]),
        Port=st.integers(8000, 8002),
        Weights=st.sampled_from([{"Passing": 1}, {"Passing": 2}]),
    ),
    min_size=1,
    max_size=6,
)


class _Reply:
    """As `Agent.read` gives it."""

    index, is_filtered = 7, False

    def __init__(self, entries: list[Any]) -> None:
        self.content = json.dumps(entries).encode()


def content_of(entries: list[Any]) -> dict[str, Any]:
    instances = ConsulInstances(
        Session(Access(name=NAME, url="http://127.0.0.1:1")), service="llama", function="completion", name=NAME
    )

    async def read(*_: Any, **__: Any) -> _Reply:
        return _Reply(entries)

    instances._agent.read = read  # type: ignore[method-assign,assignment]  # thousands of cases, and no server in them
    snapshot = asyncio.run(instances.fetch())
    return dict(snapshot.tree()["endpoints"])


@given(ENTRIES, st.randoms(use_true_random=False))
def test_names_do_not_depend_on_the_order_of_the_answer(entries, random):
    shuffled = random.sample(entries, len(entries))

    assert content_of(shuffled) == content_of(entries)


@given(ENTRIES)
def test_no_two_endpoints_have_one_name_and_no_instance_is_lost(entries):
    told = {(each["Service"]["ID"], each["Node"]["Node"], each["Service"]["Port"]) for each in entries}

    names = list(content_of(entries))

    assert len({name.replace("-", "_") for name in names}) == len(told)
    assert all(name[0].isalpha() and name not in RESERVED for name in names)


def test_no_name_is_the_beginning_of_a_setting():
    ours = [place for setting in SETTINGS for place in setting.own if place.startswith("env.{FUNCTION}_")]

    words = {word for place in ours for word in place.removeprefix("env.{FUNCTION}_").lower().split("_")}

    assert words | set(RESERVED) <= SETTING_WORDS


@pytest.mark.parametrize("said", [{}, "x", None, b"<html>"])
def test_what_is_no_list_of_instances_is_an_error(said):
    error, _ = scripted_play(said)

    assert isinstance(error, DiscoveryError)
    assert error.remedy


def test_a_token_that_may_see_none_of_them_is_told_what_it_needs():
    error, _ = scripted_play([], **{"X-Consul-Results-Filtered-By-ACLs": "true"})

    assert isinstance(error, DiscoveryError)
    assert 'service "llama" { policy = "read" }' in error.remedy


def test_a_watch_asks_what_the_fetch_asked():
    async def both(instances):
        await instances.watch(await instances.fetch())

    async def briefly(instances):
        try:
            async with asyncio.timeout(0.1):
                await both(instances)
        except TimeoutError:
            return

    _, server = scripted_play([entry()], plan=briefly)

    fetched, watched = server.asked[:2]
    assert watched.path == fetched.path == "/v1/health/service/llama"
    assert fetched.params == {"passing": "1"}
    assert watched.params == {"passing": "1", "index": "7", "wait": "30s"}
