"""A pattern is searched for in any text within a bound, and a cheap one is never given up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.transport.patterns import SHORT_CHARS, searching

#: Far above the limit, for a busy machine; far below what any of these patterns would take without one.
BOUND_S = 5.0
MEGABYTE = 1_000_000


@pytest.mark.parametrize(
    ("pattern", "text", "is_found"),
    [
        ("invoice", "the invoice of May", True),
        ("invoice", "the bill of May", False),
        ("Invoice", "the invoice of May", False),
        ("(?i)Invoice", "the INVOICE of May", True),
        (r"\bDE\d{2}(?: ?\d{4}){4}", "to DE89 3704 0044 0532 0130 00", True),
        (r"\d{4}-\d{4}", "card 1234-5678", True),
        (r"\d{4}-\d{4}", "card 123-5678", False),
        ("^secret", "a secret", False),
        ("(red|blue) car", "a blue car", True),
        (r"[*+?]\?", "what*?", True),
        (r"\p{Cyrillic}", "это", True),
        ("", "", True),
        (".", "", False),
        ("a.c", "a\ud800c", True),
    ],
)
def test_a_pattern_is_found_wherever_it_stands(pattern, text, is_found):
    assert searching(pattern)(text) is is_found


@pytest.mark.parametrize("pattern", ["invoice", r"\d{4}", "(red|blue)", "in+voice", ".{99}[xy]"])
def test_a_pattern_is_found_alike_in_a_short_text_and_in_a_long_one(pattern):
    found = "invoice 1234 red" + "." * 99 + "x"
    search = searching(pattern)

    assert search(found)
    assert search(" " * SHORT_CHARS + found)
    assert not search("-")
    assert not search("-" * (SHORT_CHARS + 1))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a|aa)+$",
        "(a+)+$",
        "(a*)*$",
        "(a|aa){60}b",
        "(?:a|aa)(?:a|aa)" * 20 + "b",
        "(?x)(a|aa) {60}b",  # blanks do not count: the quantifier is the group's
        "(?x)(a|aa)#[\n{60}#]\nb",  # a comment, and no class
        "(?P<x>a|aa)(?&x){60}b",
        "(a?){60}a{60}b",
    ],
)
@pytest.mark.parametrize("length", [SHORT_CHARS, MEGABYTE // 10])
def test_a_pattern_that_would_take_for_ever_is_given_up(pattern, length):
    search, text = searching(pattern), "a" * (length - 1) + "c"
    began_at_s = time.monotonic()

    with pytest.raises(TimeoutError):
        search(text)

    assert time.monotonic() - began_at_s < BOUND_S


def test_a_pattern_without_a_choice_is_given_up_as_well_where_the_text_is_long():
    search, text = searching(".{99}" * 10 + "[xy]"), "a" * MEGABYTE * 4

    with pytest.raises(TimeoutError):
        search(text)


def test_a_pattern_that_was_given_up_is_searched_for_again():
    search = searching("(a|aa)+$")
    with pytest.raises(TimeoutError):
        search("a" * 100 + "b")

    assert search("aaa")


def test_a_cheap_pattern_is_found_in_a_long_text():
    assert searching("invoice.*May")("." * MEGABYTE + "invoice of May")


def test_a_cheap_pattern_is_not_given_up_beside_busy_threads():
    search, text, ends = searching("in+voice"), "a bill " * 20 + "an invoice", threading.Event()

    def be_busy():
        while not ends.is_set():
            sum(range(1000))

    with ThreadPoolExecutor(8) as busy, ThreadPoolExecutor(8) as searchers:
        for _ in range(8):
            busy.submit(be_busy)
        found = list(searchers.map(search, [text] * 200))
        ends.set()

    assert found == [True] * 200


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(a", r"missing \) at position 2"),
        ("a)", "position 1"),
        ("[a", "position"),
        ("*a", "nothing to repeat at position 0"),
        ("a{99999999999}", "repeat count too big at position 2"),
        (r"\p{Klingon}", "unknown property at position"),
        ("(?P<1>a)", "position"),
        ("\\", "position 1"),
    ],
)
def test_bad_syntax_is_an_error_that_says_what_and_where(pattern, problem):
    with pytest.raises(ValueError, match=problem):
        searching(pattern)


def test_groups_without_end_are_an_error_as_any_other():
    with pytest.raises(ValueError, match="."):
        searching("(" * 20_000 + ")" * 20_000)


_PIECES = st.sampled_from(
    [
        *"()[]{}*+?|^$\\.-,:=!<>#ab1",
        "(?",
        "(?:",
        "(?P<n>",
        "(?<=",
        "(?x)",
        "(?i)",
        "{2}",
        "{1,3}",
        r"\p{L}",
        "[^]",
        "\n",
    ]
)


@given(st.lists(_PIECES, max_size=10).map("".join), st.text(max_size=20))
def test_whatever_is_written_is_a_pattern_or_a_value_error(pattern, text):
    try:
        search = searching(pattern)
    except ValueError:
        return

    assert search(text) in (True, False)
