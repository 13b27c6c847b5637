"""A call that is cancelled, at whatever moment, costs nothing: no lease, no connection, no endpoint's good name."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import types
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest

from llmwire.services.routing.breaker import BreakerState

from .pools import BASE64, CHAT, CHAT_STREAM, RESPONSE_STREAM, in_flight, states

CANCELLATIONS = 2000
AT_ONCE = 50
SEED = 20_260_717


async def check_afterwards(container: Any, trio: Any, function: str, *, calls: int) -> None:
    """So many calls are answered, nothing is under way, and no connection is left but those that are kept."""
    client = getattr(container, f"async_{function}_client")()
    operation = CHAT if function == "completion" else BASE64
    for _ in range(5):  # the loop closes a generator that was collected, which frees the next one
        gc.collect()
        await asyncio.sleep(0)
    assert in_flight(container, function) == 0
    answers = [await operation(client) for _ in range(calls)]
    assert answers == [answers[0]] * calls
    assert in_flight(container, function) == 0
    for server, (_, pool) in zip(trio.servers, pools_of(client, container, function), strict=True):
        kept = len((await pool.pool())._idle)
        await asyncio.to_thread(server.wait_until, lambda server, kept=kept: server.open_connections == kept)


def pools_of(client: Any, container: Any, function: str) -> list[tuple[str, Any]]:
    transport = client._client._transport
    return [
        (endpoint.name, transport._servers.of(endpoint)) for endpoint in getattr(container, function).pool().endpoints
    ]


@pytest.mark.parametrize("operation", [CHAT, CHAT_STREAM, BASE64], ids=lambda one: one.name)
def test_random_cancellations_leave_everything_as_it_was(trio, contain, operation):
    count = CANCELLATIONS // 2 if operation is CHAT else CANCELLATIONS // 4
    chance = random.Random(f"{SEED} {operation.name}")
    print(f"seed {SEED} {operation.name}")
    trio.script(["slow:0.002"], ["slow:0.001"])
    container = contain(**{operation.function: trio.settings(strategy="p2c")})

    async def one(client: Any) -> bool:
        task = asyncio.ensure_future(operation(client))
        await asyncio.sleep(chance.uniform(0, 0.05))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    async def main() -> int:
        client = getattr(container, f"async_{operation.function}_client")()
        was_cancelled = 0
        for _ in range(count // AT_ONCE):
            was_cancelled += sum(await asyncio.gather(*(one(client) for _ in range(AT_ONCE))))
        await check_afterwards(container, trio, operation.function, calls=100)
        return was_cancelled

    was_cancelled = asyncio.run(main())

    assert was_cancelled > count / 4
    for state in states(container, operation.function).values():
        assert (state.breaker, state.failed, state.in_flight) == (BreakerState.CLOSED, 0, 0)


# At each await, one after another.


@types.coroutine
def cancelled_at(coming: Any, number: int, *, is_late: bool) -> Generator[Any, Any, Any]:
    """Await as ever, but be cancelled at the await of that number; late: in the moment when it is over."""
    task = asyncio.current_task()
    assert task is not None
    waited, problem = 0, None
    while True:
        try:
            awaited = coming.send(None) if problem is None else coming.throw(problem)
        except StopIteration as end:
            return end.value
        waited, problem = waited + 1, None
        if waited == number:
            if is_late and awaited is not None:
                awaited.add_done_callback(lambda _: task.cancel())
            else:
                task.cancel()
        try:
            yield awaited
        except BaseException as error:
            problem = error


def renewed(pool: Any, number: int) -> None:
    """The same servers under new names: nothing is known of them."""
    pool.swap([replace(endpoint, name=f"{endpoint.name[0]}{number}") for endpoint in pool.endpoints])


@pytest.mark.parametrize("is_late", [False, True], ids=["while it waits", "when it is over"])
@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        (CHAT, "ok"),
        (CHAT, "500"),
        (CHAT, "half_close:headers"),
        (CHAT_STREAM, "ok"),
        (CHAT_STREAM, "reset:request"),
        (CHAT_STREAM, "cut_stream"),
        (RESPONSE_STREAM, "429:retry_after=60"),
        (BASE64, "ok"),
        (BASE64, "reset:after_bytes=40"),
    ],
    ids=lambda one: getattr(one, "name", one),
)
def test_a_cancellation_at_any_await_leaves_everything_as_it_was(trio, contain, operation, fault, is_late):
    trio.script([fault])
    container = contain(**{operation.function: trio.settings(failover_after_send="always")})
    pool = getattr(container, operation.function).pool()

    async def one(client: Any, number: int) -> bool:
        """Whether it was cancelled."""
        task = asyncio.ensure_future(awaited(client, number))
        with contextlib.suppress(asyncio.CancelledError):
            assert await task
        return task.cancelled()

    async def awaited(client: Any, number: int) -> Any:
        return await cancelled_at(operation(client), number, is_late=is_late)

    async def main() -> int:
        client = getattr(container, f"async_{operation.function}_client")()
        number = not_cancelled = 0
        while not_cancelled < 3:
            number += 1
            renewed(pool, number)
            # Without a connection that is kept, and with one.
            if number % 2:
                for _, connections in pools_of(client, container, operation.function):
                    (await connections.pool()).drop_idle()
            not_cancelled = 0 if await one(client, number // 2 + 1) else not_cancelled + 1
            await asyncio.sleep(0)
            assert in_flight(container, operation.function) == 0, f"at await {number // 2 + 1}"
            for name, state in states(container, operation.function).items():
                assert (state.breaker, state.failed) == (BreakerState.CLOSED, state.failed if name[0] == "a" else 0)
        renewed(pool, 0)
        trio.script()
        await check_afterwards(container, trio, operation.function, calls=20)
        return number

    assert asyncio.run(main()) > 5
