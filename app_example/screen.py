"""What a person reads: rich on a terminal, plain lines in a pipe. Knows looks; knows nothing of meaning.

Results go to standard output; notices, progress and errors to standard error.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class Screen:
    """Standard output and standard error. Nothing that is shown is read as markup."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, emoji=False)
        self._err = Console(highlight=False, markup=False, emoji=False, stderr=True)

    def line(self, text: str = "", *, indent: int = 0, style: str = "") -> None:
        """A line of the result; a terminal wraps it behind its indent."""
        if self._out.is_terminal:
            content = Text(text, style=style)
            self._out.print(Padding(content, (0, 0, 0, indent), expand=False) if indent else content)
        else:
            self._out.print(Text(" " * indent + text), soft_wrap=True)

    def piece(self, text: str) -> None:
        """A piece of a line, shown at once."""
        self._out.print(Text(text), end="", soft_wrap=True)
        self._out.file.flush()

    def notice(self, text: str) -> None:
        """Something to know that is no part of the result."""
        self._err.print(Text(text, style="yellow"), soft_wrap=not self._err.is_terminal)

    def error(self, text: str) -> None:
        """What went wrong and what to do."""
        line = Text.assemble(("error: ", "bold red"), text)
        self._err.print(line, soft_wrap=not self._err.is_terminal)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Rows below a title; in a pipe, lines of cells with two blanks between the columns."""
        if self._out.is_terminal:
            self._out.print(_rich_table(title, columns, rows))
            return
        self.line(f"{title}:")
        widths = [max(len(row[place]) for row in (columns, *rows)) for place in range(len(columns))]
        for row in (columns, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self.line(f"  {'  '.join(cells).rstrip()}")

    @contextmanager
    def progress(self, doing: str, total: int) -> Iterator[Callable[[int], None]]:
        """Gives a function to call with how much is done: a bar on a terminal, a line for each call in a pipe."""
        if not self._err.is_terminal:
            yield lambda done: self._err.print(f"{doing}: {done} of {total}", soft_wrap=True)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._err) as bars:
            task = bars.add_task(doing, total=total)
            yield lambda done: bars.update(task, completed=done)


def _rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
