"""Which texts go into one request. Knows texts and their limits; knows no clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import InvalidInput


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

    def fits(self, inputs: int, tokens: int) -> bool:
        """Whether one request may carry so many. A single text always may: whether it can is the server's to say."""
        return inputs == 1 or (inputs <= self.max_inputs and tokens <= self.max_request_tokens)


def batched(texts: Sequence[str], spec: BatchSpec) -> Iterator[tuple[int, list[str]]]:
    """The requests: the position of the first text, and the texts. All texts are checked before the first is given.

    Raises:
        InvalidInput: a text cannot be sent.
    """
    for position, text in enumerate(texts):
        check(text, position, spec)
    return _grouped(texts, spec)


def _grouped(texts: Sequence[str], spec: BatchSpec) -> Iterator[tuple[int, list[str]]]:
    start, batch, tokens = 0, list[str](), 0
    for position, text in enumerate(texts):
        of_text = spec.most(text)
        if not spec.fits(len(batch) + 1, tokens + of_text):
            yield start, batch
            start, batch, tokens = position, [], 0
        batch.append(text)
        tokens += of_text
    if batch:
        yield start, batch


def check(text: object, position: int, spec: BatchSpec) -> None:
    """Raise InvalidInput where no server can take the text. `position` is its index among the inputs."""
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
