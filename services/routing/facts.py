"""What rules may look at in a request. Pure: knows texts and counts; knows no HTTP and no endpoint.

Whatever costs something is found out when a rule first asks for it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ..wanted import NOTHING, Wanted

BYTES_A_TOKEN: Final = 4  #: of UTF-8: about right for English, some more than there are for most other languages
MESSAGE_TOKENS: Final = 4  #: that a message costs beside its text: its role, and where it begins and ends
IMAGE_TOKENS: Final = 765  #: of a picture of 1024 x 1024 at GPT-4o; others count 85 to 1,600
SAMPLE_CHARS: Final = 2000  #: of a text tell its script and its language

_SCRIPTS: Final = {"CJK": "Han"}  #: where Unicode's names of characters begin otherwise than with their script


def estimated_tokens(text: str) -> int:
    """A quarter of its bytes in UTF-8, as no tokenizer is at hand."""
    return -(-size_bytes(text) // BYTES_A_TOKEN)


def size_bytes(text: str) -> int:
    """In UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


class Facts:
    """Of one request.

    Args:
        count_tokens: of a text; None estimates.
        detect_language: of a text: its code of ISO 639-1, as in `de`; None where none is found.
        read_body: gives the whole body.

    Attributes:
        function: `completion` or `embedding`.
        operation: the API path below the base URL, as in `chat/completions`.
        model: the name that is asked for; None where there is none.
        system: the text of the system message, or the instructions.
        user: the text of the last message of the user's; of a request without messages its prompt or its inputs.
        texts: all that is written in it; of embeddings the inputs.
        messages: how many there are.
        images, audio, files: how many of them are attached.
        is_streamed: the answer is wanted piece by piece.
        has_tools: functions or other tools may be called.
        wants_structured_output: the answer must be JSON, or fit a schema.
        max_output_tokens: that may be answered; 0 where the request does not say.
        inputs: how many texts are to be embedded; 0 for a completion.
        given_tokens, longest_given: of inputs that come as tokens: all of them, and those of the longest.
        extra_bytes: of what else fills the context, as descriptions of tools.
        wanted: the caller's tags and demands.
        is_unread: some of it is no text that could be read: it came as tokens, or is no JSON.
        searched: whether each search found something, by its check; None of one that took too long.
    """

    __slots__ = (
        "_body",
        "_count",
        "_detect",
        "_language",
        "_longest",
        "_lowered",
        "_lowered_system",
        "_lowered_user",
        "_most_tokens",
        "_read_body",
        "_script",
        "_tokens",
        "_whole",
        "audio",
        "extra_bytes",
        "files",
        "function",
        "given_tokens",
        "has_tools",
        "images",
        "inputs",
        "is_streamed",
        "is_unread",
        "longest_given",
        "max_output_tokens",
        "messages",
        "model",
        "operation",
        "searched",
        "system",
        "texts",
        "user",
        "wanted",
        "wants_structured_output",
    )

    def __init__(
        self,
        *,
        function: str,
        operation: str = "",
        model: str | None = None,
        system: str = "",
        user: str = "",
        texts: Sequence[str] = (),
        messages: int = 0,
        images: int = 0,
        audio: int = 0,
        files: int = 0,
        is_streamed: bool = False,
        has_tools: bool = False,
        wants_structured_output: bool = False,
        max_output_tokens: int = 0,
        inputs: int = 0,
        given_tokens: int = 0,
        longest_given: int = 0,
        extra_bytes: int = 0,
        is_unread: bool = False,
        wanted: Wanted = NOTHING,
        count_tokens: Callable[[str], int] | None = None,
        detect_language: Callable[[str], str | None] | None = None,
        read_body: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.function, self.operation, self.model = function, operation, model
        self.system, self.user, self.texts, self.messages = system, user, texts, messages
        self.images, self.audio, self.files = images, audio, files
        self.is_streamed, self.has_tools = is_streamed, has_tools
        self.wants_structured_output, self.max_output_tokens = wants_structured_output, max_output_tokens
        self.inputs, self.given_tokens, self.longest_given = inputs, given_tokens, longest_given
        self.extra_bytes, self.wanted, self.is_unread = extra_bytes, wanted, is_unread
        self.searched: dict[object, bool | None] = {}
        self._count, self._detect, self._read_body = count_tokens or estimated_tokens, detect_language, read_body
        self._tokens: int | None = None
        self._most_tokens: int | None = None
        self._longest: int | None = None
        self._language: str | None = None
        self._script: str | None = None
        self._whole: str | None = None
        self._lowered: str | None = None
        self._lowered_user: str | None = None
        self._lowered_system: str | None = None
        self._body: Mapping[str, Any] | None = None

    @property
    def tags(self) -> frozenset[str]:
        """That the caller attached."""
        return self.wanted.tags

    @property
    def body(self) -> Mapping[str, Any]:
        """The whole request as it is sent; empty where it is no JSON object."""
        if self._body is None:
            self._body = self._read_body() if self._read_body is not None else {}
        return self._body

    @property
    def tokens(self) -> int:
        """About how many tokens it has: texts, tools and pictures; of audio and files nobody can know."""
        if self._tokens is None:
            self._tokens = sum(map(self._count, self.texts)) + self._tokens_beside_texts()
        return self._tokens

    @property
    def longest_input(self) -> int:
        """About how many tokens the longest text has that is to be embedded."""
        if self._longest is None:
            self._longest = max(map(self._count, self.texts), default=0)
        return max(self._longest, self.longest_given)

    def longest_reaches(self, tokens: int) -> bool:
        """Whether the longest text to embed has at least so many. Short ones are not counted."""
        if self.longest_given >= tokens:
            return True
        return any(size_bytes(text) >= tokens and self._count(text) >= tokens for text in self.texts)

    def reaches(self, tokens: int) -> bool:
        """Whether it has at least so many. A text never has more tokens than bytes: short ones are not counted."""
        if self._most_tokens is None:
            self._most_tokens = sum(map(size_bytes, self.texts)) + self._tokens_beside_texts()
        return self._most_tokens >= tokens and self.tokens >= tokens

    @property
    def language(self) -> str | None:
        """Of the user's text, as in `de`; None where it is not to be told."""
        if self._language is None and self._detect is not None:
            self._language = self._detect(self.user[:SAMPLE_CHARS]) or ""
        return self._language or None

    @property
    def script(self) -> str | None:
        """The script that most letters of the user's text are of, as in `Latin`, `Cyrillic`, `Han`."""
        if self._script is None:
            self._script = script_of(self.user[:SAMPLE_CHARS]) or ""
        return self._script or None

    @property
    def whole(self) -> str:
        """All that is written in it, a text below another."""
        if self._whole is None:
            self._whole = "\n".join(self.texts)
        return self._whole

    @property
    def lowered(self) -> str:
        """The same in the one case in which keywords are compared."""
        if self._lowered is None:
            self._lowered = self.whole.casefold()
        return self._lowered

    @property
    def lowered_user(self) -> str:
        """The user's text in the one case in which keywords are compared."""
        if self._lowered_user is None:
            self._lowered_user = self.user.casefold()
        return self._lowered_user

    @property
    def lowered_system(self) -> str:
        """The same for the system message."""
        if self._lowered_system is None:
            self._lowered_system = self.system.casefold()
        return self._lowered_system

    def _tokens_beside_texts(self) -> int:
        beside = MESSAGE_TOKENS * self.messages + IMAGE_TOKENS * self.images + self.given_tokens
        return beside + -(-self.extra_bytes // BYTES_A_TOKEN)


def script_of(text: str) -> str | None:
    """The script of most of its letters, by the names that Unicode gives them; None of a text without letters."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else None
    counted = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    if not counted:
        return None
    name = counted.most_common(1)[0][0]
    return _SCRIPTS.get(name, name.capitalize()) or None
