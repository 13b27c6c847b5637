"""Who is measured: llmwire and what one would use in its place, each as it comes. Imports a library when asked to."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import upstream

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI
    from openai.types.chat import ChatCompletionMessageParam

    from llmwire.container import LLMContainer

Call = Callable[[], object]
AsyncCall = Callable[[int], Awaitable[object]]  #: of the caller with this number

KEY = "sk-local"
MODEL = upstream.MODEL
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]
TEXTS = [f"text {number}" for number in range(8)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One row of a table.

    Attributes:
        sync: from the upstream's base URLs and the kind of call (`chat`, `stream`, `embed`) to the call.
        asynchronous: from the base URLs to a chat.
        is_pool: whether it spreads its calls over several base URLs by itself.
        needs: the module without which it counts as not installed; what else is missing is a failure.
    """

    title: str
    sync: Callable[[Sequence[str], str], Call] | None
    asynchronous: Callable[[Sequence[str]], AsyncCall]
    is_pool: bool = True
    needs: str | None = None


# ---- bare SDK


def _openai(base_urls: Sequence[str], kind: str) -> Call:
    from openai import OpenAI

    return _call_of(OpenAI(base_url=base_urls[0], api_key=KEY), kind)


def _openai_async(base_urls: Sequence[str]) -> AsyncCall:
    from openai import AsyncOpenAI

    return _chat_of([AsyncOpenAI(base_url=base_url, api_key=KEY) for base_url in base_urls])


def _openai_aiohttp(base_urls: Sequence[str]) -> AsyncCall:
    import_module("aiohttp")
    from openai import AsyncOpenAI, DefaultAioHttpClient

    clients = [
        AsyncOpenAI(base_url=base_url, api_key=KEY, http_client=DefaultAioHttpClient()) for base_url in base_urls
    ]
    return _chat_of(clients)


def _call_of(client: OpenAI, kind: str) -> Call:
    def chat() -> object:
        return client.chat.completions.create(model=MODEL, messages=MESSAGES)

    def stream() -> object:
        return list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))

    def embed() -> object:
        return client.embeddings.create(model=MODEL, input=TEXTS)

    return {"chat": chat, "stream": stream, "embed": embed}[kind]


def _chat_of(clients: Sequence[AsyncOpenAI]) -> AsyncCall:
    """A caller keeps to one client: to one upstream where there are several."""

    def chat(caller: int) -> Awaitable[object]:
        return clients[caller % len(clients)].chat.completions.create(model=MODEL, messages=MESSAGES)

    return chat


# ---- llmwire


def _settings(base_urls: Sequence[str]) -> dict[str, Any]:
    """A pool for completions; the embeddings have one server."""
    endpoints = {f"endpoint{number}": {"base_url": base_url} for number, base_url in enumerate(base_urls)}
    return {
        "completion": {"api_key": KEY, "endpoints": endpoints},
        "embedding": {"api_key": KEY, "base_url": base_urls[0]},
    }


class Meter:
    """Counts what happens, as a meter of an application's does."""

    def __init__(self) -> None:
        self.events: dict[type, int] = {}

    def __call__(self, event: object) -> None:
        self.events[type(event)] = self.events.get(type(event), 0) + 1


def _container(base_urls: Sequence[str]) -> LLMContainer:
    from dependency_injector import providers

    from llmwire.container import LLMContainer

    return LLMContainer(env={}, config=_settings(base_urls), listener=providers.Object(Meter()))


def _llmwire(base_urls: Sequence[str], kind: str) -> Call:
    container = _container(base_urls)
    return _call_of(container.embedding_client() if kind == "embed" else container.completion_client(), kind)


def _llmwire_async(base_urls: Sequence[str]) -> AsyncCall:
    import_module("aiohttp")
    return _chat_of([_container(base_urls).async_completion_client()])


def _llmwire_async_plain(base_urls: Sequence[str]) -> AsyncCall:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # how Python is told that a module cannot be imported
    return _chat_of([_container(base_urls).async_completion_client()])


# ---- LiteLLM


def _router(base_urls: Sequence[str]) -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch its price list from the internet
    litellm: Any = import_module("litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    deployments = [
        {"model_name": "pool", "litellm_params": {"model": f"openai/{MODEL}", "api_base": base_url, "api_key": KEY}}
        for base_url in base_urls
    ]
    return litellm.Router(model_list=deployments)


def _litellm(base_urls: Sequence[str], _kind: str) -> Call:
    router = _router(base_urls)
    return lambda: router.completion(model="pool", messages=MESSAGES)


def _litellm_async(base_urls: Sequence[str]) -> AsyncCall:
    router = _router(base_urls)
    return lambda _caller: router.acompletion(model="pool", messages=MESSAGES)


# ---- LangChain


def _langchain_model(base_urls: Sequence[str]) -> Any:
    chat_openai = import_module("langchain_openai").ChatOpenAI
    # Without retries of a model's own: LangChain's documents say so where there are fallbacks.
    first, *others = [chat_openai(model=MODEL, base_url=url, api_key=KEY, max_retries=0) for url in base_urls]
    return first.with_fallbacks(others)


def _langchain(base_urls: Sequence[str], _kind: str) -> Call:
    model = _langchain_model(base_urls)
    return lambda: model.invoke(MESSAGES)


def _langchain_async(base_urls: Sequence[str]) -> AsyncCall:
    model = _langchain_model(base_urls)
    return lambda _caller: model.ainvoke(MESSAGES)


PEERS = {
    "openai": Peer(title="openai", sync=_openai, asynchronous=_openai_async, is_pool=False),
    "openai-aiohttp": Peer(
        title="openai with aiohttp", sync=None, asynchronous=_openai_aiohttp, is_pool=False, needs="aiohttp"
    ),
    "llmwire": Peer(title="llmwire, 3 endpoints", sync=_llmwire, asynchronous=_llmwire_async, needs="aiohttp"),
    "llmwire-plain": Peer(title="llmwire without aiohttp, 3 endpoints", sync=None, asynchronous=_llmwire_async_plain),
    "litellm": Peer(title="LiteLLM Router, 3 deployments", sync=_litellm, asynchronous=_litellm_async, needs="litellm"),
    "langchain": Peer(
        title="LangChain, 2 fallbacks", sync=_langchain, asynchronous=_langchain_async, needs="langchain_openai"
    ),
}
