"""What the tests of routing share: endpoints in pools, what their servers saw, and what a listener was told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from dependency_injector import providers

from llmwire.services import recorded, routed
from llmwire.services.events import RequestRouted, RouteFailed

from .pools import Ask, is_async
from .servers import PATIENCE_S, Exchange, chat

ROUTING_S = 10.0  #: for the meaning of a text: machines that run tests are slow

IBAN = "DE89 3704 0044 0532 0130 00"
IBAN_PATTERN = r"\b[A-Z]{2}\d{2}(?: ?\d{4}){3,7}(?: ?\d{1,3})?\b"


def lane(endpoints: dict[str, dict[str, object]], *routes: dict[str, object], **function: object) -> dict[str, object]:
    """The settings of a function; tokens are estimated, and its endpoints are asked in their order."""
    return {
        "strategy": "in-order",
        "tokenizer": "estimate",
        "model": "the-model",
        "endpoints": endpoints,
        "routes": list(routes),
        **function,
    }


def at(server: Any, *pools: str, **settings: object) -> dict[str, object]:
    """The settings of an endpoint at this server, in these pools; without any in the default one."""
    url = server.url if hasattr(server, "url") else server.base_url
    return {"base_url": url, "api_key": "its-key", **({"pools": list(pools)} if pools else {}), **settings}


def to(pool: str, **route: object) -> dict[str, object]:
    """A route to a pool."""
    return {"pool": pool, **route}


def under(ask: Ask, **block: Any) -> Ask:
    """The same inside of `routed(**block)`."""

    async def awaited(coming: Any) -> Any:
        with routed(**block):
            return await coming()

    def asked(client: Any) -> Any:
        if is_async(client):
            return awaited(lambda: ask(client))
        with routed(**block):
            return ask(client)

    return asked


def where(caller: Any, container: Any, ask: Ask, *, function: str = "completion") -> tuple[str, str | None, str | None]:
    """The pool, the route and the endpoint of one call."""
    with recorded() as calls:
        caller.run(container, ask, function=function)
    [call] = calls
    return call.pool, call.route, call.endpoint


def too_long(exchange: Exchange) -> None:
    """Refuse a request as longer than the model takes."""
    error = {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}
    exchange.json({"error": error}, status=400)


def after(seconds: float, body: Callable[[], dict[str, Any]] = lambda: chat("late")) -> Callable[[Exchange], None]:
    """Answer after so long, unless the client goes before."""

    def answer(exchange: Exchange) -> None:
        if not exchange.stopping.wait(seconds):
            exchange.json(body())

    return answer


class Heard:
    """A listener that writes down what it is told, and can be waited for."""

    def __init__(self, container: Any) -> None:
        self.events: list[Any] = []
        self._changed = threading.Condition()
        container.listener.override(providers.Object(self))

    def __call__(self, event: Any) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def routed(self) -> list[tuple[str | None, str | None, bool]]:
        """Route and pool of each decision, and whether it is a shadow's."""
        return [(event.route, event.pool, event.is_shadow) for event in self.of(RequestRouted)]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Route and problem of each that could not be decided."""
        return [(event.route, event.problem) for event in self.of(RouteFailed)]

    def wait_until(self, is_so: Callable[[Heard], bool], what: str) -> None:
        """Wait until something is so of what was told."""
        with self._changed:
            assert self._changed.wait_for(lambda: is_so(self), PATIENCE_S), f"never told: {what}"
