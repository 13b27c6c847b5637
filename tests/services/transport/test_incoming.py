"""An answer is what HTTP/1.1 says it is, however its bytes are cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.transport.incoming import MAX_HEAD_BYTES, Incoming

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
IN_CHUNKS = CHUNKED + b"3;ext=1\r\none\r\n4\r\n two\r\n0\r\nX-Trailer: 1\r\n\r\n"
WITH_LENGTH = OK + b"Content-Type: text/plain\r\nContent-Length: 7\r\n\r\none two"
AFTER_OTHERS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

#: whole answers that end by themselves, with the method, and what is in them
WHOLE = {
    "with a length": ("POST", WITH_LENGTH, 200, b"one two"),
    "in chunks": ("POST", IN_CHUNKS, 200, b"one two"),
    "after others": ("POST", AFTER_OTHERS + WITH_LENGTH, 200, b"one two"),
    "without a body": ("DELETE", b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", 204, b""),
    "204 with a length": ("DELETE", b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", 204, b""),
    "304 with a length": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 304, b""),
    "empty": ("POST", b"HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n", 500, b""),
    "to HEAD": ("HEAD", OK + b"Content-Length: 7\r\n\r\n", 200, b""),
    "with an offer to upgrade": (
        "POST",
        OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\nContent-Length: 7\r\n\r\none two",
        200,
        b"one two",
    ),
}
whole = pytest.mark.parametrize(("method", "content", "status", "body"), WHOLE.values(), ids=WHOLE)


def fed(*parts: bytes, method: str = "POST") -> Incoming:
    incoming = Incoming(method)
    for part in parts:
        incoming.feed(part)
    return incoming


def facts_of(incoming: Incoming, body: bytes) -> tuple[object, ...]:
    return (
        incoming.status,
        incoming.reason,
        incoming.version,
        incoming.headers,
        incoming.is_complete,
        incoming.may_be_kept,
        body,
    )


@whole
def test_a_whole_answer_is_complete_and_leaves_its_connection_for_the_next(method, content, status, body):
    incoming = fed(content, method=method)

    assert incoming.has_head
    assert (incoming.status, incoming.take()) == (status, body)
    assert (incoming.is_complete, incoming.may_be_kept) == (True, True)


@whole
def test_byte_by_byte_it_is_the_same_answer(method, content, status, body):
    incoming = Incoming(method)
    taken = b""
    for at in range(len(content)):
        assert not incoming.is_complete
        incoming.feed(content[at : at + 1])
        taken += incoming.take()

    at_once = fed(content, method=method)
    assert facts_of(incoming, taken) == facts_of(at_once, at_once.take())


@given(st.sampled_from(list(WHOLE)), st.lists(st.integers(1, 200)))
def test_in_whatever_pieces_it_is_the_same_answer(name, cuts):
    method, content, _, _ = WHOLE[name]
    at_once = fed(content, method=method)
    places = [0, *sorted({cut for cut in cuts if cut < len(content)}), len(content)]
    incoming = Incoming(method)
    taken = b""

    for start, end in pairwise(places):
        incoming.feed(content[start:end])
        taken += incoming.take()

    assert facts_of(incoming, taken) == facts_of(at_once, at_once.take())


@whole
def test_an_answer_that_is_cut_anywhere_is_told_as_broken(method, content, status, body):
    for length in range(len(content)):
        incoming = fed(content[:length], method=method) if length else Incoming(method)

        with pytest.raises(httpcore2.RemoteProtocolError) as caught:
            incoming.end()

        assert ("without an answer" in str(caught.value)) is not incoming.has_head
        assert not incoming.is_complete
        assert not incoming.may_be_kept


# The head.


def test_names_and_values_are_kept_as_they_came_without_the_blanks_around_them():
    incoming = fed(OK + b"X-Empty:\r\nx-Two:  a b \t \r\nX-Odd: \xe9\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n")

    assert incoming.headers == [
        (b"X-Empty", b""),
        (b"x-Two", b"a b"),
        (b"X-Odd", b"\xe9"),
        (b"Set-Cookie", b"a"),
        (b"Set-Cookie", b"b"),
    ]
    assert (incoming.version, incoming.reason) == (b"HTTP/1.1", b"OK")


def test_of_what_came_before_the_answer_nothing_is_left():
    incoming = fed(AFTER_OTHERS + WITH_LENGTH)

    assert incoming.headers == [(b"Content-Type", b"text/plain"), (b"Content-Length", b"7")]
    assert incoming.reason == b"OK"


def test_what_comes_before_the_answer_is_none():
    incoming = fed(AFTER_OTHERS)

    assert not incoming.has_head
    with pytest.raises(httpcore2.RemoteProtocolError, match="without an answer"):
        incoming.end()


def test_a_trailer_is_no_header():
    assert fed(IN_CHUNKS).headers == [(b"Transfer-Encoding", b"chunked")]


GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a page": b"<html></html>",
    "no status": b"HTTP/1.1 \r\n\r\n",
    "a status of nought": b"HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
    "a status below all": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "a long status": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a name with a blank": OK + b"X : 1\r\n\r\n",
    "a folded header": OK + b"X: 1\r\n 2\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length and chunks": OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunks and a length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
    "a length below nought": OK + b"Content-Length: -1\r\n\r\n",
    "a length without end": OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",
    "a chunk without a size": CHUNKED + b"zz\r\n",
    "a chunk that goes on": CHUNKED + b"2\r\nthree\r\n",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_http_is_refused_and_not_shown(content):
    with pytest.raises(httpcore2.RemoteProtocolError) as caught:
        fed(content)

    assert str(caught.value).startswith("the answer is no HTTP")
    assert "html" not in str(caught.value)


@given(st.binary(min_size=1))
def test_no_bytes_at_all_raise_anything_else(content):
    incoming = Incoming("POST")

    try:
        incoming.feed(content)
        incoming.end()
    except httpcore2.RemoteProtocolError:
        pass
    else:
        assert incoming.has_head


def feed_without_end(incoming: Incoming, part: bytes) -> int:
    """Bytes that it took before it refused more."""
    taken: list[bytes] = []

    def feed() -> None:
        while len(taken) < 100 * MAX_HEAD_BYTES:
            incoming.feed(part)
            taken.append(part)

    with pytest.raises(httpcore2.RemoteProtocolError, match="too large"):
        feed()
    return len(taken) * len(part)


@pytest.mark.parametrize("part", [b"x" * 1000, b"x: 1\r\n" * 100], ids=["a value", "many headers"])
@pytest.mark.parametrize("start", [OK + b"x: ", b"HTTP/1.1 103 \r\nx: "], ids=["answer", "before it"])
def test_a_head_without_end_is_refused(start, part):
    assert feed_without_end(fed(start), part) <= MAX_HEAD_BYTES


@pytest.mark.parametrize("start", [b"3\r\none\r\n0\r\nx: ", b"3\r\none\r\n3;x="], ids=["trailer", "extension"])
def test_so_is_what_belongs_to_chunks_and_is_no_body(start):
    assert feed_without_end(fed(CHUNKED, start), b"x" * 1000) <= MAX_HEAD_BYTES


def test_a_body_may_be_longer_than_any_head():
    incoming = fed(CHUNKED)

    for _ in range(MAX_HEAD_BYTES // 2):  # what frames it byte by byte is as long as that together
        for byte in (b"1", b"\r", b"\n", b"x", b"\r", b"\n"):
            incoming.feed(byte)

    assert len(incoming.take()) == MAX_HEAD_BYTES // 2


# The body.


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_body_without_a_length_goes_on_until_the_connection_ends(version):
    incoming = fed(version + b" 200 OK\r\n\r\none", b" two")
    assert not incoming.is_complete

    incoming.end()

    assert incoming.take() == b"one two"
    assert (incoming.is_complete, incoming.may_be_kept) == (True, False)


def test_what_was_taken_is_gone_and_its_size_is_known_until_then():
    incoming = fed(CHUNKED, b"3\r\none\r\n", b"4\r\n two\r\n")
    assert incoming.size_bytes == 7

    assert (incoming.take(), incoming.take(), incoming.size_bytes) == (b"one two", b"", 0)


# Whether the connection may be used again.


@pytest.mark.parametrize(
    ("head", "may_be_kept"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/2.0 200 OK\r\n", False),
    ],
)
def test_the_server_says_whether_its_connection_may_be_kept(head, may_be_kept):
    assert fed(head + b"Content-Length: 0\r\n\r\n").may_be_kept is may_be_kept


def test_an_answer_that_is_not_complete_keeps_no_connection():
    assert not fed(OK + b"Content-Length: 7\r\n\r\none").may_be_kept


@pytest.mark.parametrize("surplus", [b"!", WITH_LENGTH, b"\0" * 10], ids=["a byte", "a second answer", "noughts"])
@pytest.mark.parametrize("content", [WITH_LENGTH, IN_CHUNKS], ids=["with a length", "in chunks"])
def test_bytes_behind_the_end_cost_the_connection_and_not_the_answer(content, surplus):
    incoming = fed(content + surplus)

    assert (incoming.status, incoming.take()) == (200, b"one two")
    assert (incoming.is_complete, incoming.may_be_kept) == (True, False)
    assert len(incoming.headers) < 3


def test_so_does_a_body_where_there_is_to_be_none():
    incoming = fed(WITH_LENGTH, method="HEAD")

    assert (incoming.take(), incoming.is_complete, incoming.may_be_kept) == (b"", True, False)


def test_bytes_that_come_after_the_end_are_an_error():
    incoming = fed(WITH_LENGTH)

    with pytest.raises(httpcore2.RemoteProtocolError, match="after the end"):
        incoming.feed(b"!")


def test_a_connection_that_ends_after_the_answer_is_not_kept():
    incoming = fed(WITH_LENGTH)

    incoming.end()

    assert (incoming.is_complete, incoming.may_be_kept) == (True, False)


def test_an_answer_that_changes_the_protocol_is_complete_and_its_connection_lost():
    incoming = fed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nbytes of it")

    assert (incoming.status, incoming.take()) == (101, b"")
    assert (incoming.is_complete, incoming.may_be_kept) == (True, False)


def test_a_ctrl_c_that_comes_while_an_answer_is_read_is_no_broken_answer():
    class Interrupted(Incoming):
        def on_header(self, name, value):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted("GET").feed(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
