"""The fault server over real sockets: what a client meets, byte by byte where it matters."""

from __future__ import annotations

import http.client
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

from llmwire.services.testing import FaultServer, faults

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
STREAM = {**CHAT, "stream": True}
EMBED = {"model": "m", "input": ["a", "b", "c"]}

PATIENCE_S = 10.0

Start = Callable[..., FaultServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that stop after the test."""
    with ExitStack() as servers:
        yield lambda *script, **options: servers.enter_context(FaultServer(*script, **options))


@pytest.fixture
def server(start: Start) -> FaultServer:
    return start(dimensions=3)


class Answer:
    """What came of one request on a connection of its own: all that could be read, and how it ended."""

    def __init__(self, server: FaultServer, body: Any = CHAT, path: str = "/v1/chat/completions") -> None:
        self.content, self.status, self.headers = b"", 0, http.client.HTTPMessage()
        self.error: type[Exception] | None = None
        connection = connect(server)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            self.status, self.headers = answer.status, answer.headers
            self.content = answer.read()
        except http.client.IncompleteRead as error:
            self.content, self.error = error.partial, http.client.IncompleteRead
        except (OSError, http.client.HTTPException) as error:
            self.error = type(error)
        finally:
            connection.close()

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def events(self) -> list[Any]:
        """The JSON of the events; those that are none, as texts."""
        return [_read(part) for part in self.content.decode().removesuffix("\n\n").split("\n\n") if part]


def _read(event: str) -> Any:
    try:
        return json.loads(event.removeprefix("data: "))
    except ValueError:
        return event


def connect(server: FaultServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", urlsplit(server.base_url).port or 0, timeout=PATIENCE_S)


def raw(server: FaultServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(server.base_url).port or 0), timeout=PATIENCE_S)


def request_bytes(body: Any = CHAT) -> bytes:
    content = json.dumps(body).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


def until_end(connection: socket.socket) -> tuple[bytes, type[Exception] | None]:
    """All bytes until the other side ends the connection, and the error that it ended with."""
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except OSError as error:
        return got, type(error)
    return got, None


def texts(answer: Answer) -> str:
    chunks = [event for event in answer.events if isinstance(event, dict) and event.get("choices")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


# A server without faults.


def test_without_a_script_it_answers_as_a_good_server(server):
    with openai.OpenAI(base_url=server.base_url, api_key="sk-1", max_retries=0) as client:
        whole: Any = client.chat.completions.create(**CHAT).choices[0].message.content
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**STREAM))
        vectors = client.embeddings.create(**EMBED).data

        assert whole == streamed
        assert [len(item.embedding) for item in vectors] == [3, 3, 3]
        assert client.completions.create(model="m", prompt="hello").choices[0].text
        assert client.responses.create(model="m", input="hello").output_text
        assert client.models.list().data

    assert server.attempts["/v1/chat/completions"] == 2
    assert server.credentials == {"authorization": {"Bearer sk-1": 6}}


def test_requests_are_kept_with_their_time(server):
    before_s = time.monotonic()
    Answer(server, EMBED, "/v1/embeddings")

    [request] = server.seen

    assert (request.path, request.body) == ("/v1/embeddings", EMBED)
    assert before_s <= request.at_s <= time.monotonic()
    assert server.requests == [request]


def test_azures_paths_fail_as_others_do(start):
    server = start("per_path:embeddings:429", dimensions=3)

    path = "/openai/deployments/bert/embeddings?api-version=2024-10-21"

    assert Answer(server, EMBED, path).status == 429


# Whole answers.


def test_a_status_is_an_error_in_openais_shape(start):
    answer = Answer(start(faults.status(429, code="insufficient_quota", type="insufficient_quota")))

    assert answer.status == 429
    assert answer.json["error"]["code"] == answer.json["error"]["type"] == "insufficient_quota"


@pytest.mark.parametrize(
    ("spelling", "name", "value"),
    [
        ("429:retry-after=2", "retry-after", "2"),
        ("503:retry-after=soon", "retry-after", "soon"),
        ("429:retry-after-ms=1500", "retry-after-ms", "1500"),
        ("429:x-ratelimit-reset-requests=1s", "x-ratelimit-reset-requests", "1s"),
        ("redirect:http://127.0.0.1:1/v1", "location", "http://127.0.0.1:1/v1"),
    ],
)
def test_a_status_may_come_with_headers(start, spelling, name, value):
    assert Answer(start(spelling)).headers[name] == value


def test_a_date_is_so_far_ahead_when_it_is_sent(start):
    asked_s = time.time()
    answer = Answer(start("429:retry-after=date:60"))

    assert 60 <= parsedate_to_datetime(answer.headers["retry-after"]).timestamp() - asked_s < 62 + PATIENCE_S


def test_a_body_of_ones_own_is_sent_as_it_is(start):
    answer = Answer(start(faults.status(502, body="<h1>Bad gateway</h1>")))

    assert (answer.status, answer.content) == (502, b"<h1>Bad gateway</h1>")
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(
    ("spelling", "status", "kind", "start_of_it"),
    [
        ("body:garbage", 200, "application/json", b'{"id"'),
        ("body:html", 200, "text/html; charset=utf-8", b"<!DOCTYPE html>"),
        ("503+body:html", 503, "text/html; charset=utf-8", b"<!DOCTYPE html>"),
        ("body:error", 200, "application/json", b'{"error":'),
    ],
)
def test_a_body_that_is_no_answer(start, body, spelling, status, kind, start_of_it):
    answer = Answer(start(spelling), body)

    assert (answer.status, answer.headers["content-type"]) == (status, kind)
    assert answer.content.startswith(start_of_it)


def test_garbage_is_no_json(start):
    with pytest.raises(ValueError):
        _ = Answer(start("body:garbage")).json


@pytest.mark.parametrize(
    ("path", "body", "name"), [("chat/completions", CHAT, "choices"), ("embeddings", EMBED, "data")]
)
def test_choices_are_missing_or_empty(start, path, body, name):
    missing, empty = (Answer(start(f"body:{what}_choices"), body, f"/v1/{path}").json for what in ("no", "empty"))

    assert name not in missing
    assert empty[name] == []


def test_an_oversize_body_is_still_right(start):
    server = start("oversize:2")

    whole, streamed = Answer(server), Answer(server, STREAM)

    assert len(whole.content) > 2 * 2**20
    assert whole.json["choices"]
    assert len(streamed.content) > 2 * 2**20
    assert texts(streamed)


def test_a_truncated_body_is_shorter_than_its_length(start):
    answer = Answer(start("truncated:40"))

    assert (answer.error, len(answer.content)) == (http.client.IncompleteRead, 40)
    assert int(answer.headers["content-length"]) > 40


def test_a_truncated_body_is_none_of_a_stream(start):
    assert Answer(start("truncated:40"), STREAM).events[-1] == "data: [DONE]"


# Connections that end or fall silent.


@pytest.mark.parametrize("when", ["accept", "request"])
def test_a_reset_before_the_answer(start, when):
    server = start(faults.reset(when))
    with raw(server) as connection:
        connection.sendall(request_bytes())

        assert until_end(connection) == (b"", ConnectionResetError)
    assert sum(server.attempts.values()) == 1
    assert len(server.requests) == (when == "request")


@pytest.mark.parametrize("when", ["accept", "request"])
def test_an_end_before_the_answer(start, when):
    server = start(faults.half_close(when))
    with raw(server) as connection:
        connection.sendall(request_bytes())

        assert until_end(connection) == (b"", None)
    server.wait_until(lambda server: server.open_connections == 0)


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize(("word", "error"), [("reset", ConnectionResetError), ("half_close", None)])
def test_an_end_after_the_head(start, word, error, body):
    with raw(start(f"{word}:headers")) as connection:
        connection.sendall(request_bytes(body))
        got, ended = until_end(connection)

    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"\r\n\r\n")
    assert ended is error


@pytest.mark.parametrize(("word", "error"), [("reset", ConnectionResetError), ("half_close", None)])
def test_an_end_after_some_bytes_of_the_body(start, word, error):
    with raw(start(f"{word}:when=body,after_bytes=40")) as connection:
        connection.sendall(request_bytes())
        got, ended = until_end(connection)

    assert len(got.partition(b"\r\n\r\n")[2]) == 40
    assert ended is error


def test_a_stream_can_be_cut_at_every_byte(start):
    server = start()
    whole = Answer(server, STREAM).content

    for after_bytes in range(0, len(whole), 97):
        server.script(faults.cut_stream(after_bytes=after_bytes))
        answer = Answer(server, STREAM)

        assert (answer.error, len(answer.content)) == (http.client.IncompleteRead, after_bytes)


@pytest.mark.parametrize("when", ["accept", "request", "headers", "body"])
def test_a_hang_stays_silent_until_the_client_or_the_server_goes(start, when):
    server = start(faults.hang(when))
    for end in (lambda connection: connection.shutdown(socket.SHUT_RDWR), lambda _: server.stop()):
        with raw(server) as connection:
            connection.sendall(request_bytes())
            expected = {"headers": b"\r\n\r\n", "body": b"\r\n\r\n{"}.get(when, b"")
            got = b""
            while not got.endswith(expected):
                got += connection.recv(65536)
            server.wait_until(lambda server: sum(server.attempts.values()) > 0)

            assert select.select([connection], [], [], 0.05)[0] == []
            end(connection)
            server.wait_until(lambda server: server.open_connections == 0)


def test_a_stream_may_stall_between_its_events(start):
    server = start(faults.hang(after_events=3))
    connection = connect(server)
    connection.request("POST", "/v1/chat/completions", json.dumps(STREAM))
    answer = connection.getresponse()

    got = [answer.readline() for _ in range(6)]

    assert [line[:6] for line in got] == [b"data: ", b"\n"] * 3
    server.stop()
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()


def test_a_kept_connection_is_reset_before_its_next_request_is_read(start):
    server = start("ok", "reset:accept")
    with raw(server) as connection:
        connection.sendall(request_bytes())
        connection.recv(65536)
        connection.sendall(request_bytes())

        assert until_end(connection)[1] is ConnectionResetError
    assert (server.accepted, len(server.requests)) == (1, 1)


# Slowness.


def test_a_slow_answer_is_right(start):
    server, began_s = start("slow:0.1"), time.monotonic()

    assert Answer(server).json["choices"]
    assert time.monotonic() - began_s >= 0.1


def test_an_answer_may_trickle(start):
    server = start(faults.trickle(every_s=0.001, size_bytes=100))

    assert Answer(server).json["choices"]
    assert texts(Answer(server, STREAM)) == texts(Answer(start(), STREAM))


def test_a_head_may_trickle(start):
    with raw(start(faults.trickle(every_s=60, when="headers"))) as connection:
        connection.sendall(request_bytes())

        assert connection.recv(65536) == b"H"


def test_stopping_cuts_what_is_slow(start):
    server = start("slow:600")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(Answer, server)
        server.wait_until(lambda server: len(server.seen) == 1)

        server.stop()

        assert waiting.result().error is http.client.RemoteDisconnected


# Streams.


def test_a_cut_stream_ends_after_its_first_event_which_is_the_role(start):
    answer = Answer(start("cut_stream"), STREAM)

    assert answer.error is http.client.IncompleteRead
    [event] = answer.events
    assert event["choices"][0]["delta"]["role"] == "assistant"


def test_a_cut_stream_may_end_as_if_it_were_complete(start):
    answer = Answer(start("cut_stream:after_events=3,how=clean"), STREAM)

    assert (answer.error, len(answer.events)) == (None, 3)
    assert [event["choices"][0]["finish_reason"] for event in answer.events] == [None] * 3


def test_an_empty_stream(start):
    answer = Answer(start("cut_stream:after_events=0,how=clean"), STREAM)

    assert (answer.status, answer.error, answer.content) == (200, None, b"")


def test_a_cut_stream_may_end_with_a_reset(start):
    assert Answer(start("cut_stream:how=rst"), STREAM).error is ConnectionResetError


@pytest.mark.parametrize("spelling", ["cut_stream:after_events=0", "stream:error", "stream:no_finish"])
def test_what_is_wrong_with_streams_leaves_whole_answers_alone(start, spelling):
    assert Answer(start(spelling)).json["choices"][0]["finish_reason"] == "stop"


def test_an_error_ends_a_stream_in_the_middle(start):
    answer = Answer(start("stream:error,after_events=2"), STREAM)

    assert ["error" in event for event in answer.events] == [False, False, True]


def test_garbage_stands_in_the_middle_of_a_stream(start):
    events = Answer(start("stream:garbage,after_events=2"), STREAM).events

    assert [isinstance(event, str) for event in events[:4]] == [False, False, True, False]
    assert events[-1] == "data: [DONE]"


def test_a_stream_without_a_reason_to_finish(start):
    *chunks, done = Answer(start("stream:no_finish"), STREAM).events

    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks} == {None}
    assert done == "data: [DONE]"


def test_a_stream_of_responses_that_is_never_completed(start):
    answer = Answer(start("stream:no_finish"), {"model": "m", "input": "hello", "stream": True}, "/v1/responses")

    assert b"response.output_text.delta" in answer.content
    assert b"response.completed" not in answer.content


def test_a_stream_without_done(start):
    last = Answer(start("stream:no_done"), STREAM).events[-1]

    assert last["choices"][0]["finish_reason"] == "stop"


def test_comments_in_a_stream_are_legal(start):
    server = start("stream:comments")

    assert Answer(server, STREAM).content.startswith(b": keep-alive\n\ndata: ")
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        assert any(chunk.choices[0].delta.content for chunk in client.chat.completions.create(**STREAM))


# Embeddings.


@pytest.fixture(params=["float", "base64"])
def vectors(request: pytest.FixtureRequest, start: Start) -> Callable[[str], list[tuple[int, list[float]]]]:
    """The index and the numbers of each vector that a server with a fault answers, in either form."""

    def ask(spelling: str) -> list[tuple[int, list[float]]]:
        server = start(spelling, dimensions=3)
        answer = Answer(server, {**EMBED, "encoding_format": request.param}, "/v1/embeddings")
        return [(item["index"], _numbers(item["embedding"])) for item in answer.json["data"]]

    return ask


def _numbers(vector: str | list[float]) -> list[float]:
    if isinstance(vector, list):
        return vector
    content = b64decode(vector)
    return list(struct.unpack(f"<{len(content) // 4}f", content))


def test_there_may_be_fewer_or_more_vectors_than_inputs(vectors):
    assert [index for index, _ in vectors("vectors:fewer")] == [0, 1]
    assert [index for index, _ in vectors("vectors:more")] == [0, 1, 2, 3]


def test_vectors_may_have_other_dimensions(vectors):
    assert {len(numbers) for _, numbers in vectors("vectors:dimensions")} == {4}


def test_vectors_may_be_no_numbers(vectors):
    assert all(math.isnan(numbers[0]) for _, numbers in vectors("vectors:nan"))
    assert all(math.isinf(numbers[0]) for _, numbers in vectors("vectors:infinite"))
    assert {tuple(numbers) for _, numbers in vectors("vectors:zero")} == {(0.0, 0.0, 0.0)}


def test_an_index_may_come_twice(vectors):
    assert [index for index, _ in vectors("vectors:duplicate_index")] == [0, 0, 0]


def test_shuffled_vectors_keep_their_index(vectors):
    assert vectors("vectors:shuffled_index") == vectors("ok")[::-1]


def test_base64_may_be_broken(start):
    [first, *_] = Answer(start("vectors:broken_base64"), EMBED, "/v1/embeddings").json["data"]

    with pytest.raises(ValueError):
        b64decode(first["embedding"])


# Whose turn it is.


def test_behaviours_come_in_turn_and_the_last_one_stays(start):
    server = start("times:2:429", faults.status(500), "ok", "times:1:503")

    assert [Answer(server).status for _ in range(6)] == [429, 429, 500, 200, 503, 200]


def test_a_function_of_the_request_chooses(start):
    server = start(lambda request: "reset" if request.body.get("stream") else faults.ok())

    assert Answer(server).status == 200
    assert Answer(server, STREAM).error is ConnectionResetError


def test_faults_join(start):
    server, began_s = start(faults.slow(0.1) + faults.status(503) + faults.truncated(5)), time.monotonic()

    answer = Answer(server)

    assert (answer.status, len(answer.content)) == (503, 5)
    assert time.monotonic() - began_s >= 0.1


def test_a_script_may_change_while_the_server_runs(start):
    server = start("500")

    assert Answer(server).status == 500
    server.script("429", "ok")
    assert [Answer(server).status for _ in range(3)] == [429, 200, 200]
    with pytest.raises(ValueError, match="unknown fault 'rset'"):
        server.script("rset")
    assert Answer(server).status == 200


def test_each_turn_is_taken_once_however_many_threads_ask(start):
    server = start("times:50:429", "ok")
    with ThreadPoolExecutor(8) as pool:
        statuses = [answer.status for answer in pool.map(Answer, [server] * 100)]

    assert statuses.count(429) == 50


# The server.


def test_hundreds_of_connections_are_served_at_once(start):
    server = start("hang")
    connections = [raw(server) for _ in range(300)]
    for connection in connections:
        connection.sendall(request_bytes())

    server.wait_until(lambda server: len(server.seen) == 300)

    assert (server.accepted, server.open_connections) == (300, 300)
    server.stop()
    assert server.open_connections == 0
    assert {connection.recv(1) for connection in connections} == {b""}
    for connection in connections:
        connection.close()


def test_a_stopped_server_refuses_and_a_restarted_one_has_its_port(start):
    server = start()
    base_url = server.base_url
    server.stop()

    assert Answer(server).error is ConnectionRefusedError
    with server:
        assert server.base_url == base_url
        assert Answer(server).status == 200
    assert server.attempts == {"/v1/chat/completions": 1}


def test_no_thread_is_left_behind():
    before = threading.active_count()

    with FaultServer("reset", "half_close", "cut_stream", "trickle:0") as server:
        for _ in range(4):
            Answer(server, STREAM)

    assert threading.active_count() == before


def test_a_client_that_waits_for_leave_to_send_gets_it(start):
    head, _, content = request_bytes().partition(b"\r\n\r\n")
    with raw(start("503")) as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content)

        assert until_end(connection)[0].startswith(b"HTTP/1.1 503 ")


def test_an_old_client_gets_a_stream_without_chunks(start):
    with raw(start("stream:no_done")) as connection:
        connection.sendall(request_bytes(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        got, _ = until_end(connection)

    assert b"chunked" not in got
    assert got.endswith(b"}\n\n")


def test_what_is_no_http_is_refused(server):
    with raw(server) as connection:
        connection.sendall(b"nonsense\r\n\r\n")

        assert b'"error"' in until_end(connection)[0]


def test_waiting_for_what_never_happens_is_an_error(server):
    with pytest.raises(TimeoutError, match="it was not so"):
        server.wait_until(lambda server: server.accepted > 0, timeout_s=0.01)


# A process of its own.


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "llmwire.services.testing.faultd", "429:retry-after=2", "reset:accept"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        yield started
        started.kill()


def control(url: str, method: str, path: str, content: str = "") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    connection.request(method, path, content, headers={"Authorization": "Bearer sk-mine"})
    answer = connection.getresponse()
    told = json.load(answer)
    connection.close()
    return answer.status, told


def test_as_a_process_it_is_scripted_and_told_over_http_and_ends_at_sigterm(process):
    url = process.stdout.readline().strip()

    assert control(url, "GET", "/v1/models")[0] == 429
    with pytest.raises(ConnectionResetError):
        control(url, "GET", "/v1/models")
    assert control(url, "PUT", "/faultd/script", "times:1:503 ok") == (200, {"script": ["times:1:503", "ok"]})
    assert [control(url, "GET", "/v1/models")[0] for _ in range(2)] == [503, 200]
    status, told = control(url, "GET", "/faultd/seen")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_S)

    assert (status, told["requests"], told["attempts"]) == (200, 3, {"/v1/models": 4})
    assert told["credentials"] == {"authorization": {"Bearer sk-mine": 3}}
    assert (out, err, process.returncode) == ("", "", 0)


def test_a_script_over_http_that_is_wrong_changes_nothing(server):
    status, told = control(server.base_url, "PUT", "/faultd/script", "rset")

    assert (status, told["error"]["message"][:20]) == (400, "unknown fault 'rset'")
    assert control(server.base_url, "GET", "/faultd/sen")[0] == 404
    assert server.attempts == {}
    assert Answer(server).status == 200


def test_a_process_that_is_frozen_accepts_and_answers_when_it_goes_on(process):
    url = process.stdout.readline().strip()
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0), timeout=PATIENCE_S) as connection:
        connection.sendall(request_bytes())
        assert select.select([connection], [], [], 0.05)[0] == []

        process.send_signal(signal.SIGCONT)

        assert connection.recv(65536).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rset"], "error: unknown fault 'rset': write a status, as in 429, or one of body, cut_stream,"),
        (["ok", "--port", "70000"], "error: bind(): port must be 0-65535"),
        (["ok", "--host", "192.0.2.1"], "error: "),
    ],
)
def test_a_command_that_is_wrong_says_so_and_exits_with_2(arguments, said):
    command = [sys.executable, "-m", "llmwire.services.testing.faultd", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_commands_help_lists_the_vocabulary():
    command = [sys.executable, "-m", "llmwire.services.testing.faultd", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout

    assert all(usage in told and meaning in told for usage, meaning in faults.words())
