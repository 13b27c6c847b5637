"""Programs that follow a source, each run in a process of its own: `python following.py NAME ARGUMENT...`.

Not in the tests' own process: that one has threads, sockets and servers of its own. A wrong answer is an error.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

from llmwire.container import LLMContainer

PATIENCE_S = 20.0  #: how long it may take what must happen
CHILD_S = 40  #: a child that hangs tells where and ends after this, which fails the program
SEEN_S = 10.0  #: so soon is a change followed, where all the cores are busy elsewhere; it takes a quarter of a second
LOOK_S = 0.01

_open = build_opener(ProxyHandler({})).open


def main() -> None:
    PROGRAMS[sys.argv[1]](*sys.argv[2:])


def parent_and_child_follow(source: str, key_url: str, one: str, two: str) -> None:
    """Each by a watch of its own, which the end of the other does not disturb."""
    write(key_url, one=one)
    container = following(source)
    ask(container)
    ready, tell_ready = os.pipe()
    told, tell = os.pipe()

    def child() -> None:
        ask(container)  # from here on it asks for itself
        assert watches() == 1, threading.enumerate()
        os.write(tell_ready, b"r")
        wait_until(lambda: names(container) == ["two"])
        os.write(tell, json.dumps(time.monotonic()).encode())
        ask(container)
        container.shutdown_resources()
        assert watches() == 0, threading.enumerate()

    pid = fork(child)
    os.read(ready, 1)
    put_s = time.monotonic()
    write(key_url, two=two)
    wait_until(lambda: names(container) == ["two"])
    assert time.monotonic() - put_s <= SEEN_S
    assert json.loads(os.read(told, 100)) - put_s <= SEEN_S
    join(pid)

    write(key_url, one=one)
    wait_until(lambda: names(container) == ["one"])
    ask(container)
    container.shutdown_resources()


def a_fork_of_a_program_that_never_asked(source: str, key_url: str, one: str, two: str) -> None:
    """As a server does that builds its container before it forks its workers."""
    write(key_url, one=one)
    container = following(source)

    def child() -> None:
        ask(container)
        write(key_url, two=two)
        wait_until(lambda: names(container) == ["two"])
        container.shutdown_resources()

    join(fork(child))
    assert watches() == 0
    container.shutdown_resources()


def a_child_whose_endpoint_goes(source: str, key_url: str, one: str, two: str) -> None:
    """Its parent has a connection to it, of which the child has a copy."""
    write(key_url, one=one)
    container = following(source)
    ask(container)

    def child() -> None:
        ask(container)
        write(key_url, two=two)
        wait_until(lambda: names(container) == ["two"])
        ask(container)
        gc.collect()

    join(fork(child))
    ask(container)
    container.shutdown_resources()


def nothing_is_left_of_it(source: str) -> None:
    """Neither a thread nor a socket, once it was shut down: from synchronous code, and from a loop."""
    container = following(source)
    ask(container)
    container.shutdown_resources()
    check_nothing_is_left()

    async def main() -> None:
        container = following(source)
        await container.async_completion_client().chat.completions.create(**saying("hi"))
        await container.aclose()

    asyncio.run(main())
    check_nothing_is_left()


def nothing_is_left_of_one_that_nobody_shut_down(source: str) -> None:
    """The watch of a container that is garbage ends by itself."""
    container: Any = following(source)
    container.completion.watcher().start()
    assert watches() == 1
    del container
    gc.collect()
    check_nothing_is_left()


def begin(source: str, startup: str, folder: str, key: str, host: str) -> None:
    """Begin with what there is, and tell who answers: as JSON."""
    container = following(source, startup=startup, folder=folder, key=key, host=host)
    answer = container.completion_client().chat.completions.create(**saying("hi"))
    [state] = container.completion.watcher().state()
    told = {"names": names(container), "text": answer.choices[0].message.content, "is_cached": state.is_cached}
    container.shutdown_resources()
    print(json.dumps({**told, "error": state.error}))


def following(source: str, *, startup: str = "static", folder: str = "", key: str = "", host: str = "") -> Any:
    config: dict[str, Any] = {"completion": {"source": source, "startup": startup, "model": "a-model"}}
    if folder:
        config["source_cache"] = folder
    if key:
        config["credentials"] = {"vendor": {"api_key": key, "hosts": host}}
    return LLMContainer(config=config, env={})


def ask(container: Any) -> None:
    answer = container.completion_client().with_options(max_retries=0).chat.completions.create(**saying("hi"))
    assert "hi" in answer.choices[0].message.content, answer


def saying(text: str) -> dict[str, Any]:
    return {"model": "a-model", "messages": [{"role": "user", "content": text}]}


def names(container: Any) -> list[str]:
    return [endpoint.name for endpoint in container.completion.pool().endpoints]


def write(key_url: str, **urls: str) -> None:
    document = {"endpoints": {name: {"base_url": url} for name, url in urls.items()}}
    _open(Request(key_url, data=json.dumps(document).encode(), method="PUT"), timeout=PATIENCE_S).close()


def wait_until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(LOOK_S)


def watches() -> int:
    return sum(thread.name.startswith("llmwire watch") for thread in threading.enumerate())


def check_nothing_is_left() -> None:
    wait_until(lambda: threading.enumerate() == [threading.main_thread()])
    left = [target for target in open_files() if target.startswith(("socket:", "anon_inode:[eventpoll]"))]
    assert not left, left


def open_files() -> Iterable[str]:
    for each in Path("/proc/self/fd").iterdir():
        try:
            yield str(each.readlink())
        except FileNotFoundError:  # the listing's own
            continue


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


def join(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with {status}"


PROGRAMS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (
        parent_and_child_follow,
        a_fork_of_a_program_that_never_asked,
        a_child_whose_endpoint_goes,
        nothing_is_left_of_it,
        nothing_is_left_of_one_that_nobody_shut_down,
        begin,
    )
}


if __name__ == "__main__":
    main()
