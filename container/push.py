"""`llmwire push`: a file of settings becomes what a config centre says, if every reader can take it.

Knows terminals, options and when not to write; what a document may say is decided as in any program.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, runtime_checkable

import typer
from rich.console import Console
from rich.text import Text

from llmwire.services.discovery.catalogue import MAX_BYTES, Catalogue, Unreadable, tree_of
from llmwire.services.errors import ConfigError, DiscoveryError

from .application import LLMContainer
from .configuration import Unfit, tree
from .difference import difference, moved, shown
from .documents import Sourced
from .resolution import FunctionSettings
from .settings import FUNCTIONS
from .source import Kind, Source
from .sources import sources
from .taking import check_server
from .watch import styled

REFUSED: Final = 1  #: the exit code where a reader would refuse a document, or another has written meanwhile
EXAMPLE: Final = "consul://127.0.0.1:8500/llmwire/prod"
_UNWRITABLE: Final = {
    Kind.FILE: ("is a file", "Edit it where it stands: programs that read it follow within a second."),
    Kind.INSTANCES: (
        "is what Consul knows of the instances of a service",
        f"Register them with Consul; or name a key, as in {EXAMPLE}.",
    ),
}


@runtime_checkable
class Store(Catalogue, Protocol):
    """A source that can be written. See `services.discovery.consul.ConsulDocument`."""

    async def read_index(self) -> int:
        """What a document must still have to be written over; 0 where there is none."""

    async def publish(self, content: bytes, *, index: int) -> None:
        """Write it, if it is as it was read. Raises DiscoveryError."""


class _Standing(Enum):
    """What became of a document, as far as the store tells."""

    WRITTEN = "it is there"
    AS_BEFORE = "it is as it was"
    FOREIGN = "another has written"
    UNKNOWN = "the store does not answer"


_TOLD: Final = {
    "Written": (_Standing.WRITTEN,),
    "Perhaps written": (_Standing.UNKNOWN,),
    "Not written": (_Standing.AS_BEFORE, _Standing.FOREIGN),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """The document of one function, and where it goes.

    Attributes:
        table: the function's own.
        content: as it is written.
    """

    function: str
    table: Mapping[str, Any]
    content: bytes
    store: Store


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What is there now.

    Attributes:
        table: the function's own; None where there is none that can be read.
        problem: why that is so, of a document that is there.
        index: it was that, or an older one, when this was read.
    """

    version: str
    table: Mapping[str, Any] | None
    problem: str | None
    index: int

    def is_same(self, draft: _Draft) -> bool:
        """Whether it says the same, in the same order: that of endpoints and routes matters."""
        return self.table is not None and _written(self.table) == _written(draft.table)


def push_command(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"Where it goes, as in {EXAMPLE}.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML or JSON, as a configuration is written.")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A TOML file with the settings of those who read it.")
    ] = None,
    env_file: Annotated[Path | None, typer.Option("--env-file", help="The .env file.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing: say what would change.")] = False,
) -> None:
    """Write a file of settings into Consul or etcd, a document for each function, if those who read it can take it.

    The file has the tables that a configuration has: completion, embedding, or both.
    Each is tried as a program with the settings of --config and the environment would;
    where one would be refused, none is written. Nobody else's change is written over.
    Exits with 1 where a document would be refused, or was changed by another meanwhile.
    """
    container = LLMContainer() if config is None else LLMContainer.from_toml(config)
    container.env.read_dotenv(env_file)
    drafts = _drafts(_tables(file), file, _target(source), container)
    settled = _settled(container, drafts, file)
    if settled is None:
        raise typer.Exit(REFUSED)
    raise typer.Exit(asyncio.run(_Push(container, drafts, settled).run(is_dry=dry_run)))


# What is to be written.


def _target(written: str) -> Source:
    """Raises ConfigError; what was written may hold a token, and is not shown."""
    try:
        named = sources(written)
    except Unfit as error:
        raise ConfigError(error.problem, key=f"SOURCE{error.at}", remedy=error.remedy) from None
    if len(named) > 1:
        raise ConfigError("names several sources", key="SOURCE", remedy="Push to one after the other.")
    [source] = named
    assert isinstance(source, Source)  # noqa: S101  # for the type checker: a text names no other
    if source.kind in _UNWRITABLE:
        problem, remedy = _UNWRITABLE[source.kind]
        raise ConfigError(f"{problem}, which is not written this way", key=source.name, remedy=remedy)
    return source


def _tables(file: Path) -> Mapping[str, Any]:
    """The tables of the functions, by their names. Raises ConfigError where there is anything else."""
    try:
        with file.open("rb") as opened:
            read = tree_of(opened.read(MAX_BYTES + 1))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(f"cannot be read: {reason}", key=str(file), remedy="Name a TOML or JSON file.") from error
    except Unreadable as error:
        raise ConfigError(str(error), key=str(file), remedy="Write it as in [completion.endpoints.a].") from error
    for name, table in read.items():
        if name not in FUNCTIONS:
            raise _stray(name, table, file)
        if not isinstance(table, Mapping):
            raise ConfigError("is no table", key=name, origin=str(file), remedy=f"Write [{name}] and what is below it.")
    return read


def _stray(name: str, table: Any, file: Path) -> ConfigError:
    """Why something beside the tables of the functions cannot be written."""
    if near := get_close_matches(name, FUNCTIONS, n=1, cutoff=0.75):
        problem, remedy = "is no function", f"Did you mean [{near[0]}]?"
    else:
        what = "table" if isinstance(table, Mapping) else "setting"
        problem = f"is no {what} of one function, and a document of a source holds nothing else"
        remedy = "Write it where the programs are configured; keys and where they may go are only taken from there."
    return ConfigError(problem, key=name, origin=str(file), remedy=remedy)


def _drafts(tables: Mapping[str, Any], file: Path, source: Source, container: LLMContainer) -> list[_Draft]:
    env = tree(container.env)
    drafts = []
    for function, table in tables.items():
        try:
            content = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            problem = "holds a date, a time or a number that is not finite, which JSON has not"
            raise ConfigError(problem, key=function, origin=str(file), remedy="Write a text or a number.") from error
        store = source.catalogue(function, env)
        assert isinstance(store, Store)  # noqa: S101  # for the type checker: `_target` has refused the others
        drafts.append(_Draft(function=function, table=table, content=content, store=store))
    return drafts


def _settled(container: LLMContainer, drafts: Sequence[_Draft], file: Path) -> Mapping[str, FunctionSettings] | None:
    """What a reader makes of each document; None where it refuses one, and then all reasons are told."""
    console = Console(stderr=True)
    settled: dict[str, FunctionSettings] = {}
    for draft in drafts:
        try:
            settled[draft.function] = _tried(container, draft.function, tree_of(draft.content), str(file))
        except (ConfigError, Unreadable) as error:
            _say(console, f"llmwire: {draft.function} would be refused: {error}", "bold red")
    if len(settled) == len(drafts):
        return settled
    _say(console, "llmwire: Nothing is written.")
    return None


def _tried(container: LLMContainer, function: str, table: Mapping[str, Any], origin: str) -> FunctionSettings:
    """As whoever reads it from the source. Raises ConfigError."""
    lane: Any = container.providers[function]
    with lane.documents.trying((Sourced(tree={function: table}, origin=origin, is_remote=True),)):
        settings: FunctionSettings = lane.settings()
    check_server(settings)
    return settings


# What is there, and what becomes of it.


class _Push:
    """One run: reads, tells, writes. Its stores are used by one event loop."""

    def __init__(
        self, container: LLMContainer, drafts: Sequence[_Draft], settled: Mapping[str, FunctionSettings]
    ) -> None:
        self._container, self._drafts, self._settled = container, drafts, settled
        self._console = Console()

    async def run(self, *, is_dry: bool) -> int:
        """Returns the exit code. Raises DiscoveryError where the store cannot be read or written."""
        try:
            held = [await _read(draft) for draft in self._drafts]  # all, before anything is written
            for draft, each in zip(self._drafts, held, strict=True):
                self._tell(draft, each)
            due = [pair for pair in zip(self._drafts, held, strict=True) if not pair[1].is_same(pair[0])]
            if due and is_dry:
                _say(self._console, "Nothing is written: --dry-run was given.")
            return 0 if is_dry or not due else await self._write(due)
        finally:
            for draft in self._drafts:
                await draft.store.aclose()

    def _tell(self, draft: _Draft, held: _Held) -> None:
        """What changes with it."""
        function, name = draft.function, draft.store.name
        if held.is_same(draft):
            _say(self._console, f"{function}: {name} says that already ({held.version}).", "bold")
            return
        _say(self._console, f"{function}: {name} ({held.version})", "bold")
        if held.problem is not None:
            _say(self._console, f"  What is there now cannot be read, and is replaced: it {held.problem}.", "yellow")
        before = {} if held.table is None else shown(function, [{function: held.table}])
        changes = difference(before, shown(function, [{function: draft.table}]))
        for change in changes:
            self._console.print(Text("  ").append_text(styled(change)), soft_wrap=True)
        if not changes:
            _say(self._console, "  It differs in its order alone, or in what may not be shown.")
        for warning in self._settled[function].warnings:
            _say(self._console, f"  warning: {warning.key}: {warning.message}", "yellow")
        if (remark := self._moved(draft, held)) is not None:
            _say(self._console, f"  warning: {remark}", "yellow")

    def _moved(self, draft: _Draft, held: _Held) -> str | None:
        """What to know of what is there now; nothing where no program can run with it."""
        if held.table is None:
            return None
        try:
            former = _tried(self._container, draft.function, held.table, draft.store.name)
        except ConfigError:
            return None
        return moved(former, self._settled[draft.function])

    async def _write(self, due: Sequence[tuple[_Draft, _Held]]) -> int:
        """One after the other; what comes after one that fails is left. Says what became of each, also at Ctrl-C."""
        standings = dict.fromkeys((draft.function for draft, _ in due), _Standing.AS_BEFORE)
        try:
            for draft, held in due:
                standings[draft.function] = _Standing.UNKNOWN
                standings[draft.function], error = await _published(draft, held)
                if standings[draft.function] is _Standing.FOREIGN:
                    problem = "the document was changed meanwhile"
                    changed = DiscoveryError(problem, source=draft.store.name, remedy="Run it again.")
                    _say(Console(stderr=True), f"llmwire: {changed}", "bold red")
                    return REFUSED
                if error is not None and standings[draft.function] is not _Standing.WRITTEN:
                    raise error
            return 0
        finally:
            for title, meant in _TOLD.items():
                if functions := [function for function, standing in standings.items() if standing in meant]:
                    _say(self._console, f"{title}: {', '.join(functions)}.", "bold")


async def _read(draft: _Draft) -> _Held:
    """What is there now. Raises DiscoveryError."""
    index = await draft.store.read_index()  # before what is compared: what comes in between is then not written over
    snapshot = await draft.store.fetch()
    table, problem = None, None
    if snapshot.content is not None or snapshot.problem is not None:
        try:
            table = snapshot.tree()
        except Unreadable as error:
            problem = str(error)
    return _Held(version=snapshot.version, table=table, problem=problem, index=index)


async def _published(draft: _Draft, held: _Held) -> tuple[_Standing, DiscoveryError | None]:
    """Write it, and where that fails look what is there."""
    try:
        await draft.store.publish(draft.content, index=held.index)
    except DiscoveryError as error:
        return await _standing(draft, held), error
    return _Standing.WRITTEN, None


async def _standing(draft: _Draft, held: _Held) -> _Standing:
    try:
        index = await draft.store.read_index()
        snapshot = await draft.store.fetch()
    except DiscoveryError:
        return _Standing.UNKNOWN
    if index == held.index:
        return _Standing.AS_BEFORE
    return _Standing.WRITTEN if snapshot.content == draft.content else _Standing.FOREIGN


def _written(table: Mapping[str, Any]) -> str:
    """As JSON, where 1 and true are two values, as in Python they are not."""
    return json.dumps(table, default=str)


def _say(console: Console, text: str, style: str = "") -> None:
    """A line as it is: a terminal may break it, and it may be copied whole. Nothing in it controls the terminal."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    console.print(Text(plain, style=style), soft_wrap=True)
