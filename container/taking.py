"""What the sources of a function say is tried, taken or refused; what was taken stays in force until a better one is.

Knows which documents are in force, and why others are not. Asks no source, tells nobody, and has no lock of its own:
whoever calls it holds one.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from llmwire.services.errors import ConfigError, DiscoveryError
from llmwire.services.events import (
    ConfigWarned,
    DocumentRefused,
    DocumentTaken,
    Event,
    SourceAnswered,
    SourceSilent,
)
from llmwire.services.forking import no_fork_meanwhile
from llmwire.services.source import SourceState

from .documents import Sourced

if TYPE_CHECKING:
    from llmwire.services.discovery.cache import Cache
    from llmwire.services.discovery.catalogue import Catalogue, Snapshot

    from .refresh import Refresh
    from .resolution import FunctionSettings
    from .source import Named

MOST_LEFT_OUT: Final = 20  #: endpoints of one document; where more are wrong, it is the document that is
HOLDS_NOTHING: Final = "holds nothing"  #: no document, or no healthy instance
MAX_REASON: Final = 1000  #: characters; the end says what to do


@dataclass(slots=True)
class Position:
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

    @classmethod
    def of(cls, source: Named, catalogue: Catalogue) -> Position:
        """Nothing is known of it yet."""
        is_divisible = getattr(catalogue, "is_divisible", False)
        return cls(source, catalogue.is_remote, catalogue.is_whole, is_divisible)

    def state(self, now_s: float) -> SourceState:
        """As it is shown."""
        return SourceState(
            source=self.source.name,
            version=self.version,
            is_cached=self.is_cached,
            taken_s=None if self.taken_at_s is None else now_s - self.taken_at_s,
            asked_s=None if self.asked_at_s is None else now_s - self.asked_at_s,
            error=self.silence or self.problem or self.left_out,
        )


class Taking:
    """The documents of one function.

    Args:
        settle: makes settings of all layers.
        trying: has this thread see other documents inside a block.
        take: puts documents in force.
        cache: where the last good ones are kept; None: nowhere.

    Attributes:
        positions: the sources, in their order; the first one wins.
        settings: made of what is in force; None before that was asked for.
        refreshes: what was built of them, for as long as somebody holds it.
    """

    def __init__(
        self,
        function: str,
        settle: Callable[[], FunctionSettings],
        *,
        trying: Callable[[tuple[Sourced, ...]], AbstractContextManager[None]],
        take: Callable[[tuple[Sourced, ...]], None],
        cache: Cache | None,
    ) -> None:
        self._function, self._settle, self._cache = function, settle, cache
        self._trying, self._take = trying, take
        self.positions: tuple[Position, ...] = ()
        self.settings: FunctionSettings | None = None
        self.refreshes: weakref.WeakSet[Refresh] = weakref.WeakSet()
        self._has_warned = False

    def begin(self, sources: Sequence[Named], catalogues: Sequence[Catalogue]) -> None:
        """These are the sources. Those of before stay, with what is known of them: a child process begins anew."""
        self.positions = self.positions or tuple(map(Position.of, sources, catalogues))

    @property
    def has_all_spoken(self) -> bool:
        """Whether each source has answered or failed."""
        return all(position.latest is not None or position.silence is not None for position in self.positions)

    @property
    def missing(self) -> Position | None:
        """The first source of which nothing is in force."""
        return next((position for position in self.positions if position.taken is None), None)

    def states(self) -> tuple[SourceState, ...]:
        """Of each source, in their order."""
        now_s = time.monotonic()
        return tuple(position.state(now_s) for position in self.positions)

    def hear(self, number: int, snapshot: Snapshot) -> list[Event]:
        """A source holds this now; `consider` says what follows. Returns what is to be told."""
        position, now_s = self.positions[number], time.monotonic()
        silent_since_s, position.silent_since_s, position.silence = position.silent_since_s, None, None
        position.latest, position.asked_at_s = snapshot, now_s
        if silent_since_s is None:
            return []
        name, after_s = position.source.name, now_s - silent_since_s
        return [SourceAnswered(function=self._function, source=name, after_s=after_s)]

    def miss(self, number: int, error: DiscoveryError) -> list[Event]:
        """A source cannot be asked."""
        position = self.positions[number]
        reason = _shown(f"{error.problem}. {error.remedy}" if error.remedy else error.problem)
        is_known, position.silence = position.silence == reason, reason
        if position.silent_since_s is None:
            position.silent_since_s = time.monotonic()
        return [] if is_known else [SourceSilent(function=self._function, source=position.source.name, reason=reason)]

    def consider(self) -> list[Event]:
        """Take what can be taken: all that is new at once, as it may belong together; else one after the other."""
        wished: list[Sourced | None] = [position.taken for position in self.positions]
        told: list[Event] = []
        for number, position in enumerate(self.positions):
            reading = self._read(position)
            if isinstance(reading, str):
                told += self._refused(position, reading)
            else:
                wished[number] = reading
        told += self._divided(wished)
        new = [number for number, position in enumerate(self.positions) if wished[number] is not position.taken]
        if not new:
            return told + self._from_cache()
        if isinstance(exchanged := self._try(wished, new), list):
            return told + self._taken(new) + exchanged
        told += self._one_by_one(wished, new) if len(new) > 1 else self._refused(self.positions[new[0]], exchanged)
        return told + self._from_cache()

    def _divided(self, wished: list[Sourced | None]) -> list[Event]:
        """Leave out of documents whose endpoints stand for themselves those that cannot be taken."""
        told: list[Event] = []
        for number, position in enumerate(self.positions):
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
            with self._trying(tuple(document for document in wished if document is not None)):
                self._settle()
        except ConfigError as error:
            return error
        except Exception:  # it is refused when it is to be taken
            return None
        return None

    def _one_by_one(self, wished: Sequence[Sourced | None], new: Sequence[int]) -> list[Event]:
        """Take those that can be taken alone, or when another one is there, whatever their order."""
        told: list[Event] = []
        problems = dict.fromkeys(new, "")
        while problems:
            left: dict[int, str] = {}
            for number in problems:
                beside = [position.taken for position in self.positions]
                beside[number] = wished[number]
                if isinstance(exchanged := self._try(beside, [number]), list):
                    told += self._taken([number]) + exchanged
                else:
                    left[number] = exchanged
            if len(left) == len(problems):
                for number, problem in left.items():
                    told += self._refused(self.positions[number], problem)
                break
            problems = left
        return told

    def _read(self, position: Position) -> Sourced | str | None:
        """What the source says now, or what is wrong with that; what is in force where it says nothing else."""
        from llmwire.services.discovery.catalogue import Unreadable

        snapshot = position.latest
        if snapshot is None or (snapshot.digest == position.taken_digest and not position.is_cached):
            position.problem = None if snapshot is not None else position.problem
            return position.taken
        if snapshot.content is None and snapshot.problem is None:
            return HOLDS_NOTHING  # without its version, which changes with every other key
        try:
            return self._sourced(position, snapshot)
        except Unreadable as error:
            return str(error)

    def _sourced(self, position: Position, snapshot: Snapshot) -> Sourced:
        """Raises Unreadable."""
        tree: Mapping[str, Any] = snapshot.tree()
        if not position.is_whole:
            tree = {self._function: tree}
        return Sourced(tree=tree, origin=snapshot.origin, is_remote=position.is_remote)

    def _try(self, wished: Sequence[Sourced | None], new: Sequence[int]) -> list[Event] | str:
        """Have them in force, or none of them. Returns what is to be told of that, or what is wrong with them."""
        documents = tuple(document for document in wished if document is not None)
        try:
            with self._trying(documents):
                settings = self._settle()
            check_server(settings)
            exchanges = [refresh.prepared(settings) for refresh in self.refreshes]
        except ConfigError as error:
            return str(error)
        except Exception as error:  # a document that our own code stumbles over is refused like any other
            return f"cannot be read as settings: {type(error).__name__}. Correct it, and tell us of it."
        events: list[Event] = []
        with no_fork_meanwhile():  # a child would have half of it
            self._take(documents)
            self.settings = settings
            for exchange in exchanges:
                events += exchange()
            for number in new:
                self.positions[number].taken = wished[number]
        return events

    def _taken(self, numbers: Sequence[int]) -> list[Event]:
        events: list[Event] = []
        for number in numbers:
            position = self.positions[number]
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

    def _refused(self, position: Position, reason: str) -> list[Event]:
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
        for number, position in enumerate(self.positions):
            if position.taken is not None or self._cache is None or not position.is_remote:
                continue
            if (kept := self._cache.load(self._function, position.source.name)) is None:
                continue
            wished = [each.taken for each in self.positions]
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


def _shown(reason: str) -> str:
    """A reason may quote what others wrote: it is no longer than one reads, and controls no terminal."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in reason)
    return plain if len(plain) <= MAX_REASON else f"{plain[: MAX_REASON // 2]} … {plain[-MAX_REASON // 2 :]}"
