"""What the SDK sends arrives, and what the server answers comes back, whatever its size and form."""

from __future__ import annotations

import io
import json

import openai
import pytest

from llmwire.services.errors import AllEndpointsFailed, InvalidReply

from .callers import embedding, saying, served_by, text_of, vectors_of
from .servers import chat, in_turn, numbers_of, refuse, zipped

ENDPOINT = "x-llmwire-endpoint"


def test_a_large_request_and_a_large_answer_pass(serve, contain, caller):
    text = "".join(f"{number} é " for number in range(400_000))  # 3 MB
    server = serve()

    answer = caller.run(contain(completion=served_by(server)), saying(text))

    assert text_of(answer) == text
    assert server.seen[0].header("content-length") == str(len(server.seen[0].content))


def test_two_thousand_texts_are_embedded_in_order(serve, contain, caller):
    texts = [f"text {number}" for number in range(2000)]

    answer = caller.run(contain(embedding=served_by(serve())), embedding(*texts), function="embedding")

    assert vectors_of(answer) == [numbers_of(text) for text in texts]


def test_a_compressed_answer_is_decoded(serve, contain, caller):
    server = serve(zipped)

    answer = caller.run(contain(completion=served_by(server)), saying("hello " * 1000))

    assert text_of(answer) == "hello " * 1000
    assert "gzip" in server.seen[0].header("accept-encoding")


def test_an_answer_in_chunks_is_put_together(serve, contain, caller):
    def in_chunks(exchange):
        exchange.head(headers={"content-type": "application/json", "transfer-encoding": "chunked"})
        for letter in json.dumps(chat("hi")):
            exchange.chunk(letter.encode())
        exchange.chunk(b"")

    assert text_of(caller.run(contain(completion=served_by(serve(in_chunks))), saying("hi"))) == "hi"


def test_an_answer_that_ends_with_the_connection_is_read_to_its_end(serve, contain, caller):
    def until_closed(exchange):
        exchange.head(headers={"content-type": "application/json", "connection": "close"})
        exchange.raw(json.dumps(chat("hi")).encode())
        exchange.hang_up()

    assert text_of(caller.run(contain(completion=served_by(serve(until_closed))), saying("hi"))) == "hi"


def test_an_answer_that_is_cut_short_is_an_error(serve, contain, caller):
    def cut_short(exchange):
        exchange.head(headers={"content-type": "application/json", "content-length": "1000"})
        exchange.raw(b'{"id":')
        exchange.hang_up()

    server = serve(cut_short)

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(contain(completion=served_by(server)), saying("hi"))

    assert server.url in str(caught.value.__cause__)


@pytest.mark.parametrize("as_file", [True, False], ids=["a file", "bytes"])
def test_an_upload_arrives_whole(serve, contain, caller, tmp_path, as_file):
    content = bytes(range(256)) * 4000  # 1 MB
    path = tmp_path / "training.jsonl"
    path.write_bytes(content)
    server = serve(lambda exchange: exchange.json({"id": "file-1", "object": "file", "bytes": len(content)}))
    container = contain(completion=served_by(server))

    with path.open("rb") as opened:
        upload = opened if as_file else ("training.jsonl", content)
        answer = caller.run(container, lambda client: client.files.create(file=upload, purpose="fine-tune"))

    assert answer.id == "file-1"
    [seen] = server.seen
    assert seen.target == "/v1/files"
    assert content in seen.content
    assert b'name="purpose"\r\n\r\nfine-tune' in seen.content
    assert seen.header("content-type").startswith("multipart/form-data; boundary=")
    assert seen.header("authorization") == "Bearer its-key"


def test_a_transcription_passes(serve, contain, caller):
    server = serve(lambda exchange: exchange.json({"text": "spoken"}))

    answer = caller.run(
        contain(completion=served_by(server)),
        lambda client: client.audio.transcriptions.create(file=("a.wav", io.BytesIO(b"RIFF")), model="whisper-1"),
    )

    assert answer.text == "spoken"
    assert b"RIFF" in server.seen[0].content


BUSY = refuse(503, headers={"retry-after-ms": "1"})


def upload(caller, container, path, **options):
    with path.open("rb") as opened:
        return caller.run(container, lambda client: client.files.create(file=opened, purpose="fine-tune"), **options)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "training.jsonl"
    path.write_bytes(b"line\n" * 1000)
    return path


def test_an_upload_that_a_server_may_have_taken_is_not_repeated(serve, contain, caller, file):
    server = serve(in_turn(BUSY, lambda exchange: exchange.json({"id": "file-1", "object": "file"})))

    with pytest.raises(openai.InternalServerError) as caught:
        upload(caller, contain(completion=served_by(server)), file)

    assert caught.value.status_code == 503
    assert len(server.seen) == 1


def test_an_upload_is_repeated_as_a_whole_by_the_sdk_that_is_asked_to(serve, contain, caller, file):
    server = serve(in_turn(BUSY, lambda exchange: exchange.json({"id": "file-1", "object": "file"})))

    uploaded = upload(caller, contain(completion=served_by(server)), file, retries=1)

    assert uploaded.id == "file-1"
    assert [b"line\n" * 1000 in seen.content for seen in server.seen] == [True, True]


def test_binary_answers_pass(serve, contain, caller):
    sound = bytes(range(256)) * 1000
    server = serve(lambda exchange: exchange.send(sound, headers={"content-type": "audio/mpeg"}))

    answer = caller.run(
        contain(completion=served_by(server)),
        lambda client: client.audio.speech.create(model="tts-1", voice="alloy", input="hi"),
    )

    assert answer.content == sound


def test_a_raw_answer_tells_which_endpoint_gave_it(serve, contain, caller):
    server = serve(lambda exchange: exchange.json(chat("hi"), headers={ENDPOINT: "somebody/else", "x-request-id": "7"}))
    messages = [{"role": "user", "content": "hi"}]

    raw = caller.run(
        contain(completion=served_by(server)),
        lambda client: client.chat.completions.with_raw_response.create(model="a-model", messages=messages),
    )

    assert raw.headers.get_list(ENDPOINT) == ["completion/default"]
    assert raw.request_id == "7"
    assert text_of(raw.parse()) == "hi"


def test_with_streaming_response_the_answer_is_read_when_asked(serve, contain):
    client = contain(completion=served_by(serve())).completion_client()
    messages = [{"role": "user", "content": "hi"}]

    with client.chat.completions.with_streaming_response.create(model="a-model", messages=messages) as response:
        lines = list(response.iter_lines())

    assert response.headers[ENDPOINT] == "completion/default"
    assert json.loads("".join(lines))["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
    ],
)
def test_an_error_of_the_server_is_the_error_of_the_sdk(serve, contain, caller, status, error):
    server = serve(refuse(status, headers={"retry-after": "7"}))

    with pytest.raises(error) as caught:
        caller.run(contain(completion=served_by(server)), saying("hi"))

    assert caught.value.status_code == status
    assert caught.value.body == {"message": "refused"}
    assert caught.value.response.headers["retry-after"] == "7"
    assert len(server.seen) == 1


@pytest.mark.parametrize(("status", "requests"), [(500, 2), (502, 3), (503, 3)])
def test_a_server_that_keeps_failing_is_asked_again_and_then_its_last_error_stands(
    serve, contain, caller, status, requests
):
    server = serve(in_turn(refuse(status), refuse(status), refuse(status, headers={"x-request-id": "last"})))

    with pytest.raises(openai.InternalServerError) as caught:
        caller.run(contain(completion=served_by(server)), saying("hi"))

    assert caught.value.status_code == status
    assert caught.value.body == {"message": "refused"}
    assert caught.value.response.headers["x-llmwire-attempts"] == str(requests)
    assert len(server.seen) == requests


def test_a_server_that_fails_twice_serves_in_one_call_of_the_sdk(serve, contain, caller):
    server = serve(in_turn(BUSY, BUSY, lambda exchange: exchange.json(chat("at last"))))

    answer = caller.run(contain(completion=served_by(server)), saying("hi"))

    assert text_of(answer) == "at last"
    assert [seen.header("x-stainless-retry-count") for seen in server.seen] == ["0", "0", "0"]
    assert len({seen.content for seen in server.seen}) == 1


def test_a_busy_server_is_asked_again_when_its_pause_is_over(serve, contain, caller):
    busy = refuse(429, headers={"retry-after-ms": "1"})
    server = serve(in_turn(busy, lambda exchange: exchange.json(chat("at last"))))

    assert text_of(caller.run(contain(completion=served_by(server)), saying("hi"))) == "at last"
    assert len(server.seen) == 2


def test_during_a_long_pause_further_calls_are_answered_without_the_server(serve, contain, caller):
    server = serve(refuse(429, headers={"retry-after": "60"}))
    container = contain(completion=served_by(server))
    caught = []

    for _ in range(2):
        with pytest.raises(openai.RateLimitError) as error:
            caller.run(container, saying("hi"))
        caught.append(error.value)

    assert len(server.seen) == 1
    assert [error.response.headers["x-llmwire-attempts"] for error in caught] == ["1", "0"]
    assert caught[1].code == "no_endpoint_available"
    assert 0 < int(caught[1].response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("retries", [None, 2])
def test_what_the_sdk_repeats_itself_comes_on_top(serve, contain, retries):
    server = serve(refuse(500))
    client = contain(completion=served_by(server)).completion_client()

    with pytest.raises(openai.InternalServerError):
        saying("hi")(client if retries is None else client.with_options(max_retries=retries))

    assert client.max_retries == 0
    assert len(server.seen) == 2 * ((retries or 0) + 1)


NONSENSE = {"object": "list", "data": []}


def test_an_answer_that_is_no_completion_is_an_error_and_never_handed_on(serve, contain, caller):
    server = serve(lambda exchange: exchange.json(NONSENSE))

    with pytest.raises(openai.APIConnectionError) as caught:
        caller.run(contain(completion=served_by(server)), saying("hi"))

    failed = caught.value.__cause__
    assert isinstance(failed, AllEndpointsFailed)
    assert isinstance(failed.__cause__, InvalidReply)
    assert [attempt.label for attempt in failed.attempts] == ["InvalidReply"] * 3
    assert len(server.seen) == 3


def test_other_methods_pass(serve, contain, caller):
    server = serve(lambda exchange: exchange.json({"id": "file-1", "object": "file", "deleted": True}))

    answer = caller.run(contain(completion=served_by(server)), lambda client: client.files.delete("file-1"))

    assert answer.deleted
    assert (server.seen[0].method, server.seen[0].target) == ("DELETE", "/v1/files/file-1")


@pytest.mark.parametrize("path", ["", "/v1", "/api/v3", "/a%20b/v1"])
def test_the_path_of_the_base_url_is_kept(serve, contain, caller, path):
    server = serve()

    caller.run(contain(completion={"base_url": server.url + path, "api_key": "its-key"}), saying("hi"))

    assert server.seen[0].target == f"{path or '/v1'}/chat/completions"


def test_an_api_path_of_none_serves_at_the_root(serve, contain, caller):
    server = serve()

    caller.run(contain(completion=served_by(server, api_path="/")), saying("hi"))

    assert server.seen[0].target == "/chat/completions"
