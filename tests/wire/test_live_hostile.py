"""A config centre that says what nobody should believe: not one call fails, and no key goes where it must not.

Whoever may write the documents is not trusted with keys. What is refused leaves the last good endpoints in force, and
says why in three places.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from uuid import uuid4

import openai
import pytest

from llmwire.services.discovery.catalogue import MAX_BYTES, Snapshot
from llmwire.services.events import DocumentRefused
from llmwire.services.testing.faultd import FaultServer

from ..chaos.load import Tasks, Threads
from ..services.discovery.consul_server import ConsulServer
from .callers import SYNC, embedding, saying, text_of
from .centres import ConsulKey, names, naming, problem, until
from .routes import Heard

KEY = "sk-canary-of-vendor"  #: of the named credential, for the good server alone
STATIC_KEY = "sk-canary-of-function"  #: of the function itself, for the server that the settings name
CALLERS = 4  #: of each kind


@pytest.fixture(scope="module")
def consul(tmp_path_factory):
    server = ConsulServer(tmp_path_factory.mktemp("consul"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def place(consul):
    return ConsulKey(consul, f"llmwire/{uuid4().hex}")


@pytest.fixture
def good():
    """The server that everything is meant for; it answers to its own key alone."""
    with FaultServer(api_key=KEY) as server:
        yield server


@pytest.fixture
def stranger():
    """Somebody else's server, which writes down what it gets."""
    with FaultServer() as server:
        yield server


@pytest.fixture
def document(good):
    """A document that is good."""
    return {"endpoints": {"a": {"base_url": good.base_url, "credential": "vendor"}}}


@pytest.fixture
def following(contain, place, document, good):
    """Makes a container that follows the place, which says what is good to begin with."""

    def following(**settings):
        place.say(document)
        completion = {
            "source": place.source,
            "model": "a-model",
            "api_key": STATIC_KEY,
            "organization": "org-canary",
            "headers": {"X-Canary": "header-canary"},
            **settings,
        }
        hosts = good.base_url.removesuffix("/v1")
        return contain(completion=completion, credentials={"vendor": {"api_key": KEY, "hosts": hosts}})

    return following


def endpoint(**settings):
    return lambda good, stranger: {"endpoints": {"a": {"base_url": good, "credential": "vendor", **settings}}}


def at(url, **settings):
    """A document with one endpoint there, which would have the key."""
    return lambda good, stranger: {"endpoints": {"a": {"base_url": url, "credential": "vendor", **settings}}}


def as_it_stands(text):
    return lambda good, stranger: text


def beside(**settings):
    """A document with a good endpoint, and this."""
    return lambda good, stranger: {"endpoints": {"a": {"base_url": good, "credential": "vendor"}}, **settings}


def foreign(credential):
    return lambda good, stranger: {"endpoints": {"a": {"base_url": stranger, "credential": credential}}}


def with_good_one(name, **settings):
    """A document that has a good endpoint too: the other one alone is hostile."""
    return lambda good, stranger: {
        "endpoints": {"a": {"base_url": good, "credential": "vendor"}, name: {"base_url": stranger, **settings}}
    }


def with_password(good, stranger):
    url = good.replace("http://", "http://user:hunter2@")
    return {"endpoints": {"a": {"base_url": url, "credential": "vendor"}}}


def with_foreign_user(good, stranger):
    host = good.removeprefix("http://").removesuffix("/v1")
    url = stranger.replace("http://", f"http://{host}@")
    return {"endpoints": {"a": {"base_url": url, "credential": "vendor"}}}


BROKEN = {
    "garbage": (as_it_stands(b"\x00\xff\xfe\x80" * 50), "is no text in UTF-8"),
    "empty": (as_it_stands(b""), "is empty"),
    "blank": (as_it_stands(b" \n\t\n"), "is empty"),
    "an empty table": (as_it_stands("{}"), "is empty"),
    "a comment": (as_it_stands("# nothing yet\n"), "is empty"),
    "no endpoints": (as_it_stands('{"endpoints": {}}'), "endpoints"),
    "a list": (as_it_stands("[1, 2]"), "TOML"),
    "a text": (as_it_stands('"http://127.0.0.1:1/v1"'), "TOML"),
    "no TOML": (as_it_stands("endpoints = = nonsense"), "is no TOML"),
    "half of a JSON": (as_it_stands('{"endpoints": {"a": {"base_url": "http://127.0'), "is no JSON"),
    "a name that stands twice": (as_it_stands('{"endpoints": {"a": {}}, "endpoints": {"b": {}}}'), "stands twice"),
    "very deep": (as_it_stands('{"a":' * 5000 + "1" + "}" * 5000), "deep"),
    "deep in TOML": (as_it_stands("a" + ".a" * 5000 + " = 1"), "deep"),
    "endpoints as a number": (as_it_stands('{"endpoints": 5}'), "completion.endpoints"),
    "endpoints as a list": (as_it_stands('{"endpoints": ["http://127.0.0.1:1"]}'), "completion.endpoints"),
    "an endpoint as a text": (
        as_it_stands('{"endpoints": {"a": "http://127.0.0.1:1/v1"}}'),
        "holds a, which is no table",
    ),
    "an endpoint as null": (as_it_stands('{"endpoints": {"a": null}}'), "completion.endpoints.a"),
    "an endpoint without a server": (as_it_stands('{"endpoints": {"a": {"tier": 1}}}'), "base_url"),
    "a server as a number": (at(5), "base_url"),
    "a server that is none": (at("not a url"), "base_url"),
    "a server without HTTP": (at("file:///etc/passwd"), "base_url"),
    "a port that is none": (at("http://127.0.0.1:99999/v1"), "base_url"),
    "a line break in a server": (at("http://127.0.0.1:1/v1\r\nX-Evil: 1"), "base_url"),
    "a weight as a text": (endpoint(weight="heavy"), "weight"),
    "a weight that is no number": (
        as_it_stands('{"endpoints": {"a": {"base_url": "http://x", "weight": NaN}}}'),
        "weight",
    ),
    "a tier below zero": (endpoint(tier=-1), "tier"),
    "a tier as a list": (endpoint(tier=[1]), "tier"),
    "a negative deadline": (beside(deadline_s=-5), "deadline_s"),
    "a deadline as a table": (beside(deadline_s={"s": 5}), "deadline_s"),
    "an unknown strategy": (beside(strategy="best"), "strategy"),
    "an unknown setting": (beside(stratgy="p2c"), "Did you mean completion.strategy?"),
    "an unknown setting of an endpoint": (endpoint(wieght=2), "Did you mean"),
    "a name that is kept": (as_it_stands('{"endpoints": {"pools": {"base_url": "http://127.0.0.1:1"}}}'), "pools"),
    "a name with a dot": (as_it_stands('{"endpoints": {"a.b": {"base_url": "http://127.0.0.1:1"}}}'), "endpoints"),
    "two names of one variable": (
        as_it_stands('{"endpoints": {"a-b": {"base_url": "http://x/"}, "a_b": {"base_url": "http://x/"}}}'),
        "a-b and a_b",
    ),
    "a route to a pool that nobody serves": (beside(routes=[{"pool": "nowhere", "pattern": "x"}]), "nowhere"),
    "a route with a broken pattern": (beside(routes=[{"pool": "default", "pattern": "("}]), "pattern"),
    "routes as a text": (beside(routes="all"), "routes"),
    "a budget in money without a price": (beside(budget="5/day"), "price"),
}

HOSTILE = {
    "another host with the key": (foreign("vendor"), "may not go to"),
    "the key's own host in another port": (at("http://127.0.0.1:1/v1"), "may not go to"),
    "a key that nobody has declared": (foreign("root"), "none of the credentials of this program"),
    "a good one and a foreign one with the key": (with_good_one("b", credential="vendor"), "may not go to"),
    "a key": (endpoint(api_key="sk-planted"), "api_key"),
    "a key of the function": (beside(api_key="sk-planted"), "api_key"),
    "no key, said as a key": (endpoint(api_key="none"), "api_key"),
    "headers": (endpoint(headers={"X-Evil": "1"}), "headers"),
    "an organization": (endpoint(organization="org-evil"), "organization"),
    "Azure without a key": (endpoint(azure={"keyless": True}), "keyless"),
    "Azure's own server without a key": (
        as_it_stands('{"endpoints": {"a": {"azure": {"endpoint": "https://evil.openai.azure.com"}}}}'),
        "credential",
    ),
    "the default server": (at("https://api.openai.com/v1"), "may not go to"),
    "the default server for the function's key": (
        as_it_stands('{"endpoints": {"a": {"base_url": "https://api.openai.com/v1"}}}'),
        "credential",
    ),
    "user and password": (with_password, "base_url"),
    "the good host as a user": (with_foreign_user, "base_url"),
    "no verification": (endpoint(verify=False), "always verified"),
    "no verification at all": (beside(verify_ssl=False), "always verified"),
    "another source": (beside(source="consul://127.0.0.1:1/evil"), "source"),
    "another way to begin": (beside(startup="fail"), "startup"),
    "leave for keys to travel": (beside(key_fallback="warn"), "key_fallback"),
    "a credential of its own": (
        beside(credentials={"vendor": {"api_key": "x", "hosts": "http://127.0.0.1:*"}}),
        "credentials",
    ),
    "another ledger": (beside(budget_ledger="redis://127.0.0.1:1"), "budget_ledger"),
}

METADATA = [  # of each kind one: tests/container/test_hosts.py has them all
    "http://169.254.169.254/v1",
    "http://169.254.169.254./v1",
    "http://2852039166/v1",
    "http://0xa9fea9fe/v1",
    "http://[::ffff:169.254.169.254]/v1",
    "http://[64:ff9b::a9fe:a9fe]/v1",
    "http://[fd00:ec2::254]/v1",
    "http://169\u3002254\u3002169\u3002254/v1",
    "http://\uff11\uff16\uff19.254.169.254/v1",
    "http://%31%36%39.254.169.254/v1",
    "http://metadata.google.internal/v1",
    "http://0.0.0.0:80/v1",
]


@pytest.mark.parametrize(("make", "told"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_document_changes_nothing_and_is_told(make, told, following, place, document, good, stranger):
    check_refused(make(good.base_url, stranger.base_url), told, following(), place, document, good, stranger)


@pytest.mark.parametrize(("make", "told"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_document_changes_nothing_and_gets_no_key(make, told, following, place, document, good, stranger):
    check_refused(make(good.base_url, stranger.base_url), told, following(), place, document, good, stranger)


@pytest.mark.parametrize("url", METADATA)
def test_no_document_leads_to_where_clouds_hand_out_keys(url, following, place, document, good, stranger):
    hostile = {"endpoints": {"a": {"base_url": url}}}

    check_refused(hostile, "base_url", following(), place, document, good, stranger)


def check_refused(refused, told, container, place, document, good, stranger):
    """Nothing but its being told comes of a document; and a good one is taken again after it."""
    heard = Heard(container)
    with Threads(container, callers=CALLERS) as threads, Tasks(container, callers=CALLERS) as tasks:
        threads.wait_for(CALLERS)
        place.say(refused)
        until(lambda: problem(container), "it is refused")
        reason, kept, explained = problem(container), container.completion.pool().endpoints, str(container.explain())
        threads.wait_for(2 * CALLERS)
        tasks.wait_for(2 * CALLERS)
        place.say({**document, "max_attempts": 2})
        until(lambda: container.completion.traffic().spec.max_attempts == 2, "what is good is taken again")
        calls = [*threads.stop(), *tasks.stop()]

    assert [call.error for call in calls if call.error] == []
    assert [(each.name, each.base_url) for each in kept] == [("a", good.base_url)]
    assert told in reason
    assert reason in explained
    assert [event.reason for event in heard.of(DocumentRefused)] == [reason]
    assert problem(container) is None
    assert not stranger.requests
    check_keys(good, stranger)
    assert not any(secret in reason + explained for secret in (KEY, STATIC_KEY, "sk-planted", "hunter2"))


def check_keys(good, stranger):
    """The named key came to its own server alone, and what is the function's own to nobody."""
    assert list(good.credentials) == ["authorization"]
    assert list(good.credentials["authorization"]) == [f"Bearer {KEY}"]
    assert not stranger.credentials
    assert not any("x-canary" in request.headers for request in (*good.requests, *stranger.requests))


# The server and the key of an endpoint that the settings name, as a document has them otherwise.

MOVED = {
    "its server": lambda host: {"base_url": f"http://{host}/v1"},
    "its server, as Azure's": lambda host: {"azure": {"endpoint": f"http://{host}"}, "dialect": "azure"},
    "its server, as Azure's base URL": lambda host: {"base_url": f"http://{host}/v1", "dialect": "azure"},
    "a user in its path": lambda host: {"api_path": f"@{host}/v1"},
    "a server as its path": lambda host: {"api_path": f"//{host}/v1"},
    "a URL as its path": lambda host: {"api_path": f"http://{host}/v1"},
    "a backslash in its path": lambda host: {"api_path": f"\\{host}/v1"},
    "a port in its path": lambda host: {"api_path": f":{host.partition(':')[2]}/v1"},
    "a query in its path": lambda host: {"api_path": f"/v1?to=http://{host}"},
}


@pytest.mark.parametrize("moved", MOVED.values(), ids=MOVED.keys())
def test_no_document_leads_the_key_of_an_endpoint_of_the_settings_elsewhere(
    moved, contain, place, caller, good, stranger
):
    own = {"base_url": good.base_url, "api_key": KEY, "headers": {"X-Canary": "header-canary"}}
    place.say({"model": "a-model"})
    container = contain(completion={"source": place.source, "endpoints": {"own": own}})
    caller.run(container, saying("hi"))

    place.say({"endpoints": {"own": moved(stranger.base_url.removeprefix("http://").removesuffix("/v1"))}})
    until(
        lambda: problem(container) or container.completion.pool().endpoints[0].base_url != good.base_url, "it is seen"
    )
    for _ in range(3):
        with suppress(openai.OpenAIError):
            caller.run(container, saying("hi"))

    assert not stranger.credentials
    assert not any("x-canary" in request.headers for request in stranger.requests)


# What a document may say.


def test_a_foreign_host_gets_requests_and_no_key_header_or_organization(following, place, caller, good, stranger):
    container = following()
    caller.run(container, saying("hi"))

    place.say(naming(b=stranger.base_url))
    until(lambda: names(container) == ["b"], "it is taken")
    caller.run(container, saying("hi"))

    assert len(stranger.requests) == 1
    check_keys(good, stranger)
    assert STATIC_KEY not in str(container.explain())


def test_a_document_without_endpoints_leads_to_no_server_that_nobody_named(following, place):
    container = following()
    container.completion_client()

    place.say({"model": "another"})  # the function's own key is for the default server: nobody said to go there
    until(lambda: problem(container) or names(container) != ["a"], "it is considered")

    assert names(container) == ["a"]
    assert problem(container) is not None


def test_the_first_document_may_be_broken_too(contain, place, good, caller):
    own = {"base_url": good.base_url, "api_key": KEY}
    place.say("endpoints = = nonsense")
    container = contain(completion={"source": place.source, "model": "a-model", "endpoints": {"own": own}})
    heard = Heard(container)

    assert "hi" in text_of(caller.run(container, saying("hi")))

    assert names(container) == ["own"]
    assert [event.reason.startswith("is no TOML") for event in heard.of(DocumentRefused)] == [True]


def test_a_document_that_disappears_changes_nothing(following, place, caller):
    container = following()
    caller.run(container, saying("hi"))

    place.remove()
    until(lambda: problem(container), "it is gone")

    assert problem(container).startswith("holds nothing")
    assert names(container) == ["a"]


# Sizes that no centre takes, or takes gladly.


class Said:
    """A source that is given in code: it says what the test says, once it is told to."""

    name = "test://said"
    is_remote = True
    is_whole = False

    def __init__(self, document):
        self.content = json.dumps(document).encode()

    def catalogue(self, function, env):
        return self

    def warnings(self, env):
        return ()

    async def fetch(self):
        return Snapshot(origin=self.name, content=self.content, version=f"at {time.monotonic()}")

    async def watch(self, since):
        while self.content == since.content:
            await asyncio.sleep(0.01)

    async def aclose(self):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b'{"endpoints": "' + b"x" * (2 * MAX_BYTES) + b'"}',
        b"[" * (2 * MAX_BYTES),
        b"# " + b"x" * (2 * MAX_BYTES) + b"\nmodel = 'm'",
    ],
    ids=["a long text", "brackets", "a comment"],
)
def test_a_document_of_two_mebibytes_is_refused_and_holds_up_no_call(content, contain, document, good):
    said = Said(document)
    container = contain(
        completion={"source": [said], "model": "a-model"},
        credentials={"vendor": {"api_key": KEY, "hosts": good.base_url.removesuffix("/v1")}},
    )
    with Threads(container, callers=CALLERS) as load:
        load.wait_for(CALLERS)
        said.content = content
        until(lambda: problem(container), "it is refused")
        load.wait_for(5 * CALLERS)
        calls = load.stop()

    assert not calls.failed(), calls.errors()
    assert max(call.took_s for call in calls) < 1.0
    assert problem(container) == "is larger than 1024 KiB"
    assert names(container) == ["a"]


# Vectors of two models never mix.


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "another"}, "embedding.model"),
        ({"space": "another"}, "embedding.space"),
        ({"revision": "2"}, "embedding.revision"),
        ({"dimensions": 8}, "embedding.dimensions"),
    ],
    ids=["model", "space", "revision", "dimensions"],
)
def test_a_document_cannot_change_what_the_vectors_of_a_running_program_are_of(
    change, told, consul, contain, caller, stranger
):
    place = ConsulKey(consul, f"llmwire/{uuid4().hex}", "embedding")
    document = {"model": "m", "revision": "1", "dimensions": 256, **naming(a=stranger.base_url)}
    place.say(document)
    container = contain(embedding={"source": place.source})
    first = caller.run(container, embedding("one"), function="embedding").data[0].embedding

    place.say({**document, **change})
    until(lambda: problem(container, "embedding"), "it is refused")

    assert told in problem(container, "embedding")
    assert "Restart the programs that embed with it" in problem(container, "embedding")
    assert SYNC.run(container, embedding("one"), function="embedding").data[0].embedding == first
