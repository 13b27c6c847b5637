"""Vectors for texts, through any openai client: in batches, in order, as one float32 matrix.

Knows texts and vectors; knows no container and no HTTP. numpy is imported when the first vector is made.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from .bulk.batches import BatchSpec, batched
from .bulk.plan import BulkSpec
from .bulk.results import Answer
from .bulk.run import AsyncRun, Cache, Limit, Run
from .errors import ConfigError, InvalidInput, InvalidReply, SpaceMismatch, as_they_are
from .provenance import Provenance, record, recorded
from .space import CANARY, Space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]


_NO_EMBEDDINGS = "the server's answer is no embeddings: does EMBEDDING_BASE_URL name the right server?"

#: of a memory-mapped matrix: so much is written before its pages are handed to the system
_RELEASE_BYTES: Final = 32 * 2**20

#: the spaces that were learnt from a client's own answers: asked once, whatever services are made over it
_learnt: WeakKeyDictionary[Any, dict[tuple[object, ...], Space]] = WeakKeyDictionary()


class _Embedding:
    """What both services share: what is asked, and what an answer means."""

    def __init__(
        self,
        client: Any,
        *,
        model: str | None = None,
        dimensions: int | None = None,
        space: str | None = None,
        revision: str | None = None,
        named: Callable[[], tuple[str | None, str | None]] | None = None,
        batches: BatchSpec | None = None,
    ) -> None:
        self._client, self.model, self.dimensions = client, model, dimensions
        self._space, self._revision, self._named = space, revision, named
        self._batches = batches or BatchSpec()

    def _model(self) -> str:
        if self.model is None:
            remedy = "Give model= to the service, or set EMBEDDING_MODEL."
            raise ConfigError("is not set", key="embedding.model", remedy=remedy)
        return self.model

    def _is_raw(self) -> bool:
        """Whether the client's answers can be had as bytes, which saves most of the time and memory."""
        from .transport.vectors import is_genuine

        return is_genuine(self._client)

    def _posted(self, texts: Sequence[str]) -> dict[str, Any]:
        from .transport.vectors import asked

        return asked(texts, model=self._model(), dimensions=self.dimensions)

    def _created(self, texts: Sequence[str]) -> dict[str, Any]:
        given = {} if self.dimensions is None else {"dimensions": self.dimensions}
        return {"input": list(texts), "model": self._model(), **given}

    def _answer_of(self, response: Any, texts: Sequence[str]) -> Answer:
        from .transport.vectors import brought

        vectors, provenance = brought(response, inputs=len(texts))
        width = vectors.matrix.shape[1]
        if self.dimensions not in (None, width):
            raise InvalidReply(f"a vector has {width} dimensions where {self.dimensions} were expected")
        if provenance is None:
            return Answer(vectors=vectors.matrix, tokens=vectors.tokens)
        name = provenance.endpoint or ""
        return Answer(vectors=vectors.matrix, tokens=vectors.tokens, endpoint=name, price=provenance.price)

    def _answer_in(self, reply: Any, texts: Sequence[str], calls: Sequence[Provenance]) -> Answer:
        """Of a client that is not the SDK's own, or that somebody watches."""
        block = _block(in_order(getattr(reply, "data", None), len(texts)), self.dimensions)
        tokens = getattr(getattr(reply, "usage", None), "prompt_tokens", None)
        name, price = (calls[-1].endpoint or "", calls[-1].price) if calls else ("", None)
        return Answer(vectors=block, tokens=tokens if isinstance(tokens, int) else 0, endpoint=name, price=price)

    def _known_space(self) -> Space | None:
        with contextlib.suppress(TypeError):  # a client that cannot be remembered is asked each time
            return _learnt.get(self._client, {}).get(self._what())
        return None

    def _learn(self, vector: Matrix) -> Space:
        name, revision = self._named() if self._named is not None else (None, None)
        name = self._space or name or self._model()
        space = Space.of(vector, name=name, revision=self._revision or revision)
        with contextlib.suppress(TypeError):
            _learnt.setdefault(self._client, {})[self._what()] = space
        return space

    def _what(self) -> tuple[object, ...]:
        return self.model, self.dimensions, self._space, self._revision


class EmbeddingService(_Embedding):
    """Embeddings from an openai client, or from anything with its `.embeddings.create`.

    Args:
        client: an `openai.OpenAI`, or a fake of it.
        model: what is asked for.
        dimensions: asked of the server, and demanded of its answer; None takes what the server gives.
        space: the name of what the vectors are of, where the model has several; None takes the model's.
        revision: which version of the model it is, where that is to be told apart.
        named: gives both, where they are not known here; asked when the space is.
        batches: how texts are grouped into requests.
    """

    def embed(self, texts: Sequence[str], *, out: Matrix | None = None) -> Matrix:
        """The vectors of the texts: float32, (len(texts), dimensions), in the order of the texts.

        Args:
            out: is filled and returned in place of a new matrix: float32, (len(texts), dimensions). May be a
                `numpy.memmap`, for what is larger than memory. After an error some of its rows may be written.

        Raises:
            InvalidInput: a text is empty, too long or no text; `position` is its index. Nothing was sent.
            InvalidReply: the server's answer does not fit the texts.
            ConfigError: no texts were given, and the number of dimensions is not known.
            ValueError: `out` does not fit the texts. Nothing was sent.
        """
        texts = _listed(texts)
        rows = _Rows(len(texts), self.dimensions, out)
        for start, batch in batched(texts, self._batches):
            rows.put(start, self.embed_request(batch).vectors)
        return rows.matrix()

    def embed_many(
        self,
        texts: Iterable[str],
        *,
        bulk: BulkSpec | None = None,
        cache: Cache | None = None,
        limit: Limit | None = None,
        send: Callable[[list[str]], Answer] | None = None,
    ) -> Run:
        """Blocks of vectors in the order of the texts, which may be more than memory holds: they are taken as needed.

        Requests go out in parallel, spread over the pool, fewer where servers are busy. A text that repeats is embedded
        once. One that no server takes is left out of its batch, and reported in its block; the others arrive.

        Args:
            bulk: how much at once, and how long to hope; None takes the service's batches.
            cache: a `VectorCache`: what it holds is not sent, what arrives is kept at once. So a run that was stopped
                goes on where it was. One of another space is refused with SpaceMismatch, before a text is taken.
            limit: a `RateLimit`, for a rate that several processes share.
            send: embeds the texts of one request in place of this service's client, as workers elsewhere do.
        """
        spec, send = bulk or BulkSpec(batches=self._batches), send or self.embed_request
        before, width = _requirement(self.require_space, cache), self.dimensions or _width_of(cache)
        return Run(texts, send, spec=spec, cache=cache, limit=limit, dimensions=width, before=before)

    def embed_one(self, text: str) -> Matrix:
        """The vector of one text: float32, (dimensions,). Raises as `embed`."""
        vector: Matrix = self.embed([text])[0]
        return vector

    def space(self) -> str:
        """The fingerprint of what the vectors are of: name, dimensions, normalisation, revision, and a sketch.

        To be kept beside vectors, and given to `require_space` before others are put beside them. Embeds one short
        text, once for a client.
        """
        return self._own_space().fingerprint

    def require_space(self, fingerprint: str) -> None:
        """Go on only where the vectors of this service may stand beside those with the fingerprint.

        Raises:
            SpaceMismatch: they may not: another model, also one that answers under the same name.
            ValueError: it is no fingerprint.
        """
        _require(fingerprint, self._own_space())

    def _own_space(self) -> Space:
        return self._known_space() or self._learn(self.embed_request([CANARY]).vectors[0])

    def embed_request(self, texts: Sequence[str]) -> Answer:
        """What one request brings: vectors as of `embed`, the tokens they cost, the endpoint they came from.

        The texts are neither checked nor grouped; otherwise raises as `embed`.
        """
        if self._is_raw():
            posted, post = self._posted(texts), self._client.post
            with as_they_are():
                response = post(**posted)
            return self._answer_of(response, texts)
        request, create = self._created(texts), self._client.embeddings.create
        with _readable(), _witnessed() as calls:
            reply = create(**request)
        return self._answer_in(reply, texts, calls)


class AsyncEmbeddingService(_Embedding):
    """The same for asyncio, over an `openai.AsyncOpenAI`."""

    async def embed(self, texts: Sequence[str], *, out: Matrix | None = None) -> Matrix:
        """As `EmbeddingService.embed`."""
        texts = _listed(texts)
        rows = _Rows(len(texts), self.dimensions, out)
        for start, batch in batched(texts, self._batches):
            rows.put(start, (await self.embed_request(batch)).vectors)
        return rows.matrix()

    def embed_many(
        self,
        texts: Iterable[str],
        *,
        bulk: BulkSpec | None = None,
        cache: Cache | None = None,
        limit: Limit | None = None,
    ) -> AsyncRun:
        """As `EmbeddingService.embed_many`, for `async for`."""
        spec, before = bulk or BulkSpec(batches=self._batches), _requirement(self.require_space, cache)
        width, send = self.dimensions or _width_of(cache), self.embed_request
        return AsyncRun(texts, send, spec=spec, cache=cache, limit=limit, dimensions=width, before=before)

    async def embed_one(self, text: str) -> Matrix:
        """As `EmbeddingService.embed_one`."""
        vector: Matrix = (await self.embed([text]))[0]
        return vector

    async def space(self) -> str:
        """As `EmbeddingService.space`."""
        return (await self._own_space()).fingerprint

    async def require_space(self, fingerprint: str) -> None:
        """As `EmbeddingService.require_space`."""
        _require(fingerprint, await self._own_space())

    async def _own_space(self) -> Space:
        return self._known_space() or self._learn((await self.embed_request([CANARY])).vectors[0])

    async def embed_request(self, texts: Sequence[str]) -> Answer:
        """As `EmbeddingService.embed_request`."""
        if self._is_raw():
            posted, post = self._posted(texts), self._client.post
            with as_they_are():
                response = await post(**posted)
            return self._answer_of(response, texts)
        request, create = self._created(texts), self._client.embeddings.create
        with _readable(), _witnessed() as calls:
            reply = await create(**request)
        return self._answer_in(reply, texts, calls)


def _requirement(require: Callable[[str], Any], cache: Cache | None) -> Callable[[], Any] | None:
    """What a run with this cache asks first; None where the cache does not say what its vectors are of."""
    fingerprint = getattr(cache, "space", None)
    return None if fingerprint is None else lambda: require(fingerprint)


def _width_of(cache: Cache | None) -> int | None:
    """Of a cache's vectors, where it says what they are of: known also where no text of a run gets one."""
    fingerprint = getattr(cache, "space", None)
    return None if fingerprint is None else Space.parse(fingerprint).dimensions


def _require(fingerprint: str, own: Space) -> None:
    expected = Space.parse(fingerprint)
    if (difference := expected.difference(own)) is not None:
        message = f"the vectors there are of {expected}, those of the embedding endpoint now of {own}: {difference}"
        remedy = "Set the embedding endpoint back, or embed everything anew."
        raise SpaceMismatch(f"{message}. {remedy}", expected=fingerprint, found=own.fingerprint)


def _listed(texts: Sequence[str]) -> list[str]:
    # A list of our own: what the caller changes while a request is on its way must not move the vectors.
    if isinstance(texts, str):
        raise InvalidInput("embed() takes a list of texts; one text goes to embed_one()", position=0)
    return list(texts)


class _Rows:
    """One matrix, filled batch by batch; it is made when the number of dimensions is known."""

    def __init__(self, count: int, dimensions: int | None, out: Matrix | None) -> None:
        self._count, self._dimensions, self._matrix = count, dimensions, out
        self._mapped = _mapped(out)
        self._written = 0
        if out is not None:
            _check_fits(out, count, dimensions)

    def put(self, start: int, block: Matrix) -> None:
        """Place the vectors of one batch."""
        import numpy as np

        width = block.shape[1]
        if self._matrix is None:
            self._matrix = np.empty((self._count, width), dtype=np.float32)
        elif self._matrix.shape[1] != width:
            raise InvalidReply(f"a vector has {width} dimensions where {self._matrix.shape[1]} were expected")
        self._matrix[start : start + len(block)] = block
        self._written += block.nbytes
        if self._mapped is not None and self._written >= _RELEASE_BYTES:
            self._mapped.madvise(mmap.MADV_DONTNEED)  # of a shared mapping nothing is lost: the file has it
            self._written = 0

    def matrix(self) -> Matrix:
        """The whole matrix; without texts (0, dimensions)."""
        import numpy as np

        if self._matrix is not None:
            return self._matrix
        if self._dimensions is None:
            remedy = "Set EMBEDDING_DIMENSIONS, or embed at least one text."
            raise ConfigError("is not known, and no text was given", key="embedding.dimensions", remedy=remedy)
        return np.empty((0, self._dimensions), dtype=np.float32)


def _check_fits(out: Matrix, count: int, dimensions: int | None) -> None:
    import numpy as np

    if not isinstance(out, np.ndarray):
        raise ValueError(f"out must be a writable float32 matrix, not {type(out).__name__}")
    if out.dtype != np.float32 or out.ndim != 2 or not out.flags.writeable:
        raise ValueError(f"out must be a writable float32 matrix, not {out.dtype} with {out.ndim} axes")
    if out.shape[0] != count or dimensions not in (None, out.shape[1]):
        raise ValueError(f"out must be of shape ({count}, {dimensions or 'dimensions'}), not {out.shape}")


def _mapped(out: Matrix | None) -> mmap.mmap | None:
    """What lies under a matrix that is a file; of a private copy of one, pages must stay."""
    import numpy as np

    if not isinstance(out, np.memmap) or out.mode not in ("r+", "w+") or not hasattr(mmap, "MADV_DONTNEED"):
        return None
    base: Any = out
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _block(vectors: list[Any], dimensions: int | None) -> Matrix:
    """The vectors as float32. Raises InvalidReply unless they are finite numbers, as many in each, and not all zero."""
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
    if not block.any(axis=1).all():
        raise InvalidReply("a vector is all zeros")
    return block


@contextlib.contextmanager
def _witnessed() -> Iterator[list[Provenance]]:
    """Where the calls inside come from; whoever records outside learns it too."""
    calls: list[Provenance] = []
    try:
        with recorded() as calls:
            yield calls
    finally:
        for call in calls:
            record(call)


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
