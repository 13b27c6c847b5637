"""When a server wants to be asked again, in every form that servers write; garbage is no wish."""

from __future__ import annotations

import math
from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmwire.services.transport.retry_after import retry_after_s

NOW_S = 1_700_000_000.0


def wish(**headers):
    """The seconds that headers ask for; their names are written with underscores."""
    return retry_after_s({name.replace("_", "-"): value for name, value in headers.items()}, now_s=NOW_S)


def test_without_a_header_there_is_no_wish():
    assert wish() is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0", 0.0), ("0.25", 0.25), (" 7 ", 7.0), ("86400", 86_400.0), ("1e3", 1000.0)],
)
def test_retry_after_is_in_seconds(value, seconds):
    assert wish(retry_after=value) == seconds


def test_retry_after_in_milliseconds_comes_first():
    assert wish(retry_after_ms="1500", retry_after="9") == 1.5


def test_garbage_in_milliseconds_leaves_the_word_to_the_seconds():
    assert wish(retry_after_ms="soon", retry_after="9") == 9.0


@pytest.mark.parametrize(("ahead_s", "seconds"), [(30, 30.0), (0, 0.0), (-3600, 0.0)])
def test_a_date_is_as_far_away_as_it_is_and_a_past_one_is_now(ahead_s, seconds):
    assert wish(retry_after=formatdate(NOW_S + ahead_s, usegmt=True)) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "soon",
        "-1",
        "-0.5",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "3s",
        "3,4",
        "0x10",
        "Wed, 99 Foo 2099 99:99:99 GMT",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 01 Jan 2024 00:00:00 +99999999999",
    ],
)
@pytest.mark.parametrize("name", ["retry_after", "retry_after_ms"])
def test_garbage_is_no_wish(name, value):
    assert wish(**{name: value}) is None


# The resets of rate limits.


@pytest.mark.parametrize(
    ("span", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3s", 3723.0),
        ("1d", 86_400.0),
        ("1d2h", 93_600.0),
        ("5m", 300.0),
        ("7.66s", 7.66),
        ("2m59.56s", 179.56),
        ("1s20ms", 1.02),
        ("1m20ms", 60.02),
        ("0.5ms", 0.0005),
        ("0s", 0.0),
        ("12", 12.0),
        ("0.5", 0.5),
        (" 6m0s ", 360.0),
    ],
)
@pytest.mark.parametrize("limit", ["requests", "tokens"])
def test_the_reset_of_a_rate_limit_is_a_span(limit, span, seconds):
    assert wish(**{f"x_ratelimit_reset_{limit}": span}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "span", ["", " ", "s", "ms", "1x", "1s1h", "-1s", "1.5h", "soon", "nan", "inf", "9" * 400 + "s"]
)
def test_a_span_that_cannot_be_read_is_no_wish(span):
    assert wish(x_ratelimit_reset_requests=span) is None


def test_the_later_reset_counts_where_nobody_says_which_limit_is_used_up():
    assert wish(x_ratelimit_reset_requests="1s", x_ratelimit_reset_tokens="6s") == 6.0


@pytest.mark.parametrize(("used_up", "seconds"), [("requests", 1.0), ("tokens", 6.0)])
def test_the_reset_of_the_limit_that_is_used_up_counts(used_up, seconds):
    remaining = {"x_ratelimit_remaining_requests": "10", "x_ratelimit_remaining_tokens": "20"}

    found = wish(
        x_ratelimit_reset_requests="1s",
        x_ratelimit_reset_tokens="6s",
        **{**remaining, f"x_ratelimit_remaining_{used_up}": "0"},
    )

    assert found == seconds


def test_of_two_limits_that_are_used_up_the_later_reset_counts():
    found = wish(
        x_ratelimit_reset_requests="1s",
        x_ratelimit_reset_tokens="6s",
        x_ratelimit_remaining_requests="0",
        x_ratelimit_remaining_tokens="0",
    )

    assert found == 6.0


def test_a_retry_after_comes_before_the_resets():
    assert wish(retry_after="2", x_ratelimit_reset_requests="60s") == 2.0


def test_a_garbled_retry_after_leaves_the_word_to_the_resets():
    assert wish(retry_after="soon", x_ratelimit_reset_requests="60s") == 60.0


# Whatever a server writes.

DIGITS = st.text("0123456789.", min_size=1, max_size=400)
TEXTS = (
    st.text(max_size=40)
    | st.text("0123456789.dhms+-e ,:GMTJan", max_size=30)
    | st.builds("{}{}".format, DIGITS, st.sampled_from(["", "s", "ms", "m", "h", "d"]))
    | st.builds(
        "Mon, {} Jan {} {}:00:00 {}".format,
        *(st.integers(-100, 10**12),) * 3,
        st.sampled_from(["GMT", "-0000", "+9999", ""]),
    )
)
NAMES = st.sampled_from(
    [
        "retry-after",
        "retry-after-ms",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
    ]
)


@given(headers=st.dictionaries(NAMES, TEXTS), now_s=st.floats(0, 1e11))
@example(headers={"x-ratelimit-reset-tokens": "9" * 400 + "s"}, now_s=0.0)
@example(headers={"retry-after": "Mon, 01 Jan 0001 00:00:00 -0000"}, now_s=0.0)
@example(headers={"retry-after": "Mon, 31 Dec 9999 23:59:59 -0000"}, now_s=0.0)
@example(headers={"retry-after": "1" * 5000}, now_s=0.0)
def test_no_header_whatever_breaks_anything_and_a_wish_is_a_finite_time(headers, now_s):
    found = retry_after_s(headers, now_s=now_s)

    assert found is None or (found >= 0 and math.isfinite(found))
