"""Which pool a request goes to, and which of its endpoints may have it. Pure: knows requests by their Facts.

Routes are looked at in their order, and the first that holds names the pool. What a request demands of an endpoint is
no choice of pool: where no endpoint of a pool can and may have it, the next route that holds is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final, NamedTuple

from ..errors import NoRoute
from ..wanted import both
from .balancer import Strategy
from .endpoint import DEFAULT_POOL, UNSAID, Endpoint
from .facts import Facts
from .pool import Selection
from .route import OF_TEXT, Check, Mode, Route, Search, checks_of

TOO_SMALL: Final = "too small"  #: how the reason begins of an endpoint whose context is too short


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPool:
    """What is settled of a pool beside its endpoints.

    Attributes:
        strategy: how one of several endpoints is chosen; None: as in its function.
        deadline_s: of a call there, all of its attempts included; None: that of its function.
        trust: labels of which each endpoint that is asked must have one; None demands nothing.
    """

    name: str
    strategy: Strategy | None = None
    deadline_s: float | None = None
    trust: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A pool, and which of its endpoints may have the request."""

    pool: NamedPool
    among: Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A route that could not be decided: it counts as one that does not hold, but for its demand of trust."""

    route: str
    problem: str


@dataclass(slots=True, kw_only=True)
class Decision:
    """Where a request goes.

    Attributes:
        route: the name of the one that decided; None where none did.
        is_named: the request names the pool itself, in the place of a model.
        larger: where it may go if it turns out to be too long.
        trust: what was demanded in all: of the endpoints, and of whoever else is given the text.
        troubles: routes that could not be decided.
        passed: why no endpoint of its pool could have the request, by the names of routes that held.
    """

    choice: Choice
    route: str | None = None
    is_named: bool = False
    larger: Choice | None = None
    trust: frozenset[str] | None = None
    troubles: tuple[Trouble, ...] = ()
    passed: Mapping[str, str] = field(default_factory=dict)


class Unscored(NamedTuple):
    """The meaning of a text decides: `decide` is to be asked again, with its likeness to the examples of the routes.

    Attributes:
        trust: what its embedding demands, as the request itself does.
    """

    text: str
    trust: frozenset[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How like a text is to the examples of each route, by the routes' names; or why that is not known."""

    by_route: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None


class Rule:
    """A route that can be asked.

    Attributes:
        trust: what the route and its pool demand: of a request that holds, wherever it goes in the end.
    """

    __slots__ = ("checks", "is_semantic", "is_shadow", "name", "route", "trust")

    def __init__(
        self,
        route: Route,
        name: str,
        checks: Sequence[tuple[str, Check]],
        *,
        mode: Mode,
        trust: frozenset[str] | None,
    ) -> None:
        self.route, self.name, self.checks, self.trust = route, name, checks, trust
        self.is_semantic = route.is_semantic
        self.is_shadow = Mode.SHADOW in (route.mode, mode)

    def missed(self, facts: Facts) -> str | None:
        """The condition that does not hold; None where all do, or all but the likeness to its examples.

        Raises:
            Undecided: a condition cannot be looked at.
        """
        for name, check in self.checks:
            try:
                if check(facts):
                    continue
            except Exception as error:
                raise Undecided(_problem(name, error)) from error
            if facts.is_unread and name in OF_TEXT:
                raise Undecided(f"its {name} cannot be looked for: not all of the request can be read as text")
            return name
        return None


class Undecided(Exception):  # noqa: N818  # never leaves this module
    """A condition that could not be looked at, and why."""


def may_mean(facts: Facts) -> bool:
    """Whether the meaning of its text may decide. That of a text that is itself asked about for routing may not."""
    return not facts.wanted.is_for_routing and bool(facts.user.strip())


def _problem(name: str, error: Exception) -> str:
    if isinstance(error, TimeoutError) and name.endswith("pattern"):
        return f"its {name} took too long"
    return f"its {name} raised {type(error).__name__}"


class Router:
    """The routes and the pools of one function.

    Args:
        routes: in the order in which they are looked at.
        pools: those that have settings; an endpoint may serve others.
        mode: of all routes together.
        compile_pattern: turns a regular expression into a search that ends in time.
        predicates: those that routes name.
    Raises:
        ValueError: a pattern is none.
        KeyError: a route names a predicate that is not there.
    """

    def __init__(
        self,
        routes: Iterable[Route] = (),
        *,
        pools: Iterable[NamedPool] = (),
        mode: Mode = Mode.ON,
        compile_pattern: Callable[[str], Search],
        predicates: Mapping[str, Check] | None = None,
    ) -> None:
        self._pools = {pool.name: pool for pool in pools}
        self.rules = tuple(
            Rule(
                route,
                route.name or f"route {place}",
                checks_of(route, compile_pattern=compile_pattern, predicate=_predicate_of(route, predicates or {})),
                mode=mode,
                trust=self._demanded(route),
            )
            for place, route in enumerate(routes, start=1)
            if Mode.OFF not in (route.mode, mode)
        )
        self._followed = tuple(rule for rule in self.rules if not rule.is_shadow)
        self.has_shadows = len(self._followed) < len(self.rules)
        self._house = _House((), self._pools)
        self._ever_served: frozenset[str] = frozenset()

    def _demanded(self, route: Route) -> frozenset[str] | None:
        pool = self._pools.get(route.pool)
        return both(frozenset(route.trust) or None, pool.trust if pool is not None else None)

    @property
    def routes(self) -> tuple[Route, ...]:
        """In their order."""
        return tuple(rule.route for rule in self.rules)

    @property
    def pools(self) -> tuple[NamedPool, ...]:
        """Those that have settings."""
        return tuple(self._pools.values())

    def is_idle(self, endpoints: tuple[Endpoint, ...]) -> bool:
        """Whether every request may go to every endpoint, unless its caller demands something."""
        return not self.rules and self._housed(endpoints).is_plain

    def decide(
        self,
        facts: Facts,
        endpoints: tuple[Endpoint, ...],
        *,
        scores: Scores | None = None,
        with_shadows: bool = False,
    ) -> Decision | Unscored:
        """Choose the pool, and which of its endpoints may have the request.

        Args:
            endpoints: of the function. They are looked at once for as long as it is the same tuple.
            scores: where an Unscored came before.
            with_shadows: as if routes that only report were followed too.
        Raises:
            NoRoute: no endpoint can and may have it.
        """
        house = self._housed(endpoints)
        # Also of a pool that has lost its endpoints: what was meant for it is meant for no other.
        named = facts.model if facts.model in self._ever_served and facts.model != DEFAULT_POOL else None
        trust = facts.wanted.trust
        troubles: list[Trouble] = []
        passed: dict[str, str] = {}
        rules = self.rules if with_shadows else self._followed
        if scores is not None and scores.by_route:
            rules = _nearest_first(rules, scores)
        for rule in rules:
            problem = None
            try:
                if rule.missed(facts) is not None:
                    continue
            except Undecided as error:
                problem = str(error)
            if rule.is_semantic and problem is None:
                if not may_mean(facts) or (named is not None and rule.trust is None):
                    continue  # where the request chose its pool, only a boundary is a matter of meaning
                if scores is None:
                    chosen = self._pools.get(named or DEFAULT_POOL)
                    own = both(trust, chosen.trust if chosen is not None else None)
                    return Unscored(text=facts.user, trust=self._trust_to_ask(own, with_shadows=with_shadows))
                problem = scores.problem
                if problem is None and scores.by_route.get(rule.name, -1.0) < rule.route.threshold:
                    continue
            # Also of a rule that cannot be decided: a boundary must not open as its rule breaks.
            trust = both(trust, rule.trust)
            if problem is not None:
                troubles.append(Trouble(route=rule.name, problem=problem))
                continue
            if named is not None:  # the request chose the pool; but the boundary of the first route that holds is one
                break
            decision = self._through(rule, facts, trust, house)
            if decision is not None:
                decision.troubles, decision.passed = tuple(troubles), passed
                return decision
            passed[rule.name] = house.why_not(rule.route.pool, facts, trust)
        pool = named or DEFAULT_POOL
        choice = house.choice(pool, facts, trust)
        if not choice.among.names:
            raise _no_route(facts, choice, troubles, passed)
        return Decision(
            choice=choice,
            is_named=named is not None,
            trust=both(trust, choice.pool.trust),
            troubles=tuple(troubles),
            passed=passed,
        )

    def _through(self, rule: Rule, facts: Facts, trust: frozenset[str] | None, house: _House) -> Decision | None:
        route = rule.route
        choice = house.choice(route.pool, facts, trust)
        larger = house.choice(route.on_context_length, facts, trust) if route.on_context_length is not None else None
        if larger is not None and not larger.among.names:
            larger = None
        if choice.among.names:
            return Decision(choice=choice, route=rule.name, larger=larger, trust=trust)
        is_too_long = any(why.startswith(TOO_SMALL) for why in choice.among.left_out.values())
        if larger is None or not is_too_long:
            return None
        return Decision(choice=larger, route=rule.name, trust=trust)

    def _trust_to_ask(self, trust: frozenset[str] | None, *, with_shadows: bool) -> frozenset[str] | None:
        """What the embedding of a text demands: who may not have the text may not judge it either.

        Args:
            trust: what the request demands. Where a route demands what that excludes, it alone says who may have the
                text.
        """
        demanded = trust
        for rule in self.rules if with_shadows else self._followed:
            if rule.is_semantic:
                demanded = both(demanded, rule.trust)
        return trust if trust is not None and not demanded else demanded

    def _housed(self, endpoints: tuple[Endpoint, ...]) -> _House:
        house = self._house
        if house.endpoints is not endpoints:
            house = self._house = _House(endpoints, self._pools)
            self._ever_served |= house.names
        return house


class _House:
    """The endpoints of a function, by the pools that they serve."""

    def __init__(self, endpoints: tuple[Endpoint, ...], settled: Mapping[str, NamedPool]) -> None:
        self.endpoints = endpoints
        served = dict.fromkeys([DEFAULT_POOL, *settled, *(name for each in endpoints for name in each.pools)])
        self._pools = {name: settled.get(name) or NamedPool(name=name) for name in served}
        self._members = {name: tuple(each for each in endpoints if name in each.pools) for name in served}
        # Of a pool whose endpoints take whatever comes there is one choice, made once.
        self._whole = {
            name: Choice(pool=self._pools[name], among=_selected(self._pools[name], members, {}))
            for name, members in self._members.items()
            if all(each.abilities == UNSAID for each in members)
        }
        default = self._pools[DEFAULT_POOL]
        everywhere = len(served) == 1 and len(self._members[DEFAULT_POOL]) == len(endpoints)
        self.is_plain = everywhere and DEFAULT_POOL in self._whole and default == NamedPool(name=DEFAULT_POOL)

    @property
    def names(self) -> frozenset[str]:
        """Of the pools. Many servers call a model of theirs `default`: in the place of a model that names none."""
        return frozenset(self._pools)

    def choice(self, name: str, facts: Facts, trust: frozenset[str] | None) -> Choice:
        """Which endpoints of the pool can and may have the request; maybe none."""
        pool = self._pools.get(name) or NamedPool(name=name)
        trust = both(trust, pool.trust)
        if trust is None and (whole := self._whole.get(name)) is not None:
            return whole
        left_out: dict[str, str] = {}
        members = []
        for endpoint in self._members.get(name, ()):
            if (why := shortcoming(endpoint, facts, trust)) is None:
                members.append(endpoint)
            else:
                left_out[endpoint.name] = why
        return Choice(pool=pool, among=_selected(pool, members, left_out))

    def why_not(self, name: str, facts: Facts, trust: frozenset[str] | None) -> str:
        """In words, why no endpoint of the pool has the request."""
        return _told(self.choice(name, facts, trust).among.left_out)


def _selected(pool: NamedPool, members: Iterable[Endpoint], left_out: Mapping[str, str]) -> Selection:
    places = {endpoint.name: (endpoint.server, endpoint.trust) for endpoint in members}
    return Selection(names=frozenset(places), strategy=pool.strategy, left_out=left_out, places=places)


def shortcoming(endpoint: Endpoint, facts: Facts, trust: frozenset[str] | None) -> str | None:
    """What it is that it cannot or may not have the request, as in `unable to call tools`; None where it may."""
    if trust is not None and endpoint.trust not in trust:
        demanded = " or ".join(sorted(trust)) or "demands that exclude each other"
        return f"outside of the trust that is demanded ({demanded}): it is {endpoint.trust or 'without a label'}"
    abilities = endpoint.abilities
    if abilities is UNSAID:
        return None
    if (length := abilities.context_length) is not None and _exceeds(facts, length):
        return f"{TOO_SMALL}: it holds {length} tokens, and the request is about {_size(facts)}"
    if (modalities := abilities.modalities) is not None:
        for name, count in (("image", facts.images), ("audio", facts.audio), ("file", facts.files)):
            if count and name not in modalities:
                return f"unable to take {_A[name]}"
    if facts.has_tools and abilities.tools is False:
        return "unable to call tools"
    if facts.wants_structured_output and abilities.structured_output is False:
        return "unable to give structured output"
    return None


_A: Final = {"image": "an image", "audio": "audio", "file": "a file"}


def _exceeds(facts: Facts, length: int) -> bool:
    if facts.inputs:
        return facts.longest_reaches(length + 1)
    room = length - facts.max_output_tokens
    return room < 0 or facts.reaches(room + 1)


def _size(facts: Facts) -> str:
    if facts.inputs:
        return f"{facts.longest_input} in its longest text"
    answer = f" and {facts.max_output_tokens} for the answer" if facts.max_output_tokens else ""
    return f"{facts.tokens}{answer}"


def _no_route(facts: Facts, choice: Choice, troubles: Iterable[Trouble], passed: Mapping[str, str]) -> NoRoute:
    name, reasons = choice.pool.name, choice.among.left_out
    told = [f"no {facts.function} endpoint of the pool {name} may have this request: {_told(reasons)}"]
    told += [f"the route {route} was passed over: {why}" for route, why in passed.items()]
    undecided = {trouble.route: trouble.problem for trouble in troubles}
    told += [f"the route {route} could not be decided: {problem}" for route, problem in undecided.items()]
    message = f"{'. '.join(told)}. Ask for less, or name an endpoint that takes it."
    return NoRoute(message, reasons=reasons, passed=passed, undecided=undecided)


def _told(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name} is {why}" for name, why in reasons.items()) or "it has none"


def _predicate_of(route: Route, predicates: Mapping[str, Check]) -> Check | None:
    return predicates[route.predicate] if isinstance(route.predicate, str) else route.predicate


def _nearest_first(rules: Sequence[Rule], scores: Scores) -> tuple[Rule, ...]:
    """In their order; of semantic rules that stand one after another the nearest first."""
    ordered: list[Rule] = []
    for is_semantic, together in groupby(rules, key=lambda rule: rule.is_semantic):
        group = list(together)
        if is_semantic:
            group.sort(key=lambda rule: -scores.by_route.get(rule.name, -1.0))
        ordered += group
    return tuple(ordered)
