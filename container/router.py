"""Builds the router of a lane: the rules, and the libraries that these need. Knows settings; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmwire.services.events import ConfigWarned, Listener, tell
from llmwire.services.forking import no_fork_meanwhile
from llmwire.services.routing.router import Router

if TYPE_CHECKING:
    from llmwire.services.routing.pool import Pool
    from llmwire.services.routing.route import Check, Route
    from llmwire.services.transport.meaning import Meaning
    from llmwire.services.transport.router import LaneRouter, Reading

    from .resolution import FunctionSettings


def lane_router(
    settings: FunctionSettings,
    pool: Pool,
    listener: Listener,
    predicates: Mapping[str, Check],
    embedder: Callable[[], Any] | None,
    async_embedder: Callable[[], Any] | None,
) -> LaneRouter:
    """The routes of a function, and what they need to look at a request: loaded where one needs it, else not.

    Args:
        predicates: those that routes name.
        embedder, async_embedder: give the services that embed a text whose meaning decides.
    """
    with no_fork_meanwhile():
        from llmwire.services.transport.patterns import searching
        from llmwire.services.transport.router import LaneRouter

    router = Router(
        settings.routes,
        pools=settings.pools,
        mode=settings.routing,
        compile_pattern=searching,
        predicates=predicates,
    )
    meaning = None
    semantic = {rule.name: rule.route for rule in router.rules if rule.is_semantic}
    if semantic and embedder is not None and async_embedder is not None:
        meaning = _meaning(semantic, embedder, async_embedder, settings.routing_timeout_s)
    return LaneRouter(
        router,
        pool,
        listener=listener,
        reading=_reading(settings, router.routes, listener),
        meaning=meaning,
        model=settings.model,
    )


def _reading(settings: FunctionSettings, routes: tuple[Route, ...], listener: Listener) -> Reading:
    """How texts are looked at: a library is loaded where a route or an endpoint needs it, and nowhere else."""
    from llmwire.services.transport.router import Reading

    reading = Reading()
    has_limits = any(endpoint.abilities.context_length is not None for endpoint in settings.endpoints)
    if has_limits or any(route.needs_tokens for route in routes):
        from llmwire.services.transport.tokens import counting

        def failed(problem: str) -> None:
            key, message = f"{settings.function}.tokenizer", f"tokens are estimated by bytes: {problem}"
            tell(listener, ConfigWarned(function=settings.function, key=key, origin="tiktoken", message=message))

        reading = replace(reading, count_tokens=counting(settings.tokenizer, failed))
    if any(route.language for route in routes):
        from llmwire.services.transport.languages import detecting

        reading = replace(reading, detect_language=detecting())
    return reading


def _meaning(
    routes: Mapping[str, Route],
    embedder: Callable[[], Any],
    async_embedder: Callable[[], Any],
    limit_s: float,
) -> Meaning:
    with no_fork_meanwhile():
        from llmwire.services.transport.meaning import Meaning

    def embed(texts: list[str]) -> Any:
        return embedder().embed(texts)

    built: list[Any] = []

    async def async_embed(texts: list[str]) -> Any:
        if not built:  # in a thread: the first time a client is built, whose sources may let it wait
            built.append(await asyncio.to_thread(async_embedder))
        return await built[0].embed(texts)

    return Meaning(routes, embed=embed, async_embed=async_embed, limit_s=limit_s)
