"""Tokens are counted by tiktoken once its encoding is there, and estimated before, beside and without it."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from llmwire.services.errors import NetworkRefused
from llmwire.services.routing.facts import estimated_tokens, size_bytes
from llmwire.services.transport import network, tokens
from llmwire.services.transport.tokens import AUTO, ENCODING, ESTIMATE, SAMPLE_CHARS, counting

TEXT = "the cat and the hat"
MERGES = [b"th", b"the", b"at", b"an", b"and"]


def an_encoding(name=ENCODING):
    """A genuine one that knows a few words; any other character is as many tokens as it has bytes."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {merged: 256 + n for n, merged in enumerate(MERGES)}
    return tiktoken.Encoding(name, pat_str=r"\w+|\W", mergeable_ranks=ranks, special_tokens={"<|end|>": 999})


class Failing:
    """An encoding that counts nothing."""

    def encode_ordinary(self, text):
        raise ValueError(text)


class Download:
    """Gives an encoding when it is told to, from then on at once; or fails with an error."""

    def __init__(self, encoding=None, *, error=None):
        self.asked, self.arrives = [], threading.Event()
        self._encoding, self._error = encoding or an_encoding(), error

    def __call__(self, name):
        self.asked.append(name)
        assert self.arrives.wait(10)
        if self._error is not None:
            raise self._error
        return self._encoding

    def arrive(self):
        self.arrives.set()
        wait_for_tokenizers()


class Problems(list):
    def __call__(self, problem):
        self.append(problem)


def wait_for_tokenizers():
    for thread in threading.enumerate():
        if thread.name == "llmwire tokenizer":
            thread.join(10)
            assert not thread.is_alive()


def a_counter(encoding=None, tokenizer=AUTO):
    """What counts by an encoding that is there."""
    download, problems = Download(encoding), Problems()
    count = counting(tokenizer, problems, load=download)
    download.arrive()
    assert problems == []
    return count


@pytest.fixture
def set_gate():
    yield network.set_gate
    network.set_gate(None)


# By which encoding.


def test_a_text_has_the_tokens_of_its_encoding():
    assert a_counter()(TEXT) == len(an_encoding().encode_ordinary(TEXT)) == 11


def test_a_text_may_be_empty():
    assert a_counter()("") == 0


def test_what_looks_like_a_special_token_is_text():
    assert a_counter()("<|end|>") == 7


@pytest.mark.parametrize(("tokenizer", "encoding"), [(AUTO, "o200k_base"), ("cl100k_base", "cl100k_base")])
def test_the_encoding_that_is_named_is_loaded_once(tokenizer, encoding):
    download = Download()

    count = counting(tokenizer, Problems(), load=download)
    download.arrive()
    count(TEXT)
    count(TEXT)

    assert download.asked == [encoding]


def test_the_estimate_loads_nothing():
    download = Download()

    count = counting(ESTIMATE, Problems(), load=download)

    assert count is estimated_tokens
    assert download.asked == []


def test_without_tiktoken_tokens_are_estimated_and_nothing_is_wrong(monkeypatch):
    monkeypatch.setattr(tokens, "find_spec", lambda name: None)
    problems = Problems()

    assert counting(AUTO, problems) is estimated_tokens
    assert problems == []


# While it is loaded, and where it cannot be had.


def test_a_text_is_estimated_until_the_encoding_is_there():
    download, problems = Download(), Problems()
    count = counting(AUTO, problems, load=download)

    before = count(TEXT)
    download.arrive()

    assert (before, count(TEXT)) == (estimated_tokens(TEXT), 11)
    assert problems == []


@pytest.mark.parametrize(
    "error", [ValueError("Unknown encoding"), OSError("https://a.secret.host/o200k"), SystemExit(1), MemoryError()]
)
def test_an_encoding_that_cannot_be_had_is_told_once_and_tokens_are_estimated(error):
    download, problems = Download(error=error), Problems()
    count = counting("o200k_base", problems, load=download)

    download.arrive()
    counted = [count(TEXT), count(TEXT)]

    assert counted == [estimated_tokens(TEXT)] * 2
    assert problems == [f"o200k_base cannot be loaded ({type(error).__name__})"]


def test_a_listener_that_fails_does_not_stop_the_estimate():
    def fail(problem):
        raise RuntimeError(problem)

    download = Download(error=OSError())
    count = counting(AUTO, fail, load=download)

    download.arrive()

    assert count(TEXT) == estimated_tokens(TEXT)


def test_an_unknown_name_is_told_without_the_network():
    problems = Problems()

    count = counting("an-encoding-that-nobody-knows", problems)
    wait_for_tokenizers()

    assert count(TEXT) == estimated_tokens(TEXT)
    assert problems == ["an-encoding-that-nobody-knows cannot be loaded (ValueError)"]


def test_nothing_is_downloaded_where_the_network_is_refused(set_gate):
    asked = []

    def refuse(server):
        asked.append(server)
        raise NetworkRefused(server)

    set_gate(refuse)
    problems = Problems()
    count = counting(AUTO, problems)
    wait_for_tokenizers()

    assert count(TEXT) == estimated_tokens(TEXT)
    assert asked == ["the download of o200k_base"]
    assert problems == ["o200k_base cannot be loaded (NetworkRefused)"]


# Texts of every kind.


def test_a_text_that_cannot_be_counted_is_estimated():
    assert a_counter(Failing())(TEXT) == estimated_tokens(TEXT)


def test_a_long_text_is_counted_by_its_beginning_and_scaled():
    text = "the cat " * SAMPLE_CHARS
    encoding = an_encoding()

    counted, exact = a_counter(encoding)(text), len(encoding.encode_ordinary(text))

    assert counted == pytest.approx(exact, rel=0.001)


def test_no_more_than_the_beginning_of_a_long_text_is_read():
    seen = []

    class Watching:
        def encode_ordinary(self, text):
            seen.append(len(text))
            return [1] * len(text)

    count = a_counter(Watching())
    counted = [count("a" * SAMPLE_CHARS), count("a" * (SAMPLE_CHARS + 1)), count("a" * SAMPLE_CHARS * 10)]

    assert counted == [SAMPLE_CHARS, SAMPLE_CHARS + 1, SAMPLE_CHARS * 10]
    assert seen == [SAMPLE_CHARS] * 3


def test_a_long_text_is_scaled_by_bytes_as_what_is_not_english_has_more_of_them():
    text = "a" * SAMPLE_CHARS + "中" * SAMPLE_CHARS

    assert a_counter()(text) == 4 * SAMPLE_CHARS


@given(st.text(st.characters(exclude_categories=()), max_size=200))
def test_no_text_breaks_the_count_not_even_half_characters(text):
    assert 0 <= COUNT(text) <= size_bytes(text)


@pytest.mark.parametrize("piece", [" ", "\n ", "a", "'", "中", "\ud83d"])
def test_a_text_without_words_is_counted(piece):
    assert COUNT(piece * SAMPLE_CHARS) > 0


COUNT = a_counter()


# Threads and processes.


def test_many_threads_count_while_the_encoding_arrives():
    download = Download()
    count = counting(AUTO, Problems(), load=download)
    counted = []

    def count_often():
        counted.extend(count(TEXT) for _ in range(500))

    threads = [threading.Thread(target=count_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    download.arrive()
    for thread in threads:
        thread.join(10)

    assert len(counted) == 4000
    assert set(counted) <= {estimated_tokens(TEXT), 11}
    assert count(TEXT) == 11


FORKING = """
import os, signal, sys, threading
from llmwire.services.transport.tokens import counting

class Encoding:
    def encode_ordinary(self, text):
        return [1] * 99

parent, asked, arrives = os.getpid(), threading.Event(), threading.Event()

def load(name):
    asked.set()
    if os.getpid() == parent:
        arrives.wait(10)
    return Encoding()

def loaded():
    for thread in threading.enumerate():
        if thread.name == "llmwire tokenizer":
            thread.join(10)

count = counting("auto", print, load=load)
assert asked.wait(10)
WHEN
child = os.fork()
if child == 0:
    signal.alarm(10)
    estimated_or_counted = count("a text")
    loaded()
    os._exit(0 if estimated_or_counted in (2, 99) and count("a text") == 99 else 1)
_, status = os.waitpid(child, 0)
arrives.set()
loaded()
assert count("a text") == 99
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.parametrize("when", ["", "arrives.set(); loaded()"])
def test_a_child_of_a_process_that_loads_or_has_loaded_counts_for_itself(when):
    script = FORKING.replace("WHEN", when)

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_tiktoken_is_not_imported_where_it_is_not_asked():
    script = (
        "import sys; from llmwire.services.transport.tokens import counting;"
        "counting('estimate', print)('a text'); print('tiktoken' in sys.modules)"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert ran.stdout == "False\n"
