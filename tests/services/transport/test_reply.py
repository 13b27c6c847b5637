"""An answer is looked at before the SDK sees it: what is none is refused; embeddings come in their inputs' order."""

from __future__ import annotations

import base64
import json
import random

import httpx2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.errors import InvalidReply
from llmwire.services.transport.call import Call
from llmwire.services.transport.reply import (
    MAX_BODY_BYTES,
    MAX_EMBEDDINGS_BYTES,
    MAX_MODELS,
    WebPage,
    Widths,
    WrongDimensions,
    checked,
    most_bytes,
    vectors_in,
)

CANARY = "CANARY-of-the-server"


def a_call(operation="chat/completions", **body):
    body = {"model": "m", **body}
    return Call(httpx2.Request("POST", f"http://facade.test/v1/{operation}", json=body), operation)


def embeddings(inputs=1, **body):
    return a_call("embeddings", input=[f"text {place}" for place in range(inputs)], **body)


def answer(**fields):
    return json.dumps(fields).encode()


def chat(message=None, **fields):
    return answer(choices=[{"index": 0, "message": message or {"role": "assistant", "content": "hello"}}], **fields)


def vectors(*rows, indices=None, **fields):
    places = range(len(rows)) if indices is None else indices
    data = [{"object": "embedding", "index": place, "embedding": row} for place, row in zip(places, rows, strict=True)]
    return answer(object="list", data=data, **fields)


def packed(*numbers):
    return base64.b64encode(np.array(numbers, dtype="<f4").tobytes()).decode()


def rows_of(content):
    return [row["embedding"] for row in json.loads(content)["data"]]


# What is an answer.


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("chat/completions", chat(id="c1", usage={"total_tokens": 3}, created=1)),
        ("chat/completions", chat(error=None)),
        ("chat/completions", chat({"role": "assistant", "content": None, "tool_calls": [{"id": "t1"}]})),
        ("chat/completions", chat({"role": "assistant", "refusal": "no"})),
        ("chat/completions", chat({"content": [{"type": "text", "text": "parts"}]})),
        ("chat/completions", chat({"content": "", "reasoning_content": "hm", "audio": None})),
        ("chat/completions", answer(choices=[{"message": {"content": "x"}, "finish_reason": "of our own", "x": [1]}])),
        ("chat/completions", answer(choices=[{"message": {}}, {"message": {"content": "b"}}], timings={"ms": 1.5})),
        ("completions", answer(choices=[{"text": "hello", "logprobs": None}])),
        ("completions", answer(choices=[{"text": ""}], error=None)),
        ("responses", answer(output=[{"type": "message"}], error=None, status="completed")),
        ("responses", answer(output=[], status="queued")),
        ("embeddings", vectors([0.5, -1], usage={"prompt_tokens": 1}, error=None)),
        ("embeddings", vectors(packed(0.5, -1))),
        ("embeddings", answer(data=[{"embedding": [1.0]}])),
    ],
)
def test_an_answer_of_the_api_is_handed_on_as_it_came(operation, content):
    assert checked(a_call(operation, input="a"), content)[0] is content


@pytest.mark.parametrize("content", [b"", b"RIFF....", b"<html>", b'{"error": {}}'])
def test_an_answer_that_is_no_json_by_its_nature_is_not_looked_at(content):
    assert checked(a_call("audio/speech"), content)[0] is content


@pytest.mark.parametrize("content", [b'{"data": []}', b'{"object": "list"}'])
def test_the_list_of_models_is_any_object(content):
    call = Call(httpx2.Request("GET", "http://facade.test/v1/models"), "models")

    assert checked(call, content)[0] is content


@pytest.mark.parametrize("content", [b"[]", b"<html>", b"null", b""])
def test_a_list_of_models_that_is_no_object_is_refused(content):
    call = Call(httpx2.Request("GET", "http://facade.test/v1/models"), "models")

    with pytest.raises(InvalidReply):
        checked(call, content)


# What is none.

OPERATIONS = ["chat/completions", "completions", "responses", "embeddings"]
NO_JSON = [
    b"",
    b" ",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"{}",
    b"ok",
    b"\xff\xfe",
    b'{"choices": [{"message": {"role": "assistant", "content": "hel',
    b'{"choices": [{"message": {"content": "\xff"}}]}',
    b'{"choices": NaN}',
    b"[" * 100_000,
    b'{"choices":' + b"[" * 100_000,
    b'{"x":' + b'{"x":' * 100_000,
]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("content", NO_JSON, ids=[repr(content[:20]) for content in NO_JSON])
def test_what_is_no_json_object_of_the_api_is_refused(operation, content):
    with pytest.raises(InvalidReply):
        checked(a_call(operation, input="a"), content)


@pytest.mark.parametrize(
    ("operation", "content"),
    [
        ("chat/completions", answer(id="c1")),
        ("chat/completions", answer(choices=None)),
        ("chat/completions", answer(choices=[])),
        ("chat/completions", answer(choices={"0": {}})),
        ("chat/completions", answer(choices=["hello"])),
        ("chat/completions", answer(choices=[{}])),
        ("chat/completions", answer(choices=[{"message": None}])),
        ("chat/completions", answer(choices=[{"message": "hello"}])),
        ("chat/completions", answer(choices=[{"text": "hello"}])),
        ("chat/completions", vectors([1.0])),
        ("completions", answer(choices=[])),
        ("completions", answer(choices=[{"text": None}])),
        ("completions", chat()),
        ("responses", answer(output=None)),
        ("responses", answer(output={})),
        ("responses", chat()),
        ("embeddings", answer(data=None)),
        ("embeddings", answer(data=[{"index": 0}])),
        ("embeddings", answer(data=[[1.0, 2.0]])),
        ("embeddings", answer(data=[{"embedding": None}])),
        ("embeddings", answer(data=[{"embedding": ["0.5"]}])),
        ("embeddings", answer(data=[{"embedding": [True]}])),
        ("embeddings", answer(data=[{"embedding": [None]}])),
        ("embeddings", answer(data=[{"embedding": [[1.0, 2.0]]}])),
        ("embeddings", answer(data=[{"embedding": [1.0], "index": "0"}])),
        ("embeddings", chat()),
    ],
)
def test_an_answer_of_another_shape_is_refused(operation, content):
    with pytest.raises(InvalidReply):
        checked(a_call(operation, input="a"), content)


@pytest.mark.parametrize("error", [{"message": CANARY}, CANARY, {"code": 500}])
@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        ("chat/completions", {"choices": [{"message": {"content": "x"}}]}),
        ("completions", {"choices": [{"text": "x"}]}),
        ("responses", {"output": []}),
        ("embeddings", {"data": [{"embedding": [1.0]}]}),
    ],
)
def test_an_error_inside_a_success_is_refused(operation, fields, error):
    with pytest.raises(InvalidReply, match="error with the status of a success"):
        checked(a_call(operation, input="a"), answer(**fields, error=error))


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><p>hi", b"\n\t <html>", b"<?xml version='1.0'?>"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_web_page_is_told_apart_as_it_comes_from_a_wrong_url(operation, content):
    with pytest.raises(WebPage, match="web page"):
        checked(a_call(operation, input="a"), content)


BROKEN = {
    "html": f"<html>{CANARY}</html>",
    "text": CANARY,
    "cut": f'{{"choices": [{{"message": {{"content": "{CANARY}',
    "error": f'{{"choices": [], "output": [], "data": [], "error": "{CANARY}"}}',
    "types": f'{{"choices": "{CANARY}", "output": "{CANARY}", "data": "{CANARY}"}}',
    "names": f'{{"{CANARY}": {{"{CANARY}": []}}}}',
    "items": f'{{"choices": ["{CANARY}"], "data": ["{CANARY}"], "output": 1}}',
    "base64": f'{{"choices": [{{"message": "{CANARY}"}}], "data": [{{"embedding": "{CANARY}!", "index": 0}}]}}',
    "index": f'{{"data": [{{"embedding": [1], "index": "{CANARY}"}}]}}',
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_the_text_of_an_error_holds_nothing_that_the_server_wrote(operation, content):
    with pytest.raises(InvalidReply) as caught:
        checked(a_call(operation, input="a"), content.encode())

    error = caught.value
    assert "CANARY" not in f"{error!r} {error} {error.__cause__!r} {error.__cause__}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bytes_that_are_no_text_do_not_hang_on_to_the_error(operation):
    content = f'{{"choices": [{{"text": "{CANARY}\udcff", "message": {{"content": "{CANARY}\udcff"}}}}], '
    content += f'"output": [], "data": [{{"embedding": "{CANARY}\udcff"}}], "error": "{CANARY}\udcff"}}'

    with pytest.raises(InvalidReply) as caught:
        checked(a_call(operation, input="a"), content.encode(errors="surrogateescape"))

    assert "CANARY" not in repr(caught.value.__cause__)


@given(
    content=st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "message", "text", "data", "embedding", "index", "error", "output"]), inner
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_a_server_writes_is_an_answer_or_refused(operation, content):
    try:
        fit, *_ = checked(a_call(operation, input="a"), content)
    except InvalidReply:
        return

    assert isinstance(json.loads(fit), dict)


# Vectors.


@pytest.mark.parametrize(("inputs", "rows"), [(1, 0), (1, 2), (3, 2), (2, 3)])
def test_there_is_one_vector_for_each_input(inputs, rows):
    with pytest.raises(InvalidReply, match=f"{rows} vectors for {inputs} inputs"):
        checked(embeddings(inputs), vectors(*[[1.0, 2.0]] * rows))


NOT_FINITE = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400]


@pytest.mark.parametrize("number", NOT_FINITE, ids=[number[:9] for number in NOT_FINITE])
def test_a_number_of_a_vector_is_finite(number):
    with pytest.raises(InvalidReply):
        checked(embeddings(), b'{"data": [{"index": 0, "embedding": [0.5, %s]}]}' % number.encode())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_of_a_packed_vector_is_finite(number):
    with pytest.raises(InvalidReply, match="no finite number"):
        checked(embeddings(), vectors(packed(0.5, number)))


def test_numbers_whose_sum_alone_is_not_finite_are_well():
    content = vectors([3e38, 3e38])

    assert checked(embeddings(), content)[0] is content


def test_numbers_beyond_float32_are_no_vector():
    with pytest.raises(InvalidReply, match="no finite number"):
        checked(embeddings(), vectors([1.0, 1e39]))


@pytest.mark.parametrize("pack", [list, lambda row: packed(*row)], ids=["numbers", "packed"])
def test_vectors_become_one_float32_matrix_in_the_order_of_the_inputs(pack):
    content = vectors(pack([3.0, 0.1]), pack([1.0, 0.2]), indices=[1, 0])

    _, decoded, *_ = checked(embeddings(2), content)

    assert decoded.matrix.dtype == np.float32
    assert np.array_equal(decoded.matrix, np.array([[1.0, 0.2], [3.0, 0.1]], dtype=np.float32))


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [({"prompt_tokens": 7, "total_tokens": 9}, 7), ({"total_tokens": 9}, 9), (None, 0), ({"prompt_tokens": "7"}, 0)],
)
def test_tokens_are_those_that_the_server_counted(usage, tokens):
    content = json.dumps({"data": [{"index": 0, "embedding": [1.0]}], "usage": usage}).encode()

    assert vectors_in(content, inputs=1).tokens == tokens


@pytest.mark.parametrize("row", [[0.0, 0.0], [0, -0.0], packed(0.0, -0.0)], ids=str)
def test_a_vector_of_zeros_is_refused(row):
    with pytest.raises(InvalidReply, match="all zeros"):
        checked(embeddings(), vectors(row))


@pytest.mark.parametrize("row", [[], ""], ids=repr)
def test_an_empty_vector_is_refused(row):
    with pytest.raises(InvalidReply):
        checked(embeddings(), vectors(row))


@pytest.mark.parametrize(
    "text",
    [
        packed(0.5)[:-1],
        "A",
        "AAA",
        "AAAA",
        base64.b64encode(b"1234567").decode(),
        "0.5, 0.25",
        packed(0.5) + "\n",
        " " + packed(0.5),
        "_-__" + packed(0.5),
        "größe",
        packed(0.5) + packed(0.25),
    ],
)
def test_a_packed_vector_that_cannot_be_unpacked_is_refused(text):
    with pytest.raises(InvalidReply, match="base64|float32"):
        checked(embeddings(), vectors(text))


def test_packed_vectors_are_unpacked_for_a_caller_who_asked_for_numbers():
    content = vectors(packed(0.5, 0.25), [1, 2], indices=[1, 0])

    fit, *_ = checked(embeddings(2, encoding_format="float"), content)

    assert rows_of(fit) == [[1, 2], [0.5, 0.25]]


def test_numbers_are_taken_although_a_packed_form_was_asked_for():
    content = vectors([0.5, 1.0], [1, 2])

    assert checked(embeddings(2, encoding_format="base64"), content)[0] is content


# Their width.


@pytest.mark.parametrize("row", [[1.0, 2.0], packed(1.0, 2.0)], ids=str)
def test_a_vector_has_the_dimensions_that_were_asked_for(row):
    content = vectors(row)

    assert checked(embeddings(dimensions=2), content)[0] is content
    with pytest.raises(InvalidReply, match="2 dimensions where 3 were expected") as caught:
        checked(embeddings(dimensions=3), content)
    assert not isinstance(caught.value, WrongDimensions)  # what a caller alone asks for says nothing of the pool


def test_a_vector_has_the_dimensions_of_the_first_answer():
    widths = Widths()
    checked(embeddings(), vectors([1.0, 2.0]), widths)

    with pytest.raises(WrongDimensions, match="3 dimensions where 2 were expected"):
        checked(embeddings(), vectors([1.0, 2.0, 3.0]), widths)


def test_dimensions_are_learnt_for_each_model_apart():
    widths = Widths()
    checked(embeddings(), vectors([1.0, 2.0]), widths)

    checked(embeddings(model="another"), vectors([1.0, 2.0, 3.0]), widths)

    assert widths.expected(embeddings()) == 2
    assert widths.expected(embeddings(model="another")) == 3


def test_dimensions_that_were_asked_for_teach_nothing_and_come_before_what_was_learnt():
    widths = Widths()
    checked(embeddings(dimensions=1), vectors([1.0]), widths)
    assert widths.expected(embeddings()) is None
    checked(embeddings(), vectors([1.0, 2.0]), widths)

    checked(embeddings(dimensions=3), vectors([1.0, 2.0, 3.0]), widths)

    assert widths.expected(embeddings()) == 2


@pytest.mark.parametrize(
    "content",
    [
        vectors([1.0, 2.0], [1.0, 2.0], indices=[0, 0]),
        vectors([1.0, 2.0], [0.0, 0.0]),
        vectors([1.0, 2.0], [1.0]),
        vectors([1.0, 2.0]),
    ],
    ids=["numbered twice", "zeros", "uneven", "too few"],
)
def test_an_answer_that_is_refused_teaches_nothing(content):
    widths = Widths()

    with pytest.raises(InvalidReply):
        checked(embeddings(2), content, widths)

    assert widths.expected(embeddings(2)) is None


def test_vectors_of_several_widths_in_one_answer_are_refused_but_say_nothing_of_the_space():
    with pytest.raises(InvalidReply) as caught:
        checked(embeddings(2), vectors([1.0, 2.0], [1.0]))

    assert not isinstance(caught.value, WrongDimensions)


@pytest.mark.parametrize(
    "field", [{"output_dimension": 3}, {"truncate_dim": 3}, {"unheard_of": 3}], ids=lambda field: next(iter(field))
)
def test_a_width_that_a_callers_own_field_may_explain_says_nothing_of_the_pool(field):
    widths = Widths()
    checked(embeddings(), vectors([1.0, 2.0]), widths)

    try:
        checked(embeddings(**field), vectors([1.0, 2.0, 3.0]), widths)
    except InvalidReply as error:
        assert not isinstance(error, WrongDimensions)  # noqa: PT017  # that it is refused is as well

    assert widths.expected(embeddings()) == 2


def test_a_call_that_singles_out_an_endpoint_teaches_nothing():
    widths, call = Widths(), embeddings()
    call.is_for_all = False

    checked(call, vectors([1.0, 2.0]), widths)

    assert widths.expected(embeddings()) is None


def test_made_up_models_fill_no_memory():
    widths = Widths()

    for number in range(MAX_MODELS + 5):
        widths.learn(embeddings(model=f"m{number}"), 2)

    assert widths.expected(embeddings(model=f"m{MAX_MODELS - 1}")) == 2
    assert widths.expected(embeddings(model=f"m{MAX_MODELS}")) is None


# Their order.


def test_shuffled_vectors_are_put_in_the_order_of_their_inputs():
    content = vectors([3.0], [1.0], [2.0], indices=[2, 0, 1])

    assert rows_of(checked(embeddings(3), content)[0]) == [[1.0], [2.0], [3.0]]


def test_putting_in_order_keeps_every_other_value_as_it_was_written():
    first = b'{ "index":0,"embedding" : [1.50e+0, 2], "x":"\\u00e9" }'
    second = b'{"embedding":[0.10000000000000000001,1e-400],"index":1}'
    content = b'{"object": "list" ,"data":[%s ,%s], "usage": {"total":  1.0}, "model":"\\/m"}' % (second, first)

    fields = msgspec.json.decode(checked(embeddings(2), content)[0], type=dict[str, msgspec.Raw])

    assert {name: bytes(value) for name, value in fields.items()} == {
        "object": b'"list"',
        "data": b"[" + first + b"," + second + b"]",
        "usage": b'{"total":  1.0}',
        "model": b'"\\/m"',
    }


@given(places=st.integers(1, 8).flatmap(lambda count: st.permutations(range(count))))
def test_vectors_in_any_order_are_those_of_their_inputs(places):
    rows = [[place + 0.5] for place in places]

    fit, *_ = checked(embeddings(len(places)), vectors(*rows, indices=places))

    assert rows_of(fit) == [[place + 0.5] for place in range(len(places))]


@pytest.mark.parametrize(
    "indices", [[0, 0], [1, 1], [1, 2], [0, 2], [-1, 0], [0, None], [None, 1], [0, 10**18]], ids=str
)
def test_vectors_are_numbered_as_their_inputs(indices):
    with pytest.raises(InvalidReply, match="not numbered as the inputs"):
        checked(embeddings(2), vectors([1.0], [2.0], indices=indices))


def test_vectors_without_any_number_stay_as_they_came():
    content = vectors([1.0], [2.0], indices=[None, None])

    assert checked(embeddings(2), content)[0] is content


def test_many_vectors_are_put_in_order():
    places = list(range(2048))
    random.Random(1).shuffle(places)

    fit, *_ = checked(embeddings(2048), vectors(*[packed(place + 1) for place in places], indices=places))

    assert rows_of(fit) == [packed(place + 1) for place in range(2048)]


# How large it may be.


def test_embeddings_may_be_larger_than_any_other_answer():
    assert most_bytes(embeddings()) == MAX_EMBEDDINGS_BYTES > MAX_BODY_BYTES == most_bytes(a_call())
