"""What a call tells of itself: each of its attempts, its stream, its end. Builds events; decides nothing.

An answer's tokens are booked here too, on what may be spent: that is no listener's business, as it may end calls.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Final

from ..events import AttemptEnded, BudgetReached, CallEnded, Event, FailoverDenied, Listener, StreamEnded, tell
from ..routing.endpoint import DEFAULT_POOL, Endpoint
from ..routing.outcome import Blame, Outcome
from ..usage import Usage
from .deadline import Phase

if TYPE_CHECKING:
    from ..routing.hedging import Hedge
    from ..routing.router import Decision
    from ..routing.spending import Spending
    from .facade import Sending

_numbers: Final = count(1)


class Wire:
    """Where the events of a function's calls go, and what their tokens are booked on.

    Args:
        leave_alone: is given an endpoint's name and for how many seconds, as what may be spent there is spent.
    """

    __slots__ = ("_is_catching_up", "_leave_alone", "_left_behind", "listener", "spending")

    def __init__(
        self,
        listener: Listener,
        spending: Spending | None = None,
        leave_alone: Callable[[str, float], None] = lambda _name, _for_s: None,
    ) -> None:
        self.listener, self.spending, self._leave_alone = listener, spending, leave_alone
        self._left_behind: deque[Callable[[], None]] = deque()
        self._is_catching_up = False

    def tell(self, event: Event) -> None:
        """Tell the listener."""
        if self._left_behind:
            self.catch_up()
        tell(self.listener, event)

    def later(self, telling: Callable[[], None]) -> None:
        """Do it before the next event: garbage may be collected while this very thread holds a lock of a listener's."""
        self._left_behind.append(telling)

    def catch_up(self) -> None:
        """Tell what was to be told later. What goes wrong in that is no matter of the call that does it."""
        if self._is_catching_up:  # this thread, whose telling came here again, or another one
            return
        self._is_catching_up = True
        try:
            while self._left_behind:
                with contextlib.suppress(Exception):
                    self._left_behind.popleft()()
        finally:
            self._is_catching_up = False

    def renew_after_fork(self) -> None:
        """In a child process: what was left behind is the parent's to tell."""
        self._left_behind, self._is_catching_up = deque(), False

    def spend(self, endpoint: Endpoint, tags: Collection[str], usage: Usage | None) -> float | None:
        """Book an answer. What it cost, where that is known."""
        if usage is None:
            return None
        cost = endpoint.price.cost(usage) if endpoint.price is not None else None
        if self.spending is not None:
            for event in self.spending.spent(endpoint.name, tags, tokens=usage.total, cost=cost):
                self.reached(event)
        return cost

    def reached(self, event: BudgetReached) -> None:
        """What may be spent is spent."""
        if event.endpoint is not None:
            self._leave_alone(event.endpoint, event.for_s)
        self.tell(event)


class Teller:
    """Tells of one call.

    Attributes:
        number: of the call, in this process.
        tags: that its caller gave it.
        decision: which pool it goes to, and by which route; None where there are no routes.
        hedge: its two stories, where it has two.
        model: what the request names.
    """

    __slots__ = (
        "_attempts",
        "_function",
        "_is_over",
        "_wire",
        "began_at_s",
        "decision",
        "hedge",
        "is_for_routing",
        "model",
        "number",
        "operation",
        "tags",
    )

    def __init__(
        self,
        wire: Wire,
        function: str,
        operation: str,
        model: str | None,
        *,
        began_at_s: float,
        tags: Collection[str],
        is_for_routing: bool,
    ) -> None:
        self._wire, self._function, self.operation, self.model = wire, function, operation, model
        self.number, self.began_at_s = next(_numbers), began_at_s
        self.tags, self.is_for_routing = tags, is_for_routing
        self.decision: Decision | None = None
        self.hedge: Hedge | None = None
        self._attempts = 0
        self._is_over = False

    def attempt(self, sending: Sending, outcome: Outcome, *, is_repeated: bool = False) -> None:
        """One request to an endpoint is over, or its answer has begun."""
        endpoint, has_served = sending.endpoint, outcome.has_served
        self._attempts += 1
        is_answer = has_served and not outcome.is_open
        usage = outcome.result.usage if is_answer else None
        event = AttemptEnded(
            function=endpoint.function,
            endpoint=endpoint.name,
            server=endpoint.server,
            operation=sending.call.operation,
            status=outcome.status,
            error=None if has_served or outcome.status is not None else outcome.label,
            took_s=time.monotonic() - sending.started_at_s,
            blame=None if outcome.blame is None else outcome.blame.value,
            is_canary=sending.canary is not None,
            is_for_routing=self.is_for_routing,
            call=self.number,
            pool=self._pool(has_moved=sending.has_moved),
            model=sending.model,
            reply_model=outcome.result.model if is_answer else None,
            began_s=sending.started_at_s - self.began_at_s,
            usage=usage,
            cost=self._wire.spend(endpoint, self.tags, usage),
            sent_bytes=sending.sent_bytes,
            received_bytes=sending.received_bytes,
            is_open=outcome.is_open,
            was_sent=sending.watch.phase >= Phase.SENT,
            is_repeated=is_repeated,
            is_hedge=sending.is_hedge,
            is_duplicate=self.hedge is not None and _is_duplicate(self.hedge, sending, outcome),
        )
        self._wire.tell(event)

    def stream(
        self,
        sending: Sending,
        outcome: Outcome,
        *,
        first_content_at_s: float,
        usage: Usage | None,
        reply_model: str | None,
        received_bytes: int,
        is_garbage: bool = False,
    ) -> None:
        """An answer that was handed on while it came is over, and so is the call.

        Args:
            is_garbage: nobody has it any more, and this is told while garbage is collected.
        """
        if self._is_over or sending.pid != os.getpid():  # in a child it is the parent's
            return
        self._is_over = True
        telling = partial(
            self._stream,
            sending,
            outcome,
            now_s=time.monotonic(),
            first_content_at_s=first_content_at_s,
            usage=usage,
            reply_model=reply_model,
            received_bytes=received_bytes,
        )
        if is_garbage:
            self._wire.later(telling)
        else:
            telling()

    def _stream(
        self,
        sending: Sending,
        outcome: Outcome,
        *,
        now_s: float,
        first_content_at_s: float,
        usage: Usage | None,
        reply_model: str | None,
        received_bytes: int,
    ) -> None:
        endpoint = sending.endpoint
        pool = self._pool(has_moved=sending.has_moved)
        error = None if outcome.has_served else outcome.label
        cost = self._wire.spend(endpoint, self.tags, usage)
        self._wire.tell(
            StreamEnded(
                function=endpoint.function,
                endpoint=endpoint.name,
                error=error,
                took_s=now_s - sending.started_at_s,
                operation=self.operation,
                call=self.number,
                pool=pool,
                model=sending.model,
                reply_model=reply_model,
                usage=usage,
                cost=cost,
                received_bytes=received_bytes,
            )
        )
        self._wire.tell(
            CallEnded(
                function=self._function,
                call=self.number,
                operation=self.operation,
                pool=pool,
                route=self._route,
                endpoint=endpoint.name,
                server=endpoint.server,
                model=sending.model,
                reply_model=reply_model,
                error=error,
                took_s=now_s - self.began_at_s,
                first_content_s=first_content_at_s - self.began_at_s,
                attempts=self._attempts,
                usage=usage,
                cost=cost,
                is_for_routing=self.is_for_routing,
                is_hedged=self._is_hedged,
            )
        )

    def answered(self, endpoint: Endpoint, outcome: Outcome, *, has_moved: bool) -> None:
        """The call is over with an answer of this endpoint, or with its error."""
        if outcome.is_open:  # not yet
            return
        usage = outcome.result.usage if outcome.has_served else None
        self._over(
            endpoint,
            endpoint.model or self.model,
            None if outcome.has_served else outcome.label,
            reply_model=outcome.result.model if outcome.has_served else None,
            usage=usage,
            cost=endpoint.price.cost(usage) if usage is not None and endpoint.price is not None else None,
            has_moved=has_moved,
        )

    def failed(self, error: str) -> None:
        """The call is over, and no endpoint has to do with that."""
        self._over(None, self.model, error)

    def denied(self, endpoint: Endpoint) -> None:
        """It was not sent elsewhere, as the budget of that is used up."""
        self._wire.tell(FailoverDenied(function=self._function, endpoint=endpoint.name))

    def _over(
        self,
        endpoint: Endpoint | None,
        model: str | None,
        error: str | None,
        *,
        reply_model: str | None = None,
        usage: Usage | None = None,
        cost: float | None = None,
        has_moved: bool = False,
    ) -> None:
        if self._is_over:
            return
        self._is_over = True
        event = CallEnded(
            function=self._function,
            call=self.number,
            operation=self.operation,
            pool=self._pool(has_moved=has_moved),
            route=self._route,
            endpoint=None if endpoint is None else endpoint.name,
            server=None if endpoint is None else endpoint.server,
            model=model,
            reply_model=reply_model,
            error=error,
            took_s=time.monotonic() - self.began_at_s,
            first_content_s=None,
            attempts=self._attempts,
            usage=usage,
            cost=cost,
            is_for_routing=self.is_for_routing,
            is_hedged=self._is_hedged,
        )
        self._wire.tell(event)

    @property
    def _route(self) -> str | None:
        return None if self.decision is None else self.decision.route

    @property
    def _is_hedged(self) -> bool:
        return self.hedge is not None and self.hedge.is_hedged

    def _pool(self, *, has_moved: bool) -> str:
        decision = self.decision
        if decision is None:
            return DEFAULT_POOL
        return ((decision.larger if has_moved else None) or decision.choice).pool.name


def _is_duplicate(hedge: Hedge, sending: Sending, outcome: Outcome) -> bool:
    """Whether the call has its answer from the other of two endpoints."""
    if sending.canary is not None:
        return False
    if outcome.has_served:
        return not hedge.is_first_to_serve()
    return outcome.blame is Blame.CANCELLED and hedge.is_decided
