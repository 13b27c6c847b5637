"""A route: what it looks for in a request, and which pool it names. Knows conditions; knows no endpoints."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from fnmatch import translate
from operator import attrgetter
from typing import Any, Final

from .facts import Facts


class Mode(StrEnum):
    """What becomes of a decision."""

    ON = "on"
    SHADOW = "shadow"  #: it is made and reported, and not followed
    OFF = "off"  #: it is not made


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A rule: where every condition that is given holds, the request goes to the pool. Without any it always does.

    Attributes:
        pool: the name of the pool.
        name: in events and explanations; empty takes one by its place, as in `route 2`.
        min_tokens, max_tokens: about how many tokens the request has, at least and at most.
        min_input_tokens, max_input_tokens: the same for the longest text of a request for embeddings.
        min_inputs, max_inputs: how many texts that has.
        has_images, has_audio, has_files: whether any are attached.
        has_tools: whether tools may be called.
        wants_structured_output: whether the answer must be JSON, or fit a schema.
        is_streamed: whether the answer is wanted piece by piece.
        model: names or patterns such as `gpt-*`; the request asks for one of them.
        script: of most letters of the user's text, as in `Cyrillic`; one of these.
        language: of the user's text, as in `de`; one of these.
        keywords, system_keywords: one of these words occurs in the last message of the user's, or in the system
            message; case plays no part.
        pattern, system_pattern: a regular expression that is found there.
        any_keywords, any_pattern: the same anywhere in the request: in every message, and in every text to embed.
        tags: the caller attached all of these.
        predicate: is given the Facts of the request, and says whether the route holds; or the name of one.
        examples: texts that the user's is like in meaning, by the vectors of the embedding endpoint.
        threshold: the least likeness, as a cosine.
        top_k: the likeness is the mean of that of so many of the examples, the nearest.
        trust: labels of which an endpoint must have one; empty demands nothing.
        on_context_length: a pool to ask where a server says that the request is too long for it.
        mode: whether the route is followed.
    Raises:
        ValueError: it cannot be meant so; the second argument names the attribute.
    """

    pool: str
    name: str = ""
    min_tokens: int | None = None
    max_tokens: int | None = None
    min_input_tokens: int | None = None
    max_input_tokens: int | None = None
    min_inputs: int | None = None
    max_inputs: int | None = None
    has_images: bool | None = None
    has_audio: bool | None = None
    has_files: bool | None = None
    has_tools: bool | None = None
    wants_structured_output: bool | None = None
    is_streamed: bool | None = None
    model: tuple[str, ...] = ()
    script: tuple[str, ...] = ()
    language: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    system_keywords: tuple[str, ...] = ()
    any_keywords: tuple[str, ...] = ()
    pattern: str | None = None
    system_pattern: str | None = None
    any_pattern: str | None = None
    tags: tuple[str, ...] = ()
    predicate: Callable[[Facts], bool] | str | None = None
    examples: tuple[str, ...] = ()
    threshold: float = 0.5  #: what it should be depends on the embedding model: `llmwire route --explain` shows scores
    top_k: int = 3  #: one example alone may be near by accident
    trust: tuple[str, ...] = ()
    on_context_length: str | None = None
    mode: Mode = Mode.ON

    def __post_init__(self) -> None:
        for least, most in _RANGES:
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise ValueError(f"is {low}, which is more than {most}, {high}", least)
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"is {self.threshold:g}, and a cosine is from -1 to 1", "threshold")
        if self.top_k < 1:
            raise ValueError(f"is {self.top_k}, and at least one example must count", "top_k")
        if self.on_context_length == self.pool:
            raise ValueError("is the route's own pool", "on_context_length")

    @property
    def is_semantic(self) -> bool:
        """Whether the meaning of a text decides."""
        return bool(self.examples)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of those that are given."""
        return tuple(name for name in CONDITIONS if getattr(self, name) not in (None, ()))

    @property
    def needs_tokens(self) -> bool:
        """Whether tokens are counted for it."""
        return any(name.endswith("_tokens") for name in self.conditions)


_RANGES: Final = (
    ("min_tokens", "max_tokens"),
    ("min_input_tokens", "max_input_tokens"),
    ("min_inputs", "max_inputs"),
)
_CONSEQUENCES: Final = frozenset({"pool", "name", "threshold", "top_k", "trust", "on_context_length", "mode"})

#: every condition, in the order in which they are named above
CONDITIONS: Final = tuple(field.name for field in fields(Route) if field.name not in _CONSEQUENCES)
#: those that a request for embeddings can never meet
OF_COMPLETIONS: Final = frozenset(
    {
        *("has_images", "has_audio", "has_files", "has_tools", "wants_structured_output", "is_streamed"),
        *("system_keywords", "system_pattern", "examples"),
    }
)
#: those that only a request for embeddings can meet
OF_EMBEDDINGS: Final = frozenset({"min_input_tokens", "max_input_tokens", "min_inputs", "max_inputs"})

#: those that look into what is written
OF_TEXT: Final = frozenset(
    {
        *("keywords", "system_keywords", "any_keywords", "pattern", "system_pattern", "any_pattern"),
        *("script", "language"),
    }
)
MOST_SLOW: Final = 2  #: searches of one request that may run into their limit; then the others are not tried
MOST_TRIES: Final = 10_000  #: places of a keyword that are looked at: where it stands so often, it stands there

Check = Callable[[Facts], bool]
Search = Callable[[str], bool]  #: looks for a pattern in a text; raises TimeoutError where that takes too long


def checks_of(
    route: Route, *, compile_pattern: Callable[[str], Search], predicate: Check | None
) -> tuple[tuple[str, Check], ...]:
    """The conditions of a route as checks with their names, the cheap ones first; without `examples`."""
    made = {name: _MAKERS[name](getattr(route, name)) for name in route.conditions if name in _MAKERS}
    for name, text_of in _SEARCHED.items():
        if (pattern := getattr(route, name)) is not None:
            made[name] = _found_in(text_of, compile_pattern(pattern))
    if predicate is not None:
        made["predicate"] = lambda facts: bool(predicate(facts))
    return tuple((name, made[name]) for name in _BY_COST if name in made)


def _found_in(text_of: Callable[[Facts], str], search: Search) -> Check:
    def check(facts: Facts) -> bool:
        searched = facts.searched
        if check not in searched:  # a request may be decided more than once: what it costs is paid once
            if len(searched) >= MOST_SLOW and list(searched.values()).count(None) >= MOST_SLOW:
                raise TimeoutError("others have taken the time")
            try:
                searched[check] = search(text_of(facts))
            except TimeoutError:
                searched[check] = None
        found = searched[check]
        if found is None:
            raise TimeoutError
        return found

    return check


def _flag(name: str) -> Callable[[bool], Check]:
    """Of a count or a flag of the facts."""
    value_of = attrgetter(name)
    return lambda wanted: (lambda facts: bool(value_of(facts))) if wanted else (lambda facts: not value_of(facts))


def _any_keyword(keywords: Sequence[str]) -> Callable[[str], bool]:
    folded = tuple(word.casefold() for word in keywords)

    def occurs(text: str) -> bool:
        for word in folded:  # noqa: SIM110  # `any` takes three times as long over a few words
            if word in text and _stands_in(word, text):
                return True
        return False

    return occurs


def _stands_in(word: str, text: str) -> bool:
    """Whether it occurs as a word, and not inside of another: `art` does not in `start`."""
    at = text.find(word)
    for _ in range(MOST_TRIES):
        if at < 0:
            return False
        end = at + len(word)
        if not _is_joined(text[at - 1 : at], word[0]) and not _is_joined(text[end : end + 1], word[-1]):
            return True
        at = text.find(word, at + 1)
    return True


def _is_joined(neighbour: str, edge: str) -> bool:
    """Whether both are of one word."""
    return bool(neighbour) and _binds(neighbour) and _binds(edge)


def _binds(letter: str) -> bool:
    """Whether it makes a word with what is beside it: a letter, a digit, or a mark upon one.

    Those of Chinese and Japanese do not, whatever they are beside: any place there is the edge of a word.
    """
    is_of_words = letter.isalnum() or unicodedata.category(letter).startswith("M")
    return is_of_words and unicodedata.east_asian_width(letter) not in "WF"


def _named(patterns: Iterable[str]) -> Check:
    exact = frozenset(pattern for pattern in patterns if not _is_glob(pattern))
    globs = [translate(pattern) for pattern in patterns if _is_glob(pattern)]
    matches = re.compile("|".join(globs)).match if globs else None

    def check(facts: Facts) -> bool:
        model = facts.model
        return model is not None and (model in exact or (matches is not None and matches(model) is not None))

    return check


def _is_glob(pattern: str) -> bool:
    return any(sign in pattern for sign in "*?[")


def _scripts(wanted: Sequence[str]) -> Check:
    known = frozenset(name.capitalize() for name in wanted)
    return lambda facts: facts.script in known


def _keywords(text_of: Callable[[Facts], str]) -> Callable[[Sequence[str]], Check]:
    def made(words: Sequence[str]) -> Check:
        occurs = _any_keyword(words)
        return lambda facts: occurs(text_of(facts))

    return made


def _tags(wanted: Sequence[str]) -> Check:
    demanded = frozenset(wanted)
    return lambda facts: demanded <= facts.wanted.tags


#: what makes the check of a condition from its value; the order is that of their cost
_MAKERS: Final[dict[str, Callable[[Any], Check]]] = {
    "is_streamed": _flag("is_streamed"),
    "has_tools": _flag("has_tools"),
    "has_images": _flag("images"),
    "has_audio": _flag("audio"),
    "has_files": _flag("files"),
    "wants_structured_output": _flag("wants_structured_output"),
    "tags": _tags,
    "min_inputs": lambda least: lambda facts: facts.inputs >= least,
    "max_inputs": lambda most: lambda facts: facts.inputs <= most,
    "model": _named,
    "min_tokens": lambda least: lambda facts: facts.reaches(least),
    "max_tokens": lambda most: lambda facts: not facts.reaches(most + 1),
    "min_input_tokens": lambda least: lambda facts: facts.longest_reaches(least),
    "max_input_tokens": lambda most: lambda facts: not facts.longest_reaches(most + 1),
    "keywords": _keywords(attrgetter("lowered_user")),
    "system_keywords": _keywords(attrgetter("lowered_system")),
    "any_keywords": _keywords(attrgetter("lowered")),
    "script": _scripts,
    "language": lambda wanted: lambda facts: facts.language in wanted,
}
#: where each pattern is looked for
_SEARCHED: Final[dict[str, Callable[[Facts], str]]] = {
    "pattern": attrgetter("user"),
    "system_pattern": attrgetter("system"),
    "any_pattern": attrgetter("whole"),
}
_BY_COST: Final = (*_MAKERS, *_SEARCHED, "predicate")
