"""EmbeddingService and its asynchronous twin, over genuine fakes and over a user's own simple ones."""

import asyncio
import functools
import itertools
from types import SimpleNamespace

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AzureOpenAI, OpenAI

from llmwire.container import ConfigError, InvalidInput, InvalidReply, LLMContainer, SpaceMismatch, overriding
from llmwire.services import AsyncEmbeddingService, EmbeddingService, VectorCache, recorded
from llmwire.services.bulk.batches import BatchSpec, batched
from llmwire.services.provenance import Provenance, record
from llmwire.services.space import CANARY
from llmwire.services.testing import AsyncFakeEmbeddings, FakeEmbeddings


class Sync:
    """Plays a case through the synchronous service."""

    fake, service = FakeEmbeddings, EmbeddingService

    @staticmethod
    def call(method, *args):
        return method(*args)

    @staticmethod
    def blocks(run):
        return list(run)

    @staticmethod
    def simple(reply):
        return SimpleNamespace(embeddings=SimpleNamespace(create=reply))


class Async:
    """Plays the same case through the asynchronous one."""

    fake, service = AsyncFakeEmbeddings, AsyncEmbeddingService

    @staticmethod
    def call(method, *args):
        async def awaited():
            return await method(*args)

        return asyncio.run(awaited())

    @staticmethod
    def blocks(run):
        async def gathered():
            return [block async for block in run]

        return asyncio.run(gathered())

    @staticmethod
    def simple(reply):
        async def create(**request):
            return reply(**request)

        return SimpleNamespace(embeddings=SimpleNamespace(create=create))


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def play(request):
    return request.param


def _reply(*vectors, indices=None):
    places = range(len(vectors)) if indices is None else indices
    data = [SimpleNamespace(embedding=vector, index=place) for vector, place in zip(vectors, places, strict=True)]
    return SimpleNamespace(data=data)


def test_texts_become_one_float32_matrix_in_their_order(play):
    service = play.service(play.fake(dimensions=8), model="m")

    matrix = play.call(service.embed, ["a", "b", "a"])

    assert (matrix.dtype, matrix.shape) == (np.float32, (3, 8))
    assert np.array_equal(matrix[0], matrix[2])
    assert not np.array_equal(matrix[0], matrix[1])


def test_one_text_becomes_one_vector(play):
    service = play.service(play.fake(dimensions=8), model="m")

    vector = play.call(service.embed_one, "a")

    assert vector.shape == (8,)
    assert np.array_equal(vector, play.call(service.embed, ["a"])[0])


def test_vectors_are_put_where_their_index_says(play):
    service = play.service(play.simple(lambda **_: _reply([1.0], [2.0], [3.0], indices=(2, 0, 1))), model="m")

    assert play.call(service.embed, ["a", "b", "c"]).ravel().tolist() == [2.0, 3.0, 1.0]


def test_a_simple_fake_without_index_keeps_its_order(play):
    def reply(**request):
        return SimpleNamespace(data=[SimpleNamespace(embedding=[float(len(text))]) for text in request["input"]])

    service = play.service(play.simple(reply), model="m")

    assert play.call(service.embed, ["a", "bbb"]).ravel().tolist() == [1.0, 3.0]


def test_batches_are_joined_to_one_matrix(play):
    client = play.fake(dimensions=4)
    service = play.service(client, model="m", batches=BatchSpec(max_inputs=2))
    texts = [f"text {number}" for number in range(5)]

    matrix = play.call(service.embed, texts)

    assert [call.body["input"] for call in client.calls] == [texts[:2], texts[2:4], texts[4:]]
    whole = play.call(play.service(play.fake(dimensions=4), model="m").embed, texts)
    assert np.array_equal(matrix, whole)


def test_dimensions_are_asked_of_the_server_and_demanded_of_its_answer(play):
    client = play.fake(dimensions=8)
    play.call(play.service(client, model="m", dimensions=4).embed, ["a"])
    assert client.calls[0].body["dimensions"] == 4

    deaf = play.simple(lambda **_: _reply([1.0, 2.0]))
    with pytest.raises(InvalidReply, match="2 dimensions where 4"):
        play.call(play.service(deaf, model="m", dimensions=4).embed, ["a"])


def test_no_texts_give_an_empty_matrix_where_the_dimensions_are_known(play):
    client = play.fake()

    matrix = play.call(play.service(client, model="m", dimensions=8).embed, [])

    assert (matrix.dtype, matrix.shape) == (np.float32, (0, 8))
    assert client.calls == []


def test_no_texts_and_no_dimensions_are_an_error_that_names_the_setting(play):
    with pytest.raises(ConfigError, match="EMBEDDING_DIMENSIONS"):
        play.call(play.service(play.fake(), model="m").embed, [])


def test_without_a_model_nothing_is_sent(play):
    client = play.fake()

    with pytest.raises(ConfigError, match="EMBEDDING_MODEL"):
        play.call(play.service(client).embed, ["a"])

    assert client.calls == []


@pytest.mark.parametrize(
    ("texts", "position", "said"),
    [
        (["a", "", "c"], 1, "empty"),
        (["a", "b", "  \n"], 2, "empty"),
        (["a", None], 1, "NoneType"),
        (["a", "word " * 9000], 1, "8,191"),
        ("abc", 0, "embed_one"),
    ],
)
def test_a_text_that_no_server_could_take_is_named_by_its_position_and_nothing_is_sent(play, texts, position, said):
    client = play.fake()

    with pytest.raises(InvalidInput, match=said) as caught:
        play.call(play.service(client, model="m").embed, texts)

    assert caught.value.position == position
    assert client.calls == []


def test_a_text_of_plain_prose_just_below_the_limit_is_sent(play):
    prose = "these are plain and common words "  # 6 tokens in 33 bytes

    assert play.call(play.service(play.fake(), model="m").embed, [prose * 1200]).shape == (1, 8)


def test_an_exact_count_of_tokens_takes_the_place_of_the_estimate(play):
    exact = BatchSpec(max_input_tokens=3, count_tokens=lambda text: len(text.split()))
    service = play.service(play.fake(), model="m", batches=exact)

    play.call(service.embed, ["a b c"])
    with pytest.raises(InvalidInput, match="4 tokens"):
        play.call(service.embed, ["a b c d"])


@pytest.mark.parametrize(
    "reply",
    [
        _reply([1.0], [2.0]),
        _reply([1.0], [2.0], [3.0], [4.0]),
        _reply([1.0], [2.0], [3.0], indices=(0, 1, 1)),
        _reply([1.0], [2.0], [3.0], indices=(1, 2, 3)),
        _reply([1.0], [2.0], [3.0], indices=(0, 1, None)),
        _reply([1.0], [2.0, 2.0], [3.0]),
        _reply([1.0], [], [3.0]),
        _reply([], [], []),
        _reply([1.0], [float("nan")], [3.0]),
        _reply([1.0], [float("-inf")], [3.0]),
        _reply([1.0], [1e300], [3.0]),
        _reply([1.0], ["text"], [3.0]),
        _reply([1.0], [None], [3.0]),
        _reply([1.0], None, [3.0]),
        _reply([[1.0]], [[2.0]], [[3.0]]),
        _reply([1.0], [2.0], [3.0], indices=(0, "1", 2)),
        SimpleNamespace(data=[{}, {}, {}]),
        "<html>a web page</html>",
        SimpleNamespace(data=None),
    ],
)
def test_an_answer_that_does_not_fit_the_texts_is_never_used(play, reply):
    service = play.service(play.simple(lambda **_: reply), model="m")

    with pytest.raises(InvalidReply):
        play.call(service.embed, ["a", "b", "c"])


def test_an_answer_that_the_sdk_cannot_read_names_the_base_url(play):
    def create(**_):
        raise ValueError("No embedding data received")

    service = play.service(play.simple(create), model="m")

    with pytest.raises(InvalidReply, match=r"EMBEDDING_BASE_URL.*No embedding data received"):
        play.call(service.embed, ["a"])


@given(
    texts=st.lists(st.text(alphabet=st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=60), max_size=30),
    max_inputs=st.integers(1, 8),
    max_tokens=st.integers(1, 90),
)
def test_batches_hold_each_text_once_in_order_and_keep_the_limits(texts, max_inputs, max_tokens):
    texts = [f".{text}" for text in texts]  # never blank
    spec = BatchSpec(max_inputs=max_inputs, max_request_tokens=max_tokens)

    batches = list(batched(texts, spec))

    assert [text for _, batch in batches for text in batch] == texts
    assert all(texts[start : start + len(batch)] == batch for start, batch in batches)
    assert all(len(batch) <= max_inputs for _, batch in batches)
    assert all(len(batch) == 1 or sum(map(spec.most, batch)) <= max_tokens for _, batch in batches)


def test_a_batch_is_closed_before_it_could_be_too_long():
    spec = BatchSpec(max_request_tokens=10)

    assert [batch for _, batch in batched(["x" * 8, "y" * 8, "z" * 8], spec)] == [["x" * 8, "y" * 8], ["z" * 8]]


def test_the_numbers_of_a_reply_are_those_of_float32(play):
    vector = [0.1, -1e-40, 3.4e38, 0.0]

    matrix = play.call(play.service(play.simple(lambda **_: _reply(vector)), model="m").embed, ["a"])

    assert matrix[0].tolist() == np.array(vector, dtype=np.float32).tolist()


@pytest.mark.parametrize("texts", [("a", "b"), (text for text in "ab"), np.array(["a", "b"])])
def test_texts_may_stand_in_anything_that_lists_them(texts):
    client = FakeEmbeddings(dimensions=4)

    assert EmbeddingService(client, model="m").embed(texts).shape == (2, 4)
    assert client.calls[0].body["input"] == ["a", "b"]


def test_texts_that_the_caller_changes_meanwhile_are_embedded_as_they_were():
    texts = ["a", "b", "c"]

    async def create(**request):
        texts[:] = ["", "changed"]
        return _reply(*([float(ord(text))] for text in request["input"]))

    client = SimpleNamespace(embeddings=SimpleNamespace(create=create))
    service = AsyncEmbeddingService(client, model="m", batches=BatchSpec(max_inputs=1))

    assert asyncio.run(service.embed(texts)).ravel().tolist() == [97.0, 98.0, 99.0]


@pytest.mark.parametrize("text", ["\ud800", "half a pair \udfff"])
def test_a_text_that_cannot_be_encoded_is_named_by_its_position(play, text):
    with pytest.raises(InvalidInput, match="input 1 cannot be encoded") as caught:
        play.call(play.service(play.fake(), model="m").embed, ["a", text])

    assert caught.value.position == 1


@pytest.mark.parametrize("field", ["max_inputs", "max_input_tokens", "max_request_tokens"])
@pytest.mark.parametrize("value", [0, -1])
def test_impossible_limits_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} must be above 0"):
        BatchSpec(**{field: value})


def test_without_a_limit_a_text_of_any_length_is_sent(play):
    service = play.service(play.fake(), model="m", batches=BatchSpec(max_input_tokens=None))

    assert play.call(service.embed, ["word " * 9000]).shape == (1, 8)


def test_what_the_client_raises_is_raised_as_it_is(play):
    def create(**_):
        raise OSError("of the SDK")

    with pytest.raises(OSError, match="of the SDK"):
        play.call(play.service(play.simple(create), model="m").embed, ["a"])


def test_a_failing_batch_fails_the_whole(play):
    replies = iter([_reply([1.0]), _reply([1.0, 2.0])])
    service = play.service(play.simple(lambda **_: next(replies)), model="m", batches=BatchSpec(max_inputs=1))

    with pytest.raises(InvalidReply, match="2 dimensions where 1 were expected"):
        play.call(service.embed, ["a", "b"])


@pytest.mark.parametrize(
    "content",
    [
        {"html": "<p>a web page</p>"},
        {"content": b"{broken", "headers": {"content-type": "application/json"}},
        *({"json": body} for body in ([], 5, {}, {"error": "x"}, {"data": "text"}, {"data": ["text"]}, {"data": [{}]})),
        {"json": {"data": [{"index": 0, "embedding": "not base64!"}]}},
    ],
)
def test_whatever_the_sdk_makes_of_an_answer_that_is_none_it_is_an_invalid_reply(content):
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, **content))
    with OpenAI(base_url="http://llm/v1", api_key="any", http_client=httpx2.Client(transport=transport)) as client:
        service = EmbeddingService(client, model="m")

        with pytest.raises(InvalidReply):
            service.embed(["a"])


# Into a matrix that is there already.


def test_vectors_are_written_into_the_matrix_that_is_given(play):
    service = play.service(play.fake(dimensions=8), model="m", batches=BatchSpec(max_inputs=2))
    texts, out = ["a", "b", "c", "d", "e"], np.full((5, 8), -1, dtype=np.float32)

    given = play.call(lambda texts: service.embed(texts, out=out), texts)

    assert given is out
    assert np.array_equal(out, play.call(service.embed, texts))


@pytest.mark.parametrize("mode", ["w+", "r+", "c"])
def test_a_matrix_may_be_a_file(play, tmp_path, monkeypatch, mode):
    monkeypatch.setattr("llmwire.services.embedding._RELEASE_BYTES", 1)  # after every batch
    service = play.service(play.fake(dimensions=8), model="m", batches=BatchSpec(max_inputs=2))
    path, texts = tmp_path / "matrix.npy", [str(number) for number in range(7)]
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(7, 8)).flush()
    out = np.lib.format.open_memmap(path, mode=mode, dtype=np.float32, shape=(7, 8) if mode == "w+" else None)

    play.call(lambda texts: service.embed(texts, out=out), texts)

    expected = play.call(service.embed, texts)
    assert np.array_equal(out, expected)  # of a private copy, too: no page of it is given back
    assert np.array_equal(np.load(path), expected) is (mode != "c")


def test_a_part_of_a_file_may_be_filled(play, tmp_path):
    service = play.service(play.fake(dimensions=8), model="m")
    whole = np.lib.format.open_memmap(tmp_path / "m.npy", mode="w+", dtype=np.float32, shape=(6, 8))

    play.call(lambda texts: service.embed(texts, out=whole[2:4]), ["a", "b"])

    assert np.array_equal(whole[2:4], play.call(service.embed, ["a", "b"]))
    assert not whole[:2].any()
    assert not whole[4:].any()


READ_ONLY = np.zeros((2, 8), dtype=np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 8)),
        np.zeros((3, 8), np.float32),
        np.zeros((2, 9), np.float32),
        np.zeros(16, np.float32),
        READ_ONLY,
        [[0.0] * 8, [0.0] * 8],
    ],
    ids=["float64", "rows", "columns", "flat", "read-only", "list"],
)
def test_a_matrix_that_does_not_fit_is_refused_before_anything_is_sent(play, out):
    client = play.fake(dimensions=8)
    service = play.service(client, model="m", dimensions=8)

    with pytest.raises(ValueError, match="out must be"):
        play.call(lambda texts: service.embed(texts, out=out), ["a", "b"])

    assert client.calls == []


def test_vectors_of_another_width_than_the_matrix_are_refused(play):
    service = play.service(play.fake(dimensions=8), model="m")

    with pytest.raises(InvalidReply, match="8 dimensions where 9 were expected"):
        play.call(lambda texts: service.embed(texts, out=np.zeros((1, 9), np.float32)), ["a"])


# Past the SDK's lists.


def test_of_a_genuine_client_packed_numbers_are_asked_for_and_its_options_hold(play):
    client = play.fake(dimensions=8).with_options(default_headers={"X-Team": "search"})

    play.call(play.service(client, model="m", dimensions=8).embed, ["a"])

    [call] = client.calls
    assert call.body == {"input": ["a"], "model": "m", "encoding_format": "base64", "dimensions": 8}
    assert call.headers["x-team"] == "search"


def test_who_watches_the_sdks_own_method_sees_every_call(play, monkeypatch):
    client = play.fake(dimensions=8)
    seen, create = [], type(client.embeddings).create

    @functools.wraps(create)
    def watched(self, **asked):
        seen.append(asked["input"])
        return create(self, **asked)

    monkeypatch.setattr(type(client.embeddings), "create", watched)

    matrix = play.call(play.service(client, model="m").embed, ["a", "b"])

    assert seen == [["a", "b"]]
    assert matrix.shape == (2, 8)


def test_who_replaces_the_method_of_one_client_is_heard(play, monkeypatch):
    client = play.fake(dimensions=8)
    simple = play.simple(lambda **asked: _reply([1.0, 2.0]))
    monkeypatch.setattr(client.embeddings, "create", simple.embeddings.create)

    matrix = play.call(play.service(client, model="m").embed, ["a"])

    assert matrix.tolist() == [[1.0, 2.0]]
    assert client.calls == []


def test_azures_own_client_is_asked_as_it_wants_to_be():
    asked = []

    def answer(request):
        asked.append(request.url.path)
        return httpx2.Response(200, json={"data": [{"index": 0, "embedding": [1.0, 2.0]}]})

    http_client = httpx2.Client(transport=httpx2.MockTransport(answer))
    client = AzureOpenAI(
        api_key="k", azure_endpoint="http://azure.test", api_version="2024-10-21", http_client=http_client
    )

    matrix = EmbeddingService(client, model="my-deployment").embed(["a"])

    assert matrix.tolist() == [[1.0, 2.0]]
    assert asked == ["/openai/deployments/my-deployment/embeddings"]


# Its space.


def test_the_fingerprint_is_asked_for_once_for_a_client(play):
    client = play.fake(dimensions=8)

    one = play.call(play.service(client, model="m").space)
    other = play.call(play.service(client, model="m").space)

    assert one == other
    assert [call.body["input"] for call in client.calls] == [[CANARY]]


def test_the_fingerprint_is_the_same_over_another_client_of_the_same_model(play):
    spaces = {play.call(play.service(play.fake(dimensions=8), model="m").space) for _ in range(2)}

    assert len(spaces) == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"model": "n"}, "n is not m"),
        ({"space": "s"}, "s is not m"),
        ({"revision": "2"}, "revision 2"),
        ({"dimensions": 4}, "4 dimensions are not 8"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_another_space_is_refused(play, said, told):
    stamped = play.call(play.service(play.fake(dimensions=8), model="m").space)
    other = play.service(play.fake(dimensions=8), **{"model": "m", **said})

    with pytest.raises(SpaceMismatch, match=told) as caught:
        play.call(other.require_space, stamped)

    assert caught.value.expected == stamped
    assert caught.value.found == play.call(other.space)


def test_one_model_under_two_names_is_one_space(play):
    stamped = play.call(play.service(play.fake(dimensions=8), model="m", space="s").space)

    play.call(play.service(play.fake(dimensions=8), model="azure-m", space="s").require_space, stamped)


def test_another_model_under_the_same_name_is_refused():
    replies = itertools.cycle([[1.0, 2.0, 3.0], [-3.0, 2.0, 1.0]])

    def service():
        vector = next(replies)
        return EmbeddingService(Sync.simple(lambda **asked: _reply(vector)), model="m")

    stamped = service().space()

    with pytest.raises(SpaceMismatch, match="another model answers under the same name m"):
        service().require_space(stamped)


def test_a_space_is_named_by_the_endpoints_where_nobody_else_names_it():
    table = {
        "a": {"base_url": "http://127.0.0.1:1", "model": "bge-local", "space": "bge", "revision": "v2"},
        "b": {"base_url": "http://127.0.0.1:2", "model": "bge-azure", "space": "bge"},
    }
    container = LLMContainer(config={"embedding": {"endpoints": table}}, env={})

    with overriding(container, embedding_client=FakeEmbeddings(dimensions=8)):
        fingerprint = container.embedding_service().space()

    assert fingerprint.startswith("space1/bge/8/unit/v2/")


def test_a_fake_needs_no_settings_for_its_space():
    container = LLMContainer(config={}, env={})

    with overriding(container, embedding_client=FakeEmbeddings(dimensions=8)):
        assert container.embedding_service().space().startswith("space1/text-embedding-3-small/8/unit//")


def test_what_is_no_fingerprint_cannot_be_required(play):
    with pytest.raises(ValueError, match="no fingerprint"):
        play.call(play.service(play.fake(dimensions=8), model="m").require_space, "text-embedding-3-small")


# Many.


def test_a_cache_of_another_space_is_refused(play, tmp_path):
    stamped = play.call(play.service(play.fake(dimensions=8), model="another").space)
    service = play.service(play.fake(dimensions=8), model="m")

    with VectorCache.open(tmp_path / "cache.sqlite", space=stamped) as cache, pytest.raises(SpaceMismatch):
        play.blocks(service.embed_many(["a"], cache=cache))


def test_of_a_cache_of_another_space_no_vector_is_handed_on(play, tmp_path):
    other = play.service(play.fake(dimensions=8), model="another")
    service = play.service(client := play.fake(dimensions=8), model="m")

    with VectorCache.open(tmp_path / "cache.sqlite", space=play.call(other.space)) as cache:
        play.blocks(other.embed_many(["a"], cache=cache))
        with pytest.raises(SpaceMismatch):
            play.blocks(service.embed_many(["a"], cache=cache))

    assert [call.body["input"] for call in client.calls] == [[CANARY]]


def test_for_a_cache_the_space_is_asked_for_once_also_by_many_requests(play, tmp_path):
    class Nameless:
        """Has `.embeddings.create`, and cannot be remembered."""

        __slots__ = ("embeddings",)

        def __init__(self, embeddings):
            self.embeddings = embeddings

    stamped = play.call(play.service(play.fake(dimensions=8), model="m").space)
    client = play.fake(dimensions=8)
    service = play.service(Nameless(client.embeddings), model="m", batches=BatchSpec(max_inputs=1))

    with VectorCache.open(tmp_path / "cache.sqlite", space=stamped) as cache:
        play.blocks(service.embed_many(list("abcdefgh"), cache=cache))

    assert [call.body["input"] for call in client.calls].count([CANARY]) == 1


def test_a_cache_that_names_no_space_is_used_as_it_is(play):
    class Plain(dict):
        def get(self, keys):
            return {}

        def put(self, keys, vectors):
            self.update(zip(keys, vectors, strict=True))

    service = play.service(client := play.fake(dimensions=8), model="m")

    play.blocks(service.embed_many(["a"], cache=(cache := Plain())))

    assert len(cache) == 1
    assert [call.body["input"] for call in client.calls] == [["a"]]


def test_a_foreign_client_may_tell_endpoint_and_price(play):
    provenance = Provenance(function="embedding", endpoint="b", attempts=(), is_degraded=False, price=0.5)

    def create(**asked):
        record(provenance)
        return _reply([1.0, 2.0])

    with recorded() as calls:
        answer = play.call(play.service(play.simple(create), model="m").embed_request, ["a"])

    assert (answer.endpoint, answer.price) == ("b", 0.5)
    assert calls == [provenance]


def test_a_watched_client_tells_endpoint_and_price_too(monkeypatch):
    container = LLMContainer(config={"embedding": {"base_url": "http://127.0.0.1:1", "price": 0.5}}, env={})
    provenance = Provenance(function="embedding", endpoint="default", attempts=(), is_degraded=False, price=0.5)
    client = container.embedding_client()

    def create(**asked):
        record(provenance)
        return _reply([1.0, 2.0])

    monkeypatch.setattr(client.embeddings, "create", create)
    with recorded() as calls:
        answer = container.embedding_service().embed_request(["a"])
    container.shutdown_resources()

    assert (answer.endpoint, answer.price) == ("default", 0.5)
    assert calls == [provenance]  # whoever records around it learns it as well


def test_zeros_of_a_foreign_client_are_refused(play):
    service = play.service(play.simple(lambda **asked: _reply([0.0, 0.0])), model="m")

    with pytest.raises(InvalidReply, match="all zeros"):
        play.call(service.embed, ["a"])


def test_many_texts_come_in_blocks_of_their_order(play):
    service = play.service(play.fake(dimensions=8), model="m", batches=BatchSpec(max_inputs=3))
    texts = [f"text {number % 7}" for number in range(20)]

    blocks = play.blocks(service.embed_many(iter(texts)))

    assert [block.start for block in blocks] == list(np.cumsum([0, *(len(block.vectors) for block in blocks[:-1])]))
    assert np.array_equal(np.concatenate([block.vectors for block in blocks]), play.call(service.embed, texts))


def test_many_texts_are_sent_by_whoever_is_told_to():
    service = EmbeddingService(FakeEmbeddings(dimensions=8), model="m")
    other = EmbeddingService(FakeEmbeddings(dimensions=8), model="m")

    blocks = list(service.embed_many(["a"], send=other.embed_request))

    assert len(blocks) == 1
    assert service._client.calls == []
