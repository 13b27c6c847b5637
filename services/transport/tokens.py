"""How many tokens a text has, by tiktoken where that is at hand. The one door to `tiktoken`.

An encoding is downloaded when it is first used: never in a call. Until it is there tokens are estimated.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Final, Protocol

from ..forking import no_fork_meanwhile, renew_in_child
from ..routing.facts import estimated_tokens, size_bytes
from . import network

AUTO: Final = "auto"  #: tiktoken where it is installed, else the estimate
ESTIMATE: Final = "estimate"
ENCODING: Final = "o200k_base"  #: of OpenAI's models since GPT-4o; those of others differ by some tens of per cent
SAMPLE_CHARS: Final = 20_000  #: of a long text are counted; all of a book would take half a second


class Encoding(Protocol):
    """The part of `tiktoken.Encoding` that counting needs."""

    def encode_ordinary(self, text: str) -> Sequence[int]: ...


def counting(
    tokenizer: str,
    failed: Callable[[str], object],
    *,
    load: Callable[[str], Encoding] | None = None,
) -> Callable[[str], int]:
    """What counts the tokens of a text, roughly and at once.

    Args:
        tokenizer: `auto`, `estimate`, or an encoding of tiktoken's.
        failed: is told once, in a few words, where the encoding cannot be had: tokens are estimated then.
        load: gives an encoding by its name; None asks tiktoken.
    """
    if tokenizer == ESTIMATE or (tokenizer == AUTO and load is None and find_spec("tiktoken") is None):
        return estimated_tokens
    counter = _Counter(ENCODING if tokenizer == AUTO else tokenizer, failed, load or _loaded)
    counter.start()
    return counter


class _Counter:
    """Counts by an encoding that is loaded on a thread; by bytes before, and where it never comes."""

    def __init__(self, name: str, failed: Callable[[str], object], load: Callable[[str], Encoding]) -> None:
        self._name, self._failed, self._load = name, failed, load
        self._encoding: Encoding | None = None
        self._is_loading = False
        renew_in_child(self)

    def start(self) -> None:
        """Load the encoding, beside whatever goes on."""
        self._is_loading = True
        try:
            threading.Thread(target=self._fetch, name="llmwire tokenizer", daemon=True).start()
        except RuntimeError as error:  # no further thread is to be had
            self._give_up(error)

    def renew_after_fork(self) -> None:
        """A child whose parent was loading loads for itself: its parent's thread is not here."""
        if self._is_loading:
            self.start()

    def __call__(self, text: str) -> int:
        encoding = self._encoding
        if encoding is None:
            return estimated_tokens(text)
        sample = text[:SAMPLE_CHARS]
        try:
            count = len(encoding.encode_ordinary(sample))
        except Exception:  # of a library that was never meant to stop a call
            return estimated_tokens(text)
        return count if len(sample) == len(text) else -(-count * size_bytes(text) // size_bytes(sample))

    def _fetch(self) -> None:
        try:
            self._encoding = self._load(self._name)
        except BaseException as error:  # whatever a download raises; its text may name a host
            self._give_up(error)
        self._is_loading = False

    def _give_up(self, error: BaseException) -> None:
        self._is_loading = False
        with contextlib.suppress(Exception):
            self._failed(f"{self._name} cannot be loaded ({type(error).__name__})")


def _loaded(name: str) -> Encoding:
    network.check(f"the download of {name}")  # it may be in a cache; but where tests forbid the network, nothing asks
    with no_fork_meanwhile():
        from tiktoken import Encoding as Built
        from tiktoken import registry

        names = registry.list_encoding_names()  # imports what describes them
        with contextlib.suppress(ImportError):
            import requests  # noqa: F401  # what tiktoken downloads with: half imported at a fork it stays so
    if name not in names:
        raise ValueError(f"tiktoken knows no {name}")
    # Not get_encoding: it holds a lock of tiktoken's meanwhile, which a child forked then would wait for, for ever.
    return Built(**(registry.ENCODING_CONSTRUCTORS or {})[name]())
