"""The body of an answer: gathered up to a size, decompressed, or handed on in parts."""

from __future__ import annotations

import asyncio
import gzip
import pickle
import zlib

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.errors import InvalidReply, StreamInterrupted, StreamTruncated
from llmwire.services.transport.body import (
    Interrupted,
    Stalled,
    Truncated,
    Whole,
    async_parts_of,
    decompressed,
    encoding_of,
    parts_of,
    without_encoding,
)

PLAIN = b'{"answer": "hello"}' * 50
MOST = 2**20


def deflated(content):
    return zlib.compress(content)


def raw_deflated(content):
    squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeezer.compress(content) + squeezer.flush()


FORMS = {
    "gzip": (b"gzip", gzip.compress),
    "deflate": (b"deflate", deflated),
    "raw deflate": (b"deflate", raw_deflated),
    "two, one in the other": (b"deflate, gzip", lambda content: gzip.compress(deflated(content))),
}
EACH_FORM = pytest.mark.parametrize(("encoding", "squeeze"), FORMS.values(), ids=FORMS)


def headers(encoding):
    return [(b"Content-Type", b"application/json"), (b"Content-Encoding", encoding)]


# Gathered.


@given(parts=st.lists(st.binary(max_size=5), max_size=6))
def test_the_parts_of_a_body_are_put_together(parts):
    whole = Whole(MOST)

    for part in parts:
        whole.add(part)

    assert whole.content() == b"".join(parts)


def test_a_body_may_be_as_large_as_its_cap_and_no_larger():
    whole = Whole(2 * MOST)
    whole.add(b"x" * MOST)
    whole.add(b"x" * MOST)

    with pytest.raises(InvalidReply, match="larger than 2 MiB"):
        whole.add(b"x")


# Decompressed.


@pytest.mark.parametrize(
    ("pairs", "encoding"),
    [
        ([], ""),
        ([(b"content-encoding", b"gzip")], "gzip"),
        ([(b"Content-Encoding", b" GZip ")], "gzip"),
        ([(b"x", b"gzip"), (b"CONTENT-ENCODING", b"deflate, gzip")], "deflate, gzip"),
        ([(b"content-encoding", b"identity")], ""),
        ([(b"content-encoding", b"")], ""),
        ([(b"content-encoding", b"\xff")], "\xff"),
    ],
)
def test_the_headers_say_how_a_body_is_compressed(pairs, encoding):
    assert encoding_of(pairs) == encoding


@EACH_FORM
def test_a_compressed_body_is_as_it_was_before(encoding, squeeze):
    assert decompressed(headers(encoding), squeeze(PLAIN), MOST) == PLAIN


@pytest.mark.parametrize("pairs", [[], headers(b"identity")])
def test_a_body_that_is_not_compressed_is_the_very_same(pairs):
    assert decompressed(pairs, PLAIN, 1) is PLAIN


def test_a_body_in_a_form_that_nobody_knows_is_left_to_be_judged_as_it_is():
    assert decompressed(headers(b"utf-8"), PLAIN, MOST) == PLAIN


@EACH_FORM
def test_an_empty_body_is_empty(encoding, squeeze):
    assert decompressed(headers(encoding), b"", MOST) == b""


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
@pytest.mark.parametrize(
    "content", [b"CANARY", gzip.compress(PLAIN, mtime=0)[:12] + b"CANARY" * 9], ids=["garbage", "broken"]
)
def test_a_body_that_cannot_be_decompressed_is_no_answer(encoding, content):
    with pytest.raises(InvalidReply, match="cannot be decompressed") as caught:
        decompressed(headers(encoding), content, MOST)

    assert "CANARY" not in f"{caught.value} {caught.value.__cause__}"


def test_a_compressed_body_that_is_cut_is_as_long_as_what_came_of_it():
    content = gzip.compress(PLAIN)

    assert PLAIN.startswith(decompressed(headers(b"gzip"), content[: len(content) // 2], MOST))  # no JSON: is refused


@EACH_FORM
def test_a_body_that_grows_beyond_its_cap_is_refused_long_before_its_end(encoding, squeeze, monkeypatch):
    taken = []
    monkeypatch.setattr(Whole, "add", lambda self, part, add=Whole.add: (taken.append(len(part)), add(self, part)))
    bomb = squeeze(bytes(50 * MOST))

    with pytest.raises(InvalidReply, match="larger than 1 MiB"):
        decompressed(headers(encoding), bomb, MOST)

    assert sum(taken) <= 2 * MOST


def test_the_headers_of_a_decompressed_body_say_nothing_of_its_former_form():
    pairs = [*headers(b"gzip"), (b"CONTENT-length", b"7"), (b"Transfer-Encoding", b"chunked"), (b"X-Id", b"1")]

    assert without_encoding(pairs) == [(b"Content-Type", b"application/json"), (b"X-Id", b"1")]


# Handed on in parts.


class AsyncParts:
    def __init__(self, parts):
        self._parts = iter(parts)

    def __aiter__(self):
        return self

    async def __anext__(self):
        for part in self._parts:
            return part
        raise StopAsyncIteration


def parts_in_a_loop(pairs, parts):
    async def gathered():
        return [part async for part in async_parts_of(pairs, AsyncParts(parts))]

    return asyncio.run(gathered())


PLAYED = pytest.mark.parametrize(
    "play", [lambda pairs, parts: list(parts_of(pairs, parts)), parts_in_a_loop], ids=["sync", "async"]
)


@PLAYED
def test_parts_that_are_not_compressed_go_on_as_they_come(play):
    assert play([], [b"a", b"b", b"c"]) == [b"a", b"b", b"c"]


@PLAYED
@EACH_FORM
def test_compressed_parts_are_decompressed_wherever_they_are_cut(play, encoding, squeeze):
    content = squeeze(PLAIN)

    assert (
        b"".join(play(headers(encoding), [content[place : place + 7] for place in range(0, len(content), 7)])) == PLAIN
    )


@PLAYED
def test_a_flushed_part_is_handed_on_before_the_next_one_comes(play):
    squeezer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    first = squeezer.compress(b"hello") + squeezer.flush(zlib.Z_SYNC_FLUSH)
    second = squeezer.compress(b" there") + squeezer.flush()

    assert [part for part in play(headers(b"gzip"), [first, second]) if part] == [b"hello", b" there"]


@PLAYED
def test_parts_that_cannot_be_decompressed_are_no_answer(play):
    with pytest.raises(InvalidReply, match="cannot be decompressed"):
        play(headers(b"gzip"), [b"no gzip at all"])


# The errors of a body.


@pytest.mark.parametrize(
    ("kind", "families"),
    [
        (Interrupted, (StreamInterrupted, httpx2.ReadError)),
        (Truncated, (StreamTruncated, StreamInterrupted, httpx2.ReadError)),
        (Stalled, (StreamInterrupted, httpx2.ReadTimeout)),
    ],
)
def test_an_error_of_a_body_is_ours_and_one_of_the_transport_and_crosses_processes_whole(kind, families):
    error = kind("it broke off", received="hello")
    error.request = httpx2.Request("POST", "http://facade.test/v1/x")
    error.add_note("seen")

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert isinstance(copy, families)
    assert (str(copy), copy.received, copy.__notes__) == ("it broke off", "hello", ["seen"])
    assert copy.request.url == error.request.url
