"""A server of the OpenAI API that fails on demand, over real sockets: in a test, or as a process of its own.

    python -m llmwire.services.testing.faultd 429:retry_after=2 ok --port 8001

Knows whose turn it is, and what was received. What can go wrong is in `faults.py`, how it happens on a connection in
`playing.py`; the right answers are the stand-in's.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from .api import ReceivedRequest
from .effects import Effect
from .failures import Failure
from .faults import Fault, parse, words
from .playing import Answer, Drawn, FaultyListener
from .replies import Reply, failure_reply, json_reply
from .server import StandIn
from .spelt import Pick
from .tally import Tally

#: a fault, its spelling, or a function that looks at a request and chooses one
Behaviour = Fault | str | Callable[[ReceivedRequest], Fault | str]

CONTROL = "/faultd/"  #: paths that never fail: GET /faultd/seen, PUT /faultd/script

_POLL_S = 0.02  #: how long stop() may wait for the listener


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest(ReceivedRequest):
    """One request as it came.

    Attributes:
        at_s: when it had been read, on the clock of `time.monotonic()`.
    """

    at_s: float


class FaultServer(StandIn):
    """A local server of the OpenAI API that does what its script says; without a script, a server without faults.

        with FaultServer("times:2:429:retry_after=1", "ok") as server:
            client = openai.OpenAI(base_url=server.base_url, api_key="any")

    A request that is stopped before it is read (`when="accept"`) is counted in `attempts`, and is not in `requests`.

    Args:
        script: behaviours in turn, one for each request; the last one stays. Each is a fault, its spelling, or a
            function of the request that returns one.
        api_key, dimensions, port, host: as of `StandIn`.
    Raises:
        ValueError: a spelling is wrong; the message says what is known.
    """

    def __init__(
        self,
        *script: Behaviour,
        api_key: str | None = None,
        dimensions: int = 256,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        super().__init__(api_key=api_key, dimensions=dimensions, port=port, host=host)
        self._tally = Tally()
        self._script = _Script(script)

    @property
    def seen(self) -> list[SeenRequest]:
        """As `requests`, with the time of each."""
        return [request for request in self.requests if isinstance(request, SeenRequest)]

    @property
    def attempts(self) -> dict[str, int]:
        """How many requests began, by their path: those that were never read, too."""
        return self._tally.attempts()

    @property
    def credentials(self) -> dict[str, dict[str, int]]:
        """How often each value of each credential header came, as in `{"authorization": {"Bearer sk-1": 3}}`."""
        return self._tally.credentials()

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far."""
        return self._tally.accepted

    @property
    def open_connections(self) -> int:
        """How many connections are open now, as this side sees it."""
        return self._tally.open

    def script(self, *script: Behaviour) -> None:
        """Do something else from the next request on. Requests that have begun end as they would have.

        Raises:
            ValueError: a spelling is wrong; then nothing changes.
        """
        self._script = _Script(script)

    def wait_until(self, is_so: Callable[[Self], bool], *, timeout_s: float = 10.0) -> None:
        """Wait until something is so of this server, as in `lambda server: len(server.seen) == 3`.

        Raises:
            TimeoutError: it was not so in time.
        """
        with self._tally.changed:
            if not self._tally.changed.wait_for(lambda: is_so(self), timeout_s):
                raise TimeoutError(f"it was not so of {self.base_url} for {timeout_s:g} s")

    def _listener(self) -> FaultyListener:
        return FaultyListener(self._host, self._port, self._received, self._draw, self._tally)

    def _draw(self, path: str) -> Drawn:
        if path.startswith(CONTROL):
            return Effect()
        with self._tally.changed:
            self._tally.request_began(path)
            return self._script.draw(path)

    def _received(self, request: ReceivedRequest) -> Reply:
        if request.path.startswith(CONTROL):
            return self._controlled(request)
        seen = SeenRequest(
            method=request.method,
            path=request.path,
            query=request.query,
            headers=request.headers,
            content=request.content,
            at_s=time.monotonic(),
        )
        self._requests.add(seen)
        self._tally.request_received(seen.headers)
        reply = self._api.reply(request)
        return Answer(status=reply.status, headers=reply.headers, content=reply.content, request=request)

    def _controlled(self, request: ReceivedRequest) -> Reply:
        match request.method, request.path.removeprefix(CONTROL):
            case "GET", "seen":
                return json_reply(self._told())
            case "PUT", "script":
                return self._rescripted(request.content.decode(errors="replace"))
        said = f"{request.method} {request.path} is neither GET {CONTROL}seen nor PUT {CONTROL}script"
        return failure_reply(Failure(status=404, message=said), {})

    def _rescripted(self, text: str) -> Reply:
        try:
            script = shlex.split(text)
            self.script(*script)
        except ValueError as error:
            return failure_reply(Failure(status=400, message=str(error)), {})
        return json_reply({"script": script})

    def _told(self) -> dict[str, object]:
        with self._tally.changed:
            return {
                "requests": self._tally.received,
                "attempts": self.attempts,
                "accepted": self.accepted,
                "open_connections": self.open_connections,
                "credentials": self.credentials,
            }


def serve(faults: Sequence[str], *, host: str, port: int) -> None:
    """Serve in the foreground until Ctrl-C or SIGTERM. The first line printed is the base URL.

    Raises:
        ValueError: a fault is spelled wrong; the message says what is known.
        OSError: the port is taken, or the address is not of this machine.
    """
    server = FaultServer(*faults, host=host, port=port)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt), server:
            print(server.base_url, flush=True)  # noqa: T201  # what the caller waits for
            server.serve_forever()
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Exits with 2 where it is called wrongly."""
    vocabulary_help = "\n".join(f"  {usage}\n      {meaning}" for usage, meaning in words())
    parser = argparse.ArgumentParser(
        prog="python -m llmwire.services.testing.faultd",
        description="Serve the OpenAI API with faults, until Ctrl-C. Prints its base URL.",
        epilog=f"faults, several joined with +:\n{vocabulary_help}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="in turn, one a request; the last one stays")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args(arguments)
    try:
        serve(options.faults, host=options.host, port=options.port)
    except (ValueError, OSError, OverflowError) as error:  # the last one is a port above 65535
        parser.error(str(error))


@dataclass(frozen=True, slots=True)
class _Asked:
    """The turn of a function: it needs the whole request."""

    choose: Callable[[ReceivedRequest], Fault | str]

    def __call__(self, request: ReceivedRequest) -> Effect:
        return parse(self.choose(request)).start()(request.path)


class _Script:
    """Behaviours in turn, one for each request. Its caller holds a lock."""

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self._turns = [turn for one in behaviours or ["ok"] for turn in _turns(one)]
        self._next = 0

    def draw(self, path: str) -> Drawn:
        turn = self._turns[min(self._next, len(self._turns) - 1)]
        self._next += 1
        return turn if isinstance(turn, _Asked) else turn(path)


def _turns(behaviour: Behaviour) -> list[Pick | _Asked]:
    if not isinstance(behaviour, Fault | str):
        return [_Asked(behaviour)]
    fault = parse(behaviour)
    return [fault.start()] * fault.turns


if __name__ == "__main__":
    main(sys.argv[1:])
