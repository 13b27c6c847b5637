"""What a request says is read as its API means it; what cannot be read is no fact, and breaks nothing."""

from __future__ import annotations

import json
import tracemalloc

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmwire.services.routing.facts import SAMPLE_CHARS, estimated_tokens
from llmwire.services.transport.call import Call
from llmwire.services.transport.question import facts_of
from llmwire.services.wanted import NOTHING, Wanted

OPERATIONS = ["chat/completions", "responses", "completions", "embeddings"]
#: A picture of a megabyte and more, as it is sent.
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 100_000
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}


def facts_in(content, operation="chat/completions", *, method="POST", wanted=NOTHING, **reading):
    """What the request says that has just these bytes."""
    request = httpx2.Request(method, f"http://facade.test/v1/{operation}", content=content)
    reading = {"count_tokens": estimated_tokens, "detect_language": None} | reading
    return facts_of(Call(request, operation), function="completion", wanted=wanted, **reading)


def facts(operation, **body):
    return facts_in(json.dumps(body).encode(), operation)


def chat(*messages, **fields):
    return facts("chat/completions", model="gpt", messages=list(messages), **fields)


def response(given, **fields):
    return facts("responses", model="gpt", input=given, **fields)


def embedding(given):
    return facts("embeddings", model="bert", input=given)


def said(role, content, **fields):
    return {"role": role, "content": content, **fields}


def size_of(value):
    """How many bytes it has as it is sent."""
    return len(json.dumps(value))


# A chat.


def test_a_chat_is_read():
    found = chat(said("system", "Be brief."), said("user", "Why is the sky blue?"), stream=True)

    assert (found.operation, found.model, found.function) == ("chat/completions", "gpt", "completion")
    assert (found.system, found.user) == ("Be brief.", "Why is the sky blue?")
    assert list(found.texts) == ["Be brief.", "Why is the sky blue?"]
    assert (found.messages, found.inputs, found.is_streamed) == (2, 0, True)
    assert (found.images, found.audio, found.files) == (0, 0, 0)
    assert (found.has_tools, found.wants_structured_output) == (False, False)
    assert found.body["stream"] is True


def test_the_last_message_of_the_user_is_the_users_text():
    found = chat(said("user", "first"), said("assistant", "answer"), said("user", "second"), said("tool", "result"))

    assert found.user == "second"
    assert list(found.texts) == ["first", "answer", "second", "result"]


def test_what_system_and_developer_say_is_the_system_text():
    found = chat(said("system", "one"), said("developer", "two"), said("user", "hi"), said("system", "three"))

    assert found.system == "one\ntwo\nthree"


def test_a_chat_without_a_user_has_no_users_text():
    assert chat(said("system", "one")).user == ""


def test_parts_of_a_message_are_its_text_and_what_is_attached():
    found = chat(
        said("system", [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}]),
        said(
            "user",
            [
                {"type": "text", "text": "What is"},
                {"type": "image_url", "image_url": {"url": "http://a.test/a.png"}},
                {"type": "image_url", "image_url": {"url": PICTURE}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_id": "f1"}},
                {"type": "refusal", "refusal": "no"},
                {"type": "text", "text": "this?"},
            ],
        ),
    )

    assert (found.system, found.user) == ("Be\nbrief.", "What is\nthis?")
    assert (found.images, found.audio, found.files) == (2, 1, 1)


def test_an_attachment_is_one_even_where_it_has_a_text_beside():
    found = chat(said("user", [{"type": "image_url", "image_url": {"url": "http://a.test/a.png"}, "text": "a text"}]))

    assert (found.images, found.user) == (1, "")


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_tools_are_told_and_fill_the_context(field):
    without, found = chat(said("user", "hi")), chat(said("user", "hi"), **{field: [TOOL]})

    assert (found.has_tools, found.extra_bytes) == (True, size_of([TOOL]))
    assert found.tokens - without.tokens == -(-size_of([TOOL]) // 4)


@pytest.mark.parametrize("tools", [[], None, {}, "all"])
def test_no_tool_is_none(tools):
    assert not chat(said("user", "hi"), tools=tools).has_tools


def test_the_calls_of_tools_fill_the_context_and_are_no_texts():
    calls = [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"who": "Ann"}'}}]

    found = chat(said("user", "hi"), said("assistant", None, tool_calls=calls), said("tool", "42", tool_call_id="c1"))

    assert list(found.texts) == ["hi", "42"]
    assert found.extra_bytes == size_of(calls)
    assert found.messages == 3


@pytest.mark.parametrize(
    ("asked", "is_structured"),
    [
        ({"type": "json_object"}, True),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}, True),
        ({"type": "text"}, False),
        (None, False),
        ("json_object", False),
        ({"type": ["json_object"]}, False),
        ({}, False),
    ],
)
def test_json_is_wanted_where_the_format_says_so(asked, is_structured):
    assert chat(said("user", "hi"), response_format=asked).wants_structured_output is is_structured
    assert response("hi", text={"format": asked}).wants_structured_output is is_structured


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, 0),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20, "max_tokens": 10}, 20),
        ({"max_completion_tokens": None, "max_tokens": 10}, 10),
        ({"max_tokens": 10, "n": 3}, 10),
        ({"max_tokens": -1}, 0),
        ({"max_tokens": "10"}, 0),
        ({"max_tokens": True}, 0),
        ({"max_tokens": 1.5}, 0),
    ],
)
def test_the_room_for_the_answer_is_what_the_request_says(fields, most):
    assert chat(said("user", "hi"), **fields).max_output_tokens == most


# A response.


def test_a_response_to_a_text_is_read():
    found = response(
        "Why?", instructions="Be brief.", max_output_tokens=50, tools=[{"type": "web_search"}], stream=True
    )

    assert (found.system, found.user, list(found.texts)) == ("Be brief.", "Why?", ["Be brief.", "Why?"])
    assert (found.messages, found.max_output_tokens) == (1, 50)
    assert (found.has_tools, found.is_streamed) == (True, True)


def test_a_response_to_items_is_read():
    found = response(
        [
            {"type": "message", "role": "developer", "content": "Be brief."},
            said("user", "first"),
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "answer"}]},
            {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "A" * 1000},
            said(
                "user",
                [
                    {"type": "input_text", "text": "second"},
                    {"type": "input_image", "image_url": PICTURE},
                    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
                    {"type": "input_file", "file_data": PICTURE},
                ],
            ),
        ]
    )

    assert (found.system, found.user) == ("Be brief.", "second")
    assert list(found.texts) == ["Be brief.", "first", "answer", "second"]
    assert (found.images, found.audio, found.files, found.messages) == (1, 1, 1, 5)


def test_what_a_tool_answered_is_a_text_as_in_a_chat():
    call = {"type": "function_call", "call_id": "c1", "name": "find", "arguments": '{"who": "Ann"}'}
    answered = {"type": "function_call_output", "call_id": "c1", "output": "42"}

    found = response([said("user", "who?"), call, answered])

    assert (found.user, list(found.texts)) == ("who?", ["who?", "42"])
    assert found.extra_bytes == size_of(call["arguments"])


@pytest.mark.parametrize(
    "output",
    [
        [{"type": "input_image", "image_url": PICTURE}, {"type": "input_text", "text": "seen"}],
        [{"type": "input_text", "text": "seen"}, {"type": "input_image", "image_url": PICTURE}],
    ],
)
def test_a_picture_that_a_tool_answered_is_a_picture(output):
    found = response([said("user", "look"), {"type": "function_call_output", "call_id": "c1", "output": output}])

    assert (list(found.texts), found.images, found.extra_bytes) == (["look", "seen"], 1, 0)


def test_a_screenshot_is_a_picture():
    screenshot = {"type": "computer_screenshot", "image_url": PICTURE}

    found = response([{"type": "computer_call_output", "call_id": "c1", "output": screenshot}])

    assert (list(found.texts), found.images, found.extra_bytes) == ([], 1, 0)


# Legacy completions and embeddings.


@pytest.mark.parametrize(
    ("prompt", "user", "given_tokens"),
    [
        ("Once upon", "Once upon", 0),
        (["Once", "upon"], "Once\nupon", 0),
        ([1, 2, 3], "", 3),
        ([[1, 2, 3], [4]], "", 4),
        ([], "", 0),
        (None, "", 0),
    ],
)
def test_a_legacy_completion_is_read(prompt, user, given_tokens):
    found = facts("completions", model="davinci", prompt=prompt, max_tokens=7)

    assert (found.user, found.given_tokens, found.max_output_tokens) == (user, given_tokens, 7)
    assert (found.messages, found.system) == (0, "")


@pytest.mark.parametrize(
    ("given", "inputs", "texts", "given_tokens", "longest_given"),
    [
        ("one", 1, ["one"], 0, 0),
        ("", 1, [""], 0, 0),
        (["one", "two"], 2, ["one", "two"], 0, 0),
        ([1, 2, 3], 1, [], 3, 3),
        ([[1, 2], [3, 4, 5], [6]], 3, [], 6, 3),
        (["one", [1, 2], {"image": PICTURE}], 3, ["one"], 2, 2),
        ([{"content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}], 1, [], 0, 0),
    ],
)
def test_inputs_are_texts_or_tokens(given, inputs, texts, given_tokens, longest_given):
    found = embedding(given)

    assert (found.inputs, list(found.texts), found.user) == (inputs, texts, "\n".join(texts))
    assert (found.given_tokens, found.longest_given) == (given_tokens, longest_given)
    assert found.longest_input == max([longest_given, *map(estimated_tokens, texts)])
    assert (found.messages, found.extra_bytes) == (0, 0)


def test_rules_look_at_all_inputs_however_many_there_are():
    inputs = ["a text " * SAMPLE_CHARS, *["another"] * 50, "the secret"]

    assert embedding(inputs).user == "\n".join(inputs)


# What is attached is not read.


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("chat/completions", {"messages": [said("user", [{"type": "image_url", "image_url": {"url": PICTURE}}])]}),
        ("responses", {"input": [said("user", [{"type": "input_image", "image_url": PICTURE}])]}),
    ],
)
def test_a_picture_is_no_text_and_is_not_copied(operation, body):
    request = httpx2.Request("POST", f"http://facade.test/v1/{operation}", content=json.dumps(body).encode())
    call = Call(request, operation)
    tracemalloc.start()
    try:
        found = facts_of(
            call, function="completion", wanted=NOTHING, count_tokens=estimated_tokens, detect_language=None
        )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert (found.images, list(found.texts), found.extra_bytes) == (1, [], 0)
    assert not found.reaches(1000)
    assert peak_bytes < len(PICTURE) / 10


# What else is known.


def test_tags_demands_and_the_ways_of_counting_are_the_callers():
    wanted = Wanted(tags=frozenset({"eu"}))

    found = facts_in(
        json.dumps({"messages": [said("user", "Hallo")]}).encode(),
        wanted=wanted,
        count_tokens=lambda text: 1000,
        detect_language=lambda text: f"language of {text}",
    )

    assert (found.wanted, found.tags) == (wanted, {"eu"})
    assert (found.tokens, found.language) == (1004, "language of Hallo")


def test_the_whole_body_is_decoded_when_a_rule_asks():
    assert chat(said("user", "hi"), temperature=0.5).body == {
        "model": "gpt",
        "messages": [said("user", "hi")],
        "temperature": 0.5,
    }


@pytest.mark.parametrize("content", [b"", b"[]", b'"text"', b"{", b"\xff", b"model=gpt", b"[" * 100_000])
def test_what_is_no_object_has_an_empty_body(content):
    assert facts_in(content).body == {}


@pytest.mark.parametrize("operation", ["images/generations", "audio/speech", "files", "moderations"])
def test_of_other_requests_only_operation_and_model_are_known(operation):
    found = facts(operation, model="m", input="a text", prompt="a text", messages=[said("user", "hi")], tools=[TOOL])

    assert (found.operation, found.model) == (operation, "m")
    assert (found.user, list(found.texts), found.has_tools, found.messages) == ("", [], False, 0)


def test_a_request_without_a_body_says_nothing():
    found = facts_in(None, "models", method="GET")

    assert (found.operation, found.model, list(found.texts), found.body) == ("models", None, [], {})


def test_of_an_upload_only_operation_and_model_are_known():
    request = httpx2.Request(
        "POST", "http://a.test/v1/audio/transcriptions", data={"model": "whisper"}, files={"file": b"RIFF"}
    )

    found = facts_of(
        Call(request, "audio/transcriptions"),
        function="completion",
        wanted=NOTHING,
        count_tokens=estimated_tokens,
        detect_language=None,
    )

    assert (found.model, list(found.texts), found.body) == ("whisper", [], {})


# What cannot be read.


@pytest.mark.parametrize(
    ("content", "user"),
    [
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "user", "content": "hi"}]}', ""),
        (b'{"messages": [{"role": "user", "content": "hi"}, {"role": "user", "content": "\\ud83d"}]}', ""),
        (b'{"messages": [{"role": "user", "content": "hi"}], "metadata": "\\ud83d"}', ""),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', ""),
        (b'{"messages": [{"role": "user", "content": "hi"}, 7]}', "hi"),
        (b'{"messages": [{"role": ["user"], "content": "hi"}]}', ""),
        (b'{"messages": [{"role": "user", "content": 7}]}', ""),
        (b'{"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}]}', "hi"),
        (b'{"messages": [{"role": "user", "content": [{"type": ["text"], "text": "hi"}]}]}', "hi"),
        (b'{"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]}', ""),
        (b'{"messages": [{"role": "user", "content": ["hi", null, 7, [["no"]]]}]}', "hi"),
        (b'{"messages": {"role": "user"}}', ""),
        (b'{"messages": "hi"}', ""),
        (b'{"messages": [{"role": "user", "content": "hi"}]', ""),
        (b'{"messages": ' + b"[" * 100_000, ""),
        (b'{"messages": [{"role": "user", "content": ' + b"[" * 900 + b"]" * 900 + b"}]}", ""),
        (b'{"messages": [{"role": "user", "content": ' + b"[" * 90_000 + b"]" * 90_000 + b"}]}", ""),
    ],
)
def test_what_cannot_be_read_is_no_fact_and_hides_no_other(content, user):
    found = facts_in(content)

    assert found.user == user
    assert found.tokens >= 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        *("messages", "input", "prompt", "instructions", "tools", "functions", "response_format", "text", "model"),
        *("type", "role", "content", "tool_calls", "arguments", "output", "format", "stream"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens"),
    ]
)
WORDS = st.sampled_from(["user", "system", "text", "image_url", "input_image", "json_object", "computer_screenshot"])
REQUESTS = st.recursive(
    JSON | WORDS,
    lambda inner: st.dictionaries(FIELDS, inner, max_size=5) | st.lists(inner, max_size=3),
    max_leaves=15,
)


def look_at(found):
    """As rules do."""
    return (
        (found.tokens, found.longest_input, found.language, found.script, found.whole, found.lowered, found.body),
        (found.lowered_user, found.lowered_system, found.reaches(1000), found.tags),
    )


@pytest.mark.parametrize("operation", OPERATIONS)
@given(body=REQUESTS)
@example(body={"messages": [{"role": "user", "content": "\ud83d"}]})
@example(body={"messages": [{"role": ["user"]}], "input": [{"role": {}, "type": []}]})
@example(body={"input": [10**30, 1.5], "prompt": [True], "max_tokens": 10**400})
def test_no_json_breaks_the_reading(operation, body):
    look_at(facts_in(json.dumps(body).encode(), operation))


@pytest.mark.parametrize("operation", OPERATIONS)
@given(content=st.binary(max_size=100), body=REQUESTS, at=st.integers(0, 200))
def test_no_bytes_break_the_reading(operation, content, body, at):
    written = json.dumps(body).encode()

    look_at(facts_in(content, operation))
    look_at(facts_in(written[:at] + content[:3] + written[at:], operation))


TEXTS = st.text(max_size=20)
PARTS = st.one_of(
    TEXTS.map(lambda text: {"type": "text", "text": text}),
    st.just({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}),
    st.just({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}),
    st.just({"type": "file", "file": {"file_id": "f"}}),
)
MESSAGES = st.lists(
    st.builds(said, st.sampled_from(["system", "developer", "user", "assistant"]), TEXTS | st.lists(PARTS, max_size=4)),
    max_size=6,
)


@given(MESSAGES, st.booleans())
def test_what_is_counted_is_what_the_messages_hold(messages, is_ascii):
    content = json.dumps({"messages": messages}, ensure_ascii=is_ascii).encode()
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    kinds = [part["type"] for part in parts]

    found = facts_in(content)

    assert found.messages == len(messages)
    assert [found.images, found.audio, found.files] == [
        kinds.count(kind) for kind in ("image_url", "input_audio", "file")
    ]
    assert list(found.texts) == [text for message in messages for text in spoken_in(message)]
    assert found.user == "\n".join(next((spoken_in(m) for m in reversed(messages) if m["role"] == "user"), []))
    assert found.system == "\n".join(
        text for message in messages if message["role"] in ("system", "developer") for text in spoken_in(message)
    )


def spoken_in(message):
    content = message["content"]
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_the_inputs_of_an_embedding_are_its_texts(inputs):
    found = embedding(inputs)

    assert (list(found.texts), found.user, found.inputs) == (inputs, "\n".join(inputs), len(inputs))


@given(st.lists(st.lists(st.integers(0, 200_000), min_size=1, max_size=8), min_size=1, max_size=5))
def test_tokens_that_are_given_are_counted(inputs):
    found = embedding(inputs)

    assert (found.given_tokens, found.longest_given) == (sum(map(len, inputs)), max(map(len, inputs)))
