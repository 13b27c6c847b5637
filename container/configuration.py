"""Where a value comes from: the environment layer, the fallback chain, origins.

Knows places and their order; knows nothing of what the values mean.
"""

from __future__ import annotations

import os
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dependency_injector import providers

from llmwire.services.errors import ConfigError

if TYPE_CHECKING:
    from .documents import Documents

T = TypeVar("T")


class Level(IntEnum):
    """How near to an endpoint a value was given; the smaller, the more specific."""

    ENDPOINT = 0
    OWN = 1  #: the function's
    SHARED = 2
    DEFAULT = 3
    UNSET = 4


class Unfit(ValueError):  # noqa: N818
    """A value that its setting cannot take. Carries what is wrong and what to do; never the text of a secret.

    Args:
        at: which part of a value that has several, as in `[2].pattern`.
    """

    def __init__(self, problem: str, remedy: str, *, at: str = "") -> None:
        self.problem, self.remedy, self.at = problem, remedy, at
        super().__init__(problem, remedy, at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A place that holds a value: the value as written, the place, and what the setting is called there.

    Attributes:
        is_remote: a document of a source says it that others than the operator of this machine may write.
    """

    raw: Any = field(repr=False)
    origin: str
    level: Level
    key: str
    is_remote: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of a chain.

    Attributes:
        value: parsed, or the default.
        origin: as in `env.OPENAI_BASE_URL`; `default` where no place holds a value.
        key: what the setting is called where it was found: an endpoint's, or the function's that it inherits.
        shadowed: the later places that hold a value too, in their order.
        blank: the places that are set, but blank.
        is_remote: as of what holds it.
    """

    value: Any = field(repr=False)
    origin: str
    level: Level
    key: str
    shadowed: tuple[Held, ...] = ()
    blank: tuple[Held, ...] = ()
    is_remote: bool = False


class Document(dict[str, Any]):
    """A configuration that remembers the file it was read from."""

    file: str

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Document:
        """Read a TOML file. Raises ConfigError where it is missing or no TOML."""
        try:
            document = cls(tomllib.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError(
                f"cannot be read: {reason}", key=str(path), remedy="Name a TOML file that exists."
            ) from error
        except ValueError as error:
            raise ConfigError(f"is no TOML: {error}", key=str(path), remedy="Correct it.") from error
        document.file = str(path)
        return document


class Environment(providers.Configuration):
    """The process environment as a layer of configuration, below it a `.env` file where one was asked for.

    Nothing is kept: a variable is read whenever a chain asks for it.
    """

    def __init__(self, name: str = "env") -> None:
        self._dotenv: dict[str, str] = {}
        self._dotenv_file = ""
        super().__init__(name=name)

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> Environment:
        copied = cast(Environment, super().__deepcopy__(memo))
        copied._dotenv, copied._dotenv_file = self._dotenv, self._dotenv_file  # noqa: SLF001  # a copy of its own class
        return copied

    def read_dotenv(self, path: str | os.PathLike[str] | None = None) -> None:
        """Put a `.env` file below the process environment, which wins.

        Args:
            path: the file; None looks for `.env` in the working directory and above, and takes none if there is none.
        Raises:
            ConfigError: the named file cannot be read.
        """
        import dotenv

        found = dotenv.find_dotenv(usecwd=True) if path is None else str(path)
        if path is not None and not Path(path).is_file():
            raise ConfigError("is no file", key=str(path), remedy="Name a .env file that exists.")
        if not found:
            return
        try:
            values = dotenv.dotenv_values(found)
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise ConfigError(f"cannot be read: {reason}", key=found, remedy="Correct the .env file.") from error
        self._dotenv = {key: value for key, value in values.items() if value is not None}
        self._dotenv_file = found

    def origin_of(self, name: str) -> str:
        """Where the variable's value comes from: `env.NAME`, with the file where it is not the process's own."""
        if os.environ.get(name, "").strip() or name not in self._dotenv:
            return f"{self.get_name()}.{name}"
        return f"{self.get_name()}.{name} ({self._dotenv_file})"

    def _provide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Mapping[str, str]:  # noqa: ARG002
        return _Variables(self._dotenv)


class _Variables(Mapping[str, str]):
    """The process environment over the lines of a `.env` file; a blank variable hides none of them."""

    def __init__(self, dotenv: Mapping[str, str]) -> None:
        self._dotenv = dotenv

    def __getitem__(self, name: str) -> str:
        value = os.environ.get(name)
        if (value is None or not value.strip()) and name in self._dotenv:
            return self._dotenv[name]
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter({**self._dotenv, **os.environ})

    def __len__(self) -> int:
        return len({**self._dotenv, **os.environ})


class Place:
    """Where a value may stand: a layer, and the path below it. Reads without keeping.

    It stands for an option of a Configuration, which that would keep for ever: endpoints of a config centre come and
    go, and are called otherwise each time.

    Attributes:
        name: as in `config.completion.base_url` or `env.OPENAI_BASE_URL`.
        path: the same without the layer, and `segments` its parts.
        variable: the environment variable, if it is one.
    """

    __slots__ = ("layer", "name", "path", "segments", "variable")

    def __init__(self, layer: providers.Configuration, name: str) -> None:
        self.layer, self.name = layer, name
        first, _, self.path = name.partition(".")
        self.segments = self.path.split(".")
        self.variable = self.path if first == "env" else None

    @classmethod
    def of(cls, option: Place | providers.ConfigurationOption) -> Place:
        """The place that an option stands at."""
        if isinstance(option, Place):
            return option
        return cls(option._get_root(), option.get_name())  # noqa: SLF001  # the library has no public way to it

    def get_name(self) -> str:
        """As in `config.completion.base_url` or `env.OPENAI_BASE_URL`."""
        return self.name

    def read(self, key: str) -> Any:
        """What stands there; None where nothing does. Raises ConfigError where it stands below no table."""
        return reach(tree(self.layer), self.segments, key=key, origin=self.name)


def reach(value: Any, segments: Iterable[str], *, key: str, origin: str) -> Any:
    """What stands below nested tables; None where nothing does. Raises ConfigError below something that is no table."""
    for segment in segments:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            problem, remedy = "stands below something that is no table", "Write a table there."
            raise ConfigError(problem, key=key, origin=origin, remedy=remedy)
        value = value.get(segment)
    return value


class FirstOf(providers.Provider[T]):
    """The fallback chain: the first of its places that holds a value, parsed; else the default.

    Blank is unset. Lazy: places are looked at when the value is asked for. `found()` tells the origin.

    Args:
        own: options of a Configuration that belong to the function itself, most specific first.
        shared: options that all functions fall back to.
        documents: what the sources say: at each place of `config` they come first.
        default: the value where no place holds one.
        key: what the setting is called in messages.
        parse: turns what was written into the value; raises Unfit.
        level: how near `own` is.
        inherited: the chain that comes after it, with its overrides and its default.
    """

    def __init__(
        self,
        *own: Place | providers.ConfigurationOption,
        shared: tuple[Place | providers.ConfigurationOption, ...] = (),
        documents: Documents | None = None,
        default: T | None = None,
        key: str = "",
        parse: Callable[[Any], T] | None = None,
        level: Level = Level.OWN,
        inherited: FirstOf[T] | None = None,
    ) -> None:
        self.own, self.shared = tuple(map(Place.of, own)), tuple(map(Place.of, shared))
        self.documents, self.key, self.parse = documents, key, parse
        self.default: T | None = default if inherited is None else inherited.default
        self.level, self.inherited = level, inherited
        super().__init__()

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> FirstOf[T]:
        memo = {} if memo is None else memo
        if (known := memo.get(id(self))) is not None:
            return known  # type: ignore[no-any-return]  # a memo holds anything
        copied: FirstOf[T] = type(self)(default=self.default, key=self.key, parse=self.parse, level=self.level)
        memo[id(self)] = copied
        copied.own, copied.shared = (
            tuple(Place(providers.deepcopy(place.layer, memo), place.name) for place in places)
            for places in (self.own, self.shared)
        )
        copied.documents = providers.deepcopy(self.documents, memo)
        copied.inherited = providers.deepcopy(self.inherited, memo)
        self._copy_overridings(copied, memo)
        return copied

    @property
    def places(self) -> tuple[Place, ...]:
        """Every place, in the order in which they are looked at."""
        return self.own + self.shared + (self.inherited.places if self.inherited else ())

    @property
    def related(self) -> Iterator[providers.Provider[Any]]:
        yield from {place.layer for place in self.places}
        if self.documents is not None:
            yield self.documents
        yield from super().related

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        """The value. Unlike other providers' an override is parsed too, and a blank one is none."""
        return self.found().value

    def found(self) -> Found:
        """The value, its origin and what it shadows. Raises ConfigError where the value cannot be used."""
        held, blank = self._held()
        if not held:
            level = Level.UNSET if self.default is None else Level.DEFAULT
            return Found(value=self.default, origin="default", level=level, key=self.key, blank=blank)
        first, *shadowed = held
        return Found(
            value=self._parsed(first),
            origin=first.origin,
            level=first.level,
            key=first.key,
            shadowed=tuple(shadowed),
            blank=blank,
            is_remote=first.is_remote,
        )

    def origin(self) -> str:
        """Where the value comes from, as in `env.OPENAI_BASE_URL`; `default` where no place holds one."""
        return self.found().origin

    def written(self) -> Iterator[Held]:
        """What stands at its places, blank or not, most specific first."""
        if self.last_overriding is not None and (raw := self.last_overriding()) is not None:
            yield Held(raw=raw, origin="override", level=self.level, key=self.key)
        for level, places in ((self.level, self.own), (Level.SHARED, self.shared)):
            for place in places:
                if self.documents is not None and place.variable is None:
                    yield from self.documents.held(place, level, self.key)
                if (raw := place.read(self.key)) is not None:
                    yield Held(raw=raw, origin=origin_of(place), level=level, key=self.key)
        if self.inherited is not None:
            yield from self.inherited.written()

    def _held(self) -> tuple[list[Held], tuple[Held, ...]]:
        written = list(self.written())
        blank = tuple(each for each in written if _is_blank(each.raw))
        return [each for each in written if not _is_blank(each.raw)], blank

    def _parsed(self, held: Held) -> T:
        raw = held.raw.strip() if isinstance(held.raw, str) else held.raw
        if self.parse is None:
            return cast(T, raw)
        try:
            return self.parse(raw)
        except Unfit as error:
            key, origin = f"{held.key}{error.at}", below(held.origin, error.at)
            raise ConfigError(error.problem, key=key, origin=origin, remedy=error.remedy) from None


def below(origin: str, at: str) -> str:
    """Where a part of a value comes from, as in `config.completion.routes[2].pattern (llm.toml)`."""
    place, file_follows, file = origin.partition(" (")
    return f"{place}{at}{file_follows}{file}"


def _is_blank(raw: Any) -> bool:
    return isinstance(raw, str) and not raw.strip()


def origin_of(place: Place) -> str:
    """The full name of a place, with the file that it was read from where there is one."""
    layer = layer_of(place.layer)
    if isinstance(layer, Environment):
        return layer.origin_of(place.path)
    file = getattr(layer(), "file", None)
    return f"{place.name} ({file})" if file else place.name


def layer_of(provider: providers.Provider[Any]) -> providers.Provider[Any]:
    """What a layer really reads: the last of the providers that override it."""
    while provider.last_overriding is not None:
        provider = provider.last_overriding
    return provider


def option(config: providers.Configuration, env: Environment, name: str) -> Place:
    """The place as it is written down: `config.completion.base_url` or `env.OPENAI_BASE_URL`."""
    return Place({"config": config, "env": env}[name.partition(".")[0]], name)


def tree(layer: providers.Configuration) -> Mapping[str, Any]:
    """All that a layer holds; empty where it holds nothing. Raises ConfigError where it holds no table."""
    looked: dict[providers.Configuration, Mapping[str, Any]] | None = getattr(_this_thread, "looked", None)
    if looked is None:
        return _asked(layer)
    if (known := looked.get(layer)) is None:
        known = looked[layer] = dict(_asked(layer))
    return known


@contextmanager
def one_look() -> Iterator[None]:
    """Inside the block, in this thread, a layer is asked once: all that is read of it is of one moment."""
    former, _this_thread.looked = getattr(_this_thread, "looked", None), {}
    try:
        yield
    finally:
        _this_thread.looked = former


_this_thread = threading.local()


def _asked(layer: providers.Configuration) -> Mapping[str, Any]:
    held = layer()
    if held is not None and not isinstance(held, Mapping):
        name = layer.get_name()
        raise ConfigError("is no table", key=name, origin=name, remedy="Give a dict, or read a TOML file.")
    return {} if held is None else held
