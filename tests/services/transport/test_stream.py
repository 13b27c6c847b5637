"""How far a streamed answer has come, however its bytes are cut: nothing before its first content, all after it."""

from __future__ import annotations

import json

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmwire.services.errors import InvalidReply
from llmwire.services.transport import stream as room
from llmwire.services.transport.call import Call
from llmwire.services.transport.stream import MAX_EVENT_BYTES, MAX_PRELUDE_BYTES, StreamProgress

DONE = b"data: [DONE]\n\n"


def progress_of(operation="chat/completions", **body):
    request = httpx2.Request("POST", f"http://facade.test/v1/{operation}", json={"stream": True, **body})
    return StreamProgress(Call(request, operation))


def event(body, *, name=None, end="\n\n"):
    line = end[: len(end) // 2]
    text = body if isinstance(body, str) else json.dumps(body)
    return ((f"event: {name}{line}" if name else "") + f"data: {text}{end}").encode()


def chunk(delta=None, *, finish=None, index=0):
    return event({"choices": [{"index": index, "delta": delta or {}, "finish_reason": finish}]})


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello"})
STOP = chunk(finish="stop")
USAGE = event({"choices": [], "usage": {"total_tokens": 3}})


def feed(progress, content, piece):
    """All that comes out of the content in pieces of so many bytes."""
    return b"".join([progress.feed(content[place : place + piece]) for place in range(0, len(content), piece)])


def state(progress):
    return progress.has_content, progress.is_complete


# Until the first content nothing is handed on, then everything.


@pytest.mark.parametrize(
    "prelude",
    [
        ROLE,
        chunk({"role": "assistant", "content": None}),
        chunk({"role": "assistant", "content": "", "refusal": None, "tool_calls": [], "reasoning_content": ""}),
        chunk(),
        chunk({"content": ""}, finish=""),
        b": a comment\n\n",
        b":\n\n",
        b"\n\n",
        b"retry: 3000\n\n",
        b"event: ping\n\n",
        b"id: 1\ndata\n\n",
        event({"choices": [], "prompt_filter_results": []}),
        event({"id": "c1"}),
        event({"choices": None}),
        event({"error": None, "choices": []}),
    ],
)
def test_what_no_caller_can_use_is_held_back(prelude):
    progress = progress_of()

    assert progress.feed(prelude) == b""
    assert state(progress) == (False, False)
    assert progress.feed(HELLO) == prelude + HELLO
    assert state(progress) == (True, False)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "hello"},
        {"content": " "},
        {"role": "assistant", "content": "hello"},
        {"content": None, "tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"refusal": "no"},
        {"audio": {"id": "a1"}},
    ],
)
def test_whatever_the_model_says_is_content(delta):
    progress = progress_of()
    progress.feed(ROLE)

    assert progress.feed(chunk(delta)) == ROLE + chunk(delta)
    assert state(progress) == (True, False)


@pytest.mark.parametrize(("text", "has_content"), [("hello", True), ("", False)])
def test_a_legacy_completion_says_its_text_itself(text, has_content):
    progress = progress_of("completions")

    progress.feed(event({"choices": [{"index": 0, "text": text, "finish_reason": None}]}))

    assert (progress.has_content, progress.received) == (has_content, text)


def test_after_the_first_content_every_event_is_handed_on_at_once():
    progress = progress_of()
    progress.feed(ROLE + HELLO)

    assert [progress.feed(part) for part in (b": ping\n\n", chunk(), STOP, USAGE, DONE)] == [
        b": ping\n\n",
        chunk(),
        STOP,
        USAGE,
        DONE,
    ]


def test_an_event_is_handed_on_when_it_is_whole():
    progress = progress_of()

    assert progress.feed(HELLO[:-1]) == b""
    assert progress.feed(HELLO[-1:] + b": com") == HELLO
    assert progress.feed(b"ment\n\n: next") == b": comment\n\n"


def test_an_empty_answer_is_an_answer():
    progress = progress_of()

    assert progress.feed(ROLE + STOP) == ROLE + STOP
    assert state(progress) == (True, True)


# Any cut of the bytes.


@st.composite
def streams(draw):
    """The events of an answer, each with its ends of lines, and how many come before the first content."""
    end = draw(st.sampled_from(["\n\n", "\r\n\r\n", "\r\r"]))
    line = end[: len(end) // 2]
    comments = st.sampled_from([f": ping{end}", f":{end}", f"event: ping{line}data: {{}}{end}", f"id: 7{end}"])
    heads = st.sampled_from([{"role": "assistant", "content": ""}, {}, {"content": None}])
    head = [event({"choices": [{"index": 0, "delta": delta}]}, end=end) for delta in draw(st.lists(heads, max_size=3))]
    prelude = draw(st.permutations([*head, *(text.encode() for text in draw(st.lists(comments, max_size=3)))]))
    words = draw(st.lists(st.text(max_size=6).filter(bool), min_size=1, max_size=5))
    said = [event({"choices": [{"index": 0, "delta": {"content": word}}]}, end=end) for word in words]
    stop = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, end=end)
    tail = [event("[DONE]", end=end)] if draw(st.booleans()) else []
    between = [text.encode() for text in draw(st.lists(comments, max_size=2))]
    return prelude, [*said, *between, stop, *tail], words


@st.composite
def cut(draw, content):
    """The bytes in parts, some of them empty."""
    places = sorted(draw(st.lists(st.integers(0, len(content)), max_size=12)))
    return [content[start:stop] for start, stop in zip([0, *places], [*places, len(content)], strict=True)]


@given(data=st.data(), answer=streams(), rest=st.sampled_from([b"", b"data: {", b"\r", b": half a comm", b"\r\n"]))
def test_however_it_is_cut_whole_events_come_out_and_none_before_the_first_content(data, answer, rest):
    prelude, events, words = answer
    content = b"".join([*prelude, *events])
    first = len(b"".join(prelude)) + len(events[0])
    progress, out, fed = progress_of(), b"", 0

    for part in data.draw(cut(content + rest)):
        given_now = progress.feed(part)
        out, fed = out + given_now, fed + len(part)
        assert fed >= first or not given_now
        assert content.startswith(out)
        assert sum(len(one) for one in [*prelude, *events]) >= len(out)

    assert out == content
    assert state(progress) == (True, True)
    assert progress.received == "".join(words)


@given(data=st.data(), content=st.lists(st.sampled_from([b"\r", b"\n", b":", b"id: 1"]), max_size=14).map(b"".join))
@example(data=None, content=b"\r\n\r\n")
@example(data=None, content=b"\n\r\n\r\n\r\r\n\n")
def test_any_ends_of_lines_cut_anywhere_are_the_same_events(data, content):
    whole = progress_of()
    whole.feed(HELLO)
    expected = whole.feed(content)
    parts = data.draw(cut(content)) if data else [bytes([byte]) for byte in content]
    progress = progress_of()
    progress.feed(HELLO)

    assert b"".join(map(progress.feed, parts)) == expected


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r"], ids=repr)
def test_byte_by_byte_it_is_the_same(end):
    content = event({"choices": [{"delta": {"content": "größe"}, "finish_reason": "stop"}]}, end=end)
    progress = progress_of()

    parts = [progress.feed(bytes([byte])) for byte in content]

    assert b"".join(parts) == parts[-1] == content
    assert progress.received == "größe"


def test_data_on_several_lines_is_one():
    progress = progress_of()

    progress.feed(b'data: {"choices": [{"delta":\ndata:{"content": "hello"}}]}\n\n')

    assert progress.received == "hello"


# Every byte is looked at a few times at most.


class Counting:
    """Stands for the pattern of a boundary; counts the bytes that it is asked to look at."""

    def __init__(self, pattern):
        self._pattern, self.looked_at = pattern, 0

    def finditer(self, text, start=0):
        self.looked_at += len(text) - start
        return self._pattern.finditer(text, start)


def test_an_event_in_tiny_pieces_is_not_searched_again_from_its_beginning(monkeypatch):
    counting = Counting(room._BOUNDARY)
    monkeypatch.setattr(room, "_BOUNDARY", counting)
    content = chunk({"content": "x" * 20_000})
    progress = progress_of()

    feed(progress, content, 1)

    assert progress.has_content
    assert counting.looked_at <= 5 * len(content)


class Counted(bytearray):
    """Bytes that are held; counts those that are copied out of it."""

    copied = 0

    def __bytes__(self):
        Counted.copied += len(self)
        return bytes(memoryview(self))


def test_a_prelude_in_tiny_pieces_is_not_copied_for_each_of_them(monkeypatch):
    monkeypatch.setattr(room, "bytearray", Counted, raising=False)
    monkeypatch.setattr(Counted, "copied", 0)
    prelude = b": ping\n\n" * 500
    progress = progress_of()

    assert feed(progress, prelude + HELLO, 1) == prelude + HELLO
    assert Counted.copied <= 2 * len(prelude + HELLO)


# Its end.


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter", "of our own"])
def test_an_answer_is_complete_when_it_says_why_it_ended(reason):
    progress = progress_of()
    progress.feed(HELLO)

    progress.feed(chunk(finish=reason))

    assert progress.is_complete


@pytest.mark.parametrize("reason", [None, ""])
def test_an_empty_reason_is_none(reason):
    progress = progress_of()

    progress.feed(chunk({"content": "hello"}, finish=reason))

    assert state(progress) == (True, False)


def test_the_end_may_come_with_the_last_content():
    progress = progress_of()

    progress.feed(chunk({"content": "hello"}, finish="stop"))

    assert state(progress) == (True, True)
    assert progress.received == "hello"


def test_the_end_stays_the_end_whatever_follows():
    progress = progress_of()
    progress.feed(HELLO + STOP)

    progress.feed(chunk() + USAGE + DONE + b": ping\n\n")

    assert progress.is_complete


def test_done_is_not_needed():
    progress = progress_of()

    progress.feed(HELLO + STOP)

    assert progress.is_complete


@pytest.mark.parametrize("done", [DONE, b"data:[DONE]\n\n", b"data: [DONE] \n\n", b"data: [DONE]\r\n\r\n"])
def test_done_is_not_enough_and_would_have_the_sdk_stop_reading(done):
    progress = progress_of()
    progress.feed(HELLO)

    with pytest.raises(InvalidReply, match="before"):
        progress.feed(done)

    assert (progress.is_complete, progress.received) == (False, "hello")


def test_done_before_any_content_is_no_answer():
    with pytest.raises(InvalidReply):
        progress_of().feed(ROLE + DONE)


@pytest.mark.parametrize("done", [DONE, b"data: [DONE] \n\n", b"data: [DONE]..\n\n"])
def test_done_is_read_as_the_sdk_reads_it(done):
    progress = progress_of()

    assert progress.feed(HELLO + STOP + done) == HELLO + STOP + done


def test_every_choice_must_have_ended():
    progress = progress_of(n=2)
    progress.feed(chunk({"content": "a"}, index=0) + chunk({"content": "b"}, index=1))

    progress.feed(chunk(finish="stop", index=1))
    assert not progress.is_complete
    progress.feed(chunk(finish="stop", index=1))
    assert not progress.is_complete
    progress.feed(chunk(finish="stop", index=0))
    assert progress.is_complete


def test_the_text_is_that_of_the_first_choice():
    progress = progress_of(n=2)

    progress.feed(chunk({"content": "b"}, index=1) + chunk({"content": "a"}, index=0) + chunk({"content": "c"}))

    assert progress.received == "ac"


def test_a_choice_that_nobody_asked_for_must_end_too():
    progress = progress_of()

    progress.feed(HELLO + STOP + chunk({"content": "b"}, index=1))
    assert not progress.is_complete
    progress.feed(chunk(finish="stop", index=1))
    assert progress.is_complete


def test_every_prompt_of_a_legacy_completion_must_have_ended():
    progress = progress_of("completions", prompt=["a", "b"])

    for index, is_complete in ((0, False), (1, True)):
        progress.feed(event({"choices": [{"index": index, "text": "x", "finish_reason": "stop"}]}))
        assert progress.is_complete is is_complete


@pytest.mark.parametrize("index", [{}, {"index": None}])
def test_a_choice_without_a_number_is_the_first(index):
    progress = progress_of()

    progress.feed(event({"choices": [{**index, "delta": {"content": "hello"}, "finish_reason": "stop"}]}))

    assert state(progress) == (True, True)
    assert progress.received == "hello"


# What is none of the API.


ERRORS = [
    event({"error": {"message": "overloaded"}}),
    event({"error": "overloaded"}),
    event({"error": {"message": "x"}, "choices": []}),
    event({"message": "overloaded"}, name="error"),
    event({"choices": []}, name="error"),
    event("overloaded", name="error"),
    b'event:error\ndata:{"x":1}\n\n',
    b'data: {"x":1}\nevent: error\n\n',
]
GARBAGE = [
    b"data: hello\n\n",
    b"data: {\n\n",
    b"data: null\n\n",
    b"data: []\n\n",
    b"data: 7\n\n",
    b'data: "[DONE]"\n\n',
    b'data: {"choices": NaN}\n\n',
    b'data: {"x": "\xff"}\n\n',
    b"data: " + b"[" * 100_000 + b"\n\n",
    event({"choices": ["hello"]}),
    event({"choices": [None]}),
    event({"choices": [{"index": [1], "delta": {"content": "x"}}]}),
    event({"choices": [{"index": {"0": 0}, "delta": {"content": "x"}}]}),
    event({"choices": [{"index": "0", "delta": {"content": "x"}}]}),
]


@pytest.mark.parametrize("bad", [*ERRORS, *GARBAGE], ids=lambda bad: repr(bad[:40]))
@pytest.mark.parametrize("before", [b"", ROLE, ROLE + HELLO], ids=["at once", "after a role", "after content"])
def test_an_error_or_garbage_ends_it(before, bad):
    progress = progress_of()
    progress.feed(before)

    with pytest.raises(InvalidReply) as caught:
        progress.feed(bad)

    assert "overloaded" not in f"{caught.value} {caught.value.__cause__!r}"
    assert not progress.is_complete


def test_bytes_that_are_no_text_do_not_hang_on_to_the_error():
    with pytest.raises(InvalidReply) as caught:
        progress_of().feed(b'data: {"x": "CANARY\xff"}\n\n')

    assert "CANARY" not in repr(caught.value.__cause__)


@pytest.mark.parametrize("error", [None, "", {}, []])
def test_an_error_without_anything_in_it_is_none(error):
    progress = progress_of()

    progress.feed(event({"error": error, "choices": [{"delta": {"content": "hello"}}]}))

    assert progress.has_content


@pytest.mark.parametrize("bad", [*ERRORS, *GARBAGE], ids=lambda bad: repr(bad[:40]))
def test_after_the_end_garbage_takes_nothing_away(bad):
    together, apart = progress_of(), progress_of()

    assert together.feed(HELLO + STOP + bad + USAGE) == HELLO + STOP
    assert (apart.feed(HELLO + STOP), apart.feed(bad), apart.feed(USAGE)) == (HELLO + STOP, b"", b"")
    assert together.is_complete
    assert apart.is_complete


@given(parts=st.lists(st.binary(max_size=30) | st.sampled_from([b"data: ", b"\n\n", HELLO, b'{"choices":[{}]}', STOP])))
@pytest.mark.parametrize("operation", ["chat/completions", "completions", "responses"])
def test_whatever_a_server_writes_is_handed_on_or_refused(operation, parts):
    progress = progress_of(operation)
    out = b""

    for part in parts:
        try:
            out += progress.feed(part)
        except InvalidReply:
            break

    assert progress.has_content or not out
    assert b"".join(parts).startswith(out)


# How large it may be.


@pytest.mark.parametrize("piece", [2**16, 2 * MAX_EVENT_BYTES], ids=["in pieces", "at once"])
@pytest.mark.parametrize("before", [b"", HELLO], ids=["at once", "after content"])
def test_an_event_that_is_too_large_is_refused_however_it_comes(before, piece):
    content = before + chunk({"content": "x" * MAX_EVENT_BYTES})
    progress = progress_of()

    with pytest.raises(InvalidReply, match="too large"):
        feed(progress, content, piece)


def test_an_event_without_an_end_is_refused_when_it_is_too_large():
    progress = progress_of()
    progress.feed(HELLO)

    with pytest.raises(InvalidReply, match="too large"):
        feed(progress, b"x" * (MAX_EVENT_BYTES + 1), 2**16)


@pytest.mark.parametrize("piece", [2**16 - 1, 2 * MAX_EVENT_BYTES], ids=["in pieces", "at once"])
def test_an_event_of_the_largest_size_is_taken_however_it_comes(piece):
    frame = len(chunk({"content": ""}))
    content = chunk({"content": "x" * (MAX_EVENT_BYTES - frame)})
    progress = progress_of()

    assert len(content) == MAX_EVENT_BYTES
    assert feed(progress, content, piece) == content


def test_many_events_together_may_be_larger_than_one():
    content = chunk({"content": "x" * 1000}) * 2000
    progress = progress_of()

    assert progress.feed(content) == content


def test_a_prelude_without_an_end_is_refused():
    comments = b": ping\n\n" * (MAX_PRELUDE_BYTES // 8 + 1)

    with pytest.raises(InvalidReply, match="no content for too long"):
        feed(progress_of(), comments, 2**16)


# The Responses API.


def told(kind, **fields):
    return event({"type": kind, **fields}, name=kind)


CREATED = told("response.created", response={"status": "in_progress", "error": None})
SAID = told("response.output_text.delta", delta="hello", output_index=0)


@pytest.mark.parametrize(
    "kind", ["response.created", "response.queued", "response.in_progress", "response.output_item.added"]
)
def test_what_a_response_begins_with_is_held_back(kind):
    progress = progress_of("responses")

    assert progress.feed(told(kind)) == b""
    assert progress.feed(SAID) == told(kind) + SAID
    assert progress.received == "hello"


@pytest.mark.parametrize(
    "kind",
    [
        "response.output_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
        "response.reasoning_summary_text.delta",
        "response.audio.delta",
    ],
)
def test_every_delta_of_a_response_is_content(kind):
    progress = progress_of("responses")

    progress.feed(told(kind, delta="x"))

    assert state(progress) == (True, False)


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
@pytest.mark.parametrize("before", [b"", SAID])
def test_a_response_says_that_it_has_ended(before, kind):
    progress = progress_of("responses")
    progress.feed(CREATED + before)

    out = progress.feed(told(kind, response={"error": None}))

    assert out.endswith(told(kind, response={"error": None}))
    assert state(progress) == (True, True)
    assert not progress.has_failed


def test_a_response_that_fails_before_any_content_is_no_answer():
    progress = progress_of("responses")
    progress.feed(CREATED)

    with pytest.raises(InvalidReply, match="failure"):
        progress.feed(told("response.failed", response={"error": {"code": "server_error"}}))


def test_a_response_that_fails_after_content_says_so_to_the_caller_itself():
    failed = told("response.failed", response={"error": {"code": "server_error"}})
    progress = progress_of("responses")
    progress.feed(CREATED + SAID)

    assert progress.feed(failed) == failed
    assert (progress.is_complete, progress.has_failed) == (True, True)


@pytest.mark.parametrize(
    "bad", [told("error", message="x"), event({"type": "error", "code": "x"}), event({"error": {"message": "x"}})]
)
def test_an_error_event_of_a_response_ends_it(bad):
    progress = progress_of("responses")
    progress.feed(CREATED + SAID)

    with pytest.raises(InvalidReply):
        progress.feed(bad)


def test_done_is_not_the_end_of_a_response():
    progress = progress_of("responses")
    progress.feed(CREATED + SAID)

    with pytest.raises(InvalidReply, match="before"):
        progress.feed(DONE)
