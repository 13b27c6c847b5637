"""A clock that is moved by hand, endpoints, outcomes, and a player of stories that sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.failover import Ending, Rest, Send, Story
from llmwire.services.routing.outcome import Blame, Outcome


class Clock:
    """Seconds, monotonic: moved by hand."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now_s += seconds


class Drawn:
    """Randomness that is written down: gives its numbers in turn, then the last one for ever."""

    def __init__(self, *numbers: float) -> None:
        self._numbers = list(numbers)

    def random(self) -> float:
        """The next number."""
        return self._numbers.pop(0) if len(self._numbers) > 1 else self._numbers[0]


MIDDLE = Drawn(0.5)  #: without jitter


def an_endpoint(name: str = "a", **fields: Any) -> Endpoint:
    """A server for completions."""
    return Endpoint(**{"function": "completion", "name": name, "base_url": f"http://{name}:8000/v1", **fields})


SERVED = Outcome(status=200)
CALLERS = Outcome(blame=Blame.CALLER, label="400", status=400)
LOCAL = Outcome(blame=Blame.LOCAL, label="PoolTimeout", was_sent=False)
CONFLICT = Outcome(blame=Blame.ENDPOINT, label="409", status=409, again_s=0.5)
REFUSED = Outcome(blame=Blame.ENDPOINT, label="ConnectError", is_failure=True, was_sent=False)
BAD_GATEWAY = Outcome(blame=Blame.ENDPOINT, label="502", status=502, is_failure=True)
LOST = Outcome(blame=Blame.ENDPOINT, label="ReadError", is_failure=True, may_be_poison=True)
BAD_KEY = Outcome(blame=Blame.KEY, label="401", status=401, disable_s=300.0, is_refusal=True)
WRONG_URL = Outcome(blame=Blame.ENDPOINT, label="301", status=301, is_failure=True, is_wrong_url=True, is_refusal=True)
CERTIFICATE = Outcome(blame=Blame.ENDPOINT, label="certificate", disable_s=60.0, was_sent=False)
NO_MODEL = Outcome(
    blame=Blame.ENDPOINT, label="404", status=404, disable_s=300.0, is_model_unknown=True, is_refusal=True
)


def busy(retry_after_s: float = 0.0) -> Outcome:
    """A 429; 0 where the server did not say for how long."""
    return Outcome(blame=Blame.LOAD, label="429", status=429, pause_s=retry_after_s, is_refusal=True)


def unavailable(retry_after_s: float | None = None) -> Outcome:
    """A 503."""
    return Outcome(blame=Blame.ENDPOINT, label="503", status=503, is_failure=True, pause_s=retry_after_s)


@dataclass
class Played:
    """A story that came to its end: what it asked for, and how it ended."""

    ending: Ending
    asked: list[str] = field(default_factory=list)
    rests_s: list[float] = field(default_factory=list)


Answer = Outcome | Callable[[Send], Outcome]


def play(
    story: Story, answers: Sequence[Answer] | Mapping[str, Answer], *, clock: Clock, takes_s: float = 0.1
) -> Played:
    """Play a story: answers come in turn, or by the endpoint's name; each takes its time, and so does a rest."""
    asked: list[str] = []
    rests_s: list[float] = []
    in_turn = iter(answers) if not isinstance(answers, Mapping) else None
    with closing(story):
        outcome: Outcome | None = None
        while True:
            try:
                step = story.send(outcome)
            except StopIteration as end:
                return Played(end.value, asked, rests_s)
            if isinstance(step, Rest):
                rests_s.append(step.seconds)
                clock.advance(step.seconds)
                outcome = None
                continue
            name = step.lease.endpoint.name
            asked.append(name)
            answer = next(in_turn) if in_turn is not None else answers[name]  # type: ignore[call-overload]
            clock.advance(takes_s)
            outcome = answer if isinstance(answer, Outcome) else answer(step)
