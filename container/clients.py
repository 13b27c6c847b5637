"""Builds a genuine openai client over a lane's transport. The one door to openai, opened at first use."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from llmwire.services.errors import ConfigError
from llmwire.services.events import Listener, Listeners, tell
from llmwire.services.forking import no_fork_meanwhile, renew_in_child
from llmwire.services.routing.budget import Budget
from llmwire.services.routing.pool import Pool, PoolSpec

from .refresh import Refresh, with_budgets
from .router import lane_router

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from openai import AsyncOpenAI, OpenAI

    from llmwire.services.routing.endpoint import TokenSource
    from llmwire.services.routing.route import Check
    from llmwire.services.routing.spending import BudgetState
    from llmwire.services.transport.router import LaneRouter
    from llmwire.services.transport.traffic import Traffic

    from .resolution import FunctionSettings
    from .watching import Watcher

#: what the SDK holds in place of a key: the real one is set below it, and never leaves for another host
PLACEHOLDER: Final = "held-by-llmwire"


def traffic(
    settings: FunctionSettings,
    listener: Listener,
    meter: Listener | None = None,
    predicates: Mapping[str, Check] | None = None,
    embedder: Callable[[], Any] | None = None,
    async_embedder: Callable[[], Any] | None = None,
    watcher: Watcher | None = None,
) -> Traffic:
    """The pool of a function's endpoints, and what its two clients share beside it. Reports the settings' warnings.

    Args:
        meter: is told too, whoever the listener is.
        predicates: those that routes name.
        embedder, async_embedder: give the services that embed a text whose meaning decides where its request goes.
        watcher: of the sources that the settings come from; it changes the traffic when they do.
    """
    is_live = watcher is not None and watcher.has_sources
    with no_fork_meanwhile():
        from llmwire.services.transport.dialect import Ambient
        from llmwire.services.transport.traffic import Traffic

    listener = listener if meter is None else Listeners(meter, listener)
    randomness = _Randomness()
    pool = Pool(
        settings.endpoints,
        spec=PoolSpec(strategy=settings.strategy),
        clock=time.monotonic,
        randomness=randomness,
        make_lock=threading.RLock,  # garbage that is collected under it may settle a lease
        listener=listener,
    )
    renew_in_child(pool)
    renew_in_child(randomness)
    budget = Budget(settings.calls.budget, clock=time.monotonic, make_lock=threading.Lock)
    renew_in_child(budget)
    for warning in settings.warnings:
        tell(listener, warning)

    def router(settings: FunctionSettings) -> LaneRouter:
        return lane_router(settings, pool, listener, predicates or {}, embedder, async_embedder)

    shared = Traffic(
        pool,
        spec=settings.calls,
        budget=budget,
        randomness=randomness,
        listener=listener,
        ambient=Ambient(os.environ),
        router=router(settings),
        has_canary=settings.canary,
        hedge=settings.hedge,
        is_live=is_live,
    )
    renew_in_child(shared)
    with_budgets(shared, settings, listener)()
    if watcher is not None and is_live:
        watcher.attach(Refresh(shared, settings, router=router, wake=watcher.wake, listener=listener), settings)
    return shared


def watched_traffic(
    watcher: Watcher,
    listener: Listener,
    meter: Listener,
    predicates: Mapping[str, Check],
    embedder: Callable[[], Any] | None,
    async_embedder: Callable[[], Any] | None,
) -> Traffic:
    """The same, by the settings that a watcher has, who changes it when they do."""
    settings = watcher.settled()
    return traffic(settings, listener, meter, predicates, embedder, async_embedder, watcher=watcher)


class _Randomness(random.Random):
    """Spreads load and rests; keeps no secret. A child draws other numbers than its parent."""

    def renew_after_fork(self) -> None:
        self.seed()


def openai_client(shared: Traffic) -> OpenAI:
    """An `openai.OpenAI` whose requests go to the function's endpoints and nowhere else."""
    with no_fork_meanwhile():
        import httpx2
        from openai import OpenAI

        from llmwire.services.transport.pooled import PoolTransport

        http_client = httpx2.Client(transport=PoolTransport(shared), trust_env=False, follow_redirects=False)
        client = OpenAI(http_client=http_client, **_arguments(shared))
        _load(client)
    return client


def async_openai_client(shared: Traffic) -> AsyncOpenAI:
    """The same for asyncio: an `openai.AsyncOpenAI`, usable in any number of event loops."""
    with no_fork_meanwhile():
        import httpx2
        from openai import AsyncOpenAI

        from llmwire.services.transport.pooled import AsyncPoolTransport

        http_client = httpx2.AsyncClient(transport=AsyncPoolTransport(shared), trust_env=False, follow_redirects=False)
        client = AsyncOpenAI(http_client=http_client, **_arguments(shared))
        _load(client)
    return client


def named(settings: Callable[[], FunctionSettings]) -> tuple[str | None, str | None]:
    """What an embedding's vectors are of, and which revision, as far as the settings of its endpoints say it.

    Nothing where they cannot be settled: a client of the user's, or a fake, needs none.
    """
    try:
        settled = settings()
    except ConfigError:
        return None, None
    return settled.space, settled.revision


def pool_of(shared: Traffic) -> Pool:
    """The endpoints behind a function's clients, and their state."""
    return shared.pool


def router_of(shared: Traffic) -> LaneRouter:
    """The routes of a function, and what they make of a request."""
    return shared.router


def budgets_of(shared: Traffic) -> tuple[BudgetState, ...]:
    """What is spent of each of a function's budgets."""
    return () if shared.wire.spending is None else shared.wire.spending.state()


def close_traffic(shared: Traffic) -> None:
    """Share what was spent and nobody else knows yet."""
    if shared.ledger is not None:
        shared.ledger.close()


def close(client: Any) -> None:
    """Close an `openai.OpenAI`; its calls in flight fail."""
    client.close()


def close_async(client: Any) -> None:
    """Close an `openai.AsyncOpenAI` from synchronous code: every event loop is asked to close its connections."""
    client._client._transport.close_soon()  # noqa: SLF001  # ours, which the SDK keeps below its http client


async def aclose(client: Any) -> None:
    """Close an `openai.AsyncOpenAI` and wait for the running loop's connections."""
    await client.close()


def is_closed(client: Any) -> bool:
    """Whether the user closed the client, as `with container.completion_client() as client` does."""
    return bool(client.is_closed())


def identity_tokens() -> TokenSource:
    """Tokens for Azure without a key. Raises ConfigError where azure-identity is not installed."""
    from importlib.util import find_spec

    from llmwire.services.transport.identity import IdentityTokens

    try:
        found = find_spec("azure.identity")
    except ModuleNotFoundError:
        found = None
    if found is None:
        remedy = "Install it with pip install 'llmwire[azure]'."
        raise ConfigError("needs the package azure-identity", key="azure.keyless", remedy=remedy)
    return IdentityTokens()


def _arguments(shared: Traffic) -> dict[str, Any]:
    # Never None: the SDK would read the environment for it, also where that was meant for another host.
    return {
        "api_key": PLACEHOLDER,
        "admin_api_key": "",
        "organization": "",
        "project": "",
        "base_url": shared.facade.base_url,
        "timeout": shared.first_longest_s,  # of each pool the transport keeps the deadline
        "max_retries": 0,  # attempts are made below it, in one layer, under one deadline
    }


def _load(client: Any) -> None:
    """Have the SDK do now what it does at a first call under locks of Python's: imports, and a look at the platform."""
    _ = client.chat.completions, client.embeddings, client.default_headers
