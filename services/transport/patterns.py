"""Regular expressions that end in time. The one door to `regex`, whose searches take a limit; those of `re` do not."""

from __future__ import annotations

import re
from typing import Final

import regex

from ..routing.route import Search

LIMIT_S: Final = 0.02  #: a search of a megabyte takes less; what takes longer goes through every way of matching
SHORT_CHARS: Final = 4000  #: to compare a hundred characters at each place of such a text takes 2 ms

SHORT_PATTERN: Final = 500  #: characters of a pattern of which the same is certain: hundreds of choices take their time

#: an escape, a class, or the head of a group: what is no quantifier, though it may hold the sign of one. Not of a
#: verbose pattern, whose comments may hold any sign
_ATOM: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?(?:[aiLmsu]+[:)]|[:=!]|<[=!]|P?<\w+>)", re.DOTALL)
_EXACTLY: Final = re.compile(r"(?<=[^()|])\{\d{1,2}\}")  #: of a group it is none: that may match in several ways


def searching(pattern: str) -> Search:
    """A search for the pattern, which raises TimeoutError after `LIMIT_S` seconds.

    Raises:
        ValueError: it is no regular expression; says what is wrong, and where.
    """
    try:
        search = regex.compile(pattern).search
    except (regex.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from None
    # A limit costs as much as five searches of a short text.
    unlimited = SHORT_CHARS if len(pattern) <= SHORT_PATTERN and _is_straight(pattern) else -1

    def found(text: str) -> bool:
        if len(text) <= unlimited:
            return search(text) is not None
        # Not concurrent: to get Python's lock back beside busy threads alone takes longer than the limit.
        return search(text, timeout=LIMIT_S, concurrent=False) is not None

    return found


def _is_straight(pattern: str) -> bool:
    """Whether there are not many ways to match the same text, for certain: nothing repeats, and little is a choice."""
    plain = _ATOM.sub(lambda atom: "(" if atom[0].startswith("(?") and not atom[0].endswith(")") else "x", pattern)
    plain = _EXACTLY.sub("", plain)
    return not set("*+?{") & set(plain) and ("|" not in plain or plain.count("(") <= 1)
