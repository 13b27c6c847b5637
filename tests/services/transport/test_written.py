"""A request's bytes are those of HTTP/1.1, and nothing but sending them shows them."""

from __future__ import annotations

import asyncio
import traceback

import httpcore2
import pytest

from llmwire.services.transport.written import TOGETHER_BYTES, Written

KEY = b"sk-its-key"
CHUNKED = [(b"Host", b"a.test"), (b"Transfer-Encoding", b"chunked")]


def a_request(
    method="POST", url="http://a.test/v1/chat?x=%20y", headers=((b"Host", b"a.test"),), content=None, stream=None
) -> Written:
    return Written(method, httpcore2.URL(url), list(headers), content=content, stream=stream, timeouts={})


def bytes_of(written: Written) -> bytes:
    return b"".join(written.pieces())


async def as_awaited(parts):
    for part in parts:
        yield part


def awaited_bytes_of(written: Written) -> bytes:
    async def read():
        return b"".join([piece async for piece in written.async_pieces()])

    return asyncio.run(read())


@pytest.fixture(params=["read", "awaited"])
def uploaded(request):
    """The bytes of an upload of these parts, with these headers."""

    def uploaded(parts, headers):
        if request.param == "read":
            return bytes_of(a_request(headers=headers, stream=parts))
        return awaited_bytes_of(a_request(headers=headers, stream=as_awaited(parts)))

    return uploaded


# The bytes.


def test_a_request_without_a_body_is_its_line_and_its_headers_as_they_were_given():
    headers = [(b"Host", b"a.test"), (b"x-odd", b"\xe9"), (b"X-Empty", b"")]

    assert bytes_of(a_request("GET", headers=headers, content=b"")) == (
        b"GET /v1/chat?x=%20y HTTP/1.1\r\nHost: a.test\r\nx-odd: \xe9\r\nX-Empty: \r\n\r\n"
    )


def test_a_body_in_memory_follows_the_head_in_one_piece():
    pieces = list(a_request(content=b'{"a": 1}').pieces())

    assert pieces == [b'POST /v1/chat?x=%20y HTTP/1.1\r\nHost: a.test\r\n\r\n{"a": 1}']


def test_a_large_body_is_not_copied():
    content = b"x" * (TOGETHER_BYTES + 1)

    head, body = a_request(content=content).pieces()

    assert bytes(head).endswith(b"\r\n\r\n")
    assert body.obj is content


def test_an_upload_of_a_known_length_goes_as_it_is_read(uploaded):
    headers = [(b"Host", b"a.test"), (b"Content-Length", b"7")]

    sent = uploaded([b"one", b"", b" two"], headers)

    assert sent.partition(b"\r\n\r\n")[2] == b"one two"


@pytest.mark.parametrize("name", [b"Transfer-Encoding", b"transfer-encoding"])
def test_an_upload_of_an_unknown_length_goes_in_chunks(uploaded, name):
    parts = [b"one", b"x" * 300, b" two"]

    sent = uploaded(parts, [(b"Host", b"a.test"), (name, b"chunked")])

    assert sent.partition(b"\r\n\r\n")[2] == b"3\r\none\r\n12c\r\n" + b"x" * 300 + b"\r\n4\r\n two\r\n0\r\n\r\n"


def test_an_empty_part_does_not_end_an_upload(uploaded):
    assert uploaded([b"one", b"", b"two"], CHUNKED).endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


def test_an_empty_upload_is_ended(uploaded):
    assert uploaded([], CHUNKED).endswith(b"\r\n\r\n0\r\n\r\n")


def test_the_head_is_sent_before_the_upload_is_read():
    def read():
        yield from ()
        raise AssertionError

    pieces = a_request(headers=CHUNKED, stream=read()).pieces()

    assert bytes(next(pieces)).startswith(b"POST ")


# What would be more than one request.


@pytest.mark.parametrize("value", [b"a\r\nX: 1", b"a\nX: 1", b"a\rX: 1", b"a\r\n\r\nGET / HTTP/1.1", b"a\0", b"a\n\r"])
@pytest.mark.parametrize("place", ["name", "value"])
@pytest.mark.parametrize("kind", ["in memory", "read", "awaited"])
def test_a_line_break_in_a_header_is_refused_without_being_shown(value, place, kind):
    headers = [(b"Host", b"a.test"), (b"x", KEY + value) if place == "value" else (KEY + value, b"x")]
    use, body = {
        "in memory": (bytes_of, {"content": b""}),
        "read": (bytes_of, {"stream": [b"one"]}),
        "awaited": (awaited_bytes_of, {"stream": as_awaited([b"one"])}),
    }[kind]

    with pytest.raises(httpcore2.LocalProtocolError) as caught:
        use(a_request(headers=headers, **body))

    assert "line break" in str(caught.value)
    assert KEY.decode() not in text_of_error(caught.value)


# Where it goes.


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://a.test/v1", ("a.test", 80, False)),
        ("https://a.test/v1", ("a.test", 443, True)),
        ("http://127.0.0.1:8000/v1", ("127.0.0.1", 8000, False)),
        ("https://[::1]:8443/v1", ("::1", 8443, True)),
    ],
)
def test_a_request_knows_its_server(url, place):
    written = a_request(url=url)

    assert (written.host, written.port, written.is_secure) == place


# What is seen of it.


def test_no_view_of_a_request_shows_its_key():
    written = a_request(headers=[(b"Authorization", b"Bearer " + KEY)], content=b"")

    assert KEY.decode() not in repr(written) + str(written) + repr(list(written.pieces()))


def test_a_traceback_with_its_variables_shows_no_key_while_a_request_is_written():
    def broken():
        yield b"one"
        raise OSError("the file is gone")

    written = a_request(headers=[*CHUNKED, (b"Authorization", b"Bearer " + KEY)], stream=broken())

    with pytest.raises(httpcore2.LocalProtocolError, match="cannot be read: the file is gone") as caught:
        bytes_of(written)

    assert KEY.decode() not in text_of_error(caught.value)


def text_of_error(error: BaseException) -> str:
    """Everything that a traceback can show of our own frames, with their variables."""
    frames = [frame for frame in traceback.walk_tb(error.__traceback__) if frame[0].f_code.co_filename != __file__]
    shown = traceback.StackSummary.extract(frames, capture_locals=True).format()
    return "".join([*shown, *traceback.format_exception(error)])


LENGTH = b"Content-Length"


@pytest.mark.parametrize(("parts", "problem"), [([b"abc", b"de"], "longer"), ([b"abc"], "shorter")])
def test_an_upload_is_as_long_as_its_head_says(parts, problem):
    # One byte more would be the beginning of another request, on a connection that is kept.
    written = a_request(headers=[(LENGTH, b"4")], stream=iter(parts))

    with pytest.raises(httpcore2.LocalProtocolError, match=problem):
        bytes_of(written)
