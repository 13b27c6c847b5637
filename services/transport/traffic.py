"""What both clients of a function share: its pool, its rules, its limits; and how they are exchanged for others.

Knows what holds for all calls; knows none of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager

import httpx2

from ..events import Event, Listener
from ..routing.balancer import Randomness, Strategy
from ..routing.budget import Budget
from ..routing.canary import Canaries, may_differ
from ..routing.endpoint import Endpoint
from ..routing.failover import AfterSend, CallSpec, Story, Wish, failover
from ..routing.hedging import Hedging
from ..routing.pool import Pool
from ..routing.router import Choice, Router
from ..routing.spending import Spending, SpendingLimit
from .call import Call, Kind
from .conclusion import Limits, refused
from .dialect import Ambient
from .ledger import Ledger
from .patterns import searching
from .references import References
from .reply import Widths
from .router import LaneRouter
from .telling import Wire
from .telling_usage import TellingUsage


class Traffic:
    """What the synchronous and the asynchronous client of a function share.

    Attributes:
        spec: the limits of a call.
        widths: how long the vectors of the pool are.
        canaries: which endpoints have shown that their vectors are of the pool's space.
        references: what the canary's vector is there.
        hedging: when a slow call may ask a second endpoint; None: never.
        ambient: headers of the environment that are meant for nobody here.
        router: which pool a request goes to.
        wire: who is told of the calls, and what their tokens are booked on.
        usage: which endpoints tell the usage of a stream where they are asked.
        ledger: shares with other processes what is spent; None: each goes by its own.
        wake: is called with each call, as a child process must ask its own sources of endpoints; None: there are none.

    Args:
        is_live: the endpoints may be swapped for others while it runs: also one that stands alone shows what space its
            vectors are of, so that its successor can be compared with it.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        spec: CallSpec,
        budget: Budget,
        randomness: Randomness,
        listener: Listener,
        ambient: Ambient | None = None,
        router: LaneRouter | None = None,
        spending: Spending | None = None,
        has_canary: bool = True,
        hedge: float = 0.0,
        is_live: bool = False,
        make_lock: Callable[[], AbstractContextManager[object]] = threading.Lock,
    ) -> None:
        self.pool, self.spec, self.budget, self.randomness = pool, spec, budget, randomness
        self.wire = Wire(listener, spending, pool.spent)
        self.ledger: Ledger | None = None
        self.usage, self.ambient = TellingUsage(time.monotonic), ambient or Ambient({})
        self.widths, self.references = Widths(), References()
        self.canaries = Canaries(
            self.references.knows, self.references.anchor, clock=time.monotonic, make_lock=make_lock
        )
        self._make_lock = make_lock
        self.hedging = Hedging(hedge, make_lock) if hedge else None
        self.facade = pool.endpoints[0]
        self.wake: Callable[[], None] | None = None
        self.router = router or LaneRouter(Router(compile_pattern=searching), pool, listener=listener)
        self._limits = Limits(deadline_s=spec.deadline_s, setting=f"{self.facade.function}.deadline_s")
        self._has_canary, self.is_live = has_canary, is_live
        self.first_longest_s = self.longest_s
        self._version, self._may_differ = -1, False
        self._budgeted_version = pool.version

    @property
    def longest_s(self) -> float:
        """The longest deadline that a call may have here."""
        return max([self.spec.deadline_s, *(pool.deadline_s or 0.0 for pool in self.router.router.pools)])

    def patience_of(self, request: httpx2.Request) -> float | None:
        """How long the caller waits, in seconds; None where that is as the settings say, whatever they say by now."""
        timeout_s: float | None = request.extensions.get("timeout", {}).get("read")
        return None if self.is_live and timeout_s == self.first_longest_s else timeout_s

    def renew(
        self,
        endpoints: Sequence[Endpoint],
        *,
        strategy: Strategy,
        spec: CallSpec,
        router: LaneRouter | None,
        has_canary: bool,
        hedge: float,
        limits: Sequence[SpendingLimit],
    ) -> list[Event]:
        """Have these endpoints and rules from now on. A call that has begun goes on by those that it began with.

        Args:
            router: None: the rules are the same.
            limits: of what may be spent.
        Returns:
            What is to be told of that.
        """
        router = (router or self.router).over(tuple(endpoints))

        def exchange() -> None:
            self.router, self.spec, self._has_canary = router, spec, has_canary
            self._limits = Limits(deadline_s=spec.deadline_s, setting=f"{self.facade.function}.deadline_s")
            if hedge != (self.hedging.share if self.hedging is not None else 0.0):
                self.hedging = Hedging(hedge, self._make_lock) if hedge else None

        events: list[Event] = []
        if (changed := self.pool.exchange(endpoints, strategy=strategy, beside=exchange)) is not None:
            events.append(changed)
        if self.wire.spending is not None and (reached := self.wire.spending.swap(limits)) is not None:
            self.pool.may_spend_again()
            for event in reached:
                if event.endpoint is not None:
                    self.pool.spent(event.endpoint, event.for_s)
            events += reached
        self._version = self._budgeted_version = -1  # to be looked at anew
        return events

    def limits(self, choice: Choice | None) -> Limits:
        """Of a call in a pool."""
        if choice is None or choice.pool.deadline_s is None:
            return self._limits
        setting = f"{self.facade.function}.pools.{choice.pool.name}.deadline_s"
        return Limits(deadline_s=choice.pool.deadline_s, setting=setting)

    def may_differ(self) -> bool:
        """Whether two endpoints could be of two models, so that each must show that it is not."""
        version = self.pool.version
        if self._version != version:
            self._may_differ = self._has_canary and (self.is_live or may_differ(self.pool.endpoints))
            self._version = version
        return self._may_differ

    def check_budget(self, tags: Collection[str]) -> None:
        """Raises BudgetExceeded where what calls with these tags may spend is spent."""
        spending = self.wire.spending
        if spending is None:
            return
        if self.ledger is not None:
            self.ledger.wake()
        if (version := self.pool.version) != self._budgeted_version:
            self._budgeted_version = version
            for state in spending.exhausted():  # an endpoint that was swapped for another of its name
                if state.endpoint is not None:
                    self.pool.spent(state.endpoint, state.ends_in_s)
        if (refusal := spending.refusal(tags)) is not None:
            raise refused(self.facade.function, refusal)

    def story(self, wish: Wish) -> Story:
        """Of one call."""
        return failover(
            self.pool,
            wish,
            spec=self.spec,
            budget=self.budget,
            clock=time.monotonic,
            randomness=self.randomness,
            canaries=self.canaries,
        )

    def may_be_hedged(self, call: Call, wish: Wish) -> bool:
        """Whether a second endpoint may be asked too: of embeddings alone, which come whole and change nothing."""
        is_whole = call.kind is Kind.EMBEDDING and not call.is_streamed and wish.is_replayable
        may_be_sent_twice = self.spec.after_send is not AfterSend.NEVER
        return is_whole and may_be_sent_twice and wish.only is None and not self.pool.is_single(wish.among)

    def renew_after_fork(self) -> None:
        """In a child process."""
        self.router.renew_after_fork()
        self.wire.renew_after_fork()
        self.canaries.renew_after_fork()
        self.references.renew_after_fork()
        if self.hedging is not None:
            self.hedging.renew_after_fork()
