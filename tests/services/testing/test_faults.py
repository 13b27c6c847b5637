"""The vocabulary of faults: how they are written and read, and which requests meet them."""

from __future__ import annotations

import re
from base64 import b64decode

import pytest

from llmwire.services.testing import faults
from llmwire.services.testing.faults import parse
from llmwire.services.testing.vectors import to_base64
from llmwire.services.testing.wrong import VECTORS


def early(fault: faults.Fault, *paths: str) -> list[bool]:
    """For each request, whether it meets a fault that strikes before it is read."""
    pick = fault.start()
    return [pick(path).is_early for path in paths]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("ok", faults.ok()),
        ("429", faults.status(429)),
        ("429:retry-after=2", faults.status(429, retry_after=2)),
        ("429:retry_after_ms=1500,code=slow_down", faults.status(429, code="slow_down", retry_after_ms=1500)),
        ("503:retry_after=date:2", faults.status(503, retry_after="date:2")),
        ("429:x-ratelimit-reset-requests=1s", faults.status(429, x_ratelimit_reset_requests="1s")),
        ("reset", faults.reset()),
        ("reset:accept", faults.reset("accept")),
        ("reset:when=body,after_bytes=40", faults.reset(when="body", after_bytes=40)),
        ("hang:after-events=3", faults.hang(after_events=3)),
        ("slow:0.5", faults.slow(0.5)),
        ("slow:delay_s=1", faults.slow(1)),
        ("cut_stream:after_events=0,how=clean", faults.cut_stream(after_events=0, how="clean")),
        ("redirect:http://127.0.0.1:1/v1", faults.redirect("http://127.0.0.1:1/v1")),
        ("vectors:nan", faults.vectors("nan")),
        ("vectors:ragged_base64", faults.vectors("ragged_base64")),
        ("vectors:other_form", faults.vectors("other_form")),
        ("times:2:429", faults.times(2, faults.status(429))),
        ("times:2:429", faults.times(2, "429")),
        ("share:0.3,seed=7:(slow:1+503)", faults.share(0.3, faults.slow(1) + faults.status(503), seed=7)),
        ("share:0.3:503+slow:1", faults.share(0.3, "503") + "slow:1"),
        ("per_path:embeddings:times:1:hang", faults.per_path("embeddings", faults.times(1, "hang"))),
        ("flapping:5,2", faults.flapping(5, 2)),
        ("flapping:5,2:hang:accept", faults.flapping(5, 2, "hang:accept")),
    ],
)
def test_a_fault_has_a_spelling_that_reads_as_itself(text, fault):
    assert parse(text) == fault
    assert parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "unknown fault '': write a status, as in 429, or one of body, cut_stream, flapping,"),
        ("rset:accept", "unknown fault 'rset': write a status"),
        ("times:2:rset", "unknown fault 'rset'"),
        ("429+rset", "unknown fault 'rset'"),
        ("reset:wen=body", "reset has no option 'wen': write reset:when=accept|request|headers|body,after_bytes=...,"),
        ("reset:accept,body", "reset has no option 'body'"),
        ("reset:bdy", "reset: when must be one of accept, request, headers, body, not 'bdy'"),
        ("reset:accept,after_bytes=3", "after_bytes and after_events are of the body, not of 'accept'"),
        ("429:retry_aftr=2", "status has no option 'retry_aftr': it has code, type, body, retry_after,"),
        ("slow", "slow lacks its delay_s: write slow:delay_s=..."),
        ("slow:soon", "slow: delay_s must be a number, not 'soon'"),
        ("oversize:1.5", "oversize: mib must be a number, not '1.5'"),
        ("times:2", "times lacks its fault: write times:n=...:FAULT"),
        ("times:0:hang", "n must be at least 1, not 0"),
        ("share:2:hang", "a share is from 0 to 1, not 2.0"),
        ("flapping:0,0", "up_s and down_s must not be negative, nor both 0"),
        ("trickle:size_bytes=0", "size_bytes must be at least 1"),
        ("200", "200 is not the status of a failure"),
    ],
)
def test_a_wrong_spelling_is_an_error_that_names_the_wrong_word_and_the_known_ones(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(text)


def test_every_word_says_what_it_does():
    assert [usage for usage, meaning in faults.words() if not meaning] == []
    assert {usage.partition(":")[0] for usage, _ in faults.words()} == set(faults.__all__) - {"Fault", "parse", "words"}


def test_a_fault_for_some_times_is_over_after_them():
    assert early(faults.times(2, "reset:accept"), *"abc") == [True, True, False]


def test_a_share_is_random_and_the_same_in_every_run():
    fault = faults.share(0.3, "reset:accept")

    met = early(fault, *"a" * 1000)

    assert 250 < sum(met) < 350
    assert early(fault, *"a" * 1000) == met
    assert early(faults.share(0.3, "reset:accept", seed=1), *"a" * 1000) != met


def test_a_fault_of_a_path_leaves_the_others_alone():
    fault = faults.per_path("/embeddings", "reset:accept") + faults.per_path("/models", "hang:accept")

    assert early(fault, "/v1/embeddings", "/v1/models", "/v1/responses") == [True, True, False]


def test_a_flapping_server_is_up_then_down_then_up(monkeypatch):
    times_s = iter([100.0, 100.0, 104.9, 105.0, 106.9, 107.0])
    with monkeypatch.context() as patched:
        patched.setattr(faults.time, "monotonic", lambda: next(times_s))
        met = early(faults.flapping(5, 2), *"abcde")

    assert met == [False, False, True, True, False]


WRITTEN = [[0.5, -0.25], to_base64([0.5, -0.25])]  #: one vector in either form


def rewritten(what, vector):
    """The vector as a reply with a fault has it."""
    [item] = VECTORS[what]({"data": [{"index": 0, "embedding": vector}]})["data"]
    return item["embedding"]


@pytest.mark.parametrize("vector", WRITTEN, ids=["float", "base64"])
def test_ragged_base64_is_good_base64_of_no_whole_number_of_floats(vector):
    content = b64decode(rewritten("ragged_base64", vector), validate=True)

    assert content == b64decode(WRITTEN[1])[:-1]
    assert len(content) % 4 == 3


def test_the_other_form_has_the_same_numbers():
    assert [rewritten("other_form", vector) for vector in WRITTEN] == WRITTEN[::-1]
