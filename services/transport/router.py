"""The router of a lane: what a request says is read, the rules decide, and whoever listens is told.

Knows requests and routes; sends nothing but the texts whose meaning decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx2

from ..errors import NoRoute
from ..events import Listener, RequestRouted, RouteFailed, tell
from ..routing.endpoint import Endpoint
from ..routing.explanation import RouteExplanation, explained
from ..routing.facts import Facts, estimated_tokens
from ..routing.pool import Pool, Selection
from ..routing.router import Decision, Router, Scores, Unscored
from ..wanted import Wanted, both, routed, wanted, words_of
from .call import Call
from .question import facts_of

if TYPE_CHECKING:
    from .meaning import Meaning


NO_MEANING: Final = Scores(problem="there is no embedding endpoint to ask")
NOT_ASKED: Final = Scores(problem="nothing hangs on the meaning of this text, so it was not embedded")
EXPLAIN_S: Final = 10.0  #: for the embedding, where nobody's request waits: the client may have to be built first


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How texts are looked at.

    Attributes:
        count_tokens: about how many tokens a text has.
        detect_language: its language, as in `de`; None: no route asks.
    """

    count_tokens: Callable[[str], int] = estimated_tokens
    detect_language: Callable[[str], str | None] | None = None


class LaneRouter:
    """Decides for the requests of one function.

    Args:
        router: the routes and the named pools.
        pool: the endpoints.
        reading: how texts are looked at.
        meaning: how like a text is to the examples of routes; None where no route has any.
        model: what a server without a model of its own is asked for where a request names a pool in its place.
    """

    def __init__(
        self,
        router: Router,
        pool: Pool,
        *,
        listener: Listener,
        reading: Reading | None = None,
        meaning: Meaning | None = None,
        model: str | None = None,
    ) -> None:
        self.router, self.pool, self.listener = router, pool, listener
        self.meaning, self.model = meaning, model
        self.function = pool.endpoints[0].function
        self._reading = reading or Reading()
        self._endpoints: tuple[Endpoint, ...] | None = None

    def over(self, endpoints: tuple[Endpoint, ...]) -> LaneRouter:
        """The same rules over these endpoints: what belongs together is exchanged together."""
        its = copy(self)
        its._endpoints = endpoints  # noqa: SLF001  # its own class
        return its

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Those that a request may go to, as far as the rules see: with others of the pool they are exchanged."""
        return self._endpoints or self.pool.endpoints

    def question(self, call: Call, wanted: Wanted) -> Question | None:
        """Where the request goes; None where every endpoint may have it.

        Raises:
            NoRoute: no endpoint can and may have it.
        """
        endpoints = self.endpoints
        if wanted.trust is None and self.router.is_idle(endpoints):
            return None
        return Question(self, call, wanted, endpoints)

    def explain(
        self,
        request: Mapping[str, Any],
        *,
        tags: str | Iterable[str] = (),
        trust: str | Iterable[str] | None = None,
    ) -> RouteExplanation:
        """Where a request would go now, and why. Sends nothing, but for a text whose meaning decides.

        Args:
            request: the arguments of `chat.completions.create`, `responses.create`, `completions.create` or
                `embeddings.create`, `extra_headers` among them.
            tags, trust: as of `routed`.
        """
        with routed(tags=tags, trust=trust):
            call, asked = _call_of(request, self.function), wanted()
        facts = self.facts(call, asked.and_also(*asks_of(call)))
        health = {state.name: str(state.health) for state in self.pool.snapshot()}
        return explained(self.router, facts, self.endpoints, scores=self._scores(facts), health=health)

    def _scores(self, facts: Facts) -> Scores:
        """Of a text whose meaning would decide, or would if shadows were followed: no other one is embedded."""
        if self.meaning is None:
            return NO_MEANING
        with suppress(NoRoute):
            asked = self.router.decide(facts, self.endpoints)
            if isinstance(asked, Decision):
                would = self.router.decide(facts, self.endpoints, with_shadows=True)
                asked = _bounded(would, asked) if isinstance(would, Unscored) else asked
            if isinstance(asked, Unscored):
                return self.meaning.scores(*asked, limit_s=EXPLAIN_S)
        return NOT_ASKED

    def facts(self, call: Call, wanted: Wanted) -> Facts:
        """What the request says."""
        reading = self._reading
        return facts_of(
            call,
            function=self.function,
            wanted=wanted,
            count_tokens=reading.count_tokens,
            detect_language=reading.detect_language,
        )

    def renew_after_fork(self) -> None:
        """In a child process."""
        if self.meaning is not None:
            self.meaning.renew_after_fork()


class Question:
    """One request on the way to its decision.

    Attributes:
        open: the meaning of a text decides: to be settled with its scores before `decision` is asked for.
    """

    __slots__ = ("_began_at_s", "_decided", "_endpoints", "_facts", "_of", "_scores", "_seen", "open")

    def __init__(self, of: LaneRouter, call: Call, wanted: Wanted, endpoints: tuple[Endpoint, ...]) -> None:
        self._began_at_s = time.perf_counter()
        self._of, self._facts, self._endpoints = of, of.facts(call, wanted), endpoints
        self._seen = endpoints
        self._scores: Scores | None = None
        self.open: Unscored | None = None
        self._decided: Decision | None = None
        self._decide()

    @property
    def decision(self) -> Decision:
        """Where the request goes."""
        assert self._decided is not None  # noqa: S101  # for the type checker: it is settled
        return self._decided

    @property
    def meaning(self) -> Meaning | None:
        """What knows how like its text is to the examples of the routes that decide."""
        return self._of.meaning

    @property
    def model(self) -> str | None:
        """What a server is asked for where the request names a pool in its place."""
        return self._of.model

    def settle(self, scores: Scores) -> None:
        """The scores are there, or a reason why not. Raises NoRoute."""
        self._scores = scores
        self._decide()

    def renewed(self) -> Selection | None:
        """The endpoints of its pool that may have it, where they were swapped since this was last asked.

        None where they were not; or where there is none now, or it would go elsewhere: then those of before are meant.
        """
        if (endpoints := self._of.pool.endpoints) is self._seen:
            return None
        self._seen = endpoints
        try:
            decided = self._of.router.decide(self._facts, endpoints, scores=self._scores)
        except NoRoute:
            return None
        if isinstance(decided, Unscored) or decided.choice.pool.name != self.decision.choice.pool.name:
            return None
        return decided.choice.among

    def shadow(self, scores: Scores | None = None) -> Unscored | None:
        """Tell what the routes in shadow mode would have done; what to ask where that is a matter of meaning."""
        of = self._of
        if not of.router.has_shadows:
            return None
        scores = scores or self._scores
        would: Decision | Unscored | NoRoute
        try:
            would = of.router.decide(self._facts, self._endpoints, scores=scores, with_shadows=True)
        except NoRoute as error:
            would = error
        if isinstance(would, Unscored):
            return _bounded(would, self.decision)
        self._tell(would, is_shadow=True)
        return None

    def _decide(self) -> None:
        try:
            decided = self._of.router.decide(self._facts, self._endpoints, scores=self._scores)
        except NoRoute as error:
            if self._of.router.rules:
                self._tell(error, is_shadow=False)
            raise
        if isinstance(decided, Unscored):
            self.open = decided
            return
        self.open, self._decided = None, decided
        if self._of.router.rules:
            self._tell(decided, is_shadow=False)

    def _tell(self, decided: Decision | NoRoute, *, is_shadow: bool) -> None:
        function, listener = self._of.function, self._of.listener
        known = {trouble.route for trouble in self._decided.troubles} if is_shadow and self._decided is not None else ()
        for route, problem in _undecided(decided).items():
            if route not in known:
                tell(listener, RouteFailed(function=function, route=route, problem=problem))
        event = RequestRouted(
            function=function,
            route=decided.route if isinstance(decided, Decision) else None,
            pool=decided.choice.pool.name if isinstance(decided, Decision) else None,
            is_shadow=is_shadow,
            took_s=time.perf_counter() - self._began_at_s,
        )
        tell(listener, event)


def _bounded(would: Unscored, decided: Decision) -> Unscored:
    """What a shadow asks, of nobody who may not have the request: it may stand above the route that says so."""
    return Unscored(text=would.text, trust=both(would.trust, decided.trust))


def _undecided(decided: Decision | NoRoute) -> Mapping[str, str]:
    if isinstance(decided, NoRoute):
        return decided.undecided
    return {trouble.route: trouble.problem for trouble in decided.troubles}


def asks_of(call: Call) -> tuple[frozenset[str], frozenset[str] | None]:
    """The tags and the trust that the headers of one call ask for. A demand of no label is one that nobody meets."""
    tags, trust = frozenset[str](), None
    for name, value in call.asks:
        if name == "tags":
            tags |= words_of(value)
        elif name == "trust":  # more than one, as of a client and of a call: all must hold
            trust = both(trust, words_of(value))
    return tags, trust


def _call_of(request: Mapping[str, Any], function: str) -> Call:
    """The request as the SDK would write it."""
    body = {**request, **(request.get("extra_body") or {})}
    headers = body.pop("extra_headers", None) or {}
    body.pop("extra_body", None)
    operation = "embeddings" if function == "embedding" else _operation_of(body)
    return Call(httpx2.Request("POST", f"http://llmwire/{operation}", json=body, headers=headers), operation)


def _operation_of(body: Mapping[str, Any]) -> str:
    """Which of a completion's requests has such fields."""
    if "input" in body or isinstance(body.get("prompt"), Mapping):  # a prompt that the server keeps, by its id
        return "responses"
    return "completions" if "prompt" in body else "chat/completions"
