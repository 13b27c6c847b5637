from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from llmwire.services.discovery import http
from llmwire.services.discovery.http import Access, Answer, Refused, Session, TooLarge
from llmwire.services.errors import DiscoveryError

from .scripted_server import Broken, Hanging, Said, Server, Trickling, answer, scripted

PATIENCE_S = 10.0  #: for what must happen; reached only where a test fails
NAME = "consul://centre/llmwire"


def play(
    *script: Said, ask: Callable[[Session, Server], Coroutine[Any, Any, Any]], **access: Any
) -> tuple[Any, Server]:
    """What a session makes of a server's answers: what came of it, or its DiscoveryError; and the server."""

    async def played() -> tuple[Any, Server]:
        async with scripted(*script) as server, asyncio.timeout(PATIENCE_S):
            session = Session(Access(name=NAME, url=server.url, **access))
            try:
                return await ask(session, server), server
            except DiscoveryError as error:
                return error, server
            finally:
                await session.aclose()

    return asyncio.run(played())


async def get(session: Session, _: Server) -> Answer:
    return await session.ask("GET", "/v1/a")


async def get_in_a_hurry(session: Session, _: Server) -> Answer:
    return await session.ask("GET", "/v1/a", timeout_s=0.2)


async def lines(session: Session, _: Server) -> list[bytes]:
    async with aclosing(session.stream("POST", "/v3/watch", json={"a": 1}, idle_s=PATIENCE_S)) as found:
        return [line async for line in found]


def ask_at(url: str, **access: Any) -> Answer | DiscoveryError:
    async def asked() -> Answer | DiscoveryError:
        session = Session(Access(name=NAME, url=url, **access))
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await session.ask("GET", "/v1/a")
        except DiscoveryError as error:
            return error
        finally:
            await session.aclose()

    return asyncio.run(asked())


def texts_of(error: BaseException | None) -> str:
    """All that is said by an error and by what it came from."""
    said = []
    while error is not None:
        said.append(f"{error} {error!r}")
        error = error.__cause__ or error.__context__
    return " ".join(said)


@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_answer_is_given_back_whatever_its_status(status):
    found, _ = play(answer(b"hello", status=status, headers={"X-Consul-Index": "3"}), ask=get)

    assert (found.status, found.headers["x-consul-index"], found.content) == (status, "3", b"hello")


def test_a_request_carries_parameters_and_a_body_and_its_own_headers():
    async def put(session, _):
        return await session.ask("PUT", "/v1/a%2Fb", params={"tag": ["ä", "b"]}, json={"k": 1}, headers={"x-a": "1"})

    _, server = play(answer(), ask=put)

    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", "/v1/a%2Fb", b'{"k":1}')
    assert asked.params["tag"] == "b"
    assert (asked.headers["x-a"], asked.headers["accept-encoding"]) == ("1", "identity")


def test_the_headers_of_the_access_are_asked_for_before_each_request():
    tokens = iter(["old", "new"])

    async def twice(session, server):
        await get(session, server)
        return await get(session, server)

    _, server = play(answer(), ask=twice, headers=lambda: {"x-consul-token": next(tokens)})

    assert [asked.headers["x-consul-token"] for asked in server.asked] == ["old", "new"]


def test_a_redirect_is_not_followed():
    found, server = play(answer(status=302, headers={"Location": "/elsewhere"}), answer(b"foreign"), ask=get)

    assert (found.status, len(server.asked)) == (302, 1)


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    found, _ = play(answer(b"direct"), ask=get)

    assert found.content == b"direct"


def test_a_cookie_is_not_kept():
    async def twice(session, server):
        await get(session, server)
        return await get(session, server)

    _, server = play(answer(headers={"Set-Cookie": "a=b"}), ask=twice)

    assert "cookie" not in server.asked[1].headers


def test_a_port_where_nothing_listens_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

        error = ask_at(f"http://127.0.0.1:{port}")

    assert str(error) == (
        f"{NAME}: nothing listens at 127.0.0.1:{port}. Start the config centre, or correct the host and the port."
    )


def test_a_host_that_has_no_address_is_named(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    error = ask_at("http://centre.invalid:8500")

    assert isinstance(error, DiscoveryError)
    assert error.problem == "no address is known for the host centre.invalid"


@pytest.mark.parametrize("url", ["http://[::1:8500", "http://a\x00b:8500"])
def test_an_address_that_is_none_is_an_error_of_ours(url):
    assert isinstance(ask_at(url), DiscoveryError)


@pytest.mark.parametrize(
    "said",
    [Hanging(), Hanging(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"), Trickling(answer(b"a" * 1000))],
    ids=["silent", "stopped", "trickling"],
)
def test_an_answer_has_its_time_as_a_whole(said):
    error, _ = play(said, ask=get_in_a_hurry)

    assert isinstance(error, DiscoveryError)
    assert error.problem == "no whole answer within 0.2 s"


@pytest.mark.parametrize(
    "said",
    [Broken(), Broken(b"+PONG\r\n\r\n"), Broken(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel")],
    ids=["nothing", "no HTTP", "cut off"],
)
def test_what_is_no_whole_answer_is_an_error(said):
    error, _ = play(said, ask=get)

    assert isinstance(error, DiscoveryError)
    assert "broke off, or is no HTTP" in error.problem


@pytest.mark.parametrize(
    "said",
    [
        answer(b"a" * 2000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"a" * 1024 + b"\r\n",
    ],
    ids=["told", "untold"],
)
def test_an_answer_that_is_too_large_is_dropped_while_it_comes(said):
    async def small(session, _):
        return await session.ask("GET", "/v1/a", max_bytes=1000)

    error, _ = play(said, ask=small)

    assert isinstance(error, TooLarge)


def test_an_answer_of_the_largest_size_is_taken():
    async def small(session, _):
        return await session.ask("GET", "/v1/a", max_bytes=1000)

    found, _ = play(answer(b"a" * 1000), ask=small)

    assert len(found.content) == 1000


def test_a_compressed_answer_is_refused():
    error, _ = play(answer(gzip.compress(b"a" * 10**6), headers={"Content-Encoding": "gzip"}), ask=get)

    assert isinstance(error, DiscoveryError)
    assert "compressed" in error.problem


@pytest.mark.parametrize("token", ["geheim\r\nx: y", "geheimnisvoll ", "gehe\u00efm"])
def test_a_header_that_cannot_be_sent_is_named_and_its_value_is_not(token):
    error, server = play(answer(), ask=get, headers=lambda: {"x-consul-token": token})

    assert isinstance(error, DiscoveryError)
    assert "x-consul-token" in error.problem
    assert "gehe" not in texts_of(error)
    assert not server.asked


def test_an_error_of_the_headers_is_passed_on():
    def unreadable() -> dict[str, str]:
        raise DiscoveryError("its token_file cannot be read", source=NAME)

    error, _ = play(answer(), ask=get, headers=unreadable)

    assert error.problem == "its token_file cannot be read"


def test_a_session_is_used_again_after_it_was_closed():
    async def twice(session, server):
        await get(session, server)
        await session.aclose()
        return await get(session, server)

    found, server = play(answer(b"hello"), ask=twice)

    assert (found.content, len(server.asked)) == (b"hello", 2)


def test_a_server_that_was_restarted_is_asked_over_a_new_connection():
    async def asked() -> bytes:
        async with scripted(answer(b"old")) as server:
            session = Session(Access(name=NAME, url=server.url))
            await get(session, server)
            port = int(server.url.rpartition(":")[2])
        async with scripted(answer(b"new"), port=port) as server:
            found = await get(session, server)
            await session.aclose()
            return found.content

    assert asyncio.run(asked()) == b"new"


def test_a_request_that_is_cancelled_ends_at_once_and_lets_go_of_its_connection():
    async def cancelled(session, server):
        task = asyncio.create_task(get(session, server))
        while not server.asked:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await server.is_left.wait()
        return task.cancelled()

    found, _ = play(Hanging(), ask=cancelled)

    assert found is True


def test_a_streamed_answer_comes_line_by_line():
    said = Broken(b"HTTP/1.1 200 OK\r\n\r\n" + b'{"a":1}\n\n{"b":\r\n' + b"2}")

    found, server = play(said, ask=lines)

    assert found == [b'{"a":1}', b'{"b":', b"2}"]
    assert server.asked[0].body == b'{"a":1}'


def test_a_line_is_handed_on_before_the_next_one_is_there():
    async def first(session, _):
        async with aclosing(session.stream("GET", "/", idle_s=PATIENCE_S)) as found:
            return await anext(found)

    found, _ = play(Hanging(b"HTTP/1.1 200 OK\r\n\r\none\ntw"), ask=first)

    assert found == b"one"


def test_a_stream_in_which_nothing_comes_ends():
    async def idle(session, _):
        async with aclosing(session.stream("GET", "/", idle_s=0.1)) as found:
            return [line async for line in found]

    found, _ = play(Hanging(b"HTTP/1.1 200 OK\r\n\r\none\ntw"), ask=idle)

    assert found == [b"one"]


def test_a_stream_that_is_left_lets_go_of_its_connection():
    async def left(session, server):
        async with aclosing(session.stream("GET", "/", idle_s=PATIENCE_S)) as found:
            await anext(found)
        await server.is_left.wait()
        return True

    found, _ = play(Hanging(b"HTTP/1.1 200 OK\r\n\r\none\n"), ask=left)

    assert found is True


def test_a_stream_of_another_status_is_refused_with_its_answer():
    error, _ = play(answer(b'{"error":"no"}', status=401), ask=lines)

    assert isinstance(error, Refused)
    assert error.answer is not None
    assert (error.answer.status, error.answer.content) == (401, b'{"error":"no"}')


def test_a_stream_that_breaks_off_is_an_error():
    error, _ = play(Broken(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na\n\r\n"), ask=lines)

    assert isinstance(error, DiscoveryError)
    assert "broke off" in error.problem


def test_a_line_without_an_end_is_dropped_while_it_comes(monkeypatch):
    monkeypatch.setattr(http, "MAX_LINE", 1000)

    error, _ = play(Hanging(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 2000), ask=lines)

    assert isinstance(error, TooLarge)


class Authority:
    """A certificate authority, and files with what it signed."""

    def __init__(self, folder: Path) -> None:
        self._ca, self._folder = trustme.CA(), folder
        self.ca_file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def server(self, *, asks_for_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert("127.0.0.1").configure_cert(context)
        if asks_for_certificate:
            self._ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, *, password: bytes | None = None) -> tuple[str, str]:
        issued = self._ca.issue_cert("client")
        cert, key = self._folder / "client.pem", self._folder / "client.key"
        issued.cert_chain_pems[0].write_to_path(str(cert))
        written = issued.private_key_pem.bytes()
        if password:
            form = (Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(password))
            written = load_pem_private_key(written, None).private_bytes(*form)
        key.write_bytes(written)
        return str(cert), str(key)


def ask_over_tls(context: ssl.SSLContext, **access: Any) -> Answer | DiscoveryError:
    async def asked() -> Answer | DiscoveryError:
        async with scripted(answer(b"hello"), tls=context) as server, asyncio.timeout(PATIENCE_S):
            session = Session(Access(name=NAME, url=server.url, **access))
            try:
                return await get(session, server)
            except DiscoveryError as error:
                return error
            finally:
                await session.aclose()

    return asyncio.run(asked())


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def test_a_server_with_a_certificate_of_the_named_authority_is_trusted(authority):
    found = ask_over_tls(authority.server(), ca_file=authority.ca_file)

    assert isinstance(found, Answer)


def test_a_server_with_a_certificate_of_an_unknown_authority_is_not(authority):
    error = ask_over_tls(authority.server())

    assert isinstance(error, DiscoveryError)
    assert "is not to be trusted" in error.problem
    assert "ca_file" in error.remedy


def test_a_client_certificate_is_shown_to_a_server_that_asks_for_it(authority):
    cert, key = authority.client()
    server = authority.server(asks_for_certificate=True)

    found = ask_over_tls(server, ca_file=authority.ca_file, cert_file=cert, key_file=key)

    assert isinstance(found, Answer)


def test_to_show_no_certificate_where_one_is_asked_for_is_an_error_of_ours(authority):
    error = ask_over_tls(authority.server(asks_for_certificate=True), ca_file=authority.ca_file)

    assert isinstance(error, DiscoveryError)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(authority):
    cert, key = authority.client(password=b"geheim")

    error = ask_over_tls(authority.server(), ca_file=authority.ca_file, cert_file=cert, key_file=key)

    assert isinstance(error, DiscoveryError)
    assert error.problem.startswith(f"cert_file {cert} is no certificate that can be used")


@pytest.mark.parametrize("option", ["ca_file", "cert_file"])
def test_a_file_that_is_not_there_is_named(option, tmp_path):
    error = ask_at("https://127.0.0.1:1", **{option: str(tmp_path / "gone.pem")})

    assert isinstance(error, DiscoveryError)
    assert error.problem == f"{option} {tmp_path / 'gone.pem'} cannot be read (No such file or directory)"


def test_an_authority_that_was_corrected_on_the_disk_is_read_again(authority, tmp_path):
    ca_file = tmp_path / "told.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))

    async def asked() -> bytes:
        async with scripted(answer(b"hello"), tls=authority.server()) as server, asyncio.timeout(PATIENCE_S):
            session = Session(Access(name=NAME, url=server.url, ca_file=str(ca_file)))
            with pytest.raises(DiscoveryError):
                await get(session, server)
            ca_file.write_bytes(Path(authority.ca_file).read_bytes())
            found = await get(session, server)
            await session.aclose()
            return found.content

    assert asyncio.run(asked()) == b"hello"


def test_a_server_that_speaks_no_tls_is_told_apart(authority):
    async def asked() -> str:
        async with scripted(answer()) as server, asyncio.timeout(PATIENCE_S):
            url = server.url.replace("http:", "https:")
            session = Session(Access(name=NAME, url=url, ca_file=authority.ca_file))
            with pytest.raises(DiscoveryError) as caught:
                await session.ask("GET", "/", timeout_s=0.4)
            await session.aclose()
            return caught.value.problem

    assert "in time" in asyncio.run(asked())  # the server waits for the end of a line, which TLS does not have
