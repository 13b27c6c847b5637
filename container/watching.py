"""What the sources of a function say is tried, taken or refused; what was taken stays in force until a better one is.

Connects sources, settings and what was built from them. Knows which documents are in force; reads none itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from llmwire.services.errors import ConfigError, DiscoveryError
from llmwire.services.events import (
    ConfigWarned,
    DocumentRefused,
    DocumentTaken,
    Event,
    Listener,
    SourceAnswered,
    SourceSilent,
    tell,
)
from llmwire.services.forking import no_fork_meanwhile, renew_in_child
from llmwire.services.source import SourceState

from .configuration import Documents, Environment, Sourced, tree
from .values import Startup

if TYPE_CHECKING:
    from llmwire.services.discovery.cache import Cache
    from llmwire.services.discovery.catalogue import Snapshot
    from llmwire.services.discovery.watch import Watch, WatchSpec

    from .refresh import Refresh
    from .resolution import FunctionSettings
    from .sources import Named

MOST_LEFT_OUT: Final = 20  #: endpoints of one document; where more are wrong, it is the document that is
LOOK_S: Final = 0.1  #: how soon a start ends that a shutdown has overtaken
MAX_REASON: Final = 1000  #: characters; the end says what to do
FIRST_S: Final = 5.0  #: for so long a first use waits for sources that do not answer


@dataclass(slots=True)
class _Position:
    """One source, and what is known of it."""

    source: Named
    is_remote: bool
    is_whole: bool
    is_divisible: bool
    latest: Snapshot | None = None
    taken: Sourced | None = None
    version: str | None = None
    taken_digest: str | None = None
    is_cached: bool = False
    refused_digest: str | None = None
    left_out: str | None = None  #: why an endpoint of what is in force is not among the others
    problem: str | None = None  #: with what it says now
    silence: str | None = None
    silent_since_s: float | None = None
    asked_at_s: float | None = None
    taken_at_s: float | None = None

    @property
    def has_spoken(self) -> bool:
        return self.latest is not None or self.silence is not None


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
        self._startup, self._cache, self._env = startup, cache, env
        self._listener, self._spec = listener, spec
        self._sources = tuple(sources)
        self._positions: list[_Position] = []
        self._watch: Watch | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._of_parents: list[Any] = []
        self._settings: FunctionSettings | None = None
        self._refreshes: weakref.WeakSet[Refresh] = weakref.WeakSet()
        self._has_begun = self._is_closed = self._has_warned = self._is_put_off = False
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
                events += self._consider()
        with self._lock:
            missing = [position for position in self._positions if position.taken is None]
            if missing and self._startup is Startup.FAIL:
                self._has_begun = False
                raise self._missing(missing[0])

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
            missing = [position for position in self._positions if position.taken is None]
            try:
                settings = self._settings = self._settle()
            except ConfigError as error:
                if missing:  # with what it says, they would probably do
                    raise self._missing(missing[0], f", and without it the settings do not do: {error}") from error
                raise
            if missing and settings.has_default_server:
                raise self._missing(missing[0])
            return settings

    def attach(self, refresh: Refresh, settings: FunctionSettings) -> None:
        """Have it follow the settings from now on, for as long as somebody holds it. These are what it was built by."""
        with self._changing() as events:
            if self._settings is not None and self._settings is not settings:
                events += refresh.prepared(self._settings, is_used=False)()
            self._refreshes.add(refresh)
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
        now_s = time.monotonic()  # without the lock: nobody who looks waits for a document that is being tried
        return tuple(_state(position, now_s) for position in self._positions)

    def heard(self, number: int, snapshot: Snapshot) -> None:
        """A source holds this now."""
        with self._changing() as events:
            position = self._positions[number]
            now_s = time.monotonic()
            if position.silent_since_s is not None:
                after_s = now_s - position.silent_since_s
                events.append(SourceAnswered(function=self._function, source=position.source.name, after_s=after_s))
            position.silence, position.silent_since_s = None, None
            position.latest, position.asked_at_s = snapshot, now_s
            if self._has_begun:
                events += self._considered_here()
            self._note_spoken()

    def _considered_here(self) -> list[Event]:
        """In a block of `overriding` the settings are others, which are not meant for what this watcher has built."""
        self._is_put_off = not self._documents.is_for(self)
        return [] if self._is_put_off else self._consider()

    def silent(self, number: int, error: DiscoveryError) -> None:
        """A source cannot be asked."""
        with self._changing() as events:
            position = self._positions[number]
            if position.silence != (reason := _reason(error)):
                events.append(SourceSilent(function=self._function, source=position.source.name, reason=reason))
            position.silence = reason
            if position.silent_since_s is None:
                position.silent_since_s = time.monotonic()
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
            if not self._positions:
                self._positions = [
                    _Position(
                        source, catalogue.is_remote, catalogue.is_whole, getattr(catalogue, "is_divisible", False)
                    )
                    for source, catalogue in zip(self._sources, catalogues, strict=True)
                ]
            ear = _Ear(weakref.ref(self))
            watch = Watch(catalogues, ear, spec=self._spec, name=f"llmwire watch of {self._function}")
            watch.start()
            self._began_at_s = self._began_at_s or time.monotonic()
            self._watch = watch
            self._finalizer = weakref.finalize(self, watch.stop, 0.0)
            if self._is_closed:  # meanwhile
                self.stop()

    def _note_spoken(self) -> None:
        if all(position.has_spoken for position in self._positions):
            self._spoken.set()

    @contextmanager
    def _changing(self) -> Iterator[list[Event]]:
        """Something may change inside the block; what is to be told of it is told after it."""
        events: list[Event] = []
        with self._lock:
            yield events
        for event in events:
            tell(self._listener, event)

    def _consider(self) -> list[Event]:
        """Take what can be taken: all that is new at once, as it may belong together; else one after the other."""
        wished: list[Sourced | None] = [position.taken for position in self._positions]
        told: list[Event] = []
        for number, position in enumerate(self._positions):
            reading = self._read(position)
            if isinstance(reading, str):
                told += self._refused(position, reading)
            else:
                wished[number] = reading
        told += self._divided(wished)
        new = [number for number, position in enumerate(self._positions) if wished[number] is not position.taken]
        if not new:
            return told + self._from_cache()
        if isinstance(exchanged := self._try(wished, new), list):
            return told + self._taken(new) + exchanged
        told += self._one_by_one(wished, new) if len(new) > 1 else self._refused(self._positions[new[0]], exchanged)
        return told + self._from_cache()

    def _divided(self, wished: list[Sourced | None]) -> list[Event]:
        """Leave out of documents whose endpoints stand for themselves those that cannot be taken."""
        told: list[Event] = []
        for number, position in enumerate(self._positions):
            document = wished[number]
            if not position.is_divisible or document is None or document is position.taken:
                continue
            errors: list[ConfigError] = []
            while len(errors) < MOST_LEFT_OUT and (error := self._tried(wished)) is not None:
                smaller = _without(self._function, document, error)
                if smaller is None:
                    break
                errors.append(error)
                wished[number] = document = smaller
            position.left_out = _shown("; ".join(f"left out: {error}" for error in errors)) if errors else None
            told += (
                ConfigWarned(
                    function=self._function,
                    key=error.key,
                    origin=position.source.name,
                    message=_shown(f"the endpoint is left out: {error.problem}. {error.remedy}"),
                )
                for error in errors
            )
        return told

    def _tried(self, wished: Sequence[Sourced | None]) -> ConfigError | None:
        """What is wrong with the settings that these make."""
        try:
            with self._documents.trying(tuple(document for document in wished if document is not None)):
                self._settle()
        except ConfigError as error:
            return error
        return None

    def _one_by_one(self, wished: Sequence[Sourced | None], new: Sequence[int]) -> list[Event]:
        """Take those that can be taken alone, or when another one is there, whatever their order."""
        told: list[Event] = []
        problems = dict.fromkeys(new, "")
        while problems:
            left: dict[int, str] = {}
            for number in problems:
                beside = [position.taken for position in self._positions]
                beside[number] = wished[number]
                if isinstance(exchanged := self._try(beside, [number]), list):
                    told += self._taken([number]) + exchanged
                else:
                    left[number] = exchanged
            if len(left) == len(problems):
                for number, problem in left.items():
                    told += self._refused(self._positions[number], problem)
                break
            problems = left
        return told

    def _read(self, position: _Position) -> Sourced | str | None:
        """What the source says now, or what is wrong with that; what is in force where it says nothing else."""
        from llmwire.services.discovery.catalogue import Unreadable

        snapshot = position.latest
        if snapshot is None or (snapshot.digest == position.taken_digest and not position.is_cached):
            position.problem = None if snapshot is not None else position.problem
            return position.taken
        if snapshot.content is None and snapshot.problem is None:
            return f"holds nothing: {snapshot.version}"
        try:
            return self._sourced(position, snapshot)
        except Unreadable as error:
            return str(error)

    def _sourced(self, position: _Position, snapshot: Snapshot) -> Sourced:
        """Raises Unreadable."""
        tree: Mapping[str, Any] = snapshot.tree()
        if not position.is_whole:
            tree = {self._function: tree}
        return Sourced(tree=tree, origin=snapshot.origin, is_remote=position.is_remote)

    def _try(self, wished: Sequence[Sourced | None], new: Sequence[int]) -> list[Event] | str:
        """Have them in force, or none of them. Returns what is to be told of that, or what is wrong with them."""
        documents = tuple(document for document in wished if document is not None)
        try:
            with self._documents.trying(documents):
                settings = self._settle()
            check_server(settings)
            exchanges = [refresh.prepared(settings) for refresh in self._refreshes]
        except ConfigError as error:
            return str(error)
        except Exception as error:  # a document that our own code stumbles over is refused like any other
            return f"cannot be read as settings: {type(error).__name__}. Correct it, and tell us of it."
        events: list[Event] = []
        with no_fork_meanwhile():  # a child would have half of it
            self._documents.take(documents, by=self)
            self._settings = settings
            for exchange in exchanges:
                events += exchange()
            for number in new:
                self._positions[number].taken = wished[number]
        return events

    def _taken(self, numbers: Sequence[int]) -> list[Event]:
        events: list[Event] = []
        for number in numbers:
            position = self._positions[number]
            snapshot = position.latest
            assert snapshot is not None  # noqa: S101  # for the type checker: it was read
            position.version, position.taken_digest = snapshot.version, snapshot.digest
            position.problem = position.refused_digest = None
            position.is_cached, position.taken_at_s = False, time.monotonic()
            name = position.source.name
            events.append(DocumentTaken(function=self._function, source=name, version=snapshot.version))
            if self._cache is not None and position.is_remote:
                events += self._kept(self._cache.save(self._function, replace(snapshot, origin=name)))
        return events

    def _kept(self, problem: str | None) -> list[Event]:
        """That nothing can be kept for a start without the source is told once."""
        if problem is None or self._has_warned:
            return []
        self._has_warned = True
        message = f"what the sources say {problem}: a start without them has nothing to begin with"
        return [ConfigWarned(function=self._function, key="source_cache", origin=None, message=message)]

    def _refused(self, position: _Position, reason: str) -> list[Event]:
        """What a source says is not in force: told once for each document."""
        snapshot, reason = position.latest, _shown(reason)
        assert snapshot is not None  # noqa: S101  # for the type checker: it was read
        is_known = position.refused_digest == snapshot.digest and position.problem == reason
        position.refused_digest, position.problem = snapshot.digest, reason
        if is_known:
            return []
        name, version = position.source.name, snapshot.version
        return [DocumentRefused(function=self._function, source=name, version=version, reason=reason)]

    def _from_cache(self) -> list[Event]:
        """What a source that says nothing of use said last, in an earlier life of the program."""
        from llmwire.services.discovery.catalogue import Unreadable

        told: list[Event] = []
        for number, position in enumerate(self._positions):
            if position.taken is not None or self._cache is None or not position.is_remote:
                continue
            if (kept := self._cache.load(self._function, position.source.name)) is None:
                continue
            wished = [each.taken for each in self._positions]
            try:
                wished[number] = self._sourced(position, kept)
            except Unreadable:
                continue
            if isinstance(exchanged := self._try(wished, [number]), list):
                told += exchanged
                position.version, position.taken_digest = kept.version, kept.digest
                position.is_cached, position.taken_at_s = True, time.monotonic()
                name = position.source.name
                told.append(DocumentTaken(function=self._function, source=name, version=kept.version, is_cached=True))
        return told

    def _missing(self, position: _Position, beside: str = "") -> DiscoveryError:
        """The program cannot begin without what this source says."""
        reason = (position.problem or position.silence or "has not answered in time").rstrip(".")
        remedy = f"Mend it; or name a server for {self._function} in the settings, to begin with."
        if self._startup is Startup.FAIL:
            remedy = f"Mend it, or set startup to {Startup.STATIC} or {Startup.CACHE}."
        problem = f"{self._function} cannot begin: {reason}{beside.rstrip('.')}"
        return DiscoveryError(problem, source=position.source.name, remedy=remedy)


def _without(function: str, document: Sourced, error: ConfigError) -> Sourced | None:
    """The document without the endpoint that an error is about; None where it is about none, or the only one."""
    table, word, name, *setting = [*error.key.split("."), "", "", ""][:4]
    endpoints = document.tree[function].get("endpoints")
    if (table, word) != (function, "endpoints") or not any(setting) or not isinstance(endpoints, Mapping):
        return None
    left = {each: its for each, its in endpoints.items() if each != name}
    if not left or len(left) == len(endpoints):
        return None
    return replace(document, tree={function: {**document.tree[function], "endpoints": left}})


def check_server(settings: FunctionSettings) -> None:
    """Where a source is to say who answers, nobody is sent to the default server for want of a name.

    Raises:
        ConfigError: neither documents nor settings name a server.
    """
    if settings.has_default_server:
        function = settings.function
        remedy = f"Name endpoints; or set {function.upper()}_BASE_URL, where the default server is meant."
        raise ConfigError("names no server, and no setting does", key=f"{function}.endpoints", remedy=remedy)


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


def _reason(error: DiscoveryError) -> str:
    return _shown(f"{error.problem}. {error.remedy}" if error.remedy else error.problem)


def _shown(reason: str) -> str:
    """A reason may quote what others wrote: it is no longer than one reads, and controls no terminal."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in reason)
    return plain if len(plain) <= MAX_REASON else f"{plain[: MAX_REASON // 2]} … {plain[-MAX_REASON // 2 :]}"


def _state(position: _Position, now_s: float) -> SourceState:
    return SourceState(
        source=position.source.name,
        version=position.version,
        is_cached=position.is_cached,
        taken_s=None if position.taken_at_s is None else now_s - position.taken_at_s,
        asked_s=None if position.asked_at_s is None else now_s - position.asked_at_s,
        error=position.silence or position.problem or position.left_out,
    )


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
