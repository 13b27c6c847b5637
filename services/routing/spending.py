"""What may be spent, in money or tokens, and what is. Knows amounts and periods; knows no endpoint's health.

What an answer costs is known when it is there. So a limit holds for what was answered: it is passed by at most the
calls that were under way when it was reached.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..events import BudgetReached


class Unit(StrEnum):
    """What is counted."""

    COST = "cost"  #: in the currency of the endpoints' prices
    TOKENS = "tokens"  #: of requests and answers


class Period(StrEnum):
    """For how long: from one full minute, hour or day of UTC to the next."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """How long it is."""
        return _SECONDS[self]


_SECONDS: Final = {Period.MINUTE: 60, Period.HOUR: 3600, Period.DAY: 86_400}
#: amounts are whole numbers, which add up exactly, also in a store that several processes share: of billionths of the
#: currency, as a token of a cheap model costs a few hundred of them
_PARTS: Final = {Unit.COST: 1_000_000_000, Unit.TOKENS: 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendingLimit:
    """A budget: so much for each minute, hour or day.

    Attributes:
        tag: only of calls with this tag; None: of all.
        endpoint: only what is spent there; None: of the function.
    """

    limit: float
    unit: Unit
    per: Period
    tag: str | None = None
    endpoint: str | None = None

    def __str__(self) -> str:
        amount = f"{self.limit:.9f}".rstrip("0").rstrip(".")  # billionths are the smallest that is counted
        return f"{amount}{' tokens' if self.unit is Unit.TOKENS else ''}/{self.per}"

    @property
    def scope(self) -> str:
        """What is counted, where and for how long: two limits of one scope would be one too many."""
        where = f"endpoint {self.endpoint}" if self.endpoint is not None else f"tag {self.tag}" if self.tag else "all"
        return f"{where}/{self.unit}/{self.per}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """What is spent of a budget at one moment.

    Attributes:
        budget: as it is written, as in `5/day` or `200000 tokens/minute`.
        endpoint: whose it is; None: the function's.
        tag: of the calls with this tag; None: of all.
        limit, spent: in its own unit.
        ends_in_s: until the next minute, hour or day begins, with nothing spent.
    """

    budget: str
    endpoint: str | None
    tag: str | None
    limit: float
    spent: float
    ends_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What was spent and others do not know yet, of one limit in one period.

    Attributes:
        key: the same for all who share it.
        amount: may be 0, where only the others' is asked for.
        period: its number since 1970.
        ends_in_s: what is left of it.
    """

    key: str
    amount: int
    period: int
    ends_in_s: float


class _Account:
    """What is spent of one limit in one period: the total of all as it was learnt, and what is not in that.

    It never gets less, so that what is reached stays reached. A store that is restarted may have forgotten all: whoever
    had learnt it goes on counting it, and misses what others tell the store before this process asks it again.
    """

    __slots__ = ("forgotten", "inherited", "is_told", "limit", "most", "on_its_way", "own", "parts", "period", "total")

    def __init__(self, limit: SpendingLimit) -> None:
        self.limit, self.parts = limit, _PARTS[limit.unit]
        self.most = round(limit.limit * self.parts)
        self.period = -1
        self._begin(-1)

    def _begin(self, period: int) -> None:
        self.period = period
        self.own = self.on_its_way = self.inherited = self.total = self.forgotten = 0
        self.is_told = False

    def at(self, now_s: float) -> _Account:
        """Itself, at nothing where another period has begun."""
        if (period := int(now_s // self.limit.per.seconds)) != self.period:
            self._begin(period)
        return self

    def is_of(self, now_s: float) -> bool:
        """Whether its period lasts."""
        return self.period == int(now_s // self.limit.per.seconds)

    def held_to(self, limit: SpendingLimit) -> _Account:
        """Itself, with another amount for the same."""
        if limit.limit != self.limit.limit:
            self.limit, self.most, self.is_told = limit, round(limit.limit * self.parts), False
        return self

    @property
    def spent(self) -> int:
        return self.total + self.forgotten + self.inherited + self.on_its_way + self.own

    @property
    def is_reached(self) -> bool:
        return self.spent >= self.most

    def learn(self, total: int, amount: int) -> None:
        """All have spent this together, the amount that was on its way included."""
        by_others = total - amount - self.total
        self.forgotten += max(0, -by_others)
        self.inherited -= min(max(0, by_others), self.inherited)
        self.total, self.on_its_way = total, self.on_its_way - amount

    def inherit(self) -> None:
        """In a child: what the parent has not told yet is the parent's to tell, and counts here until it is told."""
        self.inherited += self.on_its_way + self.own
        self.on_its_way = self.own = 0

    def ends_in_s(self, now_s: float) -> float:
        return (self.period + 1) * self.limit.per.seconds - now_s

    def state(self, now_s: float) -> BudgetState:
        limit = self.limit
        return BudgetState(
            budget=str(limit),
            endpoint=limit.endpoint,
            tag=limit.tag,
            limit=limit.limit,
            spent=self.spent / self.parts,
            ends_in_s=self.ends_in_s(now_s),
        )


class Spending:
    """What a function spends, held against its limits. Safe among threads.

    Args:
        function: whose it is.
        limits: no two of one scope.
        wall_clock: seconds since 1970: the periods are those of the calendar, the same on every machine. It is read
            under the lock, so that a thread that had to wait for it does not begin a period that is over.
        make_lock: makes a lock; called again in a child process, whose parent's may be held for ever.
    """

    def __init__(
        self,
        function: str,
        limits: Sequence[SpendingLimit],
        *,
        wall_clock: Callable[[], float],
        make_lock: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._function, self._wall_clock, self._make_lock = function, wall_clock, make_lock
        self._lock = make_lock()
        self._accounts = [_Account(limit) for limit in limits]
        self._dropped: dict[str, _Account] = {}  # in this period
        self._may_be_reached = False

    def spent(
        self, endpoint: str, tags: Collection[str], *, tokens: int | None, cost: float | None
    ) -> tuple[BudgetReached, ...]:
        """Book an answer. Which limits that has reached: each is told once in its period.

        Args:
            tokens, cost: None where it is not known, and nothing is booked.
        """
        known = {Unit.TOKENS: tokens, Unit.COST: cost}
        with self._lock:
            now_s = self._wall_clock()
            reached = []
            for account in self._accounts:
                limit, amount = account.limit, known[account.limit.unit]
                if amount is None or limit.endpoint not in (None, endpoint):
                    continue
                if limit.tag is not None and limit.tag not in tags:
                    continue
                account.at(now_s).own += round(amount * account.parts)
                reached += self._reached(account, now_s)
            return tuple(reached)

    def swap(self, limits: Sequence[SpendingLimit]) -> tuple[BudgetReached, ...] | None:
        """Have these limits from now on. What is spent of one that had the same scope before, is spent of it still.

        Returns:
            Which of them are reached by that; None where they are those of before.
        """
        with self._lock:
            if [account.limit for account in self._accounts] == list(limits):
                return None
            now_s = self._wall_clock()
            # Also those that were dropped: who drops a limit and brings it back has not got his money back.
            known = self._dropped | {account.limit.scope: account.at(now_s) for account in self._accounts}
            self._accounts = [
                known[limit.scope].held_to(limit) if limit.scope in known else _Account(limit) for limit in limits
            ]
            used = {limit.scope for limit in limits}
            self._dropped = {scope: each for scope, each in known.items() if scope not in used and each.is_of(now_s)}
            self._may_be_reached = True  # to be looked at once
            return tuple(event for account in self._accounts for event in self._reached(account.at(now_s), now_s))

    def refusal(self, tags: Collection[str]) -> BudgetState | None:
        """The limit for whose sake a call must not be made; None where it may. Of several the one that ends last."""
        if not self._may_be_reached:
            return None
        with self._lock:
            now_s = self._wall_clock()
            reached = [account for account in self._reached_now(now_s) if account.limit.endpoint is None]
            states = [each.state(now_s) for each in reached if each.limit.tag is None or each.limit.tag in tags]
        return max(states, key=lambda state: state.ends_in_s, default=None)

    def exhausted(self) -> tuple[BudgetState, ...]:
        """The limits of endpoints that are reached: these are to be left alone until they end."""
        if not self._may_be_reached:
            return ()
        with self._lock:
            now_s = self._wall_clock()
            return tuple(each.state(now_s) for each in self._reached_now(now_s) if each.limit.endpoint is not None)

    def state(self) -> tuple[BudgetState, ...]:
        """Every limit, and what is spent of it."""
        with self._lock:
            now_s = self._wall_clock()
            return tuple(account.at(now_s).state(now_s) for account in self._accounts)

    def shares(self) -> tuple[Share, ...]:
        """What is to be told to others: it counts as on its way until `learnt` or `give_back` takes it."""
        with self._lock:
            now_s = self._wall_clock()
            return tuple(self._share(account.at(now_s), now_s) for account in self._accounts)

    @property
    def has_untold(self) -> bool:
        """Whether something was spent that others do not know."""
        return any(account.own for account in self._accounts)

    def learnt(self, share: Share, total: int) -> tuple[BudgetReached, ...]:
        """A share was told, and all processes together have spent this. Which limit that has reached."""
        with self._lock:
            now_s = self._wall_clock()
            account = self._account_of(share, now_s)
            if account is None:
                return ()
            account.learn(total, share.amount)
            return tuple(self._reached(account, now_s))

    def give_back(self, share: Share) -> None:
        """A share could not be told; it comes again with the next ones."""
        with self._lock:
            account = self._account_of(share, self._wall_clock())
            if account is not None:
                account.on_its_way -= share.amount
                account.own += share.amount

    def renew_after_fork(self) -> None:
        """In a child: what the parent has spent counts, and is the parent's to tell."""
        self._lock = self._make_lock()
        for account in self._accounts:
            account.inherit()

    def _share(self, account: _Account, now_s: float) -> Share:
        amount, account.own = account.own, 0
        account.on_its_way += amount
        key = f"{self._function}/{account.limit.scope}/{account.period}"
        return Share(key=key, amount=amount, period=account.period, ends_in_s=account.ends_in_s(now_s))

    def _account_of(self, share: Share, now_s: float) -> _Account | None:
        """The account of a share, if its period still lasts."""
        for account in self._accounts:
            if share.key == f"{self._function}/{account.limit.scope}/{account.at(now_s).period}":
                return account
        return None

    def _reached(self, account: _Account, now_s: float) -> list[BudgetReached]:
        if account.is_told or not account.is_reached:
            return []
        account.is_told = self._may_be_reached = True
        state = account.state(now_s)
        return [
            BudgetReached(
                function=self._function,
                budget=state.budget,
                endpoint=state.endpoint,
                tag=state.tag,
                spent=state.spent,
                for_s=state.ends_in_s,
            )
        ]

    def _reached_now(self, now_s: float) -> list[_Account]:
        reached = [account for account in self._accounts if account.at(now_s).is_reached]
        self._may_be_reached = bool(reached)
        return reached
