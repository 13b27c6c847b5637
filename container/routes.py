"""What is written of pools and routes: turned into those, each part checked for itself.

Knows tables and lists; knows no endpoints, and not whether what is named is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Final

from llmwire.services.forking import no_fork_meanwhile
from llmwire.services.routing.facts import script_of
from llmwire.services.routing.route import Route
from llmwire.services.routing.router import NamedPool

from . import values
from .configuration import Unfit

Parsers = Mapping[str, Callable[[Any], Any]]

ROUTE_TABLES: Final = "Write each below a line of its own, as in [[completion.routes]]."
POOL_TABLE: Final = "Write a pool's options below its name, as in [completion.pools.long]."
MOST_ROUTES: Final = 1000  #: each is looked at for each request that none before it holds for
MOST_KEYWORDS: Final = 5000  #: of all routes together: a long text is searched for them in a third of a second
MOST_OF_A_PATTERN: Final = 10_000  #: characters; a longer one takes seconds to be read
_LAST_LETTER: Final = 0x1FFFF  #: beyond it are Chinese characters alone, which come before it too


def pools(raw: Any) -> tuple[NamedPool, ...]:
    """The options of pools, from a table of tables."""
    if not isinstance(raw, Mapping):
        raise Unfit("must be a table of pools", POOL_TABLE)
    named: dict[str, NamedPool] = {}
    for written, options in raw.items():
        at = f".{written}"
        name = _parsed(values.pool_name, written, at)
        if name in named:
            raise Unfit(f"is there twice: the names of pools are {name} in whatever case", "Rename one.", at=at)
        if options is not None and not isinstance(options, Mapping):
            raise Unfit("is no table", POOL_TABLE, at=at)
        named[name] = NamedPool(name=name, **_read(options or {}, _POOL, at))
    return tuple(named.values())


def routes(raw: Any) -> tuple[Route, ...]:
    """Routes in their order, from a list of tables, or of Route objects.

    Where a route has several words they are a list, or one text that divides them by commas.
    """
    if not isinstance(raw, list | tuple):
        raise Unfit("must be a list of routes", ROUTE_TABLES)
    if len(raw) > MOST_ROUTES:
        raise Unfit(f"holds {len(raw)} routes, of {MOST_ROUTES} at most", "Remove those that no request needs.")
    made = tuple(_route(written, f"[{place}]") for place, written in enumerate(raw, start=1))
    words = sum(len(each) for route in made for each in (route.keywords, route.system_keywords, route.any_keywords))
    if words > MOST_KEYWORDS:
        raise Unfit(f"hold {words} keywords, of {MOST_KEYWORDS} at most", "Each is looked for in each request.")
    taken: dict[str, int] = {}
    for place, name in enumerate(names_of(made), start=1):
        if (other := taken.setdefault(name, place)) != place:
            raise Unfit(f"is {name!r}, as is that of route {other}", "Rename one of them.", at=f"[{place}].name")
    return made


def names_of(made: Iterable[Route]) -> tuple[str, ...]:
    """What the routes are called: as they say, or by their places, the first `route 1`."""
    return tuple(route.name or f"route {place}" for place, route in enumerate(made, start=1))


def _route(written: Any, at: str) -> Route:
    # What code made is read as what a file says: it may hold as little sense.
    table = _table_of(written) if isinstance(written, Route) else written
    if not isinstance(table, Mapping):
        raise Unfit(f"is no table, and no Route, but {type(written).__name__}", ROUTE_TABLES, at=at)
    attributes = _read(table, _ROUTE, at)
    if "pool" not in attributes:
        raise Unfit("is not set", "Name the pool that the route leads to, as in pool = 'long'.", at=f"{at}.pool")
    try:
        return Route(**attributes)
    except ValueError as error:
        problem, attribute = error.args
        raise Unfit(problem, "Correct it, or leave it out.", at=f"{at}.{attribute}") from None


def _table_of(route: Route) -> dict[str, Any]:
    """What was said of the route, its defaults left out."""
    said = {field.name: (getattr(route, field.name), field.default) for field in fields(route)}
    return {name: value for name, (value, default) in said.items() if value != default}


def _read(table: Mapping[Any, Any], parsers: Parsers, at: str) -> dict[str, Any]:
    """The values of a table by their keys. What is null in it is not said."""
    read = {}
    for name, raw in table.items():
        if name not in parsers:
            raise Unfit("is no setting", _suggestion(str(name), parsers), at=f"{at}.{name}")
        if raw is not None:
            read[name] = _parsed(parsers[name], raw, f"{at}.{name}")
    return read


def _parsed(parse: Callable[[Any], Any], raw: Any, at: str) -> Any:
    try:
        return parse(raw)
    except Unfit as error:
        raise Unfit(error.problem, error.remedy, at=f"{at}{error.at}") from None


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else f"Known are {', '.join(sorted(known))}."


def _line(raw: Any) -> str:
    if not values.text(raw).strip():
        raise Unfit("is blank", "Write something, or leave it out.")
    return str(raw)


def _labels(raw: Any) -> frozenset[str]:
    return frozenset(values.words(raw))


def _languages(raw: Any) -> tuple[str, ...]:
    codes = tuple(code.lower() for code in values.words(raw))
    for code in codes:
        if len(code) != 2 or not (code.isascii() and code.isalpha()):
            raise Unfit(f"holds {code!r}, which is no code of a language", "Write codes of ISO 639-1, as in de,fr.")
    return codes


def _scripts(raw: Any) -> tuple[str, ...]:
    scripts = tuple(script.capitalize() for script in values.words(raw))
    for script in scripts:
        if script not in _known_scripts():
            near = get_close_matches(script, _known_scripts(), n=1)
            remedy = f"Did you mean {near[0]}?" if near else "Write it as Unicode does, as in Latin, Cyrillic, Han."
            raise Unfit(f"holds {script!r}, which no letter is of", remedy)
    return scripts


@functools.cache
def _known_scripts() -> frozenset[str]:
    """What the script of a text may be called. Takes a tenth of a second: it asks of every letter."""
    letters = filter(str.isalpha, map(chr, range(_LAST_LETTER)))
    return frozenset(script for letter in letters if (script := script_of(letter)))


def _pattern(raw: Any) -> str:
    if not isinstance(raw, str):
        raise Unfit(f"must be text, not {type(raw).__name__}", "Put it in quotes.")
    if not raw.strip():
        raise Unfit("is blank", "Write something, or leave it out.")
    if len(raw) > MOST_OF_A_PATTERN:
        raise Unfit(f"has more than {MOST_OF_A_PATTERN} characters", "Write it shorter.")
    pattern = raw
    with no_fork_meanwhile():
        from llmwire.services.transport.patterns import searching
    try:
        searching(pattern)
    except ValueError as error:
        raise Unfit(f"is no regular expression: {error}", "Correct it.") from None
    return pattern


def _predicate(raw: Any) -> Any:
    if callable(raw):
        return raw
    if not isinstance(raw, str):
        raise Unfit(f"must be a function, or the name of one, not {type(raw).__name__}", "Write its name.")
    return _line(raw)


def _examples(raw: Any) -> tuple[str, ...]:
    """Texts, which have commas of their own."""
    texts = [raw] if isinstance(raw, str) else raw
    if not isinstance(texts, list | tuple) or not all(isinstance(each, str) and each.strip() for each in texts):
        raise Unfit("must be a list of texts", "Write it as in ['Where is my parcel?', 'Track my order'].")
    if not texts:
        raise Unfit("names nothing", "Name one, or leave it out.")
    return tuple(texts)


_POOL: Final[Parsers] = {"strategy": values.strategy, "deadline_s": values.seconds, "trust": _labels}

_ROUTE: Final[Parsers] = {
    "pool": values.pool_name,
    "name": _line,
    "min_tokens": values.count,
    "max_tokens": values.count,
    "min_input_tokens": values.count,
    "max_input_tokens": values.count,
    "min_inputs": values.count,
    "max_inputs": values.count,
    "has_images": values.switch,
    "has_audio": values.switch,
    "has_files": values.switch,
    "has_tools": values.switch,
    "wants_structured_output": values.switch,
    "is_streamed": values.switch,
    "model": values.words,
    "script": _scripts,
    "language": _languages,
    "keywords": values.words,
    "system_keywords": values.words,
    "any_keywords": values.words,
    "pattern": _pattern,
    "system_pattern": _pattern,
    "any_pattern": _pattern,
    "tags": values.words,
    "predicate": _predicate,
    "examples": _examples,
    "threshold": values.cosine,
    "top_k": values.count,
    "trust": values.words,
    "on_context_length": values.pool_name,
    "mode": values.mode,
}
