"""One asynchronous client for any number of event loops, one after another or at once."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor, wait

import openai
import pytest

from .callers import saying, served_by, text_of
from .servers import PATIENCE_S, delta, speak


def test_one_client_in_many_runs_one_after_another(serve, contain):
    server = serve()
    client = contain(completion=served_by(server)).async_completion_client()

    for number in range(20):
        answer = asyncio.run(ask(client, f"run {number}"))

        assert text_of(answer) == f"run {number}"
        server.wait_for_connections(0)


def test_several_calls_of_one_run_share_a_connection_that_is_closed_at_its_end(serve, contain):
    server = serve()
    client = contain(completion=served_by(server)).async_completion_client()

    async def ask_ten_times():
        return [text_of(await ask(client, f"{number}")) for number in range(10)]

    assert asyncio.run(ask_ten_times()) == [f"{number}" for number in range(10)]
    assert server.accepted == 1
    server.wait_for_connections(0)


def test_loops_in_several_threads_at_once(serve, contain):
    server = serve()
    client = contain(completion=served_by(server)).async_completion_client()

    async def ask_some(name):
        return [text_of(answer) for answer in await asyncio.gather(*(ask(client, f"{name} {n}") for n in range(3)))]

    def run_some(thread):
        return all(
            asyncio.run(ask_some(f"{thread} {run}")) == [f"{thread} {run} {n}" for n in range(3)] for run in range(10)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(run_some, range(8)))
    server.wait_for_connections(0)


def test_a_loop_that_ends_in_mid_stream_closes_its_connection(serve, contain):
    server = serve(endless)
    client = contain(completion=served_by(server)).async_completion_client()

    async def take_one():
        stream = await saying("hi", stream=True)(client)
        return await anext(aiter(stream))

    asyncio.run(take_one())
    server.wait_for_connections(0)
    server.answer = speak

    assert text_of(asyncio.run(ask(client, "after"))) == "after"


def test_a_connection_that_the_server_closed_meanwhile_is_no_error(serve, contain):
    server = serve(lambda exchange: (speak(exchange), exchange.hang_up()))
    client = contain(completion=served_by(server)).async_completion_client().with_options(max_retries=0)

    async def ask_again_and_again():
        for number in range(10):
            assert text_of(await ask(client, f"{number}")) == f"{number}"
            await asyncio.to_thread(server.wait_for_connections, 0)

    asyncio.run(ask_again_and_again())


def test_closing_the_container_from_synchronous_code_closes_the_connections_of_running_loops(serve, contain):
    server = serve()
    container = contain(completion=served_by(server))
    client = container.async_completion_client()

    async def ask_and_stay():
        answer = await ask(client, "hi")
        await asyncio.to_thread(container.shutdown_resources)
        await asyncio.to_thread(server.wait_for_connections, 0)
        return answer

    assert text_of(asyncio.run(ask_and_stay())) == "hi"


def test_closing_the_container_inside_its_loop_closes_the_connections(serve, contain):
    server = serve()
    container = contain(completion=served_by(server), embedding=served_by(server))

    async def ask_and_close():
        await ask(container.async_completion_client(), "hi")
        await container.aclose()
        await asyncio.to_thread(server.wait_for_connections, 0)

    asyncio.run(ask_and_close())


def test_closing_while_loops_come_and_go_leaves_nothing_behind(serve, contain):
    server = serve()
    container = contain(completion=served_by(server))

    def run_loops(name):
        return [asyncio.run(asked(container, f"{name} {number}")) for number in range(30)]

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(run_loops, name) for name in range(4)]
        while wait(running, timeout=0.01).not_done:
            container.shutdown_resources()
    container.shutdown_resources()

    for name, told in enumerate(running):
        assert all(said in (f"{name} {number}", "closed") for number, said in enumerate(told.result()))
    gc.collect()  # a coroutine that was never awaited would be told of here
    server.wait_for_connections(0)


def test_a_loop_that_is_stopped_and_not_closed_closes_its_connections_when_it_runs_again(serve, contain):
    server = serve()
    container = contain(completion=served_by(server))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask(container.async_completion_client(), "hi"))

    container.shutdown_resources()
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.run_until_complete(asyncio.to_thread(server.wait_for_connections, 0))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.parametrize("ending", ["", "asyncio.run(container.aclose())"])
def test_twenty_runs_in_development_mode_warn_of_nothing_but_a_forgotten_close(serve, ending):
    """Python's development mode tells of every socket, transport, loop and coroutine that was left behind."""
    program = f"""
        import asyncio, gc, sys
        from llmwire.container import LLMContainer

        container = LLMContainer(config={{"completion": {{"base_url": sys.argv[1], "api_key": "k"}}}}, env={{}})

        async def main():
            client = container.async_completion_client()
            for text in ("a", "b"):
                messages = [{{"role": "user", "content": text}}]
                await client.chat.completions.create(model="m", messages=messages)

        for _ in range(20):
            asyncio.run(main())
        {ending or "del container"}
        gc.collect()
    """
    command = [sys.executable, "-X", "dev", "-W", "always", "-c", textwrap.dedent(program), serve().url]

    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)

    warned = [line for line in done.stderr.splitlines() if "Warning: " in line and "tracemalloc" not in line]
    assert [line for line in warned if "unclosed completion client" not in line] == []
    assert len(warned) == (0 if ending else 1)


async def ask(client, text):
    return await saying(text)(client)


async def asked(container, text):
    """The answer, or that the client was closed between its being handed out and the end of its call."""
    try:
        return text_of(await ask(container.async_completion_client().with_options(max_retries=0), text))
    except (openai.APIConnectionError, RuntimeError):
        return "closed"


def endless(exchange) -> None:
    """A stream that does not end by itself."""
    exchange.start_stream()
    while not exchange.is_over(wait_s=0.01):
        exchange.event(delta("word "))
    exchange.hang_up()
