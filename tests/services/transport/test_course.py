"""An answer whose first content was handed on comes to its end in one way, and its lease is settled once."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext

import httpcore2
import httpx2
import pytest

from llmwire.services.errors import InvalidReply
from llmwire.services.events import CallEnded, StreamEnded
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.failover import Send
from llmwire.services.routing.outcome import CANCELLED, Blame, Outcome
from llmwire.services.transport.body import Interrupted, Stalled, Truncated
from llmwire.services.transport.call import Call
from llmwire.services.transport.course import Course
from llmwire.services.transport.facade import Sending
from llmwire.services.transport.stream import StreamProgress
from llmwire.services.transport.telling import Teller, Wire
from llmwire.services.usage import Usage

FAILED = {"blame": Blame.ENDPOINT, "is_failure": True}


class Lease:
    """Remembers how it was settled."""

    endpoint = Endpoint(function="completion", name="a", base_url="http://a.test:8000/v1")

    def __init__(self):
        self.settled = []

    def settle(self, outcome, took_s):
        assert took_s >= 0
        self.settled.append(outcome)


class Story:
    """A course on its way, with its lease and what was told."""

    def __init__(self, *parts, operation="chat/completions", is_stream=True):
        request = httpx2.Request("POST", f"http://facade.test/v1/{operation}", json={"stream": True})
        call = Call(request, operation)
        self.lease, self.events = Lease(), []
        self.wire = Wire(self.events.append)
        teller = Teller(self.wire, "completion", operation, "a-model", began_at_s=0.0, tags=(), is_for_routing=False)
        sending = Sending(
            call, Send(self.lease, math.inf), teller, chunk_s=None, is_callers_time=False, asks_usage=False
        )
        self.progress = StreamProgress(call) if is_stream else None
        self.course = Course(sending, self.progress)
        for part in parts:
            self.course.take(part)

    @property
    def ends(self):
        """How it was settled, and what was told of that."""
        assert [type(event) for event in self.events] in ([], [StreamEnded, CallEnded])
        assert all(event.took_s >= 0 for event in self.events)
        assert {(event.function, event.endpoint) for event in self.events} <= {("completion", "a")}
        assert len({event.error for event in self.events}) < 2
        return self.lease.settled, [event.error for event in self.events[:1]]


def chunk(finish=None, **delta):
    return event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def event(**body):
    return f"data: {json.dumps(body)}\n\n".encode()


HELLO, STOP, DONE = chunk(content="hello"), chunk("stop"), b"data: [DONE]\n\n"
SAID = event(type="response.output_text.delta", delta="hello")
FAILURE = event(type="response.failed", response={"error": {"code": "server_error"}})
SERVED, CUT, SHORT = ([Outcome()], [None]), "StreamInterrupted", "StreamTruncated"


def lost(label):
    return [Outcome(label=label, **FAILED)], [label]


# To its end.


def test_what_comes_is_handed_on_until_the_end():
    story = Story()

    assert [story.course.take(part) for part in (HELLO, STOP, DONE)] == [HELLO, STOP, DONE]
    assert story.ends == ([], [])
    story.course.ended()
    assert story.ends == SERVED


def test_an_answer_that_is_no_stream_of_events_is_complete_when_its_bytes_end():
    story = Story(is_stream=False)

    assert story.course.take(b"RIFF") == b"RIFF"
    story.course.ended()

    assert story.ends == SERVED


def test_an_answer_that_ends_in_order_but_too_early_is_truncated():
    story = Story(HELLO)

    with pytest.raises(
        Truncated, match="completion endpoint http://a.test:8000: .* before the model was done"
    ) as caught:
        story.course.ended()

    assert caught.value.received == "hello"
    assert story.ends == lost(SHORT)


def test_an_answer_that_says_it_is_done_but_is_not_is_truncated_too():
    story = Story(HELLO)
    with pytest.raises(InvalidReply) as caught:
        story.course.take(DONE)

    error = story.course.broke(caught.value)

    assert type(error) is Truncated
    assert error.received == "hello"
    assert story.ends == lost(SHORT)


# Broken off.


@pytest.mark.parametrize(
    "error",
    [httpcore2.ReadError("reset"), httpcore2.RemoteProtocolError("incomplete"), OSError("x"), InvalidReply("an error")],
    ids=repr,
)
def test_an_answer_that_breaks_off_is_interrupted(error):
    story = Story(HELLO)

    problem = story.course.broke(error)

    assert type(problem) is Interrupted
    assert problem.received == "hello"
    assert str(problem) == f"completion endpoint http://a.test:8000: the answer broke off: {error}"
    assert story.ends == lost(CUT)


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_error_that_says_nothing_is_told_by_its_name(is_stream):
    story = Story(is_stream=is_stream)

    assert str(story.course.broke(httpcore2.ReadError())).endswith("broke off: ReadError")


def test_an_answer_that_stands_still_is_a_timeout():
    story = Story(HELLO)

    problem = story.course.broke(httpcore2.ReadTimeout("no answer in time"))

    assert type(problem) is Stalled
    assert isinstance(problem, httpx2.ReadTimeout)
    assert (problem.received, "stood still" in str(problem)) == ("hello", True)
    assert story.ends == lost(CUT)


@pytest.mark.parametrize(
    ("error", "kind"), [(httpcore2.ReadError("reset"), httpx2.ReadError), (httpcore2.ReadTimeout(), httpx2.ReadTimeout)]
)
def test_an_answer_that_is_no_stream_of_events_breaks_off_with_the_transport_s_own_error(error, kind):
    story = Story(is_stream=False)

    assert type(story.course.broke(error)) is kind
    assert story.ends == lost(CUT)


@pytest.mark.parametrize("error", [httpcore2.ReadError("reset"), httpcore2.ReadTimeout(), InvalidReply("x")], ids=repr)
def test_what_happens_after_the_end_of_the_answer_is_no_error(error):
    story = Story(HELLO, STOP)

    assert story.course.broke(error) is None
    assert story.ends == SERVED


# Given up.


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_that_nobody_reads_on_is_cancelled_and_harms_nobody(is_stream):
    story = Story(HELLO, is_stream=is_stream)

    story.course.given_up()

    assert story.ends == ([CANCELLED], ["cancelled"])


def test_an_answer_that_nobody_reads_on_after_its_end_has_served():
    story = Story(HELLO, STOP)

    story.course.given_up()

    assert story.ends == SERVED


# The server failed in the API's own words.


@pytest.mark.parametrize("way", ["ended", "given_up", "broke"])
def test_a_failure_in_the_api_s_own_words_counts_however_the_answer_ends(way):
    story = Story(SAID, FAILURE, operation="responses")

    getattr(story.course, way)(*([httpcore2.ReadError("reset")] if way == "broke" else []))

    assert story.ends == lost("response.failed")


# Once.


@pytest.mark.parametrize("parts", [[HELLO], [HELLO, STOP]], ids=["incomplete", "complete"])
@pytest.mark.parametrize("first", ["ended", "given_up", "broke"])
@pytest.mark.parametrize("second", ["ended", "given_up", "broke"])
def test_its_lease_is_settled_once_by_what_comes_first(parts, first, second):
    def play(story, way):
        error = pytest.raises(Truncated) if way == "ended" and not story.progress.is_complete else nullcontext()
        with error:
            getattr(story.course, way)(*([httpcore2.ReadError("reset")] if way == "broke" else []))

    alone, both = Story(*parts), Story(*parts)

    play(alone, first)
    for way in (first, second):
        play(both, way)

    assert both.ends == alone.ends
    assert len(both.lease.settled) == 1


def test_a_listener_that_fails_harms_no_answer():
    def broken(event):
        raise RuntimeError

    story = Story(is_stream=False)
    story.wire.listener = broken

    story.course.ended()

    assert story.lease.settled == [Outcome()]


def test_a_course_that_is_collected_is_told_of_with_the_next_event_as_a_listener_may_hold_a_lock():
    story = Story(HELLO)

    story.course.lost()
    assert story.events == []
    story.wire.tell(StreamEnded(function="completion", endpoint="b", error=None, took_s=1.0))

    assert [(type(event), event.endpoint, event.error) for event in story.events] == [
        (StreamEnded, "a", "cancelled"),
        (CallEnded, "a", "cancelled"),
        (StreamEnded, "b", None),
    ]


def test_a_course_that_is_collected_after_its_end_is_not_told_of_again():
    story = Story(HELLO, STOP)
    story.course.ended()

    story.course.lost()
    story.wire.tell(StreamEnded(function="completion", endpoint="b", error=None, took_s=1.0))

    assert [event.endpoint for event in story.events] == ["a", "a", "b"]


def test_what_hundreds_of_collected_courses_left_behind_is_told_whole():
    stories = [Story(HELLO) for _ in range(3)]
    wire = stories[0].wire
    for _ in range(600):
        story = Story(HELLO)
        story.course._sending.teller._wire = wire
        story.course.lost()

    wire.tell(StreamEnded(function="completion", endpoint="b", error=None, took_s=1.0))

    assert [type(event) for event in stories[0].events] == [StreamEnded, CallEnded] * 600 + [StreamEnded]


def test_what_is_left_behind_and_breaks_harms_nobody():
    story = Story()

    def broken():
        raise RuntimeError

    story.wire.later(broken)
    story.wire.tell(StreamEnded(function="completion", endpoint="b", error=None, took_s=1.0))

    assert [event.endpoint for event in story.events] == ["b"]


def test_in_a_child_process_what_was_left_behind_is_the_parents_to_tell():
    story = Story(HELLO)
    story.course.lost()

    story.wire.renew_after_fork()
    story.wire.tell(StreamEnded(function="completion", endpoint="b", error=None, took_s=1.0))

    assert [event.endpoint for event in story.events] == ["b"]


def test_a_stream_that_a_child_process_closes_is_the_parents_to_tell_of():
    story = Story(HELLO)
    story.course._sending.pid += 1

    story.course.given_up()

    assert story.events == []


USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4})


def test_what_comes_after_the_answer_still_says_what_it_cost():
    story = Story(HELLO, STOP)

    assert story.course.completes()
    assert story.lease.settled == [Outcome()]
    story.course.closed(USAGE + DONE)

    assert [each.usage for each in story.events] == [Usage(input=3, output=4)] * 2


def test_nothing_that_comes_after_the_answer_makes_it_less_of_one():
    story = Story(HELLO, STOP)

    assert story.course.completes()
    story.course.closed(b"data: {garbage}\n\n")

    assert story.ends == SERVED


def test_a_course_that_is_not_complete_or_is_over_does_not_complete():
    begun, ended = Story(HELLO), Story(HELLO, STOP)
    ended.course.ended()

    assert (begun.course.completes(), ended.course.completes()) == (False, False)
