"""What the meter counted is what the servers counted, exactly: every attempt and every token, on its endpoint."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from openai import OpenAIError

from .callers import saying
from .servers import Server, chat, delta, response, vectors

SLOW_S = 0.4  #: far longer than any other answer: a hedge is surely the quicker one
READ_S = 1.0  #: far longer than it takes to read an answer, or to hang up
CALLS = 2000


class Counting:
    """A server that counts what it was asked, and which tokens it told; each answer has others.

    Attributes:
        doubtful: tokens of answers after which the client hung up.
    """

    def __init__(self, *, fails=0.0, drops=0.0, slow=0.0, seed=1):
        self.asked = self.answered = 0
        self.tokens, self.doubtful = Counter(), Counter()
        self._odds, self._chance = (fails, drops, slow), random.Random(seed)
        self._lock = threading.Lock()
        self.server = Server(self._answer)

    @property
    def base_url(self):
        return f"{self.server.url}/v1"

    def wait_until_asked(self, count):
        """A request that its caller gave up may wait in the socket still."""
        ends_at_s = time.monotonic() + 5
        while self.asked < count and time.monotonic() < ends_at_s:
            time.sleep(0.01)

    def _answer(self, exchange):
        fails, drops, slow = self._odds
        with self._lock:
            self.asked += 1
            chance = self._chance.random()
        body = exchange.seen.body
        text = json.dumps(body)
        if "hold on" in text:
            self._hold(exchange)
        elif chance < fails:
            exchange.json({"error": {"message": "busy", "type": "server_error"}}, status=503)
        elif chance < fails + drops or (chance < fails + drops + slow and exchange.is_over(SLOW_S)):
            exchange.hang_up()
        elif body.get("stream"):
            self._stream(exchange, body)
        else:
            self._whole(exchange, body)

    @staticmethod
    def _hold(exchange):
        while not exchange.is_over(5.0):
            pass
        exchange.hang_up()

    def _usage(self, exchange, *, is_response=False, is_embedding=False):
        drawn = hashlib.sha256(exchange.seen.content + str(self.asked).encode()).digest()
        taken, given, cached, reasoning = 10 + drawn[0], 10 + drawn[1], drawn[2] % 10, drawn[3] % 10
        if is_embedding:
            return {"prompt_tokens": taken, "total_tokens": taken}, Counter(input=taken)
        counted = Counter(input=taken, output=given, cached=cached, reasoning=reasoning)
        names = ("input_tokens", "output_tokens") if is_response else ("prompt_tokens", "completion_tokens")
        usage = {names[0]: taken, names[1]: given, "total_tokens": taken + given}
        usage |= {f"{names[0]}_details": {"cached_tokens": cached}}
        usage |= {f"{names[1]}_details": {"reasoning_tokens": reasoning}}
        return usage, counted

    def _told(self, counted):
        with self._lock:
            self.answered += 1
            self.tokens += counted

    def _whole(self, exchange, body):
        is_response, is_embedding = (exchange.seen.target.endswith(name) for name in ("responses", "embeddings"))
        usage, counted = self._usage(exchange, is_response=is_response, is_embedding=is_embedding)
        answer = vectors(body) if is_embedding else (response if is_response else chat)("a word")
        self._told(counted)
        try:
            exchange.json({**answer, "usage": usage})
            is_doubtful = is_embedding and exchange.is_over(READ_S)
        except OSError:
            is_doubtful = True
        # Of two hedged attempts one is cut, perhaps while its answer is on its way: whether it was read nobody can say.
        if is_doubtful:
            with self._lock:
                self.doubtful += counted

    def _stream(self, exchange, body):
        exchange.start_stream()
        exchange.event(delta("one "))
        if "read half" in json.dumps(body):
            self._hold(exchange)
            return
        exchange.event(delta("two", finish="stop"))
        if (body.get("stream_options") or {}).get("include_usage"):
            usage, counted = self._usage(exchange)
            self._told(counted)
            exchange.event({**delta(None), "choices": [], "usage": usage})
        exchange.event("[DONE]")
        exchange.chunk(b"")


@pytest.fixture
def counting():
    """Makes servers that count; stops them at the end."""
    made = []

    def counting(**odds):
        made.append(Counting(**odds, seed=len(made)))
        return made[-1]

    yield counting
    for each in made:
        each.server.stop()


def nobody():
    """A URL where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/v1"


def respond(client):
    return client.responses.create(model="a-model", input="hi")


def embed(client):
    return client.embeddings.create(model="a-model", input=["one", "two"])


def one_sync(container, kind):
    completion, embedding = container.completion_client(), container.embedding_client()
    with suppress(OpenAIError):
        if kind == "plain":
            saying("hi")(completion)
        elif kind == "respond":
            respond(completion)
        elif kind == "embed":
            embed(embedding)
        elif kind == "stream":
            list(saying("hi", stream=True)(completion))
        elif kind == "half":
            with saying("read half", stream=True)(completion) as stream:
                next(stream)
        elif kind == "left":
            next(saying("read half", stream=True)(completion))
        else:
            saying("hold on", timeout=0.3)(completion)


async def one_async(container, kind):
    completion, embedding = container.async_completion_client(), container.async_embedding_client()
    with suppress(OpenAIError):
        if kind == "plain":
            await saying("hi")(completion)
        elif kind == "respond":
            await respond(completion)
        elif kind == "embed":
            await embed(embedding)
        elif kind == "stream":
            async for _ in await saying("hi", stream=True)(completion):
                pass
        elif kind in ("half", "left"):
            async with await saying("read half", stream=True)(completion) as stream:
                await anext(stream)
        else:
            task = asyncio.create_task(saying("hold on")(completion))
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def many_async(container, kinds):
    gate = asyncio.Semaphore(16)

    async def one(kind):
        async with gate:
            await one_async(container, kind)

    await asyncio.gather(*map(one, kinds))
    await asyncio.sleep(1.5 * READ_S)  # the connections stay open until their servers have seen that all was read


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_every_attempt_and_token_of_2000_mixed_calls_is_on_its_endpoint(counting, contain, mode):
    text = {"a": counting(fails=0.1), "b": counting(drops=0.03), "c": counting()}
    vectors = {"a": counting(slow=0.15, fails=0.02), "b": counting()}
    tables = {
        function: {name: {"base_url": each.base_url, "api_key": "k"} for name, each in servers.items()}
        for function, servers in {"completion": text, "embedding": vectors}.items()
    }
    tables["completion"]["down"] = {"base_url": nobody(), "api_key": "k"}
    container = contain(
        completion={"endpoints": tables["completion"]},
        embedding={"endpoints": tables["embedding"], "hedge": 0.1, "price": "2/0", "strategy": "round-robin"},
    )
    weights = {"plain": 30, "respond": 10, "embed": 30, "stream": 20, "half": 2, "left": 2, "cancel": 6}
    kinds = random.Random(7).choices(list(weights), list(weights.values()), k=CALLS // 2)

    if mode == "sync":
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda kind: one_sync(container, kind), kinds))
    else:
        asyncio.run(many_async(container, kinds))
    for thread in threading.enumerate():
        if thread.name == "llmwire hedging":
            thread.join(20)
    gc.collect()
    time.sleep(1.5 * READ_S)
    with suppress(OpenAIError):  # what garbage left behind is told with the next event
        saying("the last one")(container.completion_client())

    for lane, servers in ((container.completion, text), (container.embedding, vectors)):
        snapshot = lane.meter().snapshot()
        for name, server in servers.items():
            figures = snapshot.figures(endpoint=name)
            server.wait_until_asked(figures.attempts - figures.never_sent)
            assert figures.attempts - figures.never_sent == server.asked, name
            told = {
                "input": figures.input_tokens,
                "output": figures.output_tokens,
                "cached": figures.cached_tokens,
                "reasoning": figures.reasoning_tokens,
            }
            for kind, count in server.tokens.items():
                assert count - server.doubtful[kind] <= told[kind] <= count, (name, kind)
            assert not server.doubtful or servers is vectors
        assert all(state.in_flight == 0 for state in lane.pool().snapshot())
    text_figures = container.completion.meter().snapshot().figures()
    vector_figures = container.embedding.meter().snapshot().figures()
    wanted = Counter(kinds)
    assert text_figures.calls == len(kinds) - wanted["embed"] + 1
    assert vector_figures.calls == wanted["embed"]
    assert vector_figures.cost == pytest.approx(2e-6 * vector_figures.input_tokens)
    assert vector_figures.hedges > 0
    assert vector_figures.duplicates > 0
    down = container.completion.meter().snapshot().figures(endpoint="down")
    assert down.attempts == down.never_sent > 0
