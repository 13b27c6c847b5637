"""Vectors for texts, through any openai client: in batches, in order, as one float32 matrix.

Knows texts and vectors; knows no container and no HTTP. numpy is imported when the first vector is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .bulk.batches import BatchSpec, batched
from .errors import ConfigError, InvalidInput, InvalidReply, as_they_are

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


_NO_EMBEDDINGS = "the server's answer is no embeddings: does EMBEDDING_BASE_URL name the right server?"


class _Embedding:
    """What both services share: which texts go into which request, and where its vectors belong."""

    def __init__(
        self,
        client: Any,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        batches: BatchSpec | None = None,
    ) -> None:
        self._client, self.model, self.dimensions = client, model, dimensions
        self._batches = batches or BatchSpec()

    def _request(self, texts: Sequence[str]) -> dict[str, Any]:
        if self.model is None:
            remedy = "Give model= to the service, or set EMBEDDING_MODEL."
            raise ConfigError("is not set", key="embedding.model", remedy=remedy)
        asked = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return {"input": list(texts), "model": self.model, **asked}

    def _matrix(self, texts: Sequence[str]) -> _Rows:
        return _Rows(len(texts), self.dimensions)


class EmbeddingService(_Embedding):
    """Embeddings from an openai client, or from anything with its `.embeddings.create`.

    Args:
        client: an `openai.OpenAI`, or a fake of it.
        model: what is asked for.
        dimensions: asked of the server, and demanded of its answer; None takes what the server gives.
        batches: how texts are grouped into requests.
    """

    def embed(self, texts: Sequence[str]) -> Matrix:
        """The vectors of the texts: float32, (len(texts), dimensions), in the order of the texts.

        Raises:
            InvalidInput: a text is empty, too long or no text; `position` is its index. Nothing was sent.
            InvalidReply: the server's answer does not fit the texts.
            ConfigError: no texts were given, and the number of dimensions is not known.
        """
        texts = _listed(texts)
        rows = self._matrix(texts)
        for start, batch in batched(texts, self._batches):
            request, create = self._request(batch), self._client.embeddings.create
            with _readable():
                reply = create(**request)
            rows.put(start, len(batch), reply)
        return rows.matrix()

    def embed_one(self, text: str) -> Matrix:
        """The vector of one text: float32, (dimensions,). Raises as `embed`."""
        vector: Matrix = self.embed([text])[0]
        return vector


class AsyncEmbeddingService(_Embedding):
    """The same for asyncio, over an `openai.AsyncOpenAI`."""

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """As `EmbeddingService.embed`."""
        texts = _listed(texts)
        rows = self._matrix(texts)
        for start, batch in batched(texts, self._batches):
            request, create = self._request(batch), self._client.embeddings.create
            with _readable():
                reply = await create(**request)
            rows.put(start, len(batch), reply)
        return rows.matrix()

    async def embed_one(self, text: str) -> Matrix:
        """As `EmbeddingService.embed_one`."""
        vector: Matrix = (await self.embed([text]))[0]
        return vector


def _listed(texts: Sequence[str]) -> list[str]:
    # A list of our own: what the caller changes while a request is on its way must not move the vectors.
    if isinstance(texts, str):
        raise InvalidInput("embed() takes a list of texts; one text goes to embed_one()", position=0)
    return list(texts)


class _Rows:
    """One matrix, filled batch by batch; it is made when the number of dimensions is known."""

    def __init__(self, count: int, dimensions: int | None) -> None:
        self._count, self._dimensions = count, dimensions
        self._matrix: Matrix | None = None

    def put(self, start: int, count: int, reply: Any) -> None:
        """Place the vectors of one reply, each at its `index`."""
        import numpy as np

        block = _block(in_order(getattr(reply, "data", None), count), self._dimensions)
        if self._matrix is None:
            self._dimensions = block.shape[1]
            self._matrix = np.empty((self._count, self._dimensions), dtype=np.float32)
        self._matrix[start : start + count] = block

    def matrix(self) -> Matrix:
        """The whole matrix; without texts (0, dimensions)."""
        import numpy as np

        if self._matrix is not None:
            return self._matrix
        if self._dimensions is None:
            remedy = "Set EMBEDDING_DIMENSIONS, or embed at least one text."
            raise ConfigError("is not known, and no text was given", key="embedding.dimensions", remedy=remedy)
        return np.empty((0, self._dimensions), dtype=np.float32)


def _block(vectors: list[Any], dimensions: int | None) -> Matrix:
    """The vectors as float32. Raises InvalidReply unless they are finite numbers, as many in each."""
    import numpy as np

    try:
        widths = [len(vector) for vector in vectors]
        width = dimensions or max(widths[0], 1)
        if wrong := [other for other in widths if other != width]:
            raise InvalidReply(f"a vector has {wrong[0]} dimensions where {width} were expected")
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is refused below
            block = np.array(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidReply(f"a vector is no list of numbers: {error}") from error
    if block.shape != (len(vectors), width) or not np.isfinite(block).all():
        raise InvalidReply("a vector has something in it that is no finite number")
    return block


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Our own errors as they are; and the SDK stumbles over an answer of a foreign client that it cannot read."""
    try:
        with as_they_are():
            yield
    except (AttributeError, ValueError) as error:
        raise InvalidReply(f"{_NO_EMBEDDINGS} ({error})") from error


def in_order(data: Sequence[Any] | None, count: int) -> list[Any]:
    """The vectors of a reply in the order of its inputs.

    Raises:
        InvalidReply: there are not `count` of them, or their `index` is not each of 0 to count - 1 once.
    """
    if data is None:
        raise InvalidReply(_NO_EMBEDDINGS)
    if len(data) != count:
        raise InvalidReply(f"the server gave {len(data)} vectors for {count} texts")
    places: list[Any] = [getattr(item, "index", None) for item in data]
    vectors = [getattr(item, "embedding", None) for item in data]
    if all(place is None for place in places):  # a simple fake: its order is the texts'
        return vectors
    if not all(isinstance(place, int) for place in places) or sorted(places) != list(range(count)):
        raise InvalidReply("the server's vectors are not numbered as its inputs")
    return [vector for _, vector in sorted(zip(places, vectors, strict=True), key=lambda pair: pair[0])]
