"""Where an answer came from is told: in its headers, in `recorded()`, and in the error where nobody answered."""

from __future__ import annotations

import asyncio
import pickle
import threading

import openai
import pytest

from llmwire.services import recorded
from llmwire.services.errors import AllEndpointsFailed, DeadlineExceeded

from .pools import BASE64, CHAT, CHAT_STREAM, MODEL, OPERATIONS, PROMPT, chatting, is_async, repeated

SAID_BY_SERVERS = "scripted failure"


def headers_of(answer) -> tuple[str, str, str]:
    return tuple(answer.headers[f"x-llmwire-{name}"] for name in ("endpoint", "attempts", "degraded"))


def raw(client):
    """Asks for a chat, and gives the headers of the raw answer."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    answer = client.chat.completions.with_raw_response.create(**asked)
    return awaited(answer) if is_async(client) else headers_of(answer)


async def awaited(answer):
    return headers_of(await answer)


def streamed(client):
    """Asks for a streamed chat, and gives the headers that came before its first piece."""
    return awaited_stream(client) if is_async(client) else whole(chatting(stream=True)(client))


def whole(stream):
    list(stream)
    return headers_of(stream.response)


async def awaited_stream(client):
    stream = await chatting(stream=True)(client)
    [chunk async for chunk in stream]
    return headers_of(stream.response)


# Headers.


@pytest.mark.parametrize("ask", [raw, streamed])
@pytest.mark.parametrize(
    ("scripts", "headers"),
    [
        ([], ("completion/a", "1", "false")),
        ([["500"]], ("completion/b", "2", "true")),
        ([["429:retry_after=60"], ["body:html"]], ("completion/c", "3", "true")),
    ],
)
def test_an_answer_says_where_it_came_from(trio, contain, caller, ask, scripts, headers):
    trio.script(*scripts)

    assert caller.run(contain(completion=trio.settings()), ask) == headers


def test_the_answer_of_an_error_says_so_too(trio, contain, caller):
    trio.script(["400"], ["400"], ["400"])

    [error] = caller.run(contain(completion=trio.settings()), repeated(CHAT, 1))

    assert headers_of(error.response) == ("completion/a", "1", "false")


def test_no_server_says_itself_where_an_answer_came_from(serve, contain, caller):
    def lie(exchange):
        said = {"x-llmwire-endpoint": "completion/z", "X-LLMWire-Degraded": "true", "x-llmwire-other": "z"}
        exchange.json({"choices": [{"message": {"content": "hi"}}]}, headers=said)

    container = contain(completion={"endpoints": {"a": {"base_url": serve(lie).url}}})

    assert caller.run(container, raw) == ("completion/a", "1", "false")


# recorded()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_each_call_is_recorded_with_all_of_its_attempts(trio, contain, caller, operation):
    trio.script(["503"])
    container = contain(**{operation.function: trio.settings()})

    with recorded() as calls:
        caller.run(container, repeated(operation, 2), function=operation.function)

    assert [(call.function, call.endpoint, call.is_degraded) for call in calls] == [(operation.function, "b", True)] * 2
    first, second = calls[0].attempts
    assert (first.endpoint, first.blame, first.label, first.status) == ("a", "endpoint", "503", 503)
    assert (second.endpoint, second.blame, second.label, second.status) == ("b", None, "served", 200)
    assert first.server == trio.servers[0].base_url.removesuffix("/v1")
    assert min(first.took_s, second.took_s) > 0


def test_a_call_that_nobody_answers_is_recorded(trio, contain, caller):
    trio.script(["502"], ["429:retry_after=60"], ["401"])

    with recorded() as calls:
        caller.run(contain(completion=trio.settings()), repeated(CHAT, 1))

    [call] = calls
    assert (call.endpoint, call.is_degraded) == (None, True)
    assert [attempt.blame for attempt in call.attempts] == ["endpoint", "load", "key"]


def test_a_call_for_which_nobody_could_be_asked_is_recorded(trio, contain, caller):
    trio.script(*[["429:retry_after=60"]] * 3)
    container = contain(completion=trio.settings())
    caller.run(container, repeated(CHAT, 1))

    with recorded() as calls:
        caller.run(container, repeated(CHAT, 1))

    [call] = calls
    assert (call.endpoint, call.attempts) == (None, ())


def test_blocks_stand_inside_each_other_and_the_inner_one_takes_its_calls(trio, contain, caller):
    container = contain(completion=trio.settings())

    with recorded() as outer:
        caller.run(container, CHAT)
        with recorded() as inner:
            caller.run(container, CHAT_STREAM)
            caller.run(container, CHAT)
    caller.run(container, CHAT)

    assert (len(outer), len(inner)) == (1, 2)


def test_a_stream_is_recorded_when_its_first_content_is_there_and_not_again_when_it_breaks_off(trio, contain):
    trio.script(["cut_stream:after_events=3"])
    client = contain(completion=trio.settings()).completion_client()

    with recorded() as calls:
        stream = chatting(stream=True)(client)
        assert [call.endpoint for call in calls] == ["a"]
        with pytest.raises(openai.APIConnectionError):
            list(stream)

    assert len(calls) == 1


def test_a_thread_records_its_own_calls(trio, contain):
    container = contain(completion=trio.settings())
    client = container.completion_client()
    counts: dict[int, int] = {}

    def work(number):
        with recorded() as own:
            for _ in range(number):
                CHAT(client)
        counts[number] = len(own)

    with recorded() as ours:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 6)]
        for thread in threads:
            thread.start()
        CHAT(client)
        for thread in threads:
            thread.join()

    assert counts == {number: number for number in range(1, 6)}
    assert len(ours) == 1


def test_a_block_takes_the_calls_of_its_tasks_and_of_their_threads(trio, contain):
    container = contain(completion=trio.settings())
    client, sync_client = container.async_completion_client(), container.completion_client()

    async def apart():
        with recorded() as own:
            await CHAT(client)
            await asyncio.gather(CHAT(client), CHAT_STREAM(client))
        return len(own)

    async def main():
        with recorded() as ours:
            async with asyncio.TaskGroup() as group:
                alone = [group.create_task(apart()) for _ in range(3)]
                for _ in range(4):
                    group.create_task(CHAT(client))
                group.create_task(asyncio.to_thread(CHAT, sync_client))
        return [task.result() for task in alone], len(ours)

    assert asyncio.run(main()) == ([3, 3, 3], 5)


def test_the_calls_of_services_are_recorded(trio, contain):
    trio.script(["500"])
    container = contain(completion=trio.settings(), embedding=trio.settings())

    async def ask():
        with recorded() as calls:
            await container.async_completion_service().complete(PROMPT)
            async for _ in container.async_completion_service().stream(PROMPT):
                pass
            await container.async_embedding_service().embed(["one", "two"])
        return calls

    with recorded() as calls:
        container.completion_service().complete(PROMPT)
        list(container.completion_service().stream(PROMPT))
        container.embedding_service().embed(["one", "two"])

    for each in (calls, asyncio.run(ask())):
        assert [(call.function, call.endpoint) for call in each] == [
            ("completion", "b"),
            ("completion", "b"),
            ("embedding", "b"),
        ]


# Degraded.


def provenances(trio, contain, caller, *, calls: int, endpoints=None, **settings):
    table = trio.settings(**settings)
    for name, more in (endpoints or {}).items():
        table["endpoints"][name] |= more
    with recorded() as recordings:
        caller.run(contain(completion=table), repeated(CHAT, calls))
    return [(call.endpoint, len(call.attempts), call.is_degraded) for call in recordings]


def test_an_endpoint_of_the_same_tier_is_no_degradation_where_it_was_asked_first(trio, contain, caller):
    trio.script(["429:retry_after=60"])

    assert provenances(trio, contain, caller, calls=2) == [("b", 2, True), ("b", 1, False)]


def test_an_endpoint_of_a_higher_tier_is_one(trio, contain, caller):
    trio.script(["429:retry_after=60"])
    tiers = {"b": {"tier": 1}, "c": {"tier": 1}}

    assert provenances(trio, contain, caller, calls=2, endpoints=tiers) == [("b", 2, True), ("b", 1, True)]


def test_an_endpoint_whose_breaker_is_open_is_one(trio, contain, caller):
    trio.script(["times:5:502", "ok"], ["401"], ["401"])

    told = provenances(trio, contain, caller, calls=7)

    assert told[-1] == ("a", 1, True)


# The error where nobody answered.


def failure(trio, contain, caller, *scripts, calls: int = 1, first=None, **settings):
    """The last error of so many calls."""
    trio.script(*scripts)
    return caller.run(contain(completion=trio.settings(first, **settings)), repeated(CHAT, calls))[-1]


@pytest.mark.parametrize("calls", [1, 2], ids=["asked", "paused by then"])
@pytest.mark.parametrize(
    ("scripts", "seconds"),
    [
        (["429:retry_after=30", "429:retry_after=7", "429:retry_after=12"], "7"),
        (["429:retry_after_ms=9500", "429:retry_after=30", "429:x_ratelimit_reset_requests=1m"], "10"),
        (["429:retry_after=30", "429:retry_after=40", "429:retry_after=date:20"], "21"),
    ],
)
def test_where_all_are_busy_it_says_when_the_first_is_free(trio, contain, caller, scripts, seconds, calls):
    error = failure(trio, contain, caller, *([script] for script in scripts), calls=calls)

    assert isinstance(error, openai.RateLimitError)
    assert int(seconds) - 3 <= int(error.response.headers["retry-after"]) <= int(seconds)
    assert "retry-after-ms" not in error.response.headers


def test_where_all_are_overloaded_it_is_the_servers_own_error(trio, contain, caller):
    error = failure(trio, contain, caller, *[["503:retry_after=30"]] * 3, calls=2)

    assert isinstance(error, openai.InternalServerError)
    assert error.status_code == 503
    assert 25 <= int(error.response.headers["retry-after"]) <= 30


def test_where_all_keys_are_refused_it_is_the_servers_own_error(trio, contain, caller):
    for calls in (1, 2):
        error = failure(trio, contain, caller, *[["401"]] * 3, calls=calls)

        assert isinstance(error, openai.AuthenticationError)


def test_where_all_are_too_slow_it_is_a_timeout(trio, contain, caller):
    error = failure(trio, contain, caller, *[["hang"]] * 3, first_byte_timeout_s=0.1)

    assert isinstance(error, openai.APITimeoutError)
    assert isinstance(error.__cause__, DeadlineExceeded)
    assert [attempt.label for attempt in error.__cause__.attempts] == [
        "ReadTimeout"
    ] * 2  # a poison request stops there


def test_where_the_deadline_is_over_it_is_a_timeout(trio, contain, caller):
    error = failure(trio, contain, caller, ["500"], ["hang"], deadline_s=0.3, first_byte_timeout_s=1)

    assert isinstance(error, openai.APITimeoutError)
    assert [attempt.endpoint for attempt in error.__cause__.attempts] == ["a", "b"]


def down(trio, contain, caller, ask):
    for server in trio.servers:
        server.stop()
    try:
        return caller.run(contain(completion=trio.settings()), ask)
    finally:
        for server in trio.servers:
            server.start()


def test_where_all_are_down_it_carries_what_was_tried(trio, contain, caller):
    [error] = down(trio, contain, caller, repeated(CHAT, 1))

    assert type(error) is openai.APIConnectionError
    ours = error.__cause__
    assert isinstance(ours, AllEndpointsFailed)
    assert not isinstance(ours, DeadlineExceeded)
    told = [(attempt.endpoint, attempt.blame, attempt.label, attempt.status) for attempt in ours.attempts]
    assert told == [(name, "endpoint", "ConnectError", None) for name in "abc"]
    assert all(0 < attempt.took_s < 10 for attempt in ours.attempts)
    assert ours.function == "completion"
    for name, server in zip("abc", trio.servers, strict=True):
        assert f"{name} ({server.base_url.removesuffix('/v1')}): ConnectError after" in str(ours)


def test_through_a_service_our_error_is_raised_as_it_is(trio, contain):
    for server in trio.servers:
        server.stop()
    container = contain(completion=trio.settings(), embedding=trio.settings())
    try:
        with pytest.raises(AllEndpointsFailed) as completing:
            container.completion_service().complete(PROMPT)
        with pytest.raises(AllEndpointsFailed) as embedding:
            asyncio.run(container.async_embedding_service().embed(["one"]))
    finally:
        for server in trio.servers:
            server.start()

    assert [caught.value.function for caught in (completing, embedding)] == ["completion", "embedding"]
    assert [len(caught.value.attempts) for caught in (completing, embedding)] == [3, 3]


def test_where_some_are_left_alone_it_says_why_and_until_when(trio, contain, caller):
    error = failure(trio, contain, caller, ["429:retry_after=30"], ["503:retry_after=20"], ["401"], calls=2)

    ours = error.__cause__
    assert isinstance(ours, AllEndpointsFailed)
    assert set(ours.reasons) == {"a", "b", "c"}
    assert "paused after 429" in ours.reasons["a"]
    assert "disabled after 401" in ours.reasons["c"]
    assert 15 < ours.retry_after_s <= 20


@pytest.mark.parametrize(
    "scripts",
    [
        ["body:garbage", "body:error", "body:empty_choices"],
        ["500", "body:error", "half_close:headers"],
        ["429:retry_after=60", "401", "body:html"],
        ["404:code=model_not_found", "503", "body:garbage"],
    ],
)
def test_it_holds_nothing_that_servers_said_and_crosses_processes_whole(trio, contain, caller, scripts):
    error = failure(trio, contain, caller, *([script] for script in scripts))

    ours = error.__cause__
    assert isinstance(ours, AllEndpointsFailed)
    assert len(ours.attempts) == 3
    assert SAID_BY_SERVERS not in f"{ours!r} {ours} {ours.attempts} {vars(ours)}"
    assert PROMPT not in f"{ours!r} {ours} {ours.attempts} {vars(ours)}"
    copy = pickle.loads(pickle.dumps(ours))
    assert (type(copy), str(copy), copy.attempts) == (type(ours), str(ours), ours.attempts)


def test_embeddings_have_the_same_errors(trio, contain, caller):
    trio.script(["vectors:fewer"], ["vectors:nan"], ["vectors:zero"])

    [error] = caller.run(contain(embedding=trio.settings()), repeated(BASE64, 1), function="embedding")

    assert isinstance(error, openai.APIConnectionError)
    assert [attempt.label for attempt in error.__cause__.attempts] == ["InvalidReply"] * 3
