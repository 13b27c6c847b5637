"""The stand-in server over real sockets, asked by genuine clients of the SDK."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
import pydantic
import pytest

from llmwire.services.testing import StandIn
from llmwire.services.testing.api import ReceivedRequest
from llmwire.services.testing.server import _Ledger

PROMPT: Any = [
    {"role": "system", "content": "Answer from these passages: [see below]"},
    {"role": "user", "content": "[1] The warehouse opens at nine.\n[2] It rains.\n\nQuestion: When does it open?"},
]
SAID = "The warehouse opens at nine. [1]"

Ask = Callable[..., Any]


class Hours(pydantic.BaseModel):
    answer: str
    hour: int


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Makes one call with a client of its own, and reads the whole of a stream."""
    return _ask_sync if request.param == "sync" else _ask_async


def _ask_sync(server: StandIn, call: Callable[[Any], Any], **options: Any) -> Any:
    with openai.OpenAI(**_options(server, options)) as client:
        reply = call(client)
        return list(reply) if isinstance(reply, openai.Stream) else reply


def _ask_async(server: StandIn, call: Callable[[Any], Any], **options: Any) -> Any:
    async def play() -> Any:
        async with openai.AsyncOpenAI(**_options(server, options)) as client:
            reply = await call(client)
            return [item async for item in reply] if isinstance(reply, openai.AsyncStream) else reply

    return asyncio.run(play())


def _options(server: StandIn, options: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": server.base_url, "api_key": "any", "max_retries": 0, **options}


def chat(**options: Any) -> Callable[[Any], Any]:
    return lambda client: client.chat.completions.create(**{"model": "m", "messages": PROMPT, **options})


def http_call(server: StandIn, method: str, path: str, body: Any = None, **headers: str) -> httpx2.Response:
    origin = server.base_url.removesuffix("/v1")
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    with httpx2.Client(trust_env=False) as client:
        return client.request(method, origin + path, content=content, headers=headers)


def test_chat_is_answered_from_the_prompt(server, ask):
    reply = ask(server, chat())

    assert (reply.choices[0].message.content, reply.choices[0].finish_reason, reply.model) == (SAID, "stop", "m")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_a_stream_gives_the_same_text_in_several_chunks(server, ask):
    chunks = ask(server, chat(stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == SAID
    assert len(chunks) > 4
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_ends_with_its_usage_where_it_is_asked_for(server, ask):
    *others, last = ask(server, chat(stream=True, stream_options={"include_usage": True}))

    assert (last.choices, last.usage.total_tokens) == ([], ask(server, chat()).usage.total_tokens)
    assert all(chunk.usage is None for chunk in others)


def test_several_choices_are_given_where_they_are_asked_for(server, ask):
    reply = ask(server, chat(n=2))

    assert [choice.message.content for choice in reply.choices] == [SAID, SAID]


def test_structured_output_validates(server, ask):
    reply = ask(server, lambda client: client.chat.completions.parse(model="m", messages=PROMPT, response_format=Hours))

    assert reply.choices[0].message.parsed == Hours(answer=SAID, hour=0)


def test_completions_are_answered_plain_and_streamed(server, ask):
    prompt = PROMPT[1]["content"]

    whole = ask(server, lambda client: client.completions.create(model="m", prompt=[prompt, "Hello"]))
    chunks = ask(server, lambda client: client.completions.create(model="m", prompt=prompt, stream=True))

    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == SAID
    assert "no language model" in whole.choices[1].text


def test_responses_are_answered_plain_and_streamed(server, ask):
    whole = ask(server, lambda client: client.responses.create(model="m", input=PROMPT))
    events = ask(server, lambda client: client.responses.create(model="m", input=PROMPT, stream=True))

    assert whole.output_text == events[-1].response.output_text == SAID
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == SAID


def test_responses_parse(server, ask):
    reply = ask(server, lambda client: client.responses.parse(model="m", input=PROMPT, text_format=Hours))

    assert reply.output_parsed == Hours(answer=SAID, hour=0)


def test_a_response_that_is_cut_is_incomplete(server, ask):
    *_, last = ask(
        server, lambda client: client.responses.create(model="m", input=PROMPT, max_output_tokens=1, stream=True)
    )

    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")


def test_embeddings_are_the_same_as_floats_and_as_base64(server, ask):
    def embed(**options: Any) -> list[list[float]]:
        reply = ask(server, lambda client: client.embeddings.create(model="m", input=["tea", "coffee"], **options))
        return [item.embedding for item in reply.data]

    floats, usual = embed(encoding_format="float"), embed()

    assert floats == usual
    assert [len(vector) for vector in floats] == [256, 256]
    assert floats[0] != floats[1]


def test_embeddings_have_the_dimensions_asked_for(server, ask):
    reply = ask(server, lambda client: client.embeddings.create(model="m", input="tea", dimensions=5))

    assert len(reply.data[0].embedding) == 5


def test_embeddings_take_tokens(server, ask):
    flat = ask(server, lambda client: client.embeddings.create(model="m", input=[1, 2, 3]))
    nested = ask(server, lambda client: client.embeddings.create(model="m", input=[[1, 2, 3], [4]]))

    assert (len(flat.data), len(nested.data)) == (1, 2)
    assert flat.data[0].embedding == nested.data[0].embedding


def test_models_are_listed_and_found(server, ask):
    def listed(client: Any) -> Any:
        return client.models.with_raw_response.list()

    names = [model["id"] for model in ask(server, listed).http_response.json()["data"]]

    assert names == ["stand-in-completion", "stand-in-embedding"]
    assert ask(server, lambda client: client.models.retrieve(names[0])).id == names[0]
    with pytest.raises(openai.NotFoundError, match="'mine' does not exist here"):
        ask(server, lambda client: client.models.retrieve("mine"))


def test_every_reply_says_that_it_is_a_stand_in(server):
    question = {"model": "m", "messages": PROMPT}
    replies = [
        http_call(server, "GET", "/health"),
        http_call(server, "GET", "/v1/models"),
        http_call(server, "POST", "/v1/chat/completions", question),
        http_call(server, "POST", "/v1/responses", {"model": "m", "input": "a"}),
        http_call(server, "POST", "/v1/embeddings", {"model": "m", "input": "a"}),
        http_call(server, "POST", "/v1/nothing", question),
        http_call(server, "BREW", "/v1/models"),
    ]

    assert {reply.headers["x-llmwire-stand-in"] for reply in replies} == {"true"}
    assert {reply.json()["llmwire_stand_in"] for reply in replies} == {"This is a stand-in and no language model."}
    assert {reply.json()["system_fingerprint"] for reply in replies} == {"llmwire-stand-in"}


def test_a_stream_says_it_too(server):
    reply = http_call(server, "POST", "/v1/chat/completions", {"model": "m", "messages": PROMPT, "stream": True})
    frames = reply.text.strip().split("\n\n")

    assert reply.headers["x-llmwire-stand-in"] == "true"
    assert frames[-1] == "data: [DONE]"
    assert all("no language model" in frame for frame in frames[:-1])


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {"messages": PROMPT}, "model"),
        ("chat/completions", {"model": "m"}, "messages"),
        ("chat/completions", {"model": "m", "messages": []}, "messages"),
        ("chat/completions", {"model": "m", "messages": [{"content": "a"}]}, "messages[0]"),
        ("chat/completions", {"model": "m", "messages": PROMPT, "n": 0}, "n"),
        ("chat/completions", {"model": "m", "messages": PROMPT, "max_tokens": "many"}, "max_tokens"),
        ("chat/completions", {"model": "m", "messages": PROMPT, "stop": [1]}, "stop"),
        ("chat/completions", {"model": "m", "messages": PROMPT, "response_format": {"type": "x"}}, "response_format"),
        ("chat/completions", {"model": "m", "messages": PROMPT, "tools": [{"type": "function"}]}, "tools"),
        (
            "chat/completions",
            {"model": "m", "messages": PROMPT, "tool_choice": {"type": "function", "function": "f"}},
            "tool_choice",
        ),
        ("completions", {"model": "m"}, "prompt"),
        ("responses", {"model": "m"}, "input"),
        ("responses", {"model": "m", "input": [1]}, "input"),
        ("embeddings", {"model": "m"}, "input"),
        ("embeddings", {"model": "m", "input": ""}, "input"),
        ("embeddings", {"model": "m", "input": ["a", ""]}, "input"),
        ("embeddings", {"model": "m", "input": ["a"] * 2049}, "input"),
        ("embeddings", {"model": "m", "input": "a", "dimensions": 0}, "dimensions"),
        ("embeddings", {"model": "m", "input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(server, path, body, param):
    reply = http_call(server, "POST", f"/v1/{path}", body)

    assert reply.status_code == 400
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(server, body):
    reply = http_call(server, "POST", "/v1/embeddings", body)

    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "invalid_request_error")


def test_an_unknown_path_is_not_found(server):
    for path in ("/", "/v1", "/v2/embeddings", "/v1/images/generations"):
        assert http_call(server, "POST", path, {}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/v1/embeddings", "POST"), ("POST", "/v1/models", "GET, HEAD")]
)
def test_a_wrong_method_is_told_the_right_ones(server, method, path, allowed):
    reply = http_call(server, method, path)

    assert (reply.status_code, reply.headers["allow"]) == (405, allowed)


def test_a_key_is_wanted_where_there_is_one(ask):
    with StandIn(api_key="right") as server:
        assert ask(server, chat(), api_key="right").choices[0].message.content == SAID
        with pytest.raises(openai.AuthenticationError, match="Incorrect API key") as caught:
            ask(server, chat(), api_key="wrong")

        assert caught.value.code == "invalid_api_key"
        assert http_call(server, "GET", "/v1/models").status_code == 401
        assert http_call(server, "GET", "/v1/models", **{"api-key": "right"}).status_code == 200
        assert http_call(server, "GET", "/health").status_code == 200


def test_a_server_of_one_function_says_that_it_has_not_the_other(ask):
    with StandIn(functions=("embedding",)) as server:
        assert ask(server, lambda client: client.embeddings.create(model="m", input="a")).data
        with pytest.raises(openai.NotFoundError, match=r"serves embedding, not completion.*COMPLETION_BASE_URL"):
            ask(server, chat())
        assert [model["id"] for model in http_call(server, "GET", "/v1/models").json()["data"]] == [
            "stand-in-embedding"
        ]


def test_azures_paths_are_served(server):
    options: Any = {
        "azure_endpoint": server.base_url.removesuffix("/v1"),
        "api_version": "2024-10-21",
        "api_key": "any",
        "max_retries": 0,
    }
    with openai.AzureOpenAI(**options) as client:
        told = client.chat.completions.create(model="my-gpt", messages=PROMPT)
        embedded = client.embeddings.create(model="my-bert", input="a")
        response = client.responses.create(model="my-gpt", input=PROMPT)
        models = client.models.list()

    assert (told.model, told.choices[0].message.content, response.output_text) == ("my-gpt", SAID, SAID)
    assert len(embedded.data) == 1
    assert len(models.data) == 2


def test_azures_paths_need_no_model_but_an_api_version(server):
    path, body = "/openai/deployments/my-bert/embeddings", {"input": "a"}

    good = http_call(server, "POST", f"{path}?api-version=2024-10-21", body)
    bad = http_call(server, "POST", path, body)

    assert good.json()["model"] == "my-bert"
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "api-version")


def test_requests_are_kept_as_they_came():
    with StandIn() as server:
        http_call(server, "POST", "/v1/embeddings?a=1", {"model": "m", "input": "a"}, Authorization="Bearer k")

        [request] = server.requests

    assert (request.method, request.path, request.query) == ("POST", "/v1/embeddings", "a=1")
    assert request.body == {"model": "m", "input": "a"}
    assert request.headers["authorization"] == "Bearer k"
    assert "Bearer" not in repr(request)


def test_of_very_many_requests_the_latest_are_kept():
    ledger = _Ledger()
    for number in range(10_002):
        ledger.add(ReceivedRequest(method="GET", path=f"/{number}"))

    assert [request.path for request in ledger.all()][::9_999] == ["/2", "/10001"]


def test_of_very_large_requests_the_latest_are_kept():
    ledger = _Ledger()
    for number in range(3):
        ledger.add(ReceivedRequest(method="GET", path=f"/{number}", content=bytes(30 * 2**20)))

    assert [request.path for request in ledger.all()] == ["/1", "/2"]


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python has no IPv6")
def test_an_ipv6_address_stands_in_brackets():
    try:
        server = StandIn(host="::1").start()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")

    with server:
        assert server.base_url.startswith("http://[::1]:")
        assert _ask_sync(server, chat()).choices[0].message.content == SAID


def test_sixteen_threads_are_served_at_once():
    with StandIn() as server, openai.OpenAI(**_options(server, {})) as client, ThreadPoolExecutor(16) as pool:

        def call(number: int) -> str | None:
            text = f"[{number}] The warehouse opens at {number}.\n\nQuestion: When does the warehouse open?"
            return (
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
                .choices[0]
                .message.content
            )

        answers = list(pool.map(call, range(400)))

        assert answers == [f"The warehouse opens at {number}. [{number}]" for number in range(400)]
        assert len(server.requests) == 400


def test_a_stopped_server_refuses_connections_and_has_cut_the_open_ones():
    server = StandIn().start()
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.base_url).port or 0, timeout=10)
    connection.request("GET", "/health")
    connection.getresponse().read()

    server.stop()

    assert connection.sock.recv(1) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(server.base_url).port or 0))
    with pytest.raises(openai.APIConnectionError):
        _ask_sync(server, chat())


def test_a_server_that_is_started_again_has_its_old_port(ask):
    server = StandIn().start()
    base_url = server.base_url
    server.stop()
    server.stop()

    with server:
        assert server.base_url == base_url
        assert ask(server, chat()).choices[0].message.content == SAID


def test_stopping_cuts_a_reply_that_is_delayed():
    server = StandIn(delay_s=600).start()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(_ask_sync, server, chat())
        while not server.requests:
            pass

        server.stop()

        with pytest.raises(openai.APIConnectionError):
            waiting.result()


def test_no_thread_is_left_behind():
    before = threading.active_count()

    with StandIn() as server:
        _ask_sync(server, chat())

    assert threading.active_count() == before


def test_a_port_that_is_taken_is_an_error(server):
    taken = urlsplit(server.base_url).port

    with pytest.raises(OSError, match="in use"):
        StandIn(port=taken or 0).start()


def test_a_server_that_has_no_port_yet_says_so():
    with pytest.raises(RuntimeError, match="start it first"):
        _ = StandIn().base_url


@pytest.mark.parametrize("options", [{"functions": ()}, {"functions": ("speech",)}, {"dimensions": 0}])
def test_a_server_that_could_not_serve_is_refused(options):
    with pytest.raises(ValueError, match="must be"):
        StandIn(**options)


def test_ctrl_c_ends_a_server_in_the_foreground_quietly():
    script = (
        "from llmwire.services.testing import StandIn\n"
        "with StandIn() as server:\n"
        "    print(server.base_url, flush=True)\n"
        "    server.serve_forever()\n"
        "print('bye')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        httpx2.get(f"{url}/models", trust_env=False).raise_for_status()

        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (out, err, process.returncode) == ("bye\n", "", 0)
