"""The sources of a function are watched from its first use until its shutdown; what they say is taken meanwhile.

Knows when that begins and ends, among threads and after a fork; what may be taken is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from llmwire.services.errors import ConfigError, DiscoveryError
from llmwire.services.events import Event, Listener, tell
from llmwire.services.forking import no_fork_meanwhile, renew_in_child
from llmwire.services.source import SourceState

from .configuration import Environment, tree
from .documents import Documents
from .taking import HOLDS_NOTHING, Position, Taking
from .values import Startup

if TYPE_CHECKING:
    from llmwire.services.discovery.cache import Cache
    from llmwire.services.discovery.catalogue import Snapshot
    from llmwire.services.discovery.watch import Watch, WatchSpec

    from .documents import Sourced
    from .refresh import Refresh
    from .resolution import FunctionSettings
    from .source import Named

LOOK_S: Final = 0.1  #: how soon a start ends that a shutdown has overtaken
FIRST_S: Final = 5.0  #: for so long a first use waits for sources that do not answer


class Watcher:
    """The sources of one function. Safe among threads.

    Args:
        function: `completion` or `embedding`.
        documents: the layer that holds what is in force.
        settle: makes settings of all layers.
        sources: in their order; the first one wins. None: the settings stand alone.
        startup: what is begun with where a source is silent or says nothing of use.
        cache: where the last good documents are kept; None: nowhere.
        env: the environment, which may hold a centre's token.
        listener: is told what is taken and refused, and who is silent.
    """

    def __init__(
        self,
        function: str,
        documents: Documents,
        settle: Callable[[], FunctionSettings],
        sources: Sequence[Named] = (),
        *,
        startup: Startup = Startup.STATIC,
        cache: Cache | None = None,
        env: Mapping[str, str] = MappingProxyType({}),
        listener: Listener,
        spec: WatchSpec | None = None,
    ) -> None:
        self._function, self._documents, self._settle = function, documents, settle
        self._startup, self._env, self._listener, self._spec = startup, env, listener, spec
        self._sources = tuple(sources)
        me = weakref.ref(self)  # whoever drops it, ends it

        def take(taken: tuple[Sourced, ...]) -> None:
            documents.take(taken, by=me())

        self._taking = Taking(function, settle, trying=documents.trying, take=take, cache=cache)
        self._watch: Watch | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._of_parents: list[Any] = []
        self._has_begun = self._is_closed = self._is_put_off = False
        self._began_at_s: float | None = None
        self._renew()
        renew_in_child(self)

    @property
    def has_sources(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self._sources)

    def start(self) -> None:
        """Ask the sources, and go on asking. Returns when each has answered or failed, after five seconds at most.

        Does nothing where that was done before.

        Raises:
            DiscoveryError: nothing may be begun without what a source says, and it does not say it.
        """
        if not self._sources:
            return
        self._begin_watch()
        self._wait_for_first()
        with self._changing() as events:
            if not self._has_begun:
                self._has_begun = True
                events += self._taking.consider()
        with self._lock:
            if (missing := self._taking.missing) is not None and self._startup is Startup.FAIL:
                self._has_begun = False
                raise self._missing(missing)

    def _wait_for_first(self) -> None:
        """Until each source has spoken; all who wait, wait to the same moment."""
        while not (self._has_begun or self._is_closed):
            left_s = FIRST_S - (time.monotonic() - (self._began_at_s or 0.0))
            if left_s <= 0 or self._spoken.wait(min(left_s, LOOK_S)):
                return

    def settled(self) -> FunctionSettings:
        """The settings with what the sources say, who are asked first. Raises ConfigError, DiscoveryError."""
        if not self._sources:
            return self._settle()
        self.start()
        with self._lock:
            missing = self._taking.missing
            try:
                settings = self._taking.settings = self._settle()
            except ConfigError as error:
                if missing is not None:  # with what it says, they would probably do
                    raise self._missing(missing, f", and without it the settings do not do: {error}") from error
                raise
            if missing is not None and settings.has_default_server:
                raise self._missing(missing)
            return settings

    def attach(self, refresh: Refresh, settings: FunctionSettings) -> None:
        """Have it follow the settings from now on, for as long as somebody holds it. These are what it was built by."""
        with self._changing() as events:
            latest = self._taking.settings
            if latest is not None and latest is not settings:
                events += refresh.prepared(latest, is_used=False)()
            self._taking.refreshes.add(refresh)
        if self._is_closed:  # by a shutdown in the midst of the building: what was built all the same, follows
            self._is_closed = False
            self._begin_watch()

    def wake(self) -> None:
        """Watch on in a child process, which has none of its parent's threads; to be called with each call.

        After a block of `overriding`, take what came meanwhile.
        """
        if self._is_put_off and self._documents.is_for(self):
            with self._changing() as events:
                events += self._considered_here()
        if self._watch is None and self._has_begun and not self._is_closed:
            with suppress(Exception):  # where no thread is to be had, what is in force will do for the call
                self._begin_watch()

    def stop(self) -> None:
        """Watch no longer. What is in force stays so."""
        with self._starting:
            self._is_closed = True
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()

    def state(self) -> tuple[SourceState, ...]:
        """Of each source, in their order."""
        return self._taking.states()  # without the lock: nobody who looks waits for a document that is being tried

    def heard(self, number: int, snapshot: Snapshot) -> None:
        """A source holds this now."""
        with self._changing() as events:
            events += self._taking.hear(number, snapshot)
            if self._has_begun:
                events += self._considered_here()
            self._note_spoken()

    def _considered_here(self) -> list[Event]:
        """In a block of `overriding` the settings are others, which are not meant for what this watcher has built."""
        self._is_put_off = not self._documents.is_for(self)
        return [] if self._is_put_off else self._taking.consider()

    def silent(self, number: int, error: DiscoveryError) -> None:
        """A source cannot be asked."""
        with self._changing() as events:
            events += self._taking.miss(number, error)
            self._note_spoken()

    def renew_after_fork(self) -> None:
        """In a child process: locks of its own, and its own watch with its first call."""
        self._of_parents.append(self._watch)  # its sockets and its loop are the parent's, which nothing may close
        if self._finalizer is not None:
            self._finalizer.detach()
        self._watch = self._finalizer = None
        self._renew()

    def _renew(self) -> None:
        # Re-entrant: a signal may arrive under them, and its handler shut down.
        self._lock, self._starting, self._spoken = threading.RLock(), threading.RLock(), threading.Event()

    def _begin_watch(self) -> None:
        with self._starting:
            if self._watch is not None or self._is_closed:
                return
            with no_fork_meanwhile():
                from llmwire.services.discovery.watch import Watch

                catalogues = [source.catalogue(self._function, self._env) for source in self._sources]
            self._taking.begin(self._sources, catalogues)
            ear = _Ear(weakref.ref(self))
            watch = Watch(catalogues, ear, spec=self._spec, name=f"llmwire watch of {self._function}")
            watch.start()
            self._began_at_s = self._began_at_s or time.monotonic()
            self._watch = watch
            self._finalizer = weakref.finalize(self, watch.stop, 0.0)
            if self._is_closed:  # meanwhile
                self.stop()

    def _note_spoken(self) -> None:
        if self._taking.has_all_spoken:
            self._spoken.set()

    @contextmanager
    def _changing(self) -> Iterator[list[Event]]:
        """Something may change inside the block; what is to be told of it is told after it."""
        events: list[Event] = []
        with self._lock:
            yield events
        for event in events:
            tell(self._listener, event)

    def _missing(self, position: Position, beside: str = "") -> DiscoveryError:
        """The program cannot begin without what this source says."""
        reason = (position.problem or position.silence or "has not answered in time").rstrip(".")
        if position.problem == HOLDS_NOTHING and position.latest is not None:
            reason = f"{reason} ({position.latest.version})"
        remedy = f"Mend it; or name a server for {self._function} in the settings, to begin with."
        if self._startup is Startup.FAIL:
            remedy = f"Mend it, or set startup to {Startup.STATIC} or {Startup.CACHE}."
        problem = f"{self._function} cannot begin: {reason}{beside.rstrip('.')}"
        return DiscoveryError(problem, source=position.source.name, remedy=remedy)


class _Ear:
    """Hears for a watcher that nobody else may hold any longer."""

    def __init__(self, watcher: weakref.ref[Watcher]) -> None:
        self._watcher = watcher

    def heard(self, position: int, snapshot: Snapshot) -> None:
        if (watcher := self._watcher()) is not None:
            watcher.heard(position, snapshot)

    def silent(self, position: int, error: DiscoveryError) -> None:
        if (watcher := self._watcher()) is not None:
            watcher.silent(position, error)


def watcher(
    function: str,
    documents: Documents,
    settle: Callable[[], FunctionSettings],
    sources: Sequence[Named] | None,
    startup: Startup,
    folder: str | None,
    env: Environment,
    listener: Listener,
) -> Watcher:
    """What watches the sources of a function. Nothing is asked before it is started."""
    cache = None
    if sources and startup is Startup.CACHE:
        from llmwire.services.discovery.cache import Cache

        try:
            cache = Cache((Path(folder) if folder else _cache_folder()).expanduser())
        except RuntimeError as error:  # the user has no home
            remedy = "Set LLMWIRE_SOURCE_CACHE to a folder that this user may write."
            raise ConfigError(
                "is not set, and this user has no home folder", key="source_cache", remedy=remedy
            ) from error
    return Watcher(
        function, documents, settle, sources or (), startup=startup, cache=cache, env=tree(env), listener=listener
    )


def stop(watching: Watcher) -> None:
    """Watch no longer."""
    watching.stop()


async def astop(watching: Watcher) -> None:
    """The same from a coroutine, which waits for it and holds nobody up."""
    await asyncio.to_thread(watching.stop)


def _cache_folder() -> Path:
    import os

    given = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(given) if given else Path("~/.cache")) / "llmwire"
