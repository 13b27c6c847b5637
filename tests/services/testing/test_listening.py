"""HTTP by the byte: what the SDK never sends, and other clients do."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from llmwire.services.testing import StandIn

PROMPT: Any = [{"role": "user", "content": "[1] The warehouse opens at nine.\n\nQuestion: When does it open?"}]


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with StandIn() as running:
        yield running


def _url(server: StandIn, path: str) -> str:
    return server.base_url.removesuffix("/v1") + path


def connect(server: StandIn) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(server.base_url).port or 0), timeout=10)


def test_head_has_no_body(server):
    reply = httpx2.head(_url(server, "/health"), trust_env=False)

    assert (reply.status_code, reply.content) == (200, b"")
    assert int(reply.headers["content-length"]) > 0


def test_a_body_that_is_too_large_is_refused_with_a_reply(server):
    content = b" " * (32 * 2**20 + 1)
    reply = httpx2.post(_url(server, "/v1/embeddings"), content=content, trust_env=False)

    assert (reply.status_code, reply.headers["connection"]) == (413, "close")


def raw_call(server: StandIn, request: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    with connect(server) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_body_that_is_announced_too_large_is_not_asked_for(server):
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"

    assert raw_call(server, head).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_waits_for_leave_gets_it(server):
    body = b'{"model": "m", "input": "a"}'
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\n"

    reply = raw_call(server, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    assert reply.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: few\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /v1/models HTTP/9.9\r\n\r\n", 505),
    ],
)
def test_what_is_not_http_as_it_speaks_it_is_refused_in_openais_shape(server, request_head, status):
    reply = raw_call(server, request_head)

    assert json.loads(reply.rpartition(b"\r\n\r\n")[2] or reply)["error"]["type"]
    assert b" %d " % status in reply.partition(b"\r\n")[0] or not reply.startswith(b"HTTP/")


def test_an_http_1_0_client_gets_a_stream_without_chunks(server):
    body = json.dumps({"model": "m", "messages": PROMPT, "stream": True}).encode()

    reply = raw_call(server, b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    assert b"chunked" not in reply
    assert reply.endswith(b"data: [DONE]\n\n")


def test_one_connection_serves_many_requests(server):
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(server.base_url).port or 0, timeout=10)
    ports = set()
    for path in ("/v1/models", "/v1/nothing", "/v1/models"):
        connection.request("GET", path)
        connection.getresponse().read()
        ports.add(connection.sock.getsockname()[1])
    connection.close()

    assert len(ports) == 1


def test_a_client_that_leaves_in_mid_stream_disturbs_nobody(capfd):
    # Longer than the sockets' buffers, so that the server is still writing when the client goes.
    body = json.dumps({"model": "m", "messages": PROMPT, "stream": True, "n": 128}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    with StandIn() as server:
        for _ in range(5):
            with connect(server) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
                connection.sendall(head + body)
                connection.recv(10)
        with connect(server) as connection:
            connection.sendall(head + body[:10])

        assert httpx2.get(_url(server, "/health"), trust_env=False).status_code == 200
    assert capfd.readouterr() == ("", "")
