"""Sources, watched while the program runs: each by a task of its own, all of them in one thread.

What a source holds is handed on whenever it may be something else than before; whether it is, and whether it can be
taken, is for others to say. Knows when to ask, and how long to rest; knows nothing of settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..errors import DiscoveryError
from ..routing.backoff import doubled, jittered
from .catalogue import Catalogue, Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSpec:
    """When a source is asked, in seconds."""

    reread_s: float = 60.0  #: all is read anew after that, whatever a watch has said: notices get lost
    debounce_s: float = 0.2  #: a person or a program that writes several times in a row is at rest by then
    idle_cap_s: float = 1.2  #: the longest rest before a look at a source that cries wolf: it may be true this time
    fetch_s: float = 15.0  #: a source that has not answered by then is silent
    backoff_s: float = 0.5  #: after the first failure, doubling
    backoff_cap_s: float = 30.0
    jitter: float = 0.2  #: ± this share of each rest, so that a fleet does not come back at one moment


class Hearer(Protocol):
    """Who is told, in the thread of the watch. To take long delays the other sources."""

    def heard(self, position: int, snapshot: Snapshot) -> None:
        """A source holds this."""

    def silent(self, position: int, error: DiscoveryError) -> None:
        """A source cannot be asked; it is asked again."""


class Watch:
    """Asks each source, and goes on asking until it is stopped. Started once.

    Args:
        catalogues: the sources, which nobody else uses.
        hearer: is told.
        name: of the thread.
    """

    def __init__(
        self,
        catalogues: Sequence[Catalogue],
        hearer: Hearer,
        *,
        spec: WatchSpec | None = None,
        name: str = "llmwire watch",
    ) -> None:
        self._catalogues, self._hearer, self._spec = tuple(catalogues), hearer, spec or WatchSpec()
        self._randomness = random.Random()  # noqa: S311  # it spreads load and keeps no secret
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._lock = threading.RLock()  # it may be stopped by garbage that is collected under it
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin. Raises RuntimeError where there is no thread to be had."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """End it, and wait for so long: whoever is being told something, is told it to its end."""
        with self._lock:
            self._is_stopped = True
            loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                loop.call_soon_threadsafe(main.cancel)
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError), asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(self._watch_all())

    async def _watch_all(self) -> None:
        with self._lock:
            if self._is_stopped:
                return
            self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as group:
                for position, catalogue in enumerate(self._catalogues):
                    group.create_task(self._follow(position, catalogue))
        finally:
            with self._lock:
                self._loop = self._main = None

    async def _follow(self, position: int, catalogue: Catalogue) -> None:
        rounds, is_told, task = Rounds(self._spec, self._randomness), False, asyncio.current_task()
        try:
            while not _is_to_end(task):
                try:
                    async with asyncio.timeout(self._spec.fetch_s):
                        snapshot = await catalogue.fetch()
                    if _is_to_end(task):
                        return
                    rounds.asked(snapshot, is_told=is_told)
                    self._hearer.heard(position, snapshot)
                    is_told = await self._is_told(catalogue, snapshot)
                    rounds.watched()
                    if is_told:
                        await asyncio.sleep(rounds.rest_s())
                except (Exception, asyncio.CancelledError) as error:  # of a source that somebody else wrote it is any
                    if _is_to_end(task):
                        return
                    is_told = False
                    self._hearer.silent(position, _told(catalogue, error))
                    await asyncio.sleep(rounds.failed_s())
        finally:
            with contextlib.suppress(Exception):  # nobody asks it any more
                await catalogue.aclose()

    async def _is_told(self, catalogue: Catalogue, snapshot: Snapshot) -> bool:
        """Whether the source says that there may be something else; or else it is time to look all the same."""
        reread = asyncio.timeout(jittered(self._spec.reread_s, self._spec.jitter, self._randomness))
        try:
            async with reread:
                await catalogue.watch(snapshot)
        except TimeoutError:
            if not reread.expired():
                raise
            return False
        return True


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in threads that hold up nobody's end: a resolver may take half a minute to give up."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        found: asyncio.Future[Any] = self.create_future()

        def settle(result: Any, error: OSError | None) -> None:
            if not found.done():
                found.set_exception(error) if error is not None else found.set_result(result)

        def look() -> None:
            result, error = None, None
            try:
                result = socket.getaddrinfo(host, port, **options)
            except OSError as failure:
                error = failure
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self.call_soon_threadsafe(settle, result, error)

        threading.Thread(target=look, name="llmwire name", daemon=True).start()
        return await found


@dataclass
class Rounds:
    """How long to rest before a source is asked again. Pure, but for the randomness that it is given."""

    spec: WatchSpec
    randomness: random.Random
    failures: int = 0  #: to say what is there, one after the other
    deaf: int = 0  #: to say when that changes, one after the other
    in_vain: int = 0
    last: str | None = field(default=None, repr=False)
    is_watching: bool = False

    def asked(self, snapshot: Snapshot, *, is_told: bool) -> None:
        """The source was asked: as it said that there may be something else, or as it was time to look."""
        digest = snapshot.digest
        self.in_vain = self.in_vain + 1 if is_told and digest == self.last else 0
        self.failures, self.last, self.is_watching = 0, digest, True

    def watched(self) -> None:
        """A watch came to its end in order."""
        self.deaf, self.is_watching = 0, False

    def rest_s(self) -> float:
        """Before a look at what may be something else, in seconds: as changes come in rows.

        It doubles while that was not so: the content decides, not what a source says of it.
        """
        rest_s = doubled(self.spec.debounce_s, self.in_vain, cap_s=self.spec.idle_cap_s)
        return max(self.spec.debounce_s, jittered(rest_s, self.spec.jitter, self.randomness))

    def failed_s(self) -> float:
        """After a failure, in seconds. It doubles also where a source can be read each time and watched never."""
        rest_s = doubled(self.spec.backoff_s, max(self.failures, self.deaf), cap_s=self.spec.backoff_cap_s)
        if self.is_watching:
            self.deaf += 1
        else:
            self.failures += 1
        self.is_watching = False
        return jittered(rest_s, self.spec.jitter, self.randomness)


def _is_to_end(task: asyncio.Task[None] | None) -> bool:
    """Whether the watch was stopped. A source may swallow that, or raise such an error for reasons of its own."""
    return task is not None and task.cancelling() > 0


def _told(catalogue: Catalogue, error: BaseException) -> DiscoveryError:
    if isinstance(error, DiscoveryError):
        return error
    problem = "did not answer in time" if isinstance(error, TimeoutError) else f"failed with {type(error).__name__}"
    return DiscoveryError(problem, source=catalogue.name)
