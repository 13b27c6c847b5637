"""One endpoint in a pool: its health, and what each outcome does to it. Knows no other endpoint and no HTTP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from ..events import BreakerChanged, EndpointDisabled, EndpointPaused, Event
from .backoff import doubled
from .balancer import Load, Randomness
from .breaker import Breaker, BreakerSpec, BreakerState
from .endpoint import Endpoint
from .outcome import Blame, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSpec:
    """For how long an endpoint is left alone, in seconds, beside its breaker."""

    pause_s: float = 1.0  #: where a busy server does not say how long; doubled each time
    pause_cap_s: float = 300.0  #: a server that asks for more is asked again all the same
    disable_cap_s: float = 3600.0  #: a key that was mended is found within the hour
    wrong_url_s: float = 300.0  #: a wrong URL is a setting, which nobody mends in seconds
    wrong_urls: int = 3  #: in a row: one web page in place of an answer may be a proxy's bad moment


class Health(StrEnum):
    """Whether an endpoint may be asked."""

    OK = "ok"
    PROBING = "probing"  #: one call at a time, until it has shown that it is well
    OPEN = "open"  #: its breaker is open; asked only where no other is well
    PAUSED = "paused"
    DISABLED = "disabled"
    DRAINING = "draining"  #: no longer in the settings; its last calls end


class Member:
    """One endpoint's health and load. Not safe among threads: its pool holds a lock.

    Attributes:
        generation: counts the changes of health; the result of an attempt that began before one says nothing of now.
        probes_due: successes that are wanted, one call at a time, before it is well; 0 where it is.
        refused: models that the server does not know, and until when that is believed.
        budget_until_s: what may be spent there is spent until then.
        verified: kinds of embedding requests for which its vectors were found to be of the pool's space; forgotten when
            it fails or is disabled, as it may come back with another model.
    """

    __slots__ = (
        "breaker",
        "budget_until_s",
        "disabled_until_s",
        "disables",
        "endpoint",
        "failed",
        "generation",
        "is_draining",
        "is_probing",
        "last_error",
        "last_status",
        "load",
        "paused_until_s",
        "pauses",
        "probes_due",
        "reason",
        "refused",
        "served",
        "verified",
        "wrong_urls",
    )

    def __init__(self, endpoint: Endpoint, *, breaker: BreakerSpec, position: int) -> None:
        self.load = Load()
        self.breaker = Breaker(breaker)
        self.generation = self.probes_due = self.served = self.failed = 0
        self.pauses = self.disables = self.wrong_urls = 0
        self.paused_until_s = self.disabled_until_s = -math.inf
        self.is_probing = self.is_draining = False
        self.budget_until_s = -math.inf
        self.reason = self.last_error = ""
        self.last_status: int | None = None
        self.refused: dict[str, float] = {}
        self.verified: set[str] = set()
        self.place(endpoint, position)

    def place(self, endpoint: Endpoint, position: int) -> None:
        """Take the endpoint's settings as they are now."""
        self.endpoint = endpoint
        if self.load.weight != endpoint.weight:
            self.load.credit = 0.0  # what it was owed by its former share
        self.load.position, self.load.weight = position, endpoint.weight
        self.load.price = math.inf if endpoint.price is None else endpoint.price.blended

    @property
    def is_well(self) -> bool:
        """Whether nothing at all speaks against it."""
        return self.probes_due == 0 and not self.is_draining

    def is_barred(self, now_s: float, *, though_disabled: bool = False) -> bool:
        """Whether it must not be asked, not even where no other is well."""
        is_disabled = now_s < self.disabled_until_s and not though_disabled
        return now_s < self.paused_until_s or is_disabled

    def may_be_asked(self, now_s: float) -> bool:
        """Whether it is well, or a probe of it is due."""
        if self.is_barred(now_s) or now_s < self.breaker.open_until_s:
            return False
        return self.probes_due == 0 or not self.is_probing

    def refuses(self, model: str | None, now_s: float) -> bool:
        """Whether its server said lately that it does not know the model."""
        return model is not None and now_s < self.refused.get(model, -math.inf)

    def health(self, now_s: float) -> Health:
        """In one word."""
        if self.is_draining:
            return Health.DRAINING
        if now_s < self.disabled_until_s:
            return Health.DISABLED
        if now_s < self.paused_until_s:
            return Health.PAUSED
        if now_s < self.breaker.open_until_s:
            return Health.OPEN
        return Health.PROBING if self.probes_due else Health.OK

    def breaker_state(self, now_s: float) -> BreakerState:
        """Of its breaker alone."""
        return self.breaker.state(now_s)

    def may_spend(self, now_s: float) -> bool:
        """Whether it is not left alone for the sake of its budget."""
        return now_s >= self.budget_until_s

    def may_spend_again(self, now_s: float) -> None:
        """What may be spent there has changed. A longer pause that it asked for itself stays."""
        if now_s < self.budget_until_s and self.paused_until_s <= self.budget_until_s:
            self.paused_until_s = -math.inf
        self.budget_until_s = -math.inf

    def trust_again(self) -> None:
        """Ask it at once, as its credential is another or nobody stands beside it. What was before says nothing now."""
        self.disabled_until_s = -math.inf
        self.disables = 0
        self.reason = ""
        self.refused = {}
        self.generation += 1

    def forget_attempts(self) -> None:
        """In a child process: what is under way belongs to the parent."""
        self.load.in_flight = 0
        self.is_probing = False


class Verdicts:
    """What outcomes do to members: one set of rules for a whole pool."""

    def __init__(self, spec: HealthSpec, randomness: Randomness) -> None:
        self._spec, self._randomness = spec, randomness

    def served(self, member: Member, took_s: float, now_s: float, *, is_current: bool) -> list[Event]:
        """It brought what was asked for."""
        member.served += 1
        if not is_current:
            return []
        member.load.sample(took_s, now_s)
        member.pauses = member.disables = member.wrong_urls = 0
        member.disabled_until_s = -math.inf  # asked all the same, as it stood alone, it has answered
        if member.probes_due:
            return self._passed_a_probe(member, took_s)
        member.breaker.succeeded(now_s)
        return []

    def missed(
        self, member: Member, outcome: Outcome, took_s: float, now_s: float, *, is_current: bool, is_alone: bool
    ) -> list[Event]:
        """It did not. One that is alone is never disabled: that gains nothing, and its errors are shown as they are."""
        if outcome.blame in _ITS_OWN:
            member.failed += 1
            member.last_error, member.last_status = outcome.label, outcome.status
        if not is_current:  # nothing of an older generation holds, but how long the server wants to be left alone
            return self._pause(member, outcome.pause_s, now_s) if outcome.pause_s else []
        events: list[Event] = []
        if outcome.is_failure:
            if outcome.status != _SAYS_500:
                member.verified.clear()
            member.load.sample_failure(took_s, now_s)
            events += self._failed(member, now_s)
        if outcome.pause_s is not None:
            events += self._pause(member, outcome.pause_s, now_s)
            member.pauses += 1
        if not is_alone:
            events += self._disable(member, outcome, now_s)
        return events

    def spent(self, member: Member, for_s: float, now_s: float) -> list[Event]:
        """What may be spent there is spent, for so long."""
        member.budget_until_s = now_s + for_s
        until_s = max(member.paused_until_s, now_s + for_s)
        if until_s <= member.paused_until_s:
            return []
        member.paused_until_s = until_s
        self._needs(member, 1)
        endpoint = member.endpoint
        return [EndpointPaused(function=endpoint.function, endpoint=endpoint.name, for_s=for_s)]

    def refuse_model(self, member: Member, model: str, outcome: Outcome, now_s: float) -> list[Event]:
        """It does not know the model."""
        for_s = outcome.disable_s or 0.0
        if member.refuses(model, now_s):
            return []
        member.refused = {name: until for name, until in member.refused.items() if until > now_s}
        member.refused[model] = now_s + for_s
        endpoint = member.endpoint
        return [
            EndpointDisabled(
                function=endpoint.function, endpoint=endpoint.name, reason=outcome.label, for_s=for_s, model=model
            )
        ]

    def _passed_a_probe(self, member: Member, took_s: float) -> list[Event]:
        member.probes_due -= 1
        if member.probes_due:
            return []
        member.generation += 1
        member.reason = ""
        if not member.breaker.is_tripped:
            return []
        member.breaker.close()
        member.load.ewma_s = took_s  # of its bad time nothing is left: it would starve for a minute
        endpoint = member.endpoint
        return [BreakerChanged(function=endpoint.function, endpoint=endpoint.name, state=BreakerState.CLOSED)]

    def _failed(self, member: Member, now_s: float) -> list[Event]:
        breaker = member.breaker
        if breaker.state(now_s) is BreakerState.OPEN:  # asked as no other was well: it says nothing new
            return []
        if not breaker.is_tripped and not breaker.failed(now_s):
            return []
        for_s = breaker.open(now_s, self._randomness)
        self._needs(member, breaker.probes)
        endpoint = member.endpoint
        state = BreakerState.OPEN
        return [BreakerChanged(function=endpoint.function, endpoint=endpoint.name, state=state, for_s=for_s)]

    def _pause(self, member: Member, asked_s: float, now_s: float) -> list[Event]:
        spec = self._spec
        for_s = min(asked_s, spec.pause_cap_s) or doubled(spec.pause_s, member.pauses, cap_s=spec.pause_cap_s)
        if now_s + for_s <= member.paused_until_s:  # what was asked for only ever lengthens
            return []
        member.paused_until_s = now_s + for_s
        self._needs(member, 1)
        endpoint = member.endpoint
        return [EndpointPaused(function=endpoint.function, endpoint=endpoint.name, for_s=for_s)]

    def _disable(self, member: Member, outcome: Outcome, now_s: float) -> list[Event]:
        spec, base_s = self._spec, outcome.disable_s
        if outcome.is_wrong_url:
            member.wrong_urls += 1
            if member.wrong_urls >= spec.wrong_urls:
                base_s = spec.wrong_url_s
        elif outcome.blame not in _SAY_NOTHING:
            member.wrong_urls = 0
        if base_s is None or outcome.is_model_unknown or now_s < member.disabled_until_s:
            return []
        for_s = max(base_s, doubled(base_s, member.disables, cap_s=spec.disable_cap_s))
        member.disables += 1
        member.verified.clear()
        member.disabled_until_s, member.reason = now_s + for_s, outcome.label
        self._needs(member, 1)
        endpoint = member.endpoint
        return [EndpointDisabled(function=endpoint.function, endpoint=endpoint.name, reason=outcome.label, for_s=for_s)]

    @staticmethod
    def _needs(member: Member, probes: int) -> None:
        member.probes_due = max(member.probes_due, probes)
        member.generation += 1


_ITS_OWN = frozenset({Blame.ENDPOINT, Blame.KEY, Blame.LOAD})
_SAYS_500 = 500  #: whoever says that is up: the request went wrong there, and nothing was restarted
_SAY_NOTHING = frozenset({Blame.CANCELLED, Blame.LOCAL})
