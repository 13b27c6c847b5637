"""Vectors for texts, through any openai client: in batches, in order, as one float32 matrix.

Knows texts and vectors; knows no container and no HTTP. numpy is imported when the first vector is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, InvalidInput, InvalidReply, as_they_are

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


_NO_EMBEDDINGS = "the server's answer is no embeddings: does EMBEDDING_BASE_URL name the right server?"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """How texts are grouped into requests.

    Without an exact `count_tokens` the number is bounded from both sides: a text is refused only if it is too long
    almost for certain, and a batch is closed as soon as it could be too long.
    """

    max_inputs: int = 256  #: below every known server's limit (OpenAI 2,048; text-embeddings-inference 32 to 512)
    max_input_tokens: int | None = 8191  #: of OpenAI's embedding models; None checks nothing
    max_request_tokens: int = 300_000  #: OpenAI's limit for the inputs of one request together
    count_tokens: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        for name in ("max_inputs", "max_input_tokens", "max_request_tokens"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be above 0, not {limit}")

    def fewest(self, text: str) -> int:
        """Tokens that the text has at least. Plain prose has 4 to 5 bytes a token; a run of blanks may be one."""
        return self.count_tokens(text) if self.count_tokens else -(-len(" ".join(text.split()).encode()) // 5)

    def most(self, text: str) -> int:
        """Tokens that the text has at most, in practice: digits and rare scripts have 2 to 3 bytes a token."""
        return self.count_tokens(text) if self.count_tokens else -(-len(text.encode()) // 2)


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


def batched(texts: Sequence[str], spec: BatchSpec) -> Iterator[tuple[int, list[str]]]:
    """The requests: the position of the first text, and the texts. All texts are checked before the first is given.

    Raises:
        InvalidInput: a text cannot be sent.
    """
    for position, text in enumerate(texts):
        _check(text, position, spec)
    return _grouped(texts, spec)


def _listed(texts: Sequence[str]) -> list[str]:
    # A list of our own: what the caller changes while a request is on its way must not move the vectors.
    if isinstance(texts, str):
        raise InvalidInput("embed() takes a list of texts; one text goes to embed_one()", position=0)
    return list(texts)


def _grouped(texts: Sequence[str], spec: BatchSpec) -> Iterator[tuple[int, list[str]]]:
    start, batch, tokens = 0, list[str](), 0
    for position, text in enumerate(texts):
        of_text = spec.most(text)
        if batch and (len(batch) == spec.max_inputs or tokens + of_text > spec.max_request_tokens):
            yield start, batch
            start, batch, tokens = position, [], 0
        batch.append(text)
        tokens += of_text
    if batch:
        yield start, batch


def _check(text: object, position: int, spec: BatchSpec) -> None:
    if not isinstance(text, str):
        raise InvalidInput(f"input {position} is no text, but {type(text).__name__}", position=position)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input {position} cannot be encoded: {error.reason}", position=position) from error
    if not text.strip():
        raise InvalidInput(f"input {position} is empty: no server can embed it", position=position)
    limit = spec.max_input_tokens
    if limit is not None and (tokens := spec.fewest(text)) > limit:
        counted = "" if spec.count_tokens else "at least "
        message = f"input {position} has {counted}{tokens:,} tokens, more than the model's {limit:,}: split it"
        raise InvalidInput(message, position=position)


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
