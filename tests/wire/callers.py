"""The two ways to call, so that one test plays both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from .servers import Server

Ask = Callable[[Any], Any]


class Caller(Protocol):
    """Calls through a client of a container."""

    def run(self, container: Any, ask: Ask, *, function: str = "completion", retries: int = 0) -> Any:
        """What `ask(client)` gives, waited for where it is to be awaited."""


class _Sync:
    def run(self, container: Any, ask: Ask, *, function: str = "completion", retries: int = 0) -> Any:
        client = getattr(container, f"{function}_client")()
        return ask(client.with_options(max_retries=retries))


class _Async:
    def run(self, container: Any, ask: Ask, *, function: str = "completion", retries: int = 0) -> Any:
        async def main() -> Any:
            client = getattr(container, f"async_{function}_client")()
            return await ask(client.with_options(max_retries=retries))

        return asyncio.run(main())


SYNC: Caller = _Sync()
ASYNC: Caller = _Async()


def saying(text: str, **options: Any) -> Ask:
    """Asks for a chat completion. The servers of these tests answer with the text itself."""
    messages = [{"role": "user", "content": text}]
    return lambda client: client.chat.completions.create(model="a-model", messages=messages, **options)


def embedding(*texts: str, **options: Any) -> Ask:
    """Asks for embeddings. The servers of these tests answer with `numbers_of` each text."""
    return lambda client: client.embeddings.create(model="a-model", input=list(texts), **options)


def text_of(completion: Any) -> str:
    """What was said."""
    return str(completion.choices[0].message.content)


def vectors_of(answer: Any) -> list[list[float]]:
    """The vectors, in order."""
    return [item.embedding for item in answer.data]


def served_by(server: Server, **settings: object) -> dict[str, object]:
    """The settings of a function that this server serves."""
    return {"base_url": server.url, "api_key": "its-key", **settings}
