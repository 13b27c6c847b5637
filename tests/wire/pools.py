"""Three servers behind one function, one of them with faults; and every way to ask them, once for sync and async."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmwire.services.routing.pool import EndpointState
from llmwire.services.testing.faultd import Behaviour, FaultServer

Ask = Callable[[Any], Any]

PROMPT = "Say of the sea: the sea is deep, blue \u2013 and \u6d77 cold. Why is the sea blue?"
TEXTS = ["one", "two words", "three more words"]
MODEL = "a-model"


@dataclass(frozen=True, slots=True)
class Trio:
    """Servers a, b and c. They serve all tests of a module; each test says anew what they do."""

    servers: tuple[FaultServer, FaultServer, FaultServer]

    def script(self, *scripts: Sequence[Behaviour]) -> None:
        """What each does from now on; those that are not named serve."""
        for server, script in zip(self.servers, (*scripts, (), (), ()), strict=False):
            server.script(*script)

    def settings(self, first: dict[str, object] | None = None, **function: object) -> dict[str, object]:
        """A function that they serve, in their order; `first` is said of a only."""
        endpoints = {
            name: {"base_url": server.base_url, "api_key": f"key-of-{name}", **((first or {}) if name == "a" else {})}
            for name, server in zip("abc", self.servers, strict=True)
        }
        return {"strategy": "in-order", "endpoints": endpoints, **function}

    def counted(self) -> Callable[[], dict[str, int]]:
        """A function that tells how many requests each got since now."""
        before = [_attempts(server) for server in self.servers]
        return lambda: {
            name: _attempts(server) - was for name, server, was in zip("abc", self.servers, before, strict=True)
        }


def _attempts(server: FaultServer) -> int:
    return sum(server.attempts.values())


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that a client is asked for.

    Attributes:
        ask: takes the client; what it gives is awaited for an asynchronous one.
        read: what an application takes from the answer, or from the list of a stream's chunks.
    """

    name: str
    function: str
    ask: Ask
    read: Callable[[Any], Any]

    def __call__(self, client: Any) -> Any:
        answer = self.ask(client)
        return self._awaited(answer) if inspect.isawaitable(answer) else self.read(_whole(answer))

    async def _awaited(self, coming: Any) -> Any:
        answer = await coming
        return self.read([chunk async for chunk in answer] if hasattr(answer, "__aiter__") else answer)


def _whole(answer: Any) -> Any:
    return list(answer) if hasattr(answer, "__stream__") else answer


def _chat_text(answer: Any) -> str:
    return str(answer.choices[0].message.content)


def chunk_text(chunk: Any) -> str:
    """What one chunk of any stream adds to the text."""
    if hasattr(chunk, "choices"):
        choice = chunk.choices[0] if chunk.choices else None
        said = getattr(choice, "text", None) or getattr(getattr(choice, "delta", None), "content", None)
        return said or ""
    return chunk.delta if chunk.type == "response.output_text.delta" else ""


def _streamed_text(chunks: list[Any]) -> str:
    return "".join(map(chunk_text, chunks))


def _vectors(answer: Any) -> list[list[float]]:
    return [list(item.embedding) for item in answer.data]


def chatting(prompt: str = PROMPT, **options: Any) -> Ask:
    """Asks for a chat completion."""
    asked = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **options}
    return lambda client: client.chat.completions.create(**asked)


def _completing(**options: Any) -> Ask:
    return lambda client: client.completions.create(model=MODEL, prompt=PROMPT, **options)


def _responding(**options: Any) -> Ask:
    return lambda client: client.responses.create(model=MODEL, input=PROMPT, **options)


def _embedding(**options: Any) -> Ask:
    return lambda client: client.embeddings.create(model=MODEL, input=TEXTS, **options)


CHAT = Operation("chat", "completion", chatting(), _chat_text)
COMPLETION = Operation("completions", "completion", _completing(), lambda answer: answer.choices[0].text)
RESPONSE = Operation("responses", "completion", _responding(), lambda answer: answer.output_text)
CHAT_STREAM = Operation("chat stream", "completion", chatting(stream=True), _streamed_text)
COMPLETION_STREAM = Operation("completions stream", "completion", _completing(stream=True), _streamed_text)
RESPONSE_STREAM = Operation("responses stream", "completion", _responding(stream=True), _streamed_text)
BASE64 = Operation("embeddings", "embedding", _embedding(), _vectors)
FLOATS = Operation("embeddings float", "embedding", _embedding(encoding_format="float"), _vectors)

WHOLE = [CHAT, COMPLETION, RESPONSE]
STREAMS = [CHAT_STREAM, COMPLETION_STREAM, RESPONSE_STREAM]
VECTORS = [BASE64, FLOATS]
OPERATIONS = [*WHOLE, *STREAMS, *VECTORS]


def repeated(operation: Ask, count: int) -> Ask:
    """The answers to so many calls, one after another; an error that was raised is its answer."""

    async def awaited(client: Any) -> list[Any]:
        return [await _caught_async(operation, client) for _ in range(count)]

    def asked(client: Any) -> Any:
        return awaited(client) if is_async(client) else [_caught(operation, client) for _ in range(count)]

    return asked


def is_async(client: Any) -> bool:
    """Whether its calls are awaited."""
    return inspect.iscoroutinefunction(client.post)


def _caught(operation: Ask, client: Any) -> Any:
    try:
        return operation(client)
    except Exception as error:  # it is looked at by the test
        return error


async def _caught_async(operation: Ask, client: Any) -> Any:
    try:
        return await operation(client)
    except Exception as error:  # as above
        return error


def states(container: Any, function: str = "completion") -> dict[str, EndpointState]:
    """What the pool knows of each endpoint."""
    return {state.name: state for state in getattr(container, function).pool().snapshot()}


def in_flight(container: Any, function: str = "completion") -> int:
    """Attempts under way, of all endpoints."""
    return sum(state.in_flight for state in states(container, function).values())
