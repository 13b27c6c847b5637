"""What a call costs through a client of llmwire, beside the same call through a plain openai client, in CPU time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam
from rich.table import Table

from llmwire.container import LLMContainer

ROUNDS, CALLS = 15, 100

#: a server in a process of its own, so that its work is in neither figure
SERVER = """
from llmwire.services.testing import StandIn
with StandIn() as server:
    print(server.base_url, flush=True)
    server.serve_forever()
"""


def table() -> Table:
    """Median microseconds of this process's CPU time a call, the two clients in turn, over one local server."""
    with _server() as base_url:
        container = LLMContainer(env={}, config={"openai": {"base_url": base_url, "api_key": "sk-local"}})
        plain = OpenAI(base_url=base_url, api_key="sk-local")
        pairs = {
            "chat": (lambda: _chat(plain), lambda: _chat(container.completion_client())),
            "chat, streamed": (lambda: _stream(plain), lambda: _stream(container.completion_client())),
            "embeddings, 8 texts": (lambda: _embed(plain), lambda: _embed(container.embedding_client())),
        }
        rows = {name: _alternating(*pair) for name, pair in pairs.items()}
        container.shutdown_resources()
        plain.close()
    result = Table(title=f"CPU of the caller for one call, median of {ROUNDS} rounds of {CALLS}, by turns")
    for heading in ("call", "openai, us", "llmwire, us", "ratio"):
        result.add_column(heading, justify="left" if heading == "call" else "right")
    for name, (ours, theirs) in rows.items():
        result.add_row(name, f"{theirs:.0f}", f"{ours:.0f}", f"{ours / theirs:.2f}")
    return result


@contextmanager
def _server() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def _alternating(plain: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    samples: dict[Callable[[], object], list[float]] = {plain: [], ours: []}
    for _ in range(ROUNDS):
        for call, taken in samples.items():
            started_at = time.process_time()
            for _ in range(CALLS):
                call()
            taken.append((time.process_time() - started_at) / CALLS * 1e6)
    return median(samples[ours]), median(samples[plain])


MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]


def _chat(client: OpenAI) -> None:
    client.chat.completions.create(model="stand-in", messages=MESSAGES)


def _stream(client: OpenAI) -> None:
    for _ in client.chat.completions.create(model="stand-in", messages=MESSAGES, stream=True):
        pass


def _embed(client: OpenAI) -> None:
    client.embeddings.create(model="stand-in", input=[f"text {number}" for number in range(8)])
