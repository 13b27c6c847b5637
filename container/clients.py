"""Builds a genuine openai client over a lane's transport. The one door to openai, opened at first use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from llmwire.services.errors import ConfigError
from llmwire.services.events import Listener, tell
from llmwire.services.forking import no_fork_meanwhile

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

    from llmwire.services.routing.endpoint import Endpoint, TokenSource

    from .resolution import FunctionSettings

CONNECT_TIMEOUT_S: Final = 2.0  #: a server on the way answers a handshake in less; a dead one is told soon

#: what the SDK holds in place of a key: the real one is set below it, and never leaves for another host
PLACEHOLDER: Final = "held-by-llmwire"


def openai_client(settings: FunctionSettings, listener: Listener) -> OpenAI:
    """An `openai.OpenAI` whose requests go to the function's endpoint and nowhere else."""
    with no_fork_meanwhile():
        import httpx2
        from openai import OpenAI

        from llmwire.services.transport.pooled import PoolTransport

        transport = PoolTransport(settings.endpoint, listener=listener, ambient=_ambient())
        http_client = httpx2.Client(transport=transport, trust_env=False, follow_redirects=False)
        client = OpenAI(http_client=http_client, **_arguments(settings.endpoint))
        _load(client)
    _report(settings, listener)
    return client


def async_openai_client(settings: FunctionSettings, listener: Listener) -> AsyncOpenAI:
    """The same for asyncio: an `openai.AsyncOpenAI`, usable in any number of event loops."""
    with no_fork_meanwhile():
        import httpx2
        from openai import AsyncOpenAI

        from llmwire.services.transport.pooled import AsyncPoolTransport

        transport = AsyncPoolTransport(settings.endpoint, listener=listener, ambient=_ambient())
        http_client = httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False)
        client = AsyncOpenAI(http_client=http_client, **_arguments(settings.endpoint))
        _load(client)
    _report(settings, listener)
    return client


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


def _arguments(endpoint: Endpoint) -> dict[str, Any]:
    # Never None: the SDK would read the environment for it, also where that was meant for another host.
    import httpx2

    return {
        "api_key": PLACEHOLDER,
        "admin_api_key": "",
        "organization": "",
        "project": "",
        "base_url": endpoint.base_url,
        "timeout": httpx2.Timeout(endpoint.deadline_s, connect=min(CONNECT_TIMEOUT_S, endpoint.deadline_s)),
    }


def _load(client: Any) -> None:
    """Have the SDK do now what it does at a first call under locks of Python's: imports, and a look at the platform."""
    _ = client.chat.completions, client.embeddings, client.default_headers


def _ambient() -> Any:
    from llmwire.services.transport.dialect import Ambient

    return Ambient(os.environ)


def _report(settings: FunctionSettings, listener: Listener) -> None:
    for warning in settings.warnings:
        tell(listener, warning)
