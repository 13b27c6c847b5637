"""Callers, servers and their faults on virtual time: plays real stories against a real pool.

Nothing sleeps: a heap of events says what happens next. The same seed gives the same run, to the last attempt.
"""

from __future__ import annotations

import heapq
import math
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from llmwire.services.events import BreakerChanged, Event
from llmwire.services.routing.budget import Budget
from llmwire.services.routing.endpoint import Endpoint
from llmwire.services.routing.failover import CallSpec, Ending, Rest, Send, Story, Wish, failover
from llmwire.services.routing.outcome import Blame, Outcome
from llmwire.services.routing.pool import Pool, PoolSpec

REFUSED_S = 0.001  #: how long a closed port takes to say so
FIRST_BYTE_S = 60.0  #: the default of Timeouts
TICK_S = 1e-6  #: time passes, also where rounding says that it does not

SERVED = Outcome(status=200)
REFUSED = Outcome(blame=Blame.ENDPOINT, label="ConnectError", is_failure=True, was_sent=False)
LOST = Outcome(blame=Blame.ENDPOINT, label="ReadError", is_failure=True, may_be_poison=True)
TIMEOUT = Outcome(blame=Blame.ENDPOINT, label="ReadTimeout", is_failure=True, may_be_poison=True, is_timeout=True)
ERROR = Outcome(blame=Blame.ENDPOINT, label="500", status=500, is_failure=True, may_be_poison=True)


class World:
    """Virtual time, and what is to happen in it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def clock(self) -> float:
        """Seconds since the beginning."""
        return self.now_s

    def at(self, at_s: float, happen: Callable[[], None]) -> None:
        """Let something happen then."""
        heapq.heappush(self._heap, (max(at_s, self.now_s), next(self._number), happen))

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Let something happen in so many seconds."""
        self.at(self.now_s + seconds, happen)

    def run(self) -> None:
        """Until nothing more is to happen."""
        while self._heap:
            self.now_s, _, happen = heapq.heappop(self._heap)
            happen()


class _Request:
    """One attempt at a server. It ends once."""

    __slots__ = ("done", "is_over", "server", "work_s")

    def __init__(self, server: Server, work_s: float, done: Callable[[Outcome], None]) -> None:
        self.server, self.work_s, self.done = server, work_s, done
        self.is_over = False

    def end(self, outcome: Outcome) -> None:
        if not self.is_over:
            self.is_over = True
            self.server.under_way.pop(self, None)
            self.done(outcome)

    def cut(self) -> None:
        self.is_over = True
        self.server.under_way.pop(self, None)


class Server:
    """A server with a service time and moods.

    Args:
        service_s: mean time of an answer; each is drawn evenly around it, by a fifth.
        patience_s: the caller's time to the first byte.
    """

    def __init__(
        self, world: World, chance: random.Random, name: str, *, service_s: float, patience_s: float = FIRST_BYTE_S
    ) -> None:
        self._world, self._chance, self.name = world, chance, name
        self.service_s, self._patience_s = service_s, patience_s
        self.is_up, self.is_frozen = True, False
        self.error_rate = 0.0
        self.busy_until_s = -math.inf
        self.slow_share, self.slow_s = 0.0, 0.0
        self.under_way: dict[_Request, None] = {}  # in order: a set's would differ between runs
        self.asked_at_s: list[float] = []

    def ask(self, done: Callable[[Outcome], None]) -> Callable[[], None]:
        """Begin a request; `done` hears how it ends. What it returns cuts it, so that nobody hears of it."""
        world = self._world
        self.asked_at_s.append(world.now_s)
        is_slow = self.slow_share > 0 and self._chance.random() < self.slow_share
        mean_s = self.slow_s if is_slow else self.service_s
        request = _Request(self, mean_s * self._chance.uniform(0.8, 1.2), done)
        self.under_way[request] = None
        if not self.is_up:
            world.after(REFUSED_S, lambda: request.end(REFUSED))
            return request.cut
        world.after(self._patience_s, lambda: request.end(TIMEOUT))
        if world.now_s < self.busy_until_s:
            left_s = self.busy_until_s - world.now_s
            busy = Outcome(blame=Blame.LOAD, label="429", status=429, pause_s=left_s, is_refusal=True)
            world.after(0.01, lambda: request.end(busy))
        elif not self.is_frozen:
            self._work(request)
        return request.cut

    def die(self) -> None:
        """As after `kill -9`: what is under way is lost, and the port is closed."""
        self.is_up = False
        for request in list(self.under_way):
            request.end(LOST)

    def rise(self) -> None:
        """Listen again."""
        self.is_up = True

    def freeze(self) -> None:
        """As after SIGSTOP: the kernel takes connections, and nobody answers."""
        self.is_frozen = True

    def thaw(self) -> None:
        """As after SIGCONT: everything that waited is answered."""
        self.is_frozen = False
        for request in list(self.under_way):
            self._work(request)

    def attempts(self, from_s: float, until_s: float) -> int:
        """How often it was asked in that time."""
        return sum(from_s <= at_s < until_s for at_s in self.asked_at_s)

    def _work(self, request: _Request) -> None:
        def finish() -> None:
            if not self.is_frozen:  # else it is answered when that is over
                request.end(ERROR if self._chance.random() < self.error_rate else SERVED)

        self._world.after(request.work_s, finish)


@dataclass
class Call:
    """What a caller saw."""

    began_at_s: float
    ended_at_s: float
    attempts: int
    has_served: bool


@dataclass
class Run:
    """A pool, its servers and its callers.

    Args:
        seed: of everything that is drawn.
        services_s: mean service time of each endpoint.
    """

    seed: int
    services_s: tuple[float, ...] = (0.5, 0.5, 0.5)
    spec: PoolSpec = field(default_factory=PoolSpec)
    call_spec: CallSpec = field(default_factory=CallSpec)
    patience_s: float = FIRST_BYTE_S

    def __post_init__(self) -> None:
        self.world = World()
        self._chance = random.Random(self.seed)
        self.servers = [
            Server(self.world, self._chance, name, service_s=service_s, patience_s=self.patience_s)
            for name, service_s in zip("abcdefgh", self.services_s, strict=False)
        ]
        self._by_name = {server.name: server for server in self.servers}
        self.events: list[tuple[float, Event]] = []
        self.pool = Pool(
            [
                Endpoint(function="completion", name=server.name, base_url=f"http://{server.name}:8000/v1")
                for server in self.servers
            ],
            spec=self.spec,
            clock=self.world.clock,
            randomness=self._chance,
            make_lock=threading.RLock,
            listener=lambda event: self.events.append((self.world.now_s, event)),
        )
        self.budget = Budget(self.call_spec.budget, clock=self.world.clock, make_lock=threading.Lock)
        self.calls: list[Call] = []

    def stream(self, per_second: float, *, until_s: float) -> None:
        """Callers who come one after the other, independent of each other (Poisson)."""

        def arrive() -> None:
            if self.world.now_s < until_s:
                self._begin(lambda: None)
                self.world.after(self._chance.expovariate(per_second), arrive)

        self.world.after(self._chance.expovariate(per_second), arrive)

    def crowd(self, size: int, *, until_s: float) -> None:
        """So many callers, each of whom asks again when answered (closed loop)."""

        def ask() -> None:
            if self.world.now_s < until_s:
                self._begin(ask)

        for _ in range(size):
            self.world.after(self._chance.uniform(0, 0.5), ask)

    def play(self) -> Run:
        """To the end of every call."""
        self.world.run()
        return self

    def story(self, wish: Wish) -> Story:
        """Of one call."""
        return failover(
            self.pool,
            wish,
            spec=self.call_spec,
            budget=self.budget,
            clock=self.world.clock,
            randomness=self._chance,
        )

    def _begin(self, then: Callable[[], None]) -> None:
        began_at_s = self.world.now_s
        story = self.story(Wish(ends_at_s=began_at_s + self.call_spec.deadline_s))

        def over(ending: Ending) -> None:
            has_served = ending.outcome is not None and ending.outcome.has_served
            self.calls.append(Call(began_at_s, self.world.now_s, len(ending.attempts), has_served))
            then()

        self._go_on(story, None, over)

    def _go_on(self, story: Story, outcome: Outcome | None, over: Callable[[Ending], None]) -> None:
        try:
            step = story.send(outcome)
        except StopIteration as end:
            over(end.value)
            return
        if isinstance(step, Rest):
            self.world.after(step.seconds + TICK_S, lambda: self._go_on(story, None, over))
        else:
            self._send(step, lambda outcome: self._go_on(story, outcome, over))

    def _send(self, send: Send, done: Callable[[Outcome], None]) -> None:
        self._by_name[send.lease.endpoint.name].ask(done)

    # What is read off afterwards.

    def of(self, from_s: float = 0.0, until_s: float = math.inf) -> list[Call]:
        """Calls that began in that time."""
        return [call for call in self.calls if from_s <= call.began_at_s < until_s]

    def failed(self, from_s: float = 0.0, until_s: float = math.inf) -> int:
        """How many of those were not served."""
        return sum(not call.has_served for call in self.of(from_s, until_s))

    def failed_share(self, from_s: float = 0.0, until_s: float = math.inf) -> float:
        """The same as a share."""
        return self.failed(from_s, until_s) / len(self.of(from_s, until_s))

    def attempts_a_call(self, from_s: float = 0.0, until_s: float = math.inf) -> float:
        """How many attempts a call took."""
        calls = self.of(from_s, until_s)
        return sum(call.attempts for call in calls) / len(calls)

    def quantile_s(self, share: float, from_s: float = 0.0, until_s: float = math.inf) -> float:
        """So many calls took at most so long."""
        return quantile((call.ended_at_s - call.began_at_s for call in self.of(from_s, until_s)), share)

    def share_of(self, server: Server, from_s: float, until_s: float) -> float:
        """Of all attempts in that time."""
        total = sum(one.attempts(from_s, until_s) for one in self.servers)
        return server.attempts(from_s, until_s) / total

    def openings(self, name: str) -> list[float]:
        """When the endpoint's breaker opened."""
        return [at_s for at_s, event in self._told(BreakerChanged) if event.endpoint == name and event.state == "open"]

    @property
    def in_flight(self) -> list[int]:
        """Of each endpoint; at the end there should be none."""
        return [one.in_flight for one in self.pool.snapshot()]

    def _told(self, kind: type[Any]) -> Iterator[tuple[float, Any]]:
        return ((at_s, event) for at_s, event in self.events if isinstance(event, kind))


def quantile(figures: Iterable[float], share: float) -> float:
    """The figure that so great a share does not exceed."""
    ordered = sorted(figures)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
