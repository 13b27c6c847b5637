"""A pool that gets other endpoints closes its connections to those that left: once they are idle, never in mid-call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from llmwire.container import LLMContainer
from llmwire.services.testing.faultd import FaultServer

SAYING: dict[str, Any] = {"model": "a-model", "messages": [{"role": "user", "content": "hi"}]}


class Sync:
    """Calls one container with the synchronous client."""

    def __init__(self, container: Any) -> None:
        self.pool = container.completion.pool()
        self._client = container.completion_client()

    def ask(self) -> str:
        return str(self._client.chat.completions.create(**SAYING).choices[0].message.content)

    def begin_to_read(self) -> Any:
        return self._client.chat.completions.create(**SAYING, stream=True)

    def read_on(self, stream: Any) -> str:
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    def wait_until(self, server: FaultServer, is_so: Callable[[FaultServer], bool]) -> None:
        server.wait_until(is_so)

    def close(self) -> None:
        pass


class Async(Sync):
    """The same with the asynchronous one, in one event loop that runs while it is asked something."""

    def __init__(self, container: Any) -> None:
        self.pool = container.completion.pool()
        self._client = container.async_completion_client()
        self._runner = asyncio.Runner()

    def ask(self) -> str:
        answer = self._runner.run(self._client.chat.completions.create(**SAYING))
        return str(answer.choices[0].message.content)

    def begin_to_read(self) -> Any:
        return self._runner.run(self._client.chat.completions.create(**SAYING, stream=True))

    def read_on(self, stream: Any) -> str:
        async def read() -> str:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        return self._runner.run(read())

    def wait_until(self, server: FaultServer, is_so: Callable[[FaultServer], bool]) -> None:
        self._runner.run(asyncio.to_thread(server.wait_until, is_so))

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def servers() -> Iterator[list[FaultServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FaultServer()) for _ in range(2)]


@pytest.fixture
def container(servers: list[FaultServer]) -> Iterator[Any]:
    """Its endpoints stand in order: the first one answers while it is there."""
    endpoints = {
        name: {"base_url": server.base_url, "api_key": "k"} for name, server in zip("ab", servers, strict=True)
    }
    made = LLMContainer(env={}, config={"completion": {"strategy": "in-order", "endpoints": endpoints}})
    yield made
    made.shutdown_resources()


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def caller(request: pytest.FixtureRequest, container: Any) -> Iterator[Sync]:
    made = request.param(container)
    yield made
    made.close()


def test_the_next_call_after_a_swap_closes_what_is_idle_at_a_server_that_left(caller, servers):
    _, b = caller.pool.endpoints
    caller.ask()
    assert servers[0].open_connections == 1

    caller.pool.swap([b])
    caller.ask()

    caller.wait_until(servers[0], lambda server: server.open_connections == 0)
    assert servers[1].open_connections == 1


def test_a_server_that_stays_keeps_its_connections(caller, servers):
    a, b = caller.pool.endpoints
    caller.ask()

    for endpoints in ([a], [a, b], [a]):
        caller.pool.swap(endpoints)
        caller.ask()

    assert servers[0].accepted == 1


def test_a_server_that_comes_back_is_spoken_to_again(caller, servers):
    a, b = caller.pool.endpoints

    for endpoints in ([a], [b], [a]):
        caller.pool.swap(endpoints)
        caller.ask()

    assert servers[0].accepted == 2
    assert servers[0].attempts == {"/v1/chat/completions": 2}


def test_a_stream_under_way_keeps_its_connection_and_the_first_call_after_its_end_closes_it(caller, servers):
    _, b = caller.pool.endpoints
    whole = caller.ask()
    stream = caller.begin_to_read()

    caller.pool.swap([b])
    caller.ask()
    assert servers[0].open_connections == 1
    assert caller.read_on(stream) == whole

    caller.ask()
    caller.wait_until(servers[0], lambda server: server.open_connections == 0)


def test_each_client_of_a_pool_lets_go_by_its_own_next_call(container, servers):
    callers = Sync(container), Async(container)
    _, b = callers[0].pool.endpoints
    for caller in callers:
        caller.ask()
    assert servers[0].open_connections == 2

    callers[0].pool.swap([b])

    callers[0].ask()
    callers[0].wait_until(servers[0], lambda server: server.open_connections == 1)
    callers[1].ask()
    callers[1].wait_until(servers[0], lambda server: server.open_connections == 0)
    callers[1].close()


def test_every_event_loop_closes_its_own_connections(container, servers):
    callers = Async(container), Async(container)
    _, b = callers[0].pool.endpoints
    for caller in callers:
        caller.ask()

    callers[0].pool.swap([b])
    callers[1].ask()

    callers[1].wait_until(servers[0], lambda server: server.open_connections == 1)
    callers[0].wait_until(servers[0], lambda server: server.open_connections == 0)
    for caller in callers:
        caller.close()


def test_calls_in_many_threads_do_not_notice_swaps(container, servers):
    caller = Sync(container)
    a, b = caller.pool.endpoints
    is_over = threading.Event()
    answers: list[str] = []

    def call_on() -> None:
        while not is_over.is_set():
            answers.append(caller.ask())

    threads = [threading.Thread(target=call_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        caller.pool.swap([a] if number % 2 else [b])
    is_over.set()
    for thread in threads:
        thread.join()

    assert set(answers) == {caller.ask()}
