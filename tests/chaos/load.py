"""Callers who call all the time, in threads or as asyncio tasks, and what became of each of their calls."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, Self

import openai

from llmwire.services import Attempt, Provenance, recorded

PATIENCE_S = 60.0  #: a call that lasts longer hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One call, well or not. Times are on the monotonic clock.

    Attributes:
        error: in words; empty where it was answered, and with its own answer.
    """

    began_s: float
    ended_s: float
    error: str
    attempts: tuple[Attempt, ...]

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


class Calls(list[Made]):
    """Calls in the order in which they ended."""

    def failed(self) -> Calls:
        return Calls(call for call in self if call.error)

    def begun_between(self, from_s: float, until_s: float) -> Calls:
        return Calls(call for call in self if from_s < call.began_s <= until_s)

    def in_flight(self, at_s: float) -> Calls:
        return Calls(call for call in self if call.began_s <= at_s < call.ended_s)

    def between(self, from_s: float, until_s: float) -> Calls:
        return Calls(call for call in self if from_s < call.began_s and call.ended_s <= until_s)

    def p99_s(self) -> float:
        return quantiles([call.took_s for call in self], n=100, method="inclusive")[98]

    def attempts(self) -> int:
        return sum(len(call.attempts) for call in self)

    def attempts_a_call(self) -> float:
        return self.attempts() / len(self)

    def share_of(self, endpoint: str) -> float:
        """Of all attempts, those at one endpoint."""
        return sum(attempt.endpoint == endpoint for call in self for attempt in call.attempts) / max(self.attempts(), 1)

    def errors(self) -> str:
        """The first of those that failed, for a message."""
        return "; ".join(call.error for call in self.failed()[:3]) or "none"


class Load(ABC):
    """So many callers, each with one call at a time, from `start()` to `stop()`; as a context manager too.

    Args:
        every_s: from the begin of a caller's call to that of its next, if that has ended; 0 is at once.
    """

    def __init__(self, container: Any, *, callers: int, every_s: float = 0.0) -> None:
        self._container, self._callers, self._every_s = container, callers, every_s
        self._is_over = threading.Event()
        self._made: list[Made] = []
        self._numbers = itertools.count()
        self._broken: list[BaseException] = []

    def start(self) -> Self:
        self._start()
        return self

    def stop(self) -> Calls:
        """Let the calls under way end, and tell of all."""
        self._is_over.set()
        self._join()
        if self._broken:
            raise self._broken[0]
        return self.so_far()

    def so_far(self) -> Calls:
        return Calls(list(self._made))

    def wait_for(self, calls: int, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until so many more calls have ended."""
        end_s, wanted = time.monotonic() + timeout_s, len(self._made) + calls
        while len(self._made) < wanted:
            assert time.monotonic() < end_s, f"{calls} calls did not end in {timeout_s:g} s"
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if not self._is_over.is_set():
            self._is_over.set()
            self._join()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _join(self) -> None: ...

    def _asked(self) -> tuple[str, dict[str, Any]]:
        text = f"question {next(self._numbers)}"
        return text, {"model": "a-model", "messages": [{"role": "user", "content": text}]}

    def _note(self, began_s: float, recorded_calls: list[Provenance], text: str, answered: Any) -> None:
        attempts = tuple(attempt for provenance in recorded_calls for attempt in provenance.attempts)
        self._made.append(
            Made(began_s=began_s, ended_s=time.monotonic(), error=_error(text, answered), attempts=attempts)
        )

    def _rest_s(self, began_s: float) -> float:
        return max(began_s + self._every_s - time.monotonic(), 0.0)


class Threads(Load):
    """Through the synchronous client."""

    def _start(self) -> None:
        client = self._container.completion_client()
        self._threads = [threading.Thread(target=self._call_on, args=(client,)) for _ in range(self._callers)]
        for thread in self._threads:
            thread.start()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in self._threads), "a call hangs"

    def _call_on(self, client: Any) -> None:
        try:
            while not self._is_over.is_set():
                self._call(client)
        except BaseException as error:
            self._broken.append(error)

    def _call(self, client: Any) -> None:
        text, asked = self._asked()
        began_s = time.monotonic()
        with recorded() as calls:
            try:
                answered = client.chat.completions.create(**asked)
            except openai.OpenAIError as error:
                answered = error
        self._note(began_s, calls, text, answered)
        if self._every_s:
            self._is_over.wait(self._rest_s(began_s))


class Tasks(Load):
    """Through the asynchronous client, in one event loop."""

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "a call hangs"

    def _run(self) -> None:
        try:
            asyncio.run(self._call_all())
        except BaseException as error:
            self._broken.append(error)

    async def _call_all(self) -> None:
        client = self._container.async_completion_client()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._callers):
                group.create_task(self._call_on(client))

    async def _call_on(self, client: Any) -> None:
        while not self._is_over.is_set():
            text, asked = self._asked()
            began_s = time.monotonic()
            with recorded() as calls:
                try:
                    answered = await client.chat.completions.create(**asked)
                except openai.OpenAIError as error:
                    answered = error
            self._note(began_s, calls, text, answered)
            if self._every_s:
                await asyncio.sleep(self._rest_s(began_s))


Calling = Callable[..., Load]


def _error(text: str, answered: Any) -> str:
    if isinstance(answered, Exception):
        return f"{type(answered).__name__}: {answered} <- {answered.__cause__}"
    said = answered.choices[0].message.content
    is_its_own = said == text or f'"{text}"' in said  # of upstream.py, and of a FaultServer
    return "" if is_its_own else f"{text} was answered with {said}"
