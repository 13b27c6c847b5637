"""Faults as values, and as plain text. Knows how a word is written and read; the words are in `faults.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from types import UnionType
from typing import Any, Literal, ParamSpec, Union, get_args, get_origin, get_type_hints

from .effects import Effect

P = ParamSpec("P")
Pick = Callable[[str], Effect]  # from the path of a request

_WORDS: dict[str, Callable[..., Fault]] = {}
_PLUS = re.compile(r"\+(?![^()]*\))")  #: outside of brackets
_INNER = "fault"  #: the parameter of words that stand before another fault
_OPEN = "headers"  #: the parameter that takes any other name


@dataclass(frozen=True, slots=True)
class Fault:
    """What a server does wrong: made by the words of `faults`, joined with `+`, equal where it is spelled the same.

    Attributes:
        spelling: as plain text.
        turns: how many requests it is for, where it stands in a sequence.
        start: makes what picks the effect on each request; counters and chances begin anew.
    """

    spelling: str = ""
    turns: int = 1
    start: Callable[[], Pick] = field(repr=False, compare=False, kw_only=True)

    def __add__(self, other: Fault | str) -> Fault:
        """Both at once: this one is nearer to the wire, the other changes the reply that this one made."""
        right_fault = parse(other)

        def start() -> Pick:
            left, right = self.start(), right_fault.start()
            return lambda path: left(path) + right(path)

        return Fault(f"{self}+{right_fault}", max(self.turns, right_fault.turns), start=start)

    def __str__(self) -> str:
        return self.spelling


def word(make: Callable[P, Fault]) -> Callable[P, Fault]:
    """Enter a function into the vocabulary: it can be written and read, and its faults know their spelling."""

    @wraps(make)
    def spelled(*args: P.args, **options: P.kwargs) -> Fault:
        return replace(make(*args, **options), spelling=_spelled(make, args, options))

    _WORDS[make.__name__] = spelled
    return spelled


def parse(given: Fault | str) -> Fault:
    """The fault of a spelling: `WORD`, `WORD:VALUE,NAME=VALUE`, several with `+`, or a status alone, as in `429`.

    A fault is taken as it is.

    Words that choose requests stand before their fault: `times:2:429`, `share:0.3,seed=7:(slow:1+503)`. In the names of
    options `-` is as good as `_`.

    Raises:
        ValueError: a word, option or value is not known; the message says which are.
    """
    if isinstance(given, Fault):
        return given
    first, *others = _PLUS.split(given.strip())
    fault = _parsed(first)
    for other in others:
        fault += _parsed(other)
    return fault


def words() -> list[tuple[str, str]]:
    """The vocabulary: how each word is used, and what it says."""
    return [(_usage(name), (inspect.getdoc(make) or "").partition("\n")[0]) for name, make in _WORDS.items()]


def _spelled(make: Callable[..., Fault], args: tuple[object, ...], options: dict[str, Any]) -> str:
    given = inspect.signature(make).bind(*args, **options).arguments
    inner = str(parse(given.pop(_INNER))) if _INNER in given else ""
    given |= given.pop(_OPEN, {})
    unnamed = next(iter(_unnamed(make)), "")
    said = [_written(value) if name == unnamed else f"{name}={_written(value)}" for name, value in given.items()]
    return ":".join(filter(None, [make.__name__, ",".join(said), f"({inner})" if "+" in inner else inner]))


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parsed(text: str) -> Fault:
    name, _, rest = text.partition(":")
    if name.isdigit():
        name, rest = "status", f"{name},{rest}"
    if name not in _WORDS:
        raise ValueError(f"unknown fault {name!r}: write a status, as in 429, or one of {', '.join(sorted(_WORDS))}")
    make, inner = _WORDS[name], ""
    if _INNER in _parameters(make):
        rest, _, inner = rest.partition(":")
    options = _options(name, rest)
    if inner:
        options[_INNER] = parse(inner.removeprefix("(").removesuffix(")"))
    for parameter in _parameters(make).values():
        if parameter.default is parameter.empty and parameter.name not in {*options, _OPEN}:
            raise ValueError(f"{name} lacks its {parameter.name}: write {_usage(name)}")
    return make(**options)


def _options(name: str, text: str) -> dict[str, object]:
    make = _WORDS[name]
    hints, unnamed = get_type_hints(make), iter(_unnamed(make))
    options: dict[str, object] = {}
    for said in filter(None, text.split(",")):
        before, mark, after = said.partition("=")
        option, value = (before.replace("-", "_"), after) if mark else (next(unnamed, ""), said)
        if not option or (option not in _parameters(make) and _OPEN not in hints):
            raise ValueError(f"{name} has no option {before!r}: write {_usage(name)}")
        options[option] = _read(f"{name}: {option}", value, hints.get(option, str))
    return options


def _read(place: str, text: str, hint: object) -> object:
    """A value as its type says: one of some names, a text, or a number."""
    kinds, names = _kinds(hint), _names(hint)
    if names and text not in names:
        raise ValueError(f"{place} must be one of {', '.join(names)}, not {text!r}")
    if names or str in kinds:
        return text
    try:
        return int(text) if int in kinds else float(text)
    except ValueError as error:
        raise ValueError(f"{place} must be a number, not {text!r}") from error


def _kinds(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _names(hint: object) -> list[str]:
    """The names that a value must be one of, if its type is such."""
    return [name for kind in _kinds(hint) if get_origin(kind) is Literal for name in get_args(kind)]


def _parameters(make: Callable[..., Fault]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(make).parameters)


def _unnamed(make: Callable[..., Fault]) -> list[str]:
    """The parameters whose values may stand without their names."""
    known = _parameters(make).values()
    return [one.name for one in known if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != _INNER]


def _usage(name: str) -> str:
    make = _WORDS[name]
    hints = get_type_hints(make)
    options = [
        f"{option}={'|'.join(_names(hints[option])) or '...'}"
        for option in _parameters(make)
        if option not in (_INNER, _OPEN)
    ]
    return ":".join(filter(None, [name, ",".join(options), "FAULT" if _INNER in hints else ""]))
