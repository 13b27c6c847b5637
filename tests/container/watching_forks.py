"""Programs that fork while a file is watched, each run in a process of its own: `python watching_forks.py NAME FOLDER`.

Not in the tests' own process: that one has threads which a child must not inherit. A wrong answer is an error.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmwire.container import LLMContainer
from llmwire.services.events import EndpointsChanged

CHILD_S = 20  #: a child that hangs tells where and ends after this, which fails the program


class Told:
    """Waits for changes of a pool."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self._changed = threading.Condition()

    def __call__(self, event: Any) -> None:
        if isinstance(event, EndpointsChanged):
            with self._changed:
                self.added.extend(event.added)
                self._changed.notify_all()

    def wait_for(self, name: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: name in self.added, CHILD_S / 2), f"{name} has not come: {self.added}"

    def renew(self) -> None:
        self._changed = threading.Condition()


def serve(file: Path, name: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(f"[completion.endpoints.{name}]\nbase_url = 'http://{name}:8000/v1'\n")
    beside.replace(file)


def a_program(folder: str) -> tuple[Path, Told, Any]:
    file, told = Path(folder) / "llm.toml", Told()
    serve(file, "one")
    container = LLMContainer(config={"completion": {"source": str(file)}}, env={}, listener=told)
    assert names(container) == ["one"]
    return file, told, container


def names(container: Any) -> list[str]:
    return [endpoint.name for endpoint in container.completion.pool().endpoints]


def watching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("llmwire watch")]


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
    assert status == 0, f"child {pid} ended with {status}"


def a_child_watches_on_by_itself(folder: str) -> None:
    file, told, container = a_program(folder)

    def child() -> None:
        told.renew()
        assert names(container) == ["one"]
        assert watching() == [], "a child has none of its parent's threads"
        container.completion.traffic().wake()
        serve(file, "two")
        told.wait_for("two")
        assert names(container) == ["two"]
        container.shutdown_resources()
        assert watching() == []

    pid = fork(child)
    told.wait_for("two")
    join(pid)
    serve(file, "three")
    told.wait_for("three")
    assert names(container) == ["three"]
    container.shutdown_resources()


def a_grandchild_watches_on(folder: str) -> None:
    file, told, container = a_program(folder)

    def grandchild() -> None:
        told.renew()
        container.completion.traffic().wake()
        serve(file, "two")
        told.wait_for("two")

    def child() -> None:
        told.renew()
        container.completion.traffic().wake()
        pid = fork(grandchild)
        told.wait_for("two")
        join(pid)

    pid = fork(child)
    told.wait_for("two")
    join(pid)
    container.shutdown_resources()


def a_child_that_ends_disturbs_nobody(folder: str) -> None:
    """With its exit handlers and the clean-up of all objects, of a container that it has used or not."""
    file, told, container = a_program(folder)
    for is_used in (False, True):
        if not (pid := os.fork()):
            if is_used:
                container.completion.traffic().wake()
            del container
            gc.collect()
            sys.exit(0)
        join(pid)
    serve(file, "two")
    told.wait_for("two")
    assert names(container) == ["two"]
    container.shutdown_resources()


PROGRAMS = {
    program.__name__: program
    for program in (a_child_watches_on_by_itself, a_child_that_ends_disturbs_nobody, a_grandchild_watches_on)
}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](sys.argv[2])
