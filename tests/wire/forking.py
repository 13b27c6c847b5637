"""Programs that fork, each run in a process of its own: `python forking.py NAME URL`. A wrong answer is an error.

Not in the tests' own process: that one has threads and servers which a child must not inherit.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dependency_injector import providers

from llmwire.container import LLMContainer
from llmwire.services import recorded

CHILD_S = 10  #: a child that hangs tells where and ends after this, which fails the program


def main() -> None:
    PROGRAMS[sys.argv[1]](sys.argv[2])


def a_container(url: str) -> Any:
    served = {"base_url": url, "api_key": "its-key"}
    return LLMContainer(config={"completion": served, "embedding": served}, env={})


def ask(container: Any, text: str) -> None:
    answer = container.completion_client().with_options(max_retries=0).chat.completions.create(**saying(text))
    assert answer.choices[0].message.content == text, f"{text} was answered with {answer}"


async def ask_async(container: Any, text: str) -> None:
    client = container.async_completion_client().with_options(max_retries=0)
    answer = await client.chat.completions.create(**saying(text))
    assert answer.choices[0].message.content == text, f"{text} was answered with {answer}"


def saying(text: str) -> dict[str, Any]:
    return {"model": "a-model", "messages": [{"role": "user", "content": text}]}


def ask_some(container: Any, name: str, count: int = 5) -> None:
    for number in range(count):
        ask(container, f"{name} {number}")
        asyncio.run(ask_async(container, f"{name} async {number}"))


def fork(child: Callable[[], None]) -> int:
    """Run this in a child, which ends without the parent's clean-up."""
    if pid := os.fork():
        return pid
    faulthandler.register(signal.SIGALRM, chain=True)
    signal.alarm(CHILD_S)
    try:
        child()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def join(*pids: int) -> None:
    for pid in pids:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"child {pid} ended with {status}"


@contextmanager
def meanwhile(*actions: Callable[[], None]) -> Iterator[None]:
    """Run these in threads while the block runs."""
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def twenty_forks(url: str) -> None:
    container = a_container(url)
    ask_some(container, "before")
    for number in range(20):
        pid = fork(lambda number=number: ask_some(container, f"child {number}", 1))  # type: ignore[misc]
        ask_some(container, f"parent {number}", 1)
        join(pid)
    ask_some(container, "after")
    container.shutdown_resources()


def children_at_once(url: str) -> None:
    container = a_container(url)
    ask(container, "before")
    pids = [fork(lambda number=number: ask_some(container, f"child {number}", 3)) for number in range(6)]  # type: ignore[misc]
    ask_some(container, "parent")
    join(*pids)
    container.shutdown_resources()


def grandchildren(url: str) -> None:
    container = a_container(url)
    ask(container, "before")

    def child() -> None:
        pid = fork(lambda: ask_some(container, "grandchild"))
        ask_some(container, "child")
        join(pid)

    pid = fork(child)
    ask_some(container, "parent")
    join(pid)
    container.shutdown_resources()


def multiprocessing_fork(url: str) -> None:
    container = a_container(url)
    ask_some(container, "before")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=ask_some, args=(container, f"child {number}")) for number in range(4)]
    for child in children:
        child.start()
    ask_some(container, "parent")
    for child in children:
        child.join(CHILD_S)
        assert child.exitcode == 0
    container.shutdown_resources()


def a_child_that_ends_as_a_program_does(url: str) -> None:
    """With its exit handlers and the clean-up of all objects: nothing of it may reach the parent's connections."""
    container = a_container(url)
    ask(container, "before")
    if not (pid := os.fork()):
        ask(container, "child")
        container.shutdown_resources()
        sys.exit(0)
    join(pid)
    ask_some(container, "after")
    container.shutdown_resources()


def a_child_that_closes_the_parents_stream(url: str) -> None:
    container = a_container(url)
    stream = container.completion_client().chat.completions.create(**saying("one two three"), stream=True)
    words = [next(stream).choices[0].delta.content]
    join(fork(stream.close))
    words += [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(words) == "one two three ", words
    container.shutdown_resources()


def in_a_running_loop(url: str) -> None:
    container = a_container(url)

    async def main() -> None:
        await ask_async(container, "before")
        pid = fork(lambda: ask_some(container, "child"))
        await asyncio.to_thread(join, pid)
        await asyncio.gather(*(ask_async(container, f"parent {number}") for number in range(5)))
        await container.aclose()

    asyncio.run(main())


def under_load(url: str) -> None:
    """Fork again and again while threads call all the time, each lock of theirs held at some moment."""
    container = a_container(url)
    is_done = threading.Event()

    def call_all_the_time() -> None:
        number = 0
        while not is_done.is_set():
            ask(container, f"{threading.get_ident()} {number}")
            asyncio.run(ask_async(container, f"{threading.get_ident()} async {number}"))
            number += 1

    ask_some(container, "before")  # all that is imported at first use is imported
    with meanwhile(*[call_all_the_time] * 4):
        try:
            for number in range(20):
                join(fork(lambda number=number: ask_some(container, f"child {number}", 1)))  # type: ignore[misc]
        finally:
            is_done.set()
    container.shutdown_resources()


def while_calls_are_hedged(url: str) -> None:
    """Half of all calls are played on two threads each: a child has none of them, and hedges calls of its own."""
    served = {"base_url": url, "api_key": "its-key"}
    lane = {"endpoints": {"a": served, "b": served}, "hedge": 0.5}
    container = LLMContainer(config={"embedding": lane}, env={})
    is_done = threading.Event()

    def embed(text: str) -> list[float]:
        client = container.embedding_client().with_options(max_retries=0)
        return client.embeddings.create(model="a-model", input=[text]).data[0].embedding

    truth = {text: embed(text) for text in ("one", "two words", "three more words")}

    def embed_all(times: int) -> None:
        for text in [*truth] * times:
            assert embed(text) == truth[text], text

    def call_all_the_time() -> None:
        while not is_done.is_set():
            embed_all(1)

    embed_all(10)
    with meanwhile(*[call_all_the_time] * 4):
        try:
            for _ in range(10):
                join(fork(lambda: embed_all(12)))  # enough for a child to know its own delay
        finally:
            is_done.set()
    assert [state.in_flight for state in container.embedding.pool().snapshot()] == [0, 0]
    container.shutdown_resources()


def while_another_thread_builds(url: str) -> None:
    """The first use imports the SDK: a child that is forked in the middle of it must not wait for that import."""
    for delay_s in (0.05, 0.2, 0.4):
        join(fork(lambda delay_s=delay_s: _fork_while_building(url, delay_s)))  # type: ignore[misc]


def _fork_while_building(url: str, delay_s: float) -> None:
    container = a_container(url)
    started = threading.Event()

    def build() -> None:
        started.set()
        ask(container, "builder")

    with meanwhile(build):
        started.wait()
        threading.Event().wait(delay_s)
        join(fork(lambda: ask_some(container, "child", 1)))
    container.shutdown_resources()


def with_a_held_lock(url: str) -> None:
    """A build that is stuck in another thread for ever holds the provider's lock."""
    container = a_container(url)
    is_building, go_on = threading.Event(), threading.Event()
    other = a_container(url)
    ask(other, "imports")
    other.shutdown_resources()

    def stuck(*_: object) -> None:
        is_building.set()
        go_on.wait()

    container.completion.listener.override(lambda: None)
    container.completion.settings.override(providers.Callable(stuck))

    def build() -> None:
        with contextlib.suppress(AttributeError):  # there are no settings
            container.completion_client()

    with meanwhile(build):
        is_building.wait()

        def child() -> None:
            container.completion.settings.reset_override()
            container.completion.listener.reset_override()
            ask(container, "child")

        try:
            join(fork(child))
        finally:
            go_on.set()


def through_routes(url: str) -> None:
    """A pattern chooses, and a meaning does, before a fork, in the child and after it."""
    container = LLMContainer(
        config={
            "embedding": {"base_url": f"{url}/meaning", "api_key": "its-key", "model": "m"},
            "completion": {
                "routing_timeout_s": 5,
                "endpoints": {
                    "short": {"base_url": f"{url}/short", "api_key": "its-key"},
                    "long": {"base_url": f"{url}/long", "api_key": "its-key", "pools": ["long"]},
                },
                "routes": [
                    {"pool": "long", "name": "pattern", "pattern": "lo+ng"},
                    {"pool": "long", "name": "meaning", "examples": ["an example"], "threshold": 0.999999, "top_k": 1},
                ],
            },
        },
        env={},
    )

    def ask_all() -> None:
        for text, route in (("a looong text", "pattern"), ("an example", "meaning"), ("short", None)):
            with recorded() as calls:
                ask(container, text)
                asyncio.run(ask_async(container, text))
            assert [call.route for call in calls] == [route] * 2, calls

    join(fork(ask_all))
    ask_all()
    pids = [fork(ask_all) for _ in range(3)]
    ask_all()
    join(*pids)
    container.shutdown_resources()


PROGRAMS = {
    program.__name__: program
    for program in (
        twenty_forks,
        children_at_once,
        grandchildren,
        multiprocessing_fork,
        a_child_that_ends_as_a_program_does,
        a_child_that_closes_the_parents_stream,
        in_a_running_loop,
        under_load,
        while_calls_are_hedged,
        while_another_thread_builds,
        with_a_held_lock,
        through_routes,
    )
}

if __name__ == "__main__":
    main()
