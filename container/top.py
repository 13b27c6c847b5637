"""`llmwire top`: what the endpoints of running programs do. Knows terminals and options; the figures are theirs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from llmwire.services.errors import ConfigError
from llmwire.services.monitoring.report import Report
from llmwire.services.routing.spending import BudgetState
from llmwire.services.source import SourceState

from .remote import Source
from .rows import EndpointRow, FunctionRows, rows_of

FAILED: Final = 1  #: the exit code where a process told nothing
INTERRUPTED: Final = 130
PIPE_COLUMNS: Final = 160  #: of a table that goes into a pipe, which has no width of its own
NAME_COLUMNS: Final = 32  #: a name that is longer goes on in the next line
NEARLY_SPENT: Final = 0.8  #: of a budget: somebody should know
_GOOD, _CARE, _BAD = "green", "yellow", "bold red"
_STYLES: Final = {"ok": _GOOD, "open": _BAD, "disabled": _BAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one process told in this round: its report, or why there is none."""

    source: Source
    report: Report | None = None
    error: ConfigError | None = None


def top_command(
    urls: Annotated[
        list[str], typer.Argument(metavar="URL...", help="Where each process serves container.report().as_dict().")
    ],
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two rounds.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and end, as is done in a pipe.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows once as JSON, for other programs.")] = False,
) -> None:
    """Watch running programs: the health of each endpoint, its calls, times, tokens and cost, until Ctrl-C.

    Each URL is one process; all of them together are shown. One that goes away is told of, and its figures are left
    out until it is back. A single round exits with 1 where a process told nothing, and with 2 where none did.
    """
    sources = list({source.url: source for source in map(Source.parse, urls)}.values())
    console = Console()
    is_live = console.is_terminal and not once and not as_json
    gone = Absences()
    try:
        with Live(console=console, auto_refresh=False) if is_live else nullcontext() as live:
            seen = _round(sources)
            _check_any(seen)
            while live is not None:
                live.update(view(seen, gone.told(seen), width=console.width), refresh=True)
                time.sleep(every_s)
                seen = _round(sources)
    except KeyboardInterrupt:
        raise typer.Exit(0 if gone.rounds else INTERRUPTED) from None
    problems = [str(each.error) for each in seen if each.error is not None]
    if as_json:
        typer.echo(json.dumps(_as_dict(seen), indent=2))
    else:
        printing = console if console.is_terminal else Console(width=PIPE_COLUMNS)
        printing.print(view(seen, problems, width=printing.width))
    raise typer.Exit(FAILED if problems else 0)


def _round(sources: Sequence[Source]) -> list[Seen]:
    """Ask all at once: one that hangs holds nobody up for longer than it takes to give it up."""
    seen: dict[str, Seen] = {}

    def ask(source: Source) -> None:
        try:
            seen[source.url] = Seen(source=source, report=source.fetch())
        except ConfigError as error:
            seen[source.url] = Seen(source=source, error=error)

    asking = [threading.Thread(target=ask, args=(source,), daemon=True) for source in sources]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return [seen[source.url] for source in sources]


def _check_any(seen: Sequence[Seen]) -> None:
    """Raise what is wrong where nobody told anything: then a URL is wrong, rather than a process away for a while."""
    errors = [each.error for each in seen if each.error is not None]
    if len(errors) == len(seen):
        for error in errors[1:]:
            typer.echo(f"llmwire: {error}", err=True)
        raise errors[0]


def _merged(seen: Sequence[Seen]) -> tuple[FunctionRows, ...]:
    return rows_of(Report.merged(each.report for each in seen if each.report is not None))


def _as_dict(seen: Sequence[Seen]) -> dict[str, Any]:
    return {
        "functions": [asdict(function) for function in _merged(seen)],
        "problems": {each.source.url: str(each.error) for each in seen if each.error is not None},
    }


class Absences:
    """Since when each process is away."""

    def __init__(self) -> None:
        self.rounds = 0
        self._since: dict[str, datetime] = {}

    def told(self, seen: Sequence[Seen]) -> list[str]:
        """A sentence for each that is away in this round."""
        self.rounds += 1
        now = datetime.now().astimezone()
        away = [each for each in seen if each.error is not None]
        self._since = {each.source.url: self._since.get(each.source.url, now) for each in away}
        return [f"away since {self._since[each.source.url]:%H:%M:%S}: {each.error}" for each in away]


# What is shown.


def view(seen: Sequence[Seen], problems: Sequence[str], *, width: int) -> Group:
    """A table for each function, as wide as there is room; columns that matter less are left out before any is cut."""
    functions = _merged(seen)
    told = sum(each.report is not None for each in seen)
    processes = f"{told} of {len(seen)} processes" if len(seen) > 1 else seen[0].source.url
    shown: list[Any] = [Text(f"{datetime.now().astimezone():%H:%M:%S}  {_plain(processes)}", style="dim")]
    columns = _fitting(functions, width)
    for function in functions:
        below = (*map(_budget, function.budgets), *map(_source, function.sources))
        shown += ["", _headline(function), _table(function, columns), *below]
    if functions:
        shown += ["", Text("Of the last minute; cost and budgets since they began.", style="dim")]
    elif told:
        shown += ["", Text("No endpoint has been asked yet.")]
    shown += [Text(_plain(problem), style=_BAD) for problem in problems]
    return Group(*shown)


def _headline(function: FunctionRows) -> Text:
    failed = f", {function.failed_calls} failed" if function.failed_calls else ""
    calls = "1 call" if function.calls == 1 else f"{function.calls:,} calls"
    return Text.assemble((_plain(function.function), "bold"), f"  {calls}{failed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """Of all tables. `rank`: the higher, the earlier it is left out where there is no room; 0: never."""

    title: str
    cell: Callable[[EndpointRow], Text]
    rank: int
    is_number: bool = True
    width: int = 0


def _table(function: FunctionRows, columns: Sequence[_Column]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        justify: Any = "right" if column.is_number else "left"
        table.add_column(column.title, justify=justify, overflow="fold", min_width=column.width, max_width=NAME_COLUMNS)
    for row in function.endpoints:
        table.add_row(*(column.cell(row) for column in columns))
    return table


def _fitting(functions: Sequence[FunctionRows], width: int) -> list[_Column]:
    """The columns that there is room for, each as wide in all tables as it must be in one."""
    rows = [row for function in functions for row in function.endpoints]
    columns = [
        _Column(
            title=each.title,
            cell=each.cell,
            rank=each.rank,
            is_number=each.is_number,
            width=min(max([len(each.title), *(each.cell(row).cell_len for row in rows)]), NAME_COLUMNS),
        )
        for each in _COLUMNS
    ]
    while functions and _width(functions[0], columns) > width:
        least = max(columns, key=lambda column: column.rank)
        if least.rank == 0:
            return [_Column(title=c.title, cell=c.cell, rank=0, is_number=c.is_number) for c in columns]
        columns.remove(least)
    return columns


def _width(function: FunctionRows, columns: Sequence[_Column]) -> int:
    console = Console(width=10_000)
    return Measurement.get(console, console.options, _table(function, columns)).maximum


def _health(row: EndpointRow) -> Text:
    style = _STYLES.get(row.health, _CARE)
    rest = f" {row.rest_s:.0f} s" if row.rest_s >= 1 else ""
    return Text(f"{_plain(row.health)}{rest}", style=_CARE if style is _GOOD and row.failed else style)


def _failed(row: EndpointRow) -> Text:
    return Text(f"{row.failed:,}", style=_BAD if row.failed else "")


def _cost(row: EndpointRow) -> Text:
    """What nobody knows is not 0: a sum that lacks some answers has a `+`."""
    if not row.answers:
        return Text("")
    if row.cost is None:
        return Text("unknown", style="dim")
    return Text(_money(row.cost) + ("+" if row.unpriced else ""))


def _budget(state: BudgetState) -> Text:
    of = f" of {state.endpoint}" if state.endpoint else f" of tag {state.tag}" if state.tag else ""
    share = state.spent / state.limit if state.limit else 1.0
    style = _BAD if share >= 1 else _CARE if share >= NEARLY_SPENT else ""
    spent = f"{state.spent:,.0f}" if "tokens" in state.budget else _money(state.spent)
    verdict = "used up" if share >= 1 else f"{share:.0%}"
    return Text(_plain(f"budget {state.budget}{of}: {spent} spent, {verdict}, {_span(state.ends_in_s)} left"), style)


def _source(state: SourceState) -> Text:
    if state.taken_s is None:
        said, style = "nothing of it is in force yet", _BAD
    else:
        place = ", from the disk" if state.is_cached else ""
        said, style = f"{state.version}{place}, in force for {_span(state.taken_s)}", _CARE
    error = f"; {state.error}" if state.error else ""
    return Text(_plain(f"source {state.source}: {said}{error}"), style if error else "")


def _text(value: str) -> Text:
    return Text(_plain(value))


def _plain(value: str) -> str:
    """Nothing of what another process says controls this terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def _time(seconds: float | None) -> Text:
    if seconds is None:
        return Text("")
    if seconds < 0.00995:
        return Text(f"{seconds * 1000:.1f} ms")
    return Text(f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s")


def _tokens(count: int | None) -> Text:
    if count is None:
        return Text("unknown", style="dim")
    return Text(f"{count:,}" if count < 100_000 else f"{count / 1000:,.0f}k")


def _money(amount: float) -> str:
    if 0 < amount < 0.0001:
        return "<0.0001"
    return "0" if not amount else f"{amount:,.4f}" if amount < 100 else f"{amount:,.2f}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


_COLUMNS: Final = (
    _Column(title="endpoint", cell=lambda row: _text(row.endpoint), rank=0, is_number=False),
    _Column(title="server", cell=lambda row: _text(row.server), rank=8, is_number=False),
    _Column(title="health", cell=_health, rank=0, is_number=False),
    _Column(title="breaker", cell=lambda row: _text(row.breaker), rank=7, is_number=False),
    _Column(title="in flight", cell=lambda row: Text(f"{row.in_flight:,}"), rank=2),
    _Column(title="calls", cell=lambda row: Text(f"{row.calls:,}"), rank=0),
    _Column(title="failed", cell=_failed, rank=0),
    _Column(title="p50", cell=lambda row: _time(row.p50_s), rank=1),
    _Column(title="p95", cell=lambda row: _time(row.p95_s), rank=1),
    _Column(title="first", cell=lambda row: _time(row.first_content_s), rank=5),
    _Column(title="tokens in", cell=lambda row: _tokens(row.input_tokens), rank=6),
    _Column(title="tokens out", cell=lambda row: _tokens(row.output_tokens), rank=6),
    _Column(title="cost", cell=_cost, rank=3),
    _Column(title="last error", cell=lambda row: _text(row.last_error), rank=4, is_number=False),
)
