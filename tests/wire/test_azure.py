"""A server of Azure gets what Azure reads: paths below a deployment, its version, its own kind of credential."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import ClassVar
from urllib.parse import unquote

import openai
import pytest
from dependency_injector import providers

from llmwire.services.secrets import Secret
from llmwire.services.transport.identity import REFRESH_BEFORE_S, SCOPE, IdentityTokens

from .callers import ASYNC, SYNC, embedding, saying, text_of, vectors_of
from .servers import PATIENCE_S, numbers_of, refuse, speak

HOUR_S = 3600.0


def served_by_azure(server, **settings):
    """The settings of a function that this server serves as Azure would."""
    azure = {"endpoint": server.url, "api_version": "2024-10-21", **settings}
    return {"azure": azure if {"ad_token", "keyless"} & azure.keys() else {"api_key": "its-key", **azure}}


# The paths and the version.


def test_a_chat_goes_to_the_deployment_with_the_version_and_the_key(serve, contain, caller):
    server = serve()
    container = contain(completion=served_by_azure(server, deployment="our-gpt"))

    completion = caller.run(container, saying("hi"))

    [seen] = server.seen
    assert text_of(completion) == "hi"
    assert seen.target == "/openai/deployments/our-gpt/chat/completions?api-version=2024-10-21"
    assert seen.header("api-key") == "its-key"
    assert seen.header("authorization") is None
    assert seen.body["model"] == "a-model"


def test_texts_are_embedded_by_a_deployment_of_their_own(serve, contain, caller):
    server = serve()
    container = contain(
        completion=served_by_azure(server, deployment="our-gpt"),
        embedding=served_by_azure(server, deployment="our-ada", api_key="embedding-key"),
    )

    answer = caller.run(container, embedding("one", "two"), function="embedding")

    [seen] = server.seen
    assert vectors_of(answer) == [numbers_of("one"), numbers_of("two")]
    assert seen.target == "/openai/deployments/our-ada/embeddings?api-version=2024-10-21"
    assert seen.header("api-key") == "embedding-key"


def test_without_a_deployment_the_request_s_model_is_the_deployment(serve, contain, caller):
    server = serve()

    caller.run(contain(completion=served_by_azure(server)), saying("hi"))

    assert server.seen[0].target == "/openai/deployments/a-model/chat/completions?api-version=2024-10-21"


def test_a_stream_comes_from_the_deployment(serve, contain):
    server = serve()
    client = contain(completion=served_by_azure(server)).completion_client()

    with saying("one two", stream=True)(client) as stream:
        words = [chunk.choices[0].delta.content or "" for chunk in stream]

    assert "".join(words) == "one two "
    assert server.seen[0].target.startswith("/openai/deployments/a-model/chat/completions?")


@pytest.mark.parametrize(
    ("ask", "path"),
    [
        (lambda client: client.models.list(), "/openai/models"),
        (lambda client: client.models.retrieve("a/b"), "/openai/models/a%2Fb"),
        (lambda client: client.responses.create(model="a-model", input="hi"), "/openai/responses"),
        (lambda client: client.responses.retrieve("r1"), "/openai/responses/r1"),
    ],
    ids=["models", "a model", "responses", "a response"],
)
def test_what_belongs_to_no_deployment_goes_to_the_resource(serve, contain, caller, ask, path):
    server = serve()

    caller.run(contain(completion=served_by_azure(server, deployment="our-gpt")), ask)

    assert server.seen[0].target == f"{path}?api-version=2024-10-21"


def test_a_file_goes_to_the_deployment_that_its_form_names(serve, contain, caller):
    server = serve(lambda exchange: exchange.json({"text": "heard"}))
    container = contain(completion=served_by_azure(server))

    heard = caller.run(
        container, lambda client: client.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF"))
    )

    assert heard.text == "heard"
    assert server.seen[0].target == "/openai/deployments/whisper/audio/transcriptions?api-version=2024-10-21"
    assert b"RIFF" in server.seen[0].content


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("größe 1", "gr%C3%B6%C3%9Fe%201"),
        ("a/b", "a%2Fb"),
        ("a?b#c", "a%3Fb%23c"),
        ("50%", "50%25"),
        ("a%2Fb", "a%252Fb"),
    ],
)
def test_an_odd_name_of_a_deployment_arrives_as_one_segment(serve, contain, name, written):
    server = serve()
    by_settings = contain(completion=served_by_azure(server, deployment=name))
    by_request = contain(completion=served_by_azure(server))

    SYNC.run(by_settings, saying("hi"))
    SYNC.run(by_request, lambda client: client.completions.with_raw_response.create(model=name, prompt="hi"))

    assert [seen.target.partition("?")[0] for seen in server.seen] == [
        f"/openai/deployments/{written}/chat/completions",
        f"/openai/deployments/{written}/completions",
    ]


def test_a_model_cannot_climb_out_of_the_deployments(serve, contain, caller):
    server = serve()
    container = contain(completion=served_by_azure(server))

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(container, lambda client: client.completions.create(model="..", prompt="hi"))

    assert server.accepted == 0
    assert "'..'" in str(caught.value.__cause__)


def test_a_call_may_ask_for_another_version(serve, contain, caller):
    server = serve()

    caller.run(
        contain(completion=served_by_azure(server)), saying("hi", extra_query={"api-version": "preview", "x": "1"})
    )

    assert server.seen[0].target == "/openai/deployments/a-model/chat/completions?api-version=preview&x=1"


# The credential.


def test_a_given_token_goes_out_as_a_token(serve, contain, caller):
    server = serve()

    caller.run(contain(completion=served_by_azure(server, ad_token="its-token")), saying("hi"))

    assert server.seen[0].header("authorization") == "Bearer its-token"
    assert server.seen[0].header("api-key") is None


@pytest.mark.parametrize("credential", [{"api_key": "its-key"}, {"ad_token": "its-token"}])
def test_a_refused_credential_that_nobody_renews_is_sent_once(serve, contain, caller, credential):
    server = serve(refuse(401))

    with pytest.raises(openai.AuthenticationError):
        caller.run(contain(completion=served_by_azure(server, **credential)), saying("hi"), retries=2)

    assert len(server.seen) == 1


# Without a key: tokens of an identity.


class Entra:
    """An identity service: hands out token-1, token-2, ..., each for an hour. Its clock stands still."""

    def __init__(self):
        self.now = 1_000_000.0
        self.credentials = 0
        self.scopes = []
        self.waits_for = None
        self.entered = threading.Event()
        self.fails_with = None

    def tokens(self):
        return IdentityTokens(self.credential, clock=lambda: self.now)

    def credential(self):
        """A credential with a cache, as azure-identity's have one."""
        self.credentials += 1
        cached = []

        def get_token(*scopes):
            if not cached or cached[-1].expires_on - self.now < REFRESH_BEFORE_S:
                cached.append(self._hand_out(*scopes))
            return cached[-1]

        return SimpleNamespace(get_token=get_token)

    def _hand_out(self, scope):
        self.scopes.append(scope)
        self.entered.set()
        if self.waits_for is not None:
            assert self.waits_for.wait(PATIENCE_S)
        if self.fails_with is not None:
            raise self.fails_with
        return SimpleNamespace(token=f"token-{len(self.scopes)}", expires_on=int(self.now + HOUR_S))


@pytest.fixture
def entra():
    return Entra()


@pytest.fixture
def keyless(contain, entra):
    """A container whose completion server knows us by an identity."""

    def keyless(server, **settings):
        table = served_by_azure(server, keyless=True)
        container = contain(completion={**table, **settings})
        container.completion.token_source.override(providers.Object(entra.tokens()))
        return container

    return keyless


def accept(*accepted):
    """Answer those who send one of these tokens, and refuse all others."""

    def answer(exchange):
        token = exchange.seen.header("authorization").removeprefix("Bearer ")
        (speak if token in accepted else refuse(401))(exchange)

    return answer


def tokens_seen_by(server):
    return [seen.header("authorization") for seen in server.seen]


def test_a_token_is_fetched_for_the_first_request_and_kept(serve, keyless, caller, entra):
    server = serve()
    container = keyless(server)
    container.completion_client()
    assert entra.credentials == 0

    for _ in range(3):
        caller.run(container, saying("hi"))

    assert tokens_seen_by(server) == ["Bearer token-1"] * 3
    assert server.seen[0].header("api-key") is None
    assert entra.scopes == [SCOPE]


def test_a_token_is_renewed_before_it_ends(serve, keyless, caller, entra):
    server = serve()
    container = keyless(server)

    for pause_s in (0.0, HOUR_S - REFRESH_BEFORE_S - 1, 2.0):
        entra.now += pause_s
        caller.run(container, saying("hi"))

    assert tokens_seen_by(server) == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_a_refused_token_is_renewed_and_the_request_sent_once_more(serve, keyless, caller):
    server = serve(accept("token-2"))
    container = keyless(server)

    completion = caller.run(container, saying("hi"))

    assert text_of(completion) == "hi"
    assert tokens_seen_by(server) == ["Bearer token-1", "Bearer token-2"]
    assert server.seen[0].content == server.seen[1].content
    assert server.seen[0].target == server.seen[1].target


def test_a_refused_token_is_renewed_for_a_stream_too(serve, keyless):
    server = serve(accept("token-2"))
    client = keyless(server).completion_client()

    with saying("one two", stream=True)(client) as stream:
        words = [chunk.choices[0].delta.content or "" for chunk in stream]

    assert "".join(words) == "one two "


def test_a_server_that_refuses_every_token_is_asked_twice_and_never_again(serve, keyless, caller):
    server = serve(refuse(401))

    with pytest.raises(openai.AuthenticationError):
        caller.run(keyless(server), saying("hi"), retries=2)

    assert tokens_seen_by(server) == ["Bearer token-1", "Bearer token-2"]


def test_a_request_that_is_forbidden_does_not_renew_the_token(serve, keyless, caller, entra):
    server = serve(refuse(403))

    with pytest.raises(openai.PermissionDeniedError):
        caller.run(keyless(server), saying("hi"))

    assert len(server.seen) == len(entra.scopes) == 1


def test_a_file_is_not_sent_twice(serve, keyless, caller):
    server = serve(refuse(401))

    with pytest.raises(openai.AuthenticationError):
        caller.run(
            keyless(server),
            lambda client: client.audio.transcriptions.create(model="whisper", file=("a.wav", b"RIFF")),
        )

    assert len(server.seen) == 1


@pytest.mark.parametrize(("answer", "fetched"), [(speak, 1), (accept("token-2"), 2)], ids=["first", "renewed"])
def test_a_token_is_fetched_once_for_many_threads(serve, keyless, entra, answer, fetched):
    server = serve(answer)
    client = keyless(server).completion_client()
    start = threading.Barrier(16)

    def ask(number):
        start.wait(PATIENCE_S)
        return text_of(saying(f"text {number}")(client))

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(16)))

    assert answers == [f"text {number}" for number in range(16)]
    assert len(entra.scopes) == fetched


def test_a_token_is_fetched_beside_the_event_loop_and_not_on_it(serve, keyless, entra):
    entra.waits_for = threading.Event()
    container = keyless(serve())

    async def main():
        asking = asyncio.create_task(saying("hi")(container.async_completion_client()))
        assert await asyncio.to_thread(entra.entered.wait, PATIENCE_S)
        entra.waits_for.set()
        return await asking

    assert text_of(asyncio.run(main())) == "hi"


def test_an_asynchronous_call_does_not_wait_for_an_identity_beyond_its_deadline(serve, keyless, entra):
    server = serve()
    entra.waits_for = threading.Event()
    container = keyless(server, deadline_s=0.2)

    async def main():
        try:
            await saying("hi")(container.async_completion_client().with_options(max_retries=0))
        finally:
            entra.waits_for.set()

    with pytest.raises(openai.APITimeoutError):
        asyncio.run(main())

    assert server.accepted == 0


def test_an_identity_without_a_token_is_told_and_nothing_is_sent(serve, keyless, caller, entra):
    server = serve()
    container = keyless(server)
    entra.fails_with = LookupError("no identity is configured here")

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(container, saying("hi"))

    assert server.accepted == 0
    assert str(caught.value.__cause__) == (
        f"completion endpoint {server.url}: no token: no identity is configured here"
    )


def test_an_identity_that_failed_is_asked_again_by_the_next_call(serve, keyless, caller, entra):
    server = serve()
    container = keyless(server)
    entra.fails_with = LookupError("not yet")
    with pytest.raises(openai.APIConnectionError):
        caller.run(container, saying("hi"))
    entra.fails_with = None

    completion = caller.run(container, saying("hi"))

    assert text_of(completion) == "hi"


def test_no_view_of_a_client_and_no_error_shows_the_token(serve, keyless, caller):
    container = keyless(serve(refuse(401)))

    with pytest.raises(openai.AuthenticationError) as caught:
        caller.run(container, saying("hi"))

    transport = container.completion_client()._client._transport
    views = [repr(caught.value), str(vars(caught.value)), *map(repr, transport.pool.endpoints), repr(vars(transport))]
    assert "token-" not in "".join(views)


# The real azure-identity, in a process that may reach nothing but loopback.

PROGRAM = """
import asyncio, ipaddress, json, sys

foreign = []

def refuse_foreign(event, args):
    if event not in ("socket.connect", "socket.getaddrinfo"):
        return
    host = args[0] if event == "socket.getaddrinfo" else args[1][0]
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        foreign.append(str(host))
        raise OSError(f"no way to {host}")

sys.addaudithook(refuse_foreign)

from llmwire.container import LLMContainer

container = LLMContainer()
messages = [{"role": "user", "content": "hi"}]

async def ask():
    async with container.async_completion_client() as client:
        return await client.chat.completions.create(model="m", messages=messages)

client = container.completion_client()
said = [client.chat.completions.create(model="m", messages=messages).choices[0].message.content for _ in range(2)]
said.append(asyncio.run(ask()).choices[0].message.content)
container.shutdown_resources()
print(json.dumps({"said": said, "foreign": foreign}))
"""


def test_the_real_azure_identity_gets_tokens_of_a_managed_identity_and_renews_a_refused_one(serve, tmp_path):
    tokens = iter(range(1, 100))

    def hand_out(exchange):
        token = {"access_token": f"token-{next(tokens)}", "expires_on": str(int(time.time() + HOUR_S))}
        exchange.json({**token, "resource": "https://cognitiveservices.azure.com", "token_type": "Bearer"})

    identity, azure = serve(hand_out), serve(accept("token-2"))
    environment = {
        "PATH": str(tmp_path),  # where no tool of Azure is found
        "HOME": str(tmp_path),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "IDENTITY_ENDPOINT": f"{identity.url}/msi/token",
        "IDENTITY_HEADER": "its-secret",
        "COMPLETION_AZURE_OPENAI_ENDPOINT": azure.url,
        "COMPLETION_AZURE_OPENAI_KEYLESS": "true",
    }

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
    )

    assert ran.stderr == ""
    assert json.loads(ran.stdout) == {"said": ["hi"] * 3, "foreign": []}
    assert tokens_seen_by(azure) == ["Bearer token-1", "Bearer token-2", "Bearer token-2", "Bearer token-2"]
    assert {seen.header("x-identity-header") for seen in identity.seen} == {"its-secret"}
    assert all("resource=https://cognitiveservices.azure.com" in unquote(seen.target) for seen in identity.seen)


def test_an_impossible_deployment_shows_no_key_with_its_traceback(serve, contain, caller):
    container = contain(completion=served_by_azure(serve(), api_key="its-secret-key"))
    messages = [{"role": "user", "content": "hi"}]

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(container, lambda client: client.chat.completions.create(model="../x", messages=messages))

    told = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "its-secret-key" not in "".join(told.format())


def test_a_token_is_waited_for_on_threads_of_our_own(serve, contain):
    # Those of the event loop look up names for everybody: a hanging identity must not take them all.
    class Tokens:
        asked_on: ClassVar[list[str]] = []

        def token(self, *, refused=None):
            self.asked_on.append(threading.current_thread().name)
            return Secret("token")

    container = contain(completion=served_by_azure(serve(), keyless=True))
    container.completion.token_source.override(providers.Object(Tokens()))

    assert text_of(ASYNC.run(container, saying("hi"))) == "hi"
    assert all(name.startswith("llmwire token") for name in Tokens.asked_on)
    assert Tokens.asked_on
