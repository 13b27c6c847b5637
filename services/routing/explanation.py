"""Why a request goes where it goes: the routes, what each said, and who may have the request. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import NoRoute
from .endpoint import Endpoint
from .facts import Facts
from .router import Decision, Router, Rule, Scores, Undecided, may_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleExplanation:
    """One route.

    Attributes:
        verdict: `chosen`, `holds`, `missed`, `undecided`, or `passed over`: it holds, but nobody of its pool may have
            the request.
        reason: what was missed, or why; empty where it holds.
        score: how like the text is to its examples, as a cosine; None where it has none, or that is not known.
        is_shadow: it is reported, and not followed.
    """

    route: str
    pool: str
    verdict: str
    reason: str = ""
    score: float | None = None
    is_shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteExplanation:
    """Where a request goes, and why. `str()` is plain text, `as_dict()` is fit for JSON.

    Attributes:
        pool: its name; None where no endpoint may have the request.
        route: the one that decided; None where none did.
        is_named: the request names the pool itself, in the place of a model.
        tokens: about how many the request has.
        rules: every route that is not off, in their order.
        candidates: the endpoints that may have it, with their health, in the operator's order.
        left_out: why others of the pool may not, by their names.
        larger: the pool to ask where it turns out to be too long.
        problem: why nobody may have it, or None.
    """

    function: str
    pool: str | None
    route: str | None
    is_named: bool
    tokens: int
    rules: tuple[RuleExplanation, ...]
    candidates: Mapping[str, str]
    left_out: Mapping[str, str]
    larger: str | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain dicts and lists."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    @property
    def decided_by(self) -> str:
        """What chose the pool, in words."""
        if self.is_named:
            return "the request names it"
        return f"by {self.route}" if self.route is not None else "no route holds"

    @property
    def headline(self) -> str:
        """The pool and what chose it, in words."""
        where = f"pool {self.pool} ({self.decided_by})" if self.pool is not None else "nobody"
        return f"{where}, about {self.tokens} tokens"

    def _lines(self) -> Iterator[str]:
        yield f"{self.function}: {self.headline}"
        width = max((len(rule.route) for rule in self.rules), default=0)
        for rule in self.rules:
            score = f" (score {rule.score:.3f})" if rule.score is not None else ""
            shadow = ", in shadow mode" if rule.is_shadow else ""
            because = f": {rule.reason}" if rule.reason else ""
            yield f"  route {rule.route:<{width}} -> {rule.pool}: {rule.verdict}{shadow}{because}{score}"
        for name, health in self.candidates.items():
            yield f"  candidate {name}: {health}"
        for name, why in self.left_out.items():
            yield f"  not {name}: it is {why}"
        if self.larger is not None:
            yield f"  too long for it: pool {self.larger}"
        if self.problem is not None:
            yield f"  error: {self.problem}"


def explained(
    router: Router,
    facts: Facts,
    endpoints: tuple[Endpoint, ...],
    *,
    scores: Scores,
    health: Mapping[str, str],
) -> RouteExplanation:
    """Explain what becomes of a request.

    Args:
        health: of each endpoint in a word, by its name.
    """
    decided, problem = None, None
    left_out: Mapping[str, str]
    passed: Mapping[str, str]
    try:
        outcome = router.decide(facts, endpoints, scores=scores)
    except NoRoute as error:
        problem, left_out, passed = str(error), error.reasons, error.passed
    else:
        assert isinstance(outcome, Decision)  # noqa: S101  # for the type checker: there are scores
        decided, left_out, passed = outcome, outcome.choice.among.left_out, outcome.passed
    chosen = decided.route if decided is not None else None
    names = decided.choice.among.names if decided is not None else frozenset()
    return RouteExplanation(
        function=facts.function,
        pool=decided.choice.pool.name if decided is not None else None,
        route=chosen,
        is_named=decided is not None and decided.is_named,
        tokens=facts.tokens,
        rules=tuple(_rule(rule, facts, scores, chosen, passed) for rule in router.rules),
        candidates={each.name: health.get(each.name, "") for each in endpoints if each.name in names},
        left_out=dict(left_out),
        larger=decided.larger.pool.name if decided is not None and decided.larger is not None else None,
        problem=problem,
    )


def _rule(rule: Rule, facts: Facts, scores: Scores, chosen: str | None, passed: Mapping[str, str]) -> RuleExplanation:
    verdict, reason = _verdict(rule, facts, scores, chosen, passed)
    return RuleExplanation(
        route=rule.name,
        pool=rule.route.pool,
        verdict=verdict,
        reason=reason,
        score=scores.by_route.get(rule.name),
        is_shadow=rule.is_shadow,
    )


def _verdict(
    rule: Rule, facts: Facts, scores: Scores, chosen: str | None, passed: Mapping[str, str]
) -> tuple[str, str]:
    # What was decided is told as it was: a predicate that is asked once more may say something else.
    if chosen == rule.name:
        return "chosen", ""
    if rule.name in passed:
        return "passed over", passed[rule.name]
    try:
        missed = rule.missed(facts)
    except Undecided as error:
        return "undecided", str(error)
    if missed is not None:
        return "missed", f"{missed} = {_shown(getattr(rule.route, missed))}"
    if rule.is_semantic:
        if not may_mean(facts):
            return "missed", "there is no text whose meaning could decide"
        if scores.problem is not None:
            return "undecided", scores.problem
        if scores.by_route.get(rule.name, -1.0) < rule.route.threshold:
            return "missed", f"threshold = {rule.route.threshold:g}"
    return "holds", ""


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return getattr(value, "__name__", None) or str(value)
