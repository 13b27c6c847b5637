"""The usage of a stream is asked for where its server can tell it, and hidden from callers who did not ask."""

from __future__ import annotations

import openai
import pytest
from dependency_injector import providers

from llmwire.services.events import ConfigWarned

from .callers import saying, served_by
from .servers import delta

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def asks(exchange):
    return (exchange.seen.body.get("stream_options") or {}).get("include_usage") is True


def telling(exchange):
    """A stream with its usage at the end, where that is asked for."""
    exchange.start_stream()
    exchange.event(delta("one "))
    exchange.event(delta("two", finish="stop"))
    if asks(exchange):
        exchange.event({**delta(None), "choices": [], "usage": USAGE})
    exchange.event("[DONE]")
    exchange.chunk(b"")


def refusing(error):
    """A server that does not know the field."""

    def refusing(exchange):
        if "stream_options" in exchange.seen.body:
            exchange.json(error, status=422)
        else:
            telling(exchange)

    return refusing


def chunks(container, caller, **options):
    def ask(client):
        answer = saying("hi", stream=True, **options)(client)
        return answer if not hasattr(answer, "__await__") else awaited(answer)

    async def awaited(coming):
        return [chunk async for chunk in await coming]

    return list(caller.run(container, ask))


def figures(container):
    return container.completion.meter().snapshot().figures()


def test_it_is_asked_for_counted_and_hidden(serve, contain, caller):
    server = serve(telling)
    container = contain(completion=served_by(server, price="1/2"))

    given = chunks(container, caller)

    assert asks_of(server) == [True]
    assert [(len(chunk.choices), chunk.usage) for chunk in given] == [(1, None), (1, None)]
    counted = figures(container)
    assert (counted.input_tokens, counted.output_tokens, counted.untold) == (7, 3, 0)
    assert counted.cost == pytest.approx(13e-6)


def asks_of(server):
    return [(seen.body.get("stream_options") or {}).get("include_usage") for seen in server.seen]


def test_who_asks_for_it_gets_it(serve, contain, caller):
    container = contain(completion=served_by(serve(telling)))

    given = chunks(container, caller, stream_options={"include_usage": True})

    assert given[-1].usage.total_tokens == 10
    assert figures(container).input_tokens == 7


def test_who_asks_not_to_have_it_has_it_hidden_too_and_keeps_the_other_options(serve, contain, caller):
    server = serve(telling)
    container = contain(completion=served_by(server))

    given = chunks(container, caller, stream_options={"include_usage": False, "include_obfuscation": False})

    assert server.seen[0].body["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert [len(chunk.choices) for chunk in given] == [1, 1]


@pytest.mark.parametrize(
    "error",
    [
        {"detail": [{"loc": ["body", "stream_options"], "type": "extra_forbidden", "msg": "no"}]},
        {
            "error": {
                "message": "unknown field",
                "type": "invalid_request_error",
                "param": "stream_options",
                "code": "x",
            }
        },
        {"error": {"message": "bad request", "type": "invalid_request_error", "param": None, "code": None}},
        {"message": "no"},
    ],
    ids=["detail", "param", "nothing said", "no error"],
)
def test_a_server_that_does_not_know_the_question_is_asked_without_it_and_never_again(serve, contain, caller, error):
    server = serve(refusing(error))
    container = contain(completion=served_by(server))

    given = [chunks(container, caller) for _ in range(3)]

    assert [[chunk.choices[0].delta.content for chunk in each] for each in given] == [["one ", "two"]] * 3
    assert asks_of(server) == [True, None, None, None]
    counted = figures(container)
    assert (counted.attempts, counted.repeated, counted.served, counted.untold, counted.errors) == (4, 1, 3, 3, {})


def test_a_refusal_that_says_what_it_means_is_the_caller_s(serve, contain, caller):
    error = {"error": {"message": "no", "type": "invalid_request_error", "param": "messages", "code": "invalid"}}
    server = serve(lambda exchange: exchange.json(error, status=400))
    container = contain(completion=served_by(server))

    with pytest.raises(openai.BadRequestError):
        chunks(container, caller)

    assert len(server.seen) == 1


def test_a_server_that_took_the_question_once_is_not_asked_twice(serve, contain, caller):
    def taking(exchange):
        if len(server.seen) == 1:
            telling(exchange)
        else:
            exchange.json({"error": {"message": "no"}}, status=400)

    server = serve(taking)
    container = contain(completion=served_by(server))
    chunks(container, caller)

    with pytest.raises(openai.BadRequestError):
        chunks(container, caller)

    assert len(server.seen) == 2


def test_a_setting_says_that_nobody_is_to_be_asked(serve, contain, caller):
    server = serve(telling)
    container = contain(completion=served_by(server, stream_usage=False))

    chunks(container, caller)

    assert asks_of(server) == [None]
    assert figures(container).untold == 1


def test_usage_that_comes_with_content_is_counted_and_handed_on(serve, contain, caller):
    def together(exchange):
        exchange.start_stream()
        exchange.event({**delta("one", finish="stop"), "usage": USAGE})
        exchange.event("[DONE]")
        exchange.chunk(b"")

    container = contain(completion=served_by(serve(together)))

    given = chunks(container, caller)

    assert given[0].usage.total_tokens == 10
    assert figures(container).output_tokens == 3


@pytest.mark.parametrize(
    "usage", [None, "many", [], {"prompt_tokens": -1}, {"prompt_tokens": "7"}, {"prompt_tokens": 0}]
)
def test_usage_that_is_none_is_unknown_and_harms_nothing(serve, contain, caller, usage):
    def odd(exchange):
        exchange.start_stream()
        exchange.event({**delta("one", finish="stop"), "usage": usage})
        exchange.event({**delta(None), "choices": [], "usage": usage})
        exchange.event("[DONE]")
        exchange.chunk(b"")

    container = contain(completion=served_by(serve(odd)))

    assert [chunk.choices[0].delta.content for chunk in chunks(container, caller) if chunk.choices] == ["one"]
    assert (figures(container).untold, figures(container).input_tokens) == (1, 0)


def test_a_server_that_refuses_it_by_name_is_asked_without_it_also_after_it_took_it(serve, contain, caller):
    """As one that was rolled back to an older version."""
    error = {"error": {"message": "unknown field stream_options", "param": "stream_options", "code": "unknown"}}

    def rolled_back(exchange):
        (telling if len(server.seen) == 1 else refusing(error))(exchange)

    server = serve(rolled_back)
    container = contain(completion=served_by(server))

    given = [chunks(container, caller) for _ in range(3)]

    assert [len(each) for each in given] == [2, 2, 2]
    assert asks_of(server) == [True, True, None, None]


def test_a_server_that_does_not_tell_usage_is_warned_of_where_there_is_a_budget(serve, contain, caller):
    heard = []
    container = contain(completion=served_by(serve(refusing({"error": "no"})), budget="100 tokens/day"))
    container.listener.override(providers.Object(heard.append))

    chunks(container, caller)
    chunks(container, caller)

    assert [event.key for event in heard if isinstance(event, ConfigWarned)] == ["completion.stream_usage"]


def test_who_stops_at_the_end_of_the_answer_is_charged_for_it(serve, contain):
    container = contain(completion=served_by(serve(telling)))

    with saying("hi", stream=True)(container.completion_client()) as stream:
        for chunk in stream:
            if chunk.choices[0].finish_reason:
                break

    assert (figures(container).output_tokens, figures(container).untold) == (3, 0)


def test_after_a_refusal_the_first_word_has_its_own_time_again(serve, contain, caller):
    def slow(exchange):
        if "stream_options" in exchange.seen.body:
            exchange.json({"error": "no"}, status=400)
        else:
            exchange.is_over(1.0)
            telling(exchange)

    settings = served_by(serve(slow), chunk_timeout_s=0.4, first_byte_timeout_s=10)

    assert len(chunks(contain(completion=settings), caller)) == 2


@pytest.mark.parametrize(
    ("fields", "is_hidden"),
    [
        ({"usage": USAGE}, True),
        ({"usage": USAGE, "timings": {"predicted_ms": 1.0}}, True),  # llama.cpp's
        ({"usage": {}}, True),
        ({"usage": None}, False),  # as in any event of a server that tells it later
        ({"usage": USAGE, "prompt_filter_results": []}, False),  # Azure's, which comes unasked
    ],
    ids=["usage", "and timings", "empty", "none", "and filters"],
)
def test_only_an_event_that_is_there_as_it_was_asked_for_is_hidden(serve, contain, caller, fields, is_hidden):
    def saying_more(exchange):
        exchange.start_stream()
        exchange.event(delta("one", finish="stop"))
        exchange.event({**delta(None), "choices": [], **fields})
        exchange.event("[DONE]")
        exchange.chunk(b"")

    container = contain(completion=served_by(serve(saying_more)))

    assert [len(chunk.choices) for chunk in chunks(container, caller)] == ([1] if is_hidden else [1, 0])
