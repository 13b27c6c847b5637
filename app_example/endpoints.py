"""Which functions have an endpoint of their own, and local stand-ins for those that have none.

A stand-in is a small server on this machine that speaks OpenAI's protocol. It is no language model: its embeddings
count words, its completions quote sentences from the prompt.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self

from llmwire.container import ConfigError
from llmwire.services.testing import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app_example.application import Application

FUNCTIONS = ("embedding", "completion")

DIMENSIONS = 256  #: of the stand-in's vectors: enough that the words of a few thousand passages rarely collide


def unset(application: Application) -> list[str]:
    """The functions that nothing was set for: no server, no key and no source, in the environment or in the code."""
    return [function for function in FUNCTIONS if _is_unset(getattr(application.llm, function))]


@contextmanager
def standing_in(application: Application, functions: list[str]) -> Iterator[Mapping[str, StandIn]]:
    """Start a stand-in for each of the functions and point the application there, for the time of the context."""
    with ExitStack() as running:
        stand_ins = {function: running.enter_context(a_stand_in(function)) for function in functions}
        application.config.stand_ins.from_value(functions)
        application.config.llm.from_dict({name: settings_of(name, stand_in) for name, stand_in in stand_ins.items()})
        yield stand_ins


def a_stand_in(function: str) -> StandIn:
    """A stand-in for one function alone: it refuses the other one."""
    return StandIn(functions=(function,), dimensions=DIMENSIONS)


class StandInProcess:
    """A stand-in for completions in a process of its own, so that it can be killed as a server is."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own program
            [sys.executable, "-c", _PROGRAM, str(WORK_S)],
            stdin=subprocess.PIPE,  # which ends with this process, and the stand-in with it
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None  # noqa: S101  # for the type checker: a pipe was asked for
        self.base_url = self._process.stdout.readline().strip()

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


WORK_S = 0.05  #: what a stand-in takes for an answer, so that there are calls in flight when it is killed

_PROGRAM = """
import sys
from llmwire.services.testing import StandIn
with StandIn(functions=("completion",), delay_s=float(sys.argv[1])) as server:
    print(server.base_url, flush=True)
    sys.stdin.read()
"""


def settings_of(function: str, stand_in: StandIn) -> dict[str, Any]:
    """What llmwire is told of a stand-in. The model's name keeps its vectors apart from any real model's."""
    return {"base_url": stand_in.base_url, "api_key": "none", "model": f"stand-in-{function}"}


def _is_unset(lane: Any) -> bool:
    try:
        settings = (lane.base_url, lane.azure_endpoint, lane.api_key, lane.endpoints, lane.source)
        return all(setting.origin() == "default" for setting in settings)
    except ConfigError:  # what was set cannot be used: its user wants to hear that, not to be given a stand-in
        return False
