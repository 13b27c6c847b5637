"""The fakes are genuine clients: whatever the SDK does above its transport, it does here."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pydantic
import pytest

from llmwire.services.testing import (
    AsyncFakeCompletions,
    AsyncFakeEmbeddings,
    Failure,
    FakeCompletions,
    FakeEmbeddings,
    ScriptExhausted,
)

MESSAGES: Any = [{"role": "user", "content": "hi"}]


class City(pydantic.BaseModel):
    name: str
    people: int = pydantic.Field(alias="inhabitants")


class Either:
    """Both kinds of one fake, played by the same test."""

    def __init__(self, kinds: dict[str, type], kind: str) -> None:
        self._kind = kinds[kind]

    def fake(self, *args: Any, **options: Any) -> Any:
        return self._kind(*args, **options)

    def result(self, value: Any) -> Any:
        return asyncio.run(value) if inspect.iscoroutine(value) else value

    def chunks(self, opened: Any) -> list[Any]:
        if not inspect.iscoroutine(opened):
            return list(opened)

        async def read() -> list[Any]:
            return [chunk async for chunk in await opened]

        return asyncio.run(read())


@pytest.fixture(params=["sync", "async"])
def completions(request: pytest.FixtureRequest) -> Either:
    return Either({"sync": FakeCompletions, "async": AsyncFakeCompletions}, request.param)


@pytest.fixture(params=["sync", "async"])
def embeddings(request: pytest.FixtureRequest) -> Either:
    return Either({"sync": FakeEmbeddings, "async": AsyncFakeEmbeddings}, request.param)


def chat(fake: Any, **options: Any) -> Any:
    return fake.chat.completions.create(model="m", messages=MESSAGES, **options)


def vectors(reply: Any) -> list[list[float]]:
    return [item.embedding for item in reply.data]


def test_fakes_are_clients_of_the_sdk():
    assert isinstance(FakeCompletions("a"), openai.OpenAI)
    assert isinstance(FakeEmbeddings(), openai.OpenAI)
    assert isinstance(AsyncFakeCompletions("a"), openai.AsyncOpenAI)
    assert isinstance(AsyncFakeEmbeddings(), openai.AsyncOpenAI)


def test_one_text_answers_every_call(completions):
    fake = completions.fake("hello")

    answers = [completions.result(chat(fake)).choices[0].message.content for _ in range(3)]

    assert answers == ["hello"] * 3


def test_an_answer_says_its_model_its_end_and_its_usage(completions):
    reply = completions.result(chat(completions.fake("hello there")))

    assert (reply.model, reply.choices[0].finish_reason) == ("m", "stop")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (1, 3, 4)


def test_a_list_answers_one_call_each_in_order(completions):
    fake = completions.fake(["one", "two"])

    answers = [completions.result(chat(fake)).choices[0].message.content for _ in range(2)]

    assert answers == ["one", "two"]


def test_a_call_beyond_the_list_says_how_many_were_scripted_and_what_came(completions):
    fake = completions.fake(["one"])
    completions.result(chat(fake))

    with pytest.raises(ScriptExhausted, match=r"has 1 answer, and this is call 2: POST chat/completions .*'hi'"):
        completions.result(chat(fake))


def test_a_function_answers_by_the_call(completions):
    fake = completions.fake(lambda call: call.body["messages"][-1]["content"].upper())

    assert completions.result(chat(fake)).choices[0].message.content == "HI"


@pytest.mark.parametrize("wrong", [3, None, City, ["a", 3], b"bytes"])
def test_what_is_no_script_is_refused_at_once(wrong):
    with pytest.raises(TypeError, match=r"is no answer|a script is"):
        FakeCompletions(wrong)


def test_what_a_function_returns_must_be_an_answer():
    with pytest.raises(TypeError, match="None is no answer"):
        chat(FakeCompletions(lambda call: None))


def test_a_stream_brings_the_text_in_several_chunks(completions):
    chunks = completions.chunks(chat(completions.fake("one two three"), stream=True))

    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "one ", "two ", "three", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["stop"]


def test_a_stream_ends_with_its_usage_where_it_is_asked_for(completions):
    fake = completions.fake("one two three")

    *_, last = completions.chunks(chat(fake, stream=True, stream_options={"include_usage": True}))

    assert (last.choices, last.usage.completion_tokens) == ([], 4)


def test_the_helper_for_streams_puts_the_answer_together():
    with FakeCompletions("one two").chat.completions.stream(model="m", messages=MESSAGES) as stream:
        final = stream.get_final_completion()

    assert final.choices[0].message.content == "one two"


def test_a_pydantic_model_is_what_parse_returns(completions):
    fake = completions.fake(City(name="Bergen", inhabitants=290_000))

    reply = completions.result(fake.chat.completions.parse(model="m", messages=MESSAGES, response_format=City))

    assert reply.choices[0].message.parsed == City(name="Bergen", inhabitants=290_000)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "City"}}])
def test_a_pydantic_model_is_a_call_where_the_request_wants_one(completions, choice):
    fake = completions.fake(City(name="Bergen", inhabitants=290_000))
    tools = [openai.pydantic_function_tool(City)]

    message = completions.result(chat(fake, tools=tools, tool_choice=choice)).choices[0].message

    assert message.content is None
    assert json.loads(message.tool_calls[0].function.arguments) == {"name": "Bergen", "inhabitants": 290_000}


def test_a_call_streams_its_arguments():
    fake = FakeCompletions(City(name="Bergen", inhabitants=290_000))
    tools = [openai.pydantic_function_tool(City)]

    with fake.chat.completions.stream(model="m", messages=MESSAGES, tools=tools, tool_choice="required") as stream:
        call = stream.get_final_completion().choices[0].message.tool_calls[0]

    assert (call.function.name, call.function.parsed_arguments.name) == ("City", "Bergen")


def test_a_dict_is_the_whole_body(completions):
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "other", "choices": [], "mine": True}

    reply = completions.result(chat(completions.fake(body)))

    assert reply.to_dict() == body


def test_a_dict_can_be_streamed(completions):
    message = {"role": "assistant", "content": "a b"}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}

    chunks = completions.chunks(chat(completions.fake(body), stream=True))

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "a b"
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_whole_response_can_be_streamed(completions):
    whole = FakeCompletions("one two").responses.create(model="m", input="hi").to_dict()

    *_, last = completions.chunks(completions.fake(whole).responses.create(model="m", input="hi", stream=True))

    assert last.response.output_text == "one two"


def test_a_tool_result_and_an_array_of_parts_are_read(completions):
    fake = completions.fake("fine")
    items: Any = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "12345678"},
        {"role": "user", "content": [{"type": "input_text", "text": "1234"}]},
    ]

    reply = completions.result(fake.responses.create(model="m", instructions="1234", input=items))

    assert reply.usage.input_tokens == 4


def test_several_choices_are_given_where_they_are_asked_for(completions):
    reply = completions.result(chat(completions.fake("hello"), n=3))

    assert [choice.message.content for choice in reply.choices] == ["hello"] * 3


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (503, openai.InternalServerError),
    ],
)
def test_a_failure_is_the_sdks_own_error_for_its_status(completions, status, error):
    failure = Failure(status=status, message="too much", headers={"retry-after": "3"}, code="c", param="p")

    with pytest.raises(error, match="too much") as caught:
        completions.result(chat(completions.fake(failure)))

    assert (caught.value.code, caught.value.param) == ("c", "p")
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_failure_is_not_retried_unless_asked(completions):
    fake = completions.fake([Failure(status=503), "fine"])

    with pytest.raises(openai.InternalServerError):
        completions.result(chat(fake))
    assert len(fake.calls) == 1


def test_a_status_that_is_no_failure_is_refused():
    with pytest.raises(ValueError, match="200 is not the status of a failure"):
        Failure(status=200)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ConnectionError("down"), openai.APIConnectionError),
        (TimeoutError("slow"), openai.APITimeoutError),
        (httpx2.ConnectError("down"), openai.APIConnectionError),
        (openai.APIConnectionError(request=httpx2.Request("POST", "http://x")), openai.APIConnectionError),
        (KeyError("mine"), KeyError),
    ],
)
def test_an_exception_is_raised_as_a_transport_would(completions, raised, error):
    with pytest.raises(error):
        completions.result(chat(completions.fake([raised])))


def test_completions_are_answered(completions):
    fake = completions.fake("one two")

    whole = completions.result(fake.completions.create(model="m", prompt=["a", "b"]))
    chunks = completions.chunks(fake.completions.create(model="m", prompt="a", stream=True))

    assert [choice.text for choice in whole.choices] == ["one two", "one two"]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two"


def test_responses_are_answered(completions):
    reply = completions.result(completions.fake("one two").responses.create(model="m", input="hi"))

    assert (reply.output_text, reply.status, reply.usage.output_tokens) == ("one two", "completed", 2)


def test_responses_stream_the_events_of_the_api(completions):
    events = completions.chunks(completions.fake("one two").responses.create(model="m", input="hi", stream=True))

    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_the_helpers_for_responses_parse_and_stream():
    fake = FakeCompletions(City(name="Bergen", inhabitants=290_000))

    parsed = fake.responses.parse(model="m", input="hi", text_format=City)
    with fake.responses.stream(model="m", input="hi", text_format=City) as stream:
        streamed = stream.get_final_response()

    assert parsed.output_parsed == streamed.output_parsed == City(name="Bergen", inhabitants=290_000)


def test_responses_call_functions_plain_and_streamed():
    fake = FakeCompletions(City(name="Bergen", inhabitants=290_000))
    tools: Any = [{"type": "function", "name": "City", "parameters": City.model_json_schema()}]

    whole = fake.responses.create(model="m", input="hi", tools=tools, tool_choice="required")
    with fake.responses.stream(model="m", input="hi", tools=tools, tool_choice="required") as stream:
        streamed = stream.get_final_response()

    assert [item.name for item in (*whole.output, *streamed.output)] == ["City", "City"]


def test_raw_and_streaming_replies_work():
    fake = FakeCompletions("hello")

    raw = fake.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    with fake.chat.completions.with_streaming_response.create(model="m", messages=MESSAGES) as streaming:
        text = streaming.parse().choices[0].message.content

    assert raw.status_code == 200
    assert raw.parse().choices[0].message.content == text == "hello"


def test_models_are_listed_and_cost_no_answer(completions):
    fake = completions.fake(["only one"])

    names = [model.id for model in completions.chunks(_pages(fake))]

    assert names == ["fake-completion"]
    assert completions.result(chat(fake)).choices[0].message.content == "only one"


def _pages(fake: Any) -> Any:
    if isinstance(fake, openai.OpenAI):
        return fake.models.list()

    async def pages() -> Any:
        return fake.models.list()

    return pages()


def test_calls_are_recorded_without_the_credential(completions):
    fake = completions.fake("hello", api_key="sk-secret")

    completions.result(chat(fake, extra_headers={"api-key": "secret", "x-mine": "1"}))

    [call] = fake.calls
    assert (call.method, call.path, call.body) == ("POST", "chat/completions", {"model": "m", "messages": MESSAGES})
    assert call.headers["x-mine"] == "1"
    assert "secret" not in str(call.headers)


def test_a_copy_with_other_options_plays_on_the_same_stage(completions):
    fake = completions.fake(["one", "two"])
    copy = fake.with_options(timeout=3, default_headers={"x-mine": "1"})

    answers = [completions.result(chat(client)).choices[0].message.content for client in (fake, copy)]

    assert answers == ["one", "two"]
    assert [call.headers.get("x-mine") for call in fake.calls] == [None, "1"]


def test_a_fake_takes_no_transport_of_others(completions):
    with httpx2.Client() as client, pytest.raises(TypeError, match="its own http_client"):
        completions.fake("hello", http_client=client)


def test_a_closed_fake_answers_no_more():
    fake = FakeCompletions("hello")
    fake.close()

    with pytest.raises(RuntimeError, match="closed"):
        chat(fake)


def test_the_environment_has_no_effect_and_is_not_recorded(monkeypatch, completions):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-poison")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-poison")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://poison.invalid/v9")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-poison")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-poison")
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", "poison")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-poison: poison\nAuthorization: Bearer poison")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")

    fake = completions.fake("hello")
    copy = fake.with_options(timeout=1)
    answers = [completions.result(chat(client)).choices[0].message.content for client in (fake, copy)]

    assert answers == ["hello", "hello"]
    assert "poison" not in str([call.headers for call in fake.calls])
    for client in (fake, copy):
        known = (client.api_key, client.admin_api_key, client.organization, client.project, client.webhook_secret)
        assert "poison" not in str((known, client.base_url, client.default_headers))


def test_an_organisation_that_the_test_gives_is_sent():
    fake = FakeCompletions("hello", organization="mine")

    chat(fake.with_options(timeout=1))

    assert fake.calls[0].headers["openai-organization"] == "mine"


def test_threads_share_a_list_without_losing_or_doubling_an_answer():
    fake = FakeCompletions([str(number) for number in range(400)])

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: chat(fake).choices[0].message.content, range(400)))

    assert sorted(answers, key=int) == [str(number) for number in range(400)]
    assert len(fake.calls) == 400


def test_a_wrong_kind_of_call_is_told_which_fake_to_use(completions, embeddings):
    with pytest.raises(openai.NotFoundError, match="has no POST embeddings: use FakeEmbeddings"):
        completions.result(completions.fake("hello").embeddings.create(model="m", input="a"))
    with pytest.raises(openai.NotFoundError, match="has no POST chat/completions: use FakeCompletions"):
        embeddings.result(chat(embeddings.fake()))
    with pytest.raises(openai.NotFoundError, match="has no GET files: no fake knows this path"):
        completions.result(completions.fake("hello").get("/files", cast_to=httpx2.Response))


def test_vectors_have_the_length_one_and_the_dimensions_asked_for(embeddings):
    fake = embeddings.fake(dimensions=8)

    usual = vectors(embeddings.result(fake.embeddings.create(model="m", input=["a", "b"])))
    other = vectors(embeddings.result(fake.embeddings.create(model="m", input="a", dimensions=3)))

    assert [len(vector) for vector in (*usual, *other)] == [8, 8, 3]
    for vector in (*usual, *other):
        assert math.hypot(*vector) == pytest.approx(1.0, abs=1e-6)


def test_vectors_differ_for_different_inputs_and_only_for_these(embeddings):
    fake = embeddings.fake()
    inputs = [f"text {number}" for number in range(500)] + ["text 0"]

    given = vectors(embeddings.result(fake.embeddings.create(model="m", input=inputs)))

    assert given[0] == given[-1]
    assert len({tuple(vector) for vector in given}) == 500


def test_vectors_are_the_same_as_floats_and_as_base64(embeddings):
    fake = embeddings.fake(dimensions=16)

    floats = embeddings.result(fake.embeddings.create(model="m", input="a", encoding_format="float"))
    usual = embeddings.result(fake.embeddings.create(model="m", input="a"))

    assert [call.body["encoding_format"] for call in fake.calls] == ["float", "base64"]
    assert vectors(floats) == vectors(usual)


def test_vectors_are_the_same_in_another_process():
    script = (
        "from llmwire.services.testing import FakeEmbeddings\n"
        "print(FakeEmbeddings().embeddings.create(model='m', input='a').data[0].embedding)"
    )

    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert json.loads(other) == FakeEmbeddings().embeddings.create(model="m", input="a").data[0].embedding


def test_tokens_are_inputs_too(embeddings):
    reply = embeddings.result(embeddings.fake().embeddings.create(model="m", input=[[1, 2, 3], [4]]))

    assert len(reply.data) == 2
    assert reply.usage.prompt_tokens == 4


@pytest.mark.parametrize("wrong", ["", ["a", ""], [], [[]]])
def test_an_empty_input_is_refused_as_a_server_would(embeddings, wrong):
    with pytest.raises(openai.BadRequestError) as caught:
        embeddings.result(embeddings.fake().embeddings.create(model="m", input=wrong))

    assert caught.value.param == "input"


def test_embeddings_can_fail(embeddings):
    with pytest.raises(openai.RateLimitError):
        embeddings.result(embeddings.fake(failure=Failure(status=429)).embeddings.create(model="m", input="a"))
    with pytest.raises(openai.APIConnectionError):
        embeddings.result(embeddings.fake(failure=ConnectionError()).embeddings.create(model="m", input="a"))


def test_dimensions_below_one_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        FakeEmbeddings(dimensions=0)


def test_importing_the_package_imports_no_sdk():
    script = (
        "import sys, llmwire.services.testing as t; dir(t); t.StandIn; t.RecordedCall; t.Failure\n"
        "print([name for name in ('openai', 'httpx2', 'numpy', 'pydantic') if name in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import llmwire.services.testing as testing

    assert testing.__all__ == sorted(testing.__all__)
    assert all(getattr(testing, name).__name__ == name for name in testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = testing.Nothing
