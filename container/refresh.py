"""The settings changed while the program runs: the pool, the rules and the budgets of a function follow.

All that may fail is done before anything is exchanged. Connects; decides only what may not change at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from llmwire.services.errors import ConfigError
from llmwire.services.events import Event, Listener
from llmwire.services.forking import renew_in_child
from llmwire.services.routing.spending import Spending

if TYPE_CHECKING:
    from llmwire.services.transport.router import LaneRouter
    from llmwire.services.transport.traffic import Traffic

    from .resolution import FunctionSettings


SPACE: Final = ("space", "revision", "dimensions")  #: settings that vectors must have in common


class Refresh:
    """What is done with the traffic of a function when its settings are others.

    Args:
        settings: by which it was built.
        router: makes the router for settings.
        wake: has the sources watched on in a child process.
    """

    def __init__(
        self,
        shared: Traffic,
        settings: FunctionSettings,
        *,
        router: Callable[[FunctionSettings], LaneRouter],
        wake: Callable[[], None],
        listener: Listener,
    ) -> None:
        self._shared, self._router, self._listener = shared, router, listener
        self._settings, self._wake = settings, wake
        shared.wake = self.wake  # so the traffic holds what follows the settings for it

    def wake(self) -> None:
        """To be called with each call."""
        self._wake()

    def prepared(self, settings: FunctionSettings, *, is_used: bool = True) -> Callable[[], list[Event]]:
        """What exchanges them, and cannot fail; it gives what is to be told. Raises ConfigError where that may not be.

        Args:
            is_used: somebody may have vectors by now.
        """
        former, shared = self._settings, self._shared
        if is_used:
            _check_space(former, settings)
        router = self._router(settings) if _rules(settings) != _rules(former) else None
        open_ledger = with_budgets(shared, settings, self._listener)

        def exchange() -> list[Event]:
            open_ledger()
            events = shared.renew(
                settings.endpoints,
                strategy=settings.strategy,
                spec=settings.calls,
                router=router,
                has_canary=settings.canary,
                hedge=settings.hedge,
                limits=settings.limits,
            )
            self._settings = settings
            return [*events, *(warning for warning in settings.warnings if warning not in former.warnings)]

        return exchange


def with_budgets(shared: Traffic, settings: FunctionSettings, listener: Listener) -> Callable[[], None]:
    """What has the traffic held to the limits of its settings, where it has none yet. Raises ConfigError."""
    if not settings.limits or shared.wire.spending is not None:
        return lambda: None
    spending = Spending(settings.function, settings.limits, wall_clock=time.time, make_lock=threading.Lock)
    renew_in_child(spending)
    ledger = None
    if settings.budget_ledger is not None:
        from llmwire.services.transport.ledger import opened_ledger

        store, reached = settings.budget_ledger.reveal(), shared.wire.reached
        ledger = opened_ledger(settings.function, spending, store, reached=reached, listener=listener)
        renew_in_child(ledger)

    def begin() -> None:
        shared.wire.spending, shared.ledger = spending, ledger

    return begin


def _check_space(former: FunctionSettings, settings: FunctionSettings) -> None:
    """A running program has vectors by now, and goes on comparing them with new ones."""
    if former.function != "embedding":
        return
    # Where a space has a name, that says which models are one; else the models do.
    is_said = former.declares_space and settings.declares_space
    if not is_said and former.models != settings.models:
        before, after = (", ".join(sorted(each.models)) for each in (former, settings))
        raise _moved("model", before, after)
    for name, was, would_be in zip(SPACE, former.of_vectors, settings.of_vectors, strict=True):
        if was != would_be:
            raise _moved(name, was, would_be)


def _moved(name: str, before: object, after: object) -> ConfigError:
    problem = f"would change from {before} to {after} while the program runs, which has vectors of {before}"
    remedy = "Restart the programs that embed with it, with an index of their own for it."
    return ConfigError(problem, key=f"embedding.{name}", remedy=remedy)


def _rules(settings: FunctionSettings) -> tuple[Any, ...]:
    """All that a router is built from."""
    has_limits = any(endpoint.abilities.context_length is not None for endpoint in settings.endpoints)
    return (
        *(settings.routes, settings.pools, settings.routing, settings.model),
        *(settings.tokenizer, settings.routing_timeout_s, has_limits),
    )
