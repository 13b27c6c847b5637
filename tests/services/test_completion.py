"""CompletionService and its asynchronous twin, over genuine fakes and over a user's own simple ones."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AuthenticationError, OpenAI
from pydantic import BaseModel

from llmwire.container import ConfigError, InvalidReply, NoText, StreamTruncated
from llmwire.services import AsyncCompletionService, CompletionService
from llmwire.services.completion import messages_of
from llmwire.services.testing import AsyncFakeCompletions, Failure, FakeCompletions


class City(BaseModel):
    name: str
    inhabitants: int


class Sync:
    """Plays a case through the synchronous service."""

    @staticmethod
    def service(script, **options):
        client = FakeCompletions(script)
        return client, CompletionService(client, **options)

    @staticmethod
    def call(method, *args, **options):
        return method(*args, **options)

    @staticmethod
    def pieces(stream):
        return list(stream)


class Async:
    """Plays the same case through the asynchronous one."""

    @staticmethod
    def service(script, **options):
        client = AsyncFakeCompletions(script)
        return client, AsyncCompletionService(client, **options)

    @staticmethod
    def call(method, *args, **options):
        return asyncio.run(_awaited(method, args, options))

    @staticmethod
    def pieces(stream):
        return asyncio.run(_collected(stream))


async def _awaited(method, args, options):
    return await method(*args, **options)


async def _collected(stream):
    return [piece async for piece in stream]


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def play(request):
    return request.param


def test_a_text_is_the_users_message_and_the_answer_is_its_text(play):
    client, service = play.service("hello", model="m")

    answer = play.call(service.complete, "hi")

    assert answer == "hello"
    assert client.calls[0].body == {"messages": [{"role": "user", "content": "hi"}], "model": "m"}


def test_messages_stay_as_they_are_and_the_system_message_stands_before_them(play):
    client, service = play.service("ok", model="m")
    messages = ({"role": "user", "content": "one"}, {"role": "assistant", "content": "two"})

    play.call(service.complete, messages, system="be brief")

    assert client.calls[0].body["messages"] == [{"role": "system", "content": "be brief"}, *messages]


def test_the_model_of_a_call_wins_over_the_services(play):
    client, service = play.service("ok", model="m")

    play.call(service.complete, "hi", model="other")

    assert client.calls[0].body["model"] == "other"


def test_options_of_the_sdk_pass_through_unread(play):
    client, service = play.service("ok", model="m")

    play.call(service.complete, "hi", temperature=0, extra_body={"top_k": 3})

    assert client.calls[0].body["temperature"] == 0
    assert client.calls[0].body["top_k"] == 3


def test_without_a_model_nothing_is_sent(play):
    client, service = play.service("ok")

    with pytest.raises(ConfigError, match="COMPLETION_MODEL"):
        play.call(service.complete, "hi")

    assert client.calls == []


def test_chat_gives_the_sdks_whole_answer(play):
    _, service = play.service("hello", model="m")

    answer = play.call(service.chat, "hi")

    assert answer.choices[0].message.content == "hello"
    assert answer.choices[0].finish_reason == "stop"


def test_a_stream_gives_the_text_piece_by_piece(play):
    _, service = play.service("one two three four five", model="m")

    pieces = play.pieces(service.stream("hi"))

    assert "".join(pieces) == "one two three four five"
    assert len(pieces) > 1


def test_parse_gives_an_object_of_the_wanted_class(play):
    _, service = play.service(City(name="Oslo", inhabitants=717_710), model="m")

    assert play.call(service.parse, "hi", response_format=City) == City(name="Oslo", inhabitants=717_710)


def _body(message, finish_reason="stop"):
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **message}}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.mark.parametrize(
    ("message", "finish_reason", "said"),
    [
        ({"content": None, "refusal": "I will not."}, "stop", "I will not."),
        ({"content": None, "tool_calls": []}, "tool_calls", "tool_calls"),
        ({"content": None}, "content_filter", "content_filter"),
    ],
)
def test_an_answer_without_text_is_an_error_that_says_why(play, message, finish_reason, said):
    _, service = play.service(_body(message, finish_reason), model="m")

    with pytest.raises(NoText, match=said):
        play.call(service.complete, "hi")


@pytest.mark.parametrize("body", [{"error": {"message": "overloaded"}}, {"choices": []}, {"choices": None}])
def test_an_answer_that_is_no_completion_is_never_handed_on(play, body):
    _, service = play.service(body, model="m")

    with pytest.raises(InvalidReply, match="COMPLETION_BASE_URL"):
        play.call(service.complete, "hi")


class Chunks:
    """A user's simple fake: chunks, and whether they were closed."""

    def __init__(self, *pieces, finish_reason="stop"):
        ends = [None] * (len(pieces) - 1) + [finish_reason]
        self._chunks = [
            SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content=piece), finish_reason=end)])
            for piece, end in zip(pieces, ends, strict=True)
        ]
        self.is_closed = False

    def __enter__(self):
        return iter(self._chunks)

    def __exit__(self, *_):
        self.is_closed = True

    async def __aenter__(self):
        return self._arriving()

    async def __aexit__(self, *_):
        self.is_closed = True

    async def _arriving(self):
        for chunk in self._chunks:
            yield chunk


def _simple(create):
    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


def test_a_stream_that_ends_before_the_model_was_done_is_an_error_with_what_had_arrived():
    service = CompletionService(_simple(lambda **_: Chunks("half an ", "answer", finish_reason=None)), model="m")
    received = []

    with pytest.raises(StreamTruncated) as caught:
        received.extend(service.stream("hi"))

    assert caught.value.received == "half an answer"


def test_an_asynchronous_stream_that_ends_early_is_the_same_error():
    async def create(**_):
        return Chunks("half", finish_reason=None)

    with pytest.raises(StreamTruncated) as caught:
        Async.pieces(AsyncCompletionService(_simple(create), model="m").stream("hi"))

    assert caught.value.received == "half"


def test_leaving_a_stream_closes_it():
    chunks = Chunks("one", "two")
    stream = CompletionService(_simple(lambda **_: chunks), model="m").stream("hi")

    next(stream)
    stream.close()

    assert chunks.is_closed


def test_leaving_an_asynchronous_stream_closes_it():
    chunks = Chunks("one", "two")

    async def create(**_):
        return chunks

    async def leave_early():
        stream = AsyncCompletionService(_simple(create), model="m").stream("hi")
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave_early())

    assert chunks.is_closed


def test_a_simple_fake_with_a_plain_list_of_chunks_will_do():
    chunks = Chunks("a", "b").__enter__()

    assert list(CompletionService(_simple(lambda **_: list(chunks)), model="m").stream("hi")) == ["a", "b"]


def test_the_request_is_sent_with_the_first_piece_and_not_before():
    client = FakeCompletions("hello")
    stream = CompletionService(client, model="m").stream("hi")
    assert client.calls == []

    next(stream)

    assert json.loads(json.dumps(client.calls[0].body))["stream"] is True
    stream.close()


@pytest.mark.parametrize("method", ["complete", "chat", "stream"])
def test_options_and_model_reach_every_kind_of_call(play, method):
    client, service = play.service("ok", model="m")
    options = {"model": "other", "system": "", "temperature": 0, "max_completion_tokens": 5}

    called = getattr(service, method)
    play.pieces(called("hi", **options)) if method == "stream" else play.call(called, "hi", **options)

    body = client.calls[0].body
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("other", 0, 5)
    assert body["messages"] == [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}]


def test_the_callers_messages_are_not_touched():
    prompt = [{"role": "user", "content": "hi"}]

    messages_of(prompt, system="be brief")
    messages_of(prompt).append({"role": "user", "content": "more"})

    assert prompt == [{"role": "user", "content": "hi"}]


def test_an_empty_text_is_a_text(play):
    _, service = play.service(_body({"content": ""}), model="m")

    assert play.call(service.complete, "hi") == ""


def test_parse_without_an_object_says_why(play):
    _, service = play.service(_body({"content": None, "refusal": "I will not."}), model="m")

    with pytest.raises(NoText, match=r"I will not\."):
        play.call(service.parse, "hi", response_format=City)


@pytest.mark.parametrize("answer", ["<html>a web page</html>", None, {}])
def test_what_the_sdk_makes_of_a_web_page_is_never_handed_on(answer):
    service = CompletionService(_simple(lambda **_: answer), model="m")

    with pytest.raises(InvalidReply, match="COMPLETION_BASE_URL"):
        service.complete("hi")


def test_what_the_client_raises_is_raised_as_it_is(play):
    _, service = play.service(Failure(status=401), model="m")

    with pytest.raises(AuthenticationError):
        play.call(service.complete, "hi")


def _streamed(is_async, chunks):
    """The pieces that a service gives of a user's stream."""
    if not is_async:
        return CompletionService(_simple(lambda **_: chunks), model="m").stream("hi")

    async def create(**_):
        return chunks

    return AsyncCompletionService(_simple(create), model="m").stream("hi")


def _pieces(is_async, chunks):
    return Async.pieces(_streamed(True, chunks)) if is_async else Sync.pieces(_streamed(False, chunks))


class Raw(Chunks):
    """Chunks of any shape; an exception among them is raised."""

    def __init__(self, *chunks):
        super().__init__("a")
        self._chunks = self._raising(chunks)

    @staticmethod
    def _raising(chunks):
        for chunk in chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


def _chunk(content=None, finish_reason=None):
    choice = SimpleNamespace(delta=SimpleNamespace(content=content), finish_reason=finish_reason)
    return SimpleNamespace(choices=[choice])


USAGE = SimpleNamespace(choices=[], usage="what comes last")
ENDED = _chunk(finish_reason="stop")


@pytest.mark.parametrize("is_async", [False, True])
@given(texts=st.lists(st.text(max_size=3) | st.none(), max_size=6), cut=st.integers(0, 8))
def test_a_stream_is_whole_or_an_error_with_what_had_arrived(is_async, texts, cut):
    chunks = [*map(_chunk, texts), ENDED, USAGE][:cut]
    whole = "".join(text or "" for text in texts)

    if ENDED in chunks:
        assert "".join(_pieces(is_async, Raw(*chunks))) == whole
        return
    with pytest.raises(StreamTruncated) as truncated:
        _pieces(is_async, Raw(*chunks))
    assert truncated.value.received == "".join(text or "" for text in texts[:cut])


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "chunks",
    [
        (_chunk("a"), OSError("cut")),
        (_chunk("half"),),
        (ENDED,),
    ],
    ids=["broken", "truncated", "whole"],
)
def test_a_stream_is_closed_however_it_ends(is_async, chunks):
    stream = Raw(*chunks)

    with contextlib.suppress(OSError, StreamTruncated):
        _pieces(is_async, stream)

    assert stream.is_closed


def test_giving_up_a_stream_closes_it():
    stream = Raw(_chunk("a"), _chunk("b"), ENDED)

    for _ in _streamed(False, stream):
        break

    assert stream.is_closed


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "odd",
    [
        USAGE,
        SimpleNamespace(choices=None),
        SimpleNamespace(choices=[SimpleNamespace(delta=None, finish_reason=None)]),
        SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(role="assistant"), finish_reason=None)]),
    ],
    ids=["usage", "no choices", "no delta", "no content"],
)
def test_a_chunk_that_carries_no_text_is_passed_over(is_async, odd):
    assert _pieces(is_async, Raw(odd, _chunk("a"), odd, ENDED, odd)) == ["a"]


def test_an_empty_stream_asks_for_the_right_server():
    with pytest.raises(StreamTruncated, match="COMPLETION_BASE_URL"):
        _pieces(False, Raw())


WEB_PAGE = {"html": "<p>a web page</p>"}
BROKEN = {"content": b"{broken", "headers": {"content-type": "application/json"}}
ODD = [{"json": body} for body in ([], 5, {}, {"error": "x"}, {"choices": ["text"]}, {"choices": [{}]})]


@pytest.mark.parametrize(
    ("method", "content"),
    [
        *(("complete", content) for content in (WEB_PAGE, BROKEN, *ODD)),
        *(("parse", content) for content in (WEB_PAGE, BROKEN, *ODD[:2])),
    ],
)
def test_whatever_the_sdk_makes_of_an_answer_that_is_none_it_is_an_invalid_reply(method, content):
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, **content))
    options = {"response_format": City} if method == "parse" else {}
    with OpenAI(base_url="http://llm/v1", api_key="any", http_client=httpx2.Client(transport=transport)) as client:
        service = CompletionService(client, model="m")

        with pytest.raises(InvalidReply, match="COMPLETION_BASE_URL"):
            getattr(service, method)("hi", **options)


def test_an_argument_that_the_sdk_does_not_know_is_the_callers_mistake(play):
    _, service = play.service("ok", model="m")

    with pytest.raises(TypeError, match="no_such_option"):
        play.call(service.complete, "hi", no_such_option=1)


def test_what_is_no_client_is_no_invalid_reply():
    with pytest.raises(AttributeError, match="chat"):
        CompletionService(object(), model="m").complete("hi")


@pytest.mark.parametrize("reason", ["tool_calls", "content_filter"])
def test_a_stream_that_ends_well_without_a_text_is_an_error_that_says_why(play, reason):
    _, service = play.service(_body({"content": None}, reason), model="m")

    with pytest.raises(NoText, match=reason):
        play.pieces(service.stream("hi"))


def test_of_several_answers_in_a_stream_the_first_is_told():
    def piece(index, content, reason=None):
        return SimpleNamespace(index=index, delta=SimpleNamespace(content=content), finish_reason=reason)

    chunks = [[piece(0, "The ")], [piece(1, "Un")], [piece(0, "sea", "stop")], [piece(1, " mar", "stop")]]
    streamed = [SimpleNamespace(choices=choices) for choices in chunks]
    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **_: streamed)))

    assert "".join(CompletionService(client, model="m").stream("hi", n=2)) == "The sea"
