"""`llmwire watch`: what the sources of the endpoints say, each change and each refusal, as it happens.

Knows terminals and options; what is taken or refused is decided as in any program.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmwire.services.errors import ConfigError
from llmwire.services.events import DocumentRefused, DocumentTaken, Event, SourceAnswered, SourceSilent
from llmwire.services.source import SourceState

from .application import LLMContainer
from .difference import Change, difference, endpoint_key, moved, shown
from .endpoints import DEFAULT_NAME
from .explain import FunctionExplanation, told
from .resolution import FunctionSettings
from .route import Function
from .settings import FUNCTIONS
from .values import Startup

INTERRUPTED: Final = 130  #: where Ctrl-C came before there was anything to show: that of a shell
CHANGE_STYLES: Final = {"+": "green", "-": "red", "~": "yellow"}
_STYLES: Final = {"refused": "bold red", "silent": "yellow", "taken": "green", "answered": "green"}


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is in force of a function at one moment.

    Attributes:
        shown: what its sources say of it, and the server of each endpoint, as `difference` takes them.
        settled: all that is settled; None where that fails.
        error: why it does, or None.
    """

    shown: Mapping[str, str]
    settled: FunctionSettings | None
    error: str | None

    @property
    def endpoints(self) -> dict[str, str]:
        """The server of each, by their names in their order."""
        return {each.name: each.base_url for each in self.settled.endpoints} if self.settled else {}

    @property
    def warnings(self) -> list[str]:
        """What works, but probably not as meant."""
        return [f"{each.key}: {each.message}" for each in self.settled.warnings] if self.settled else []


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is told at once.

    Attributes:
        event: `begun`, `taken`, `refused`, `silent` or `answered`.
        version: of the document that it is about, in the source's own words.
        reason: why that was refused, or why the source is silent.
        changes: what is in force now that was not before; of the first state, and of a refusal, none.
        sources, endpoints, error: of the first state.
        warnings: what works, but probably not as meant, and was not so before.
    """

    at: datetime
    function: str
    event: str
    source: str | None = None
    version: str | None = None
    reason: str | None = None
    changes: tuple[Change, ...] = ()
    sources: tuple[SourceState, ...] = ()
    endpoints: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same, fit for JSON."""
        return {**asdict(self), "at": self.at.isoformat(timespec="milliseconds")}


@dataclass(frozen=True, slots=True, kw_only=True)
class _News:
    """An event, and the state that it led to; None where that is as before."""

    at: datetime
    event: DocumentTaken | DocumentRefused | SourceSilent | SourceAnswered
    state: State | None


def watch_command(
    function: Annotated[Function | None, typer.Argument(help="Whose sources; else those of both.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file with settings.")] = None,
    env_file: Annotated[Path | None, typer.Option("--env-file", help="The .env file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each entry as JSON on a line of its own.")] = False,
) -> None:
    """Follow the sources of the endpoints: what is in force, each change, each refusal with its reason, until Ctrl-C.

    It takes and refuses documents as a program with these settings does. It calls no endpoint.
    """
    news: SimpleQueue[_News] = SimpleQueue()
    container = _container(config, env_file, news)
    console = Console()
    has_shown = False
    try:
        states = _begun(container, [function.value] if function else list(FUNCTIONS), news)
        explained = {each.function: each for each in container.explain().functions}
        for name, state in states.items():
            _show(console, _first(explained[name], state), as_json=as_json)
            has_shown = True
        while True:
            each = news.get()
            former = states[each.event.function]
            latest = states[each.event.function] = each.state or former
            _show(console, _entry(each, former, latest), as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(0 if has_shown else INTERRUPTED) from None
    finally:
        container.shutdown_resources()


def _container(config: Path | None, env_file: Path | None, news: SimpleQueue[_News]) -> LLMContainer:
    def hear(event: Event) -> None:
        match event:
            case DocumentTaken():  # in the thread that has just taken it: nothing has come between
                news.put(_News(at=_now(), event=event, state=state_of(container, event.function)))
            case DocumentRefused() | SourceSilent() | SourceAnswered():
                news.put(_News(at=_now(), event=event, state=None))

    container = LLMContainer(listener=hear) if config is None else LLMContainer.from_toml(config, listener=hear)
    container.env.read_dotenv(env_file)
    return container


def _begun(container: LLMContainer, functions: Sequence[str], news: SimpleQueue[_News]) -> dict[str, State]:
    """The first state of each function that has sources. Raises ConfigError where none has."""
    lanes: list[Any] = [container.providers[function] for function in functions]
    for lane in lanes:  # neither what the disk holds nor what a program would do without is what a source says
        lane.startup.override(Startup.STATIC.value)
    watched = {name: lane.watcher() for name, lane in zip(functions, lanes, strict=True)}
    watched = {name: watcher for name, watcher in watched.items() if watcher.has_sources}
    if not watched:
        own = " or ".join(f"{function.upper()}_SOURCE" for function in functions)
        remedy = f"Set LLMWIRE_SOURCE, or {own}, as in consul://127.0.0.1:8500/llmwire/prod."
        raise ConfigError(f"is not set for {' or '.join(functions)}", key="source", remedy=remedy)
    _start(list(watched.values()))
    known = news.qsize()
    states = {name: state_of(container, name) for name in watched}
    for _ in range(known):  # they led to the states that are shown now
        news.get()
    return states


def _start(watchers: Sequence[Any]) -> None:
    """All at once: a source that hangs holds nobody up for longer than it takes to give it up."""
    starting = [threading.Thread(target=watcher.start, daemon=True) for watcher in watchers]
    for thread in starting:
        thread.start()
    for thread in starting:
        thread.join()


def state_of(container: LLMContainer, function: str) -> State:
    """What is in force now."""
    lane: Any = container.providers[function]
    said = shown(function, [document.tree for document in lane.documents()])
    try:
        settled: FunctionSettings = lane.settings()
    except ConfigError as error:
        return State(shown=said, settled=None, error=str(error))
    if settled.has_default_server and not said:
        return State(shown=said, settled=None, error="no source names a server, and no setting does")
    # Also those that no source names: they come into force where none does any longer.
    servers = {_key(function, each.name): each.base_url for each in settled.endpoints}
    return State(shown={**said, **servers}, settled=settled, error=None)


def _key(function: str, endpoint: str) -> str:
    return function if endpoint == DEFAULT_NAME else endpoint_key(function, endpoint)


def _now() -> datetime:
    return datetime.now().astimezone()


def _first(explained: FunctionExplanation, state: State) -> Entry:
    return Entry(
        at=_now(),
        function=explained.function,
        event="begun",
        sources=explained.sources,
        endpoints=state.endpoints,
        warnings=tuple(state.warnings),
        error=state.error,
    )


def _entry(news: _News, former: State, state: State) -> Entry:
    event = news.event
    warnings = [warning for warning in state.warnings if warning not in former.warnings]
    if former.settled and state.settled and (remark := moved(former.settled, state.settled)):
        warnings.append(remark)
    return Entry(
        at=news.at,
        function=event.function,
        event=_KINDS[type(event)],
        source=event.source,
        version=event.version if isinstance(event, DocumentTaken | DocumentRefused) else None,
        reason=event.reason if isinstance(event, DocumentRefused | SourceSilent) else None,
        changes=difference(former.shown, state.shown),
        warnings=tuple(warnings),
    )


_KINDS: Final[Mapping[type, str]] = {
    DocumentTaken: "taken",
    DocumentRefused: "refused",
    SourceSilent: "silent",
    SourceAnswered: "answered",
}


# What is shown.


def _show(console: Console, entry: Entry, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(entry.as_dict()))
    elif console.is_terminal:
        console.print(view(entry))
    else:
        head, *lines = lines_of(entry)
        typer.echo("\n".join([f"{entry.at.isoformat(timespec='seconds')} {head}", *(f"  {line}" for line in lines)]))


def view(entry: Entry) -> Table:
    """For a terminal: whatever is too long goes on below itself, beside the time."""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    head, *lines = lines_of(entry)
    table.add_row(Text(f"{entry.at:%H:%M:%S}", style="dim"), head)
    for line in lines:
        table.add_row("", line)
    return table


def lines_of(entry: Entry) -> Iterator[Text]:
    """What happened, and what follows from it."""
    yield _plain(_headline(entry), _STYLES.get(entry.event, "bold"))
    for source in entry.sources:
        yield _plain(f"source {told(source)}", "bold red" if source.error else "")
    for name, server in entry.endpoints.items():
        yield _plain(f"{name}: {server}")
    if entry.reason is not None:
        yield _plain(entry.reason)
    for change in entry.changes:
        yield styled(change)
    if entry.event == "taken" and not entry.changes:
        yield _plain("nothing that may be shown is another now", "dim")
    for warning in entry.warnings:
        yield _plain(f"warning: {warning}", "yellow")
    if entry.error is not None:
        yield _plain(f"error: {entry.error}", "bold red")


def styled(change: Change) -> Text:
    """A change in its colour."""
    return _plain(str(change), CHANGE_STYLES[change.sign])


def _headline(entry: Entry) -> str:
    match entry.event:
        case "taken":
            said = f"{entry.source}, {entry.version}, is in force"
        case "refused":
            said = f"{entry.source}, {entry.version}, is refused; what was in force stays so"
        case "silent":
            said = f"{entry.source} is silent; what is in force stays so"
        case "answered":
            said = f"{entry.source} answers again"
        case _:
            said = f"{len(entry.endpoints)} endpoint{'' if len(entry.endpoints) == 1 else 's'}"
    return f"{entry.function}: {said}"


def _plain(text: str, style: str = "") -> Text:
    """Nothing of what a document says controls this terminal."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in text), style=style)
