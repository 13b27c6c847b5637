"""Words, as far as a stand-in knows them: which carry no meaning, and which are forms of one."""

from __future__ import annotations

import re
import unicodedata

_SAY_LITTLE = """
a about after all also am an and any are as at be because been before being between both but by can could did do
does doing for from had has have having he her here him his how i if in into is it its just may me might more most
must my no not of off on only or other our out over please shall she should so some such tell than that the their
them then there these they this those to too under up us was we were what when where which while who whom whose why
will with would you your
"""
#: English words that say little of what a text is about
STOP_WORDS = frozenset(_SAY_LITTLE.split())

_WORD = re.compile(r"[^\W_]+")
#: longer endings first; what is left must have three letters, so that "red" stays red
_ENDINGS = ("ations", "ation", "ings", "ing", "edly", "ies", "ed", "es", "ly", "s", "y", "e")


def words(text: str) -> list[str]:
    """The words of a text in order, in one spelling: lower case, compatible characters made equal."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def terms(text: str) -> list[str]:
    """The stems of the words that carry meaning, in order: "When are returns accepted?" gives return and accept."""
    return [stem(word) for word in words(text) if word not in STOP_WORDS and not _is_rest(word)]


def _is_rest(word: str) -> bool:
    """Whether it is what an apostrophe leaves over, as in "Norway's"."""
    return len(word) == 1 and word.isascii() and word.isalpha()


def stem(word: str) -> str:
    """A word without its ending, roughly: good enough to see that "deliveries" and "delivered" are one matter."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word.removesuffix(ending)
    return word
