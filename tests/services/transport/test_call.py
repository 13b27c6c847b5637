"""What the SDK asks for is read once, and whatever its body is, reading it breaks nothing."""

from __future__ import annotations

import json

import httpx2
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmwire.services.transport.call import Call, Kind


def a_call(operation="chat/completions", *, method="POST", **content):
    """The call of a request whose body is given as `json`, `content`, or `data` and `files`."""
    return Call(httpx2.Request(method, f"http://facade.test/v1/{operation}", **content), operation)


def embeddings(**fields):
    return a_call("embeddings", json={"model": "m", **fields})


# What kind of answer it wants.


@pytest.mark.parametrize(
    ("method", "operation", "kind"),
    [
        ("POST", "chat/completions", Kind.CHAT),
        ("POST", "completions", Kind.COMPLETION),
        ("POST", "responses", Kind.RESPONSE),
        ("POST", "embeddings", Kind.EMBEDDING),
        ("GET", "models", Kind.JSON),
        ("GET", "models/gpt", Kind.OTHER),
        ("GET", "chat/completions", Kind.OTHER),
        ("GET", "responses/r1", Kind.OTHER),
        ("POST", "responses/r1/cancel", Kind.OTHER),
        ("POST", "audio/speech", Kind.OTHER),
        ("POST", "files", Kind.OTHER),
    ],
)
def test_method_and_path_say_what_kind_of_answer_is_wanted(method, operation, kind):
    assert a_call(operation, method=method).kind is kind


# The fields that decide something.


def test_the_fields_that_decide_something_are_read():
    call = a_call(json={"model": "gpt", "stream": True, "n": 3, "messages": []})

    assert (call.model, call.is_streamed, call.choices) == ("gpt", True, 3)


@pytest.mark.parametrize("body", [{}, {"model": None, "stream": None, "n": None}, {"model": 7, "stream": 1, "n": "2"}])
def test_a_field_that_is_missing_or_of_another_type_is_left_to_the_server_to_refuse(body):
    call = a_call(json=body)

    assert (call.model, call.is_streamed, call.choices) == (None, False, 1)


@pytest.mark.parametrize("n", [0, -1, 1.5])
def test_at_least_one_choice_is_wanted(n):
    assert a_call(json={"n": n}).choices == 1


@pytest.mark.parametrize(
    ("prompt", "n", "choices"),
    [
        ("one text", 1, 1),
        (["a", "b", "c"], 1, 3),
        (["a", "b"], 2, 4),
        ([1, 2, 3], 2, 2),
        ([[1, 2], [3]], 1, 2),
        (None, 2, 2),
    ],
)
def test_a_legacy_completion_has_its_choices_for_every_prompt(prompt, n, choices):
    assert a_call("completions", json={"model": "m", "prompt": prompt, "n": n}).choices == choices


def test_the_prompts_of_another_operation_multiply_nothing():
    assert a_call("chat/completions", json={"prompt": ["a", "b"]}).choices == 1


@pytest.mark.parametrize(
    ("given_input", "count"),
    [
        ("one text", 1),
        ("", 1),
        (["a"], 1),
        (["a", "b", "c"], 3),
        ([1, 2, 3], 1),
        ([[1, 2], [3]], 2),
        ([[1, 2, 3]], 1),
        ([], 1),
    ],
    ids=str,
)
def test_inputs_are_texts_or_lists_of_tokens(given_input, count):
    assert embeddings(input=given_input).inputs == count


def test_a_body_without_inputs_counts_as_one():
    assert embeddings().inputs == 1


def test_inputs_are_counted_however_the_body_is_spaced():
    body = b'{ "input" :\n [ "a" ,\t"b"\r\n] , "model":"m" }'

    assert a_call("embeddings", content=body).inputs == 2


@pytest.mark.parametrize(("asked", "dimensions"), [(256, 256), (None, None), ("256", None), (1.5, None)])
def test_dimensions_are_a_number_or_nothing(asked, dimensions):
    assert embeddings(dimensions=asked).dimensions == dimensions


# Bodies that are none.


@pytest.mark.parametrize("operation", ["chat/completions", "completions", "responses", "embeddings", "files"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b'{"n": 1e999}',
        b'{"input": [1, }',
    ],
)
def test_a_body_that_is_no_json_object_is_left_to_the_server_to_refuse(operation, body):
    call = a_call(operation, content=body)

    assert (call.model, call.choices, call.is_streamed, call.content) == (None, 1, False, body)
    assert call.content_for("other") == body


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"messages":' + b"[" * 100_000, b'{"model":' + b'{"a":' * 100_000])
def test_a_body_that_is_nested_too_deeply_to_read_is_left_to_the_server_to_refuse(body):
    call = a_call(content=body)

    assert call.model is None
    assert call.content_for("other") == body


def test_a_body_whose_model_can_be_read_but_not_replaced_goes_on_as_it_is():
    body = b'{"model":"m","\xff":1}'  # a name that is no text: the server's to refuse

    assert a_call(content=body).content_for("other") == body


@given(
    body=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["model", "input", "n", "stream", "prompt", "dimensions", "x"]), inner)
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
@example(body=b'{"input":[' + b"1" * 5000 + b"]}")
@pytest.mark.parametrize("operation", ["chat/completions", "completions", "embeddings", "responses"])
def test_no_body_makes_reading_fail(operation, body):
    call = a_call(operation, content=body)

    assert call.choices >= 1
    assert call.inputs >= (1 if call.kind is Kind.EMBEDDING else 0)
    call.content_for("other")


# Another model in the place of the caller's.


@pytest.mark.parametrize("model", [None, "m"])
def test_without_another_model_the_body_is_the_very_same(model):
    call = a_call(json={"model": "m", "messages": []})

    assert call.content_for(model) is call.content


def test_another_model_keeps_every_other_value_as_it_was_written():
    body = b'{"messages": [ {"content" :"\\u00e9\\/ ", "n":1.50e+02} ],"model":"m","x":1.0,"seed":12345678901234567890}'

    changed = msgspec.json.decode(a_call(content=body).content_for("größe"), type=dict[str, msgspec.Raw])

    assert {name: bytes(value) for name, value in changed.items()} == {
        "messages": b'[ {"content" :"\\u00e9\\/ ", "n":1.50e+02} ]',
        "model": '"größe"'.encode(),
        "x": b"1.0",
        "seed": b"12345678901234567890",
    }
    assert list(changed) == ["messages", "model", "x", "seed"]


@given(
    fields=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)),
    model=st.text(max_size=8),
)
def test_another_model_changes_nothing_but_the_model(fields, model):
    call = a_call(content=json.dumps({**fields, "model": "the-caller-s"}).encode())

    assert json.loads(call.content_for(model)) == {**fields, "model": model}


@pytest.mark.parametrize("body", [{"messages": []}, {"model": None}, {"model": 7}])
def test_a_body_that_names_no_model_gets_none(body):
    call = a_call(json=body)

    assert call.content_for("other") == call.content


# Another model for the whole request, where it names a pool in the place of one.


def test_a_call_that_asks_for_another_model_is_the_same_but_for_that():
    call = a_call(json={"model": "pool", "stream": True, "n": 3, "messages": []}, headers={"x-llmwire-tags": "a"})

    other = call.asking_for("m")

    assert other is not call
    assert (other.model, json.loads(other.content)) == ("m", {**json.loads(call.content), "model": "m"})
    changed = {"model", "content"}
    assert all(getattr(other, name) == getattr(call, name) for name in Call.__slots__ if name not in changed)
    assert (call.model, json.loads(call.content)["model"]) == ("pool", "pool")


def test_an_endpoint_s_own_model_may_still_take_its_place():
    other = a_call(json={"model": "pool", "messages": []}).asking_for("m")

    assert json.loads(other.content_for("its-own"))["model"] == "its-own"
    assert other.content_for("m") is other.content


def test_embeddings_with_another_model_are_of_the_space_of_that():
    fields = {"input": ["a", "b"], "dimensions": 4, "truncate_dim": 8}

    other = embeddings(**fields).asking_for("other")

    assert other.space == a_call("embeddings", json={"model": "other", **fields}).space
    assert (other.inputs, other.dimensions) == (2, 4)
    assert other.space != embeddings(**fields).space
    canary = other.canary()
    assert (canary.space, json.loads(canary.content)["model"]) == (other.space, "other")


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}', b'{"model": 7}', b"[]", b"{", b""])
def test_a_call_that_names_no_model_asks_for_no_other(body):
    call = a_call(content=body)

    assert call.asking_for("m") is call


def test_an_upload_asks_for_no_other_model():
    call = a_call("audio/transcriptions", data={"model": "pool"}, files={"file": ("a.wav", b"RIFF")})

    assert call.asking_for("m") is call


# What its headers ask of llmwire.


def test_what_is_asked_of_llmwire_is_parted_from_what_goes_to_a_server():
    headers = [
        ("X-Trace", "7"),
        ("x-llmwire-tags", "a,b"),
        ("X-LLMWire-Trust", "EU"),
        ("Accept", "*/*"),
        ("x-llmwire-Tags", "c"),
        ("x-llmwire", "not for us"),
    ]

    call = a_call(json={"model": "m"}, headers=headers)

    assert call.asks == (("tags", "a,b"), ("trust", "EU"), ("tags", "c"))
    sent = [name for name, _ in call.headers]
    assert not [name for name in sent if name.lower().startswith(b"x-llmwire-")]
    assert [name for name in sent if name.startswith((b"X-", b"x-", b"A"))] == [b"X-Trace", b"Accept", b"x-llmwire"]


def test_a_request_that_asks_nothing_of_llmwire_keeps_its_headers_as_they_are():
    request = httpx2.Request("POST", "http://facade.test/v1/x", json={}, headers={"X-Trace": "7"})

    call = Call(request, "x")

    assert call.asks == ()
    assert call.headers == request.headers.raw


def test_the_same_value_under_another_name_goes_to_the_server():
    call = a_call(headers=[("x-llmwire-tags", "a"), ("X-Tags", "a")])

    assert (b"X-Tags", b"a") in call.headers


@pytest.mark.parametrize(("value", "read"), [(b"", ""), (b"gr\xfcn", "grün"), (b" a ", " a ")])
def test_whatever_bytes_a_header_has_it_is_read(value, read):
    assert a_call(headers=[(b"x-llmwire-tags", value)]).asks == (("tags", read),)


# Forms and uploads.


def test_the_model_of_a_form_beside_its_files_is_read_and_the_form_is_left_unread():
    call = a_call("audio/transcriptions", data={"model": "whisper", "n": "2"}, files={"file": ("a.wav", b"RIFF")})

    assert (call.model, call.content, call.choices) == ("whisper", None, 1)
    assert call.content_for("other") is None
    assert b"RIFF" in b"".join(call.stream)


def test_a_form_without_a_model_has_none():
    assert a_call("audio/transcriptions", files={"file": ("a.wav", b"RIFF")}).model is None


def test_an_upload_that_is_read_as_it_is_sent_is_not_read_before():
    parts = iter([b"a", b"b"])

    call = a_call("files", content=parts)

    assert call.content is None
    assert list(call.stream) == [b"a", b"b"]


# Whether one server keeps, or has, what it is about.


@pytest.mark.parametrize(
    ("method", "operation", "body"),
    [
        ("POST", "chat/completions", {}),
        ("POST", "completions", {}),
        ("POST", "embeddings", {}),
        ("POST", "responses", {}),
        ("POST", "responses", {"store": False, "background": False, "previous_response_id": None}),
        ("GET", "models", None),
        ("GET", "models/gpt", None),
        ("POST", "moderations", {}),
        ("POST", "audio/speech", {}),
        ("POST", "images/generations", {}),
    ],
)
def test_what_no_server_keeps_is_not_stateful(method, operation, body):
    assert not a_call(operation, method=method, json=body).is_stateful


@pytest.mark.parametrize(
    ("method", "operation", "body"),
    [
        ("POST", "responses", {"store": True}),
        ("POST", "responses", {"background": True}),
        ("POST", "responses", {"previous_response_id": "r1"}),
        ("POST", "responses", {"conversation": {"id": "c1"}}),
        ("GET", "responses/r1", None),
        ("DELETE", "responses/r1", None),
        ("POST", "files", {}),
        ("GET", "files", None),
        ("POST", "batches", {}),
        ("GET", "chat/completions", None),
        ("POST", "threads/runs", {}),
        ("POST", "nobody/knows/this", {}),
    ],
)
def test_what_one_server_keeps_or_has_is_stateful(method, operation, body):
    assert a_call(operation, method=method, json=body).is_stateful


def test_to_delete_a_model_is_nothing_that_any_server_may_do():
    assert a_call("models/tuned", method="DELETE").is_stateful


def test_only_a_list_of_models_is_looked_at_as_one():
    assert [a_call("models", method=method).kind for method in ("GET", "HEAD")] == [Kind.JSON, Kind.OTHER]
