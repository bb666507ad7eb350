"""Tables: columns for people, aligned; one line a row for a pipe.

What stands in a cell came over the network. Each character that is not printable is escaped, and
text is never read as markup.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TextIO, TypeVar

from rich.cells import cell_len, chop_cells

from mesh_inspect.output.text import escape
from mesh_inspect.view.words import counted

NOTHING: Final = "-"
"""Shown for unknown or empty values, so that every line of a table has the same columns."""

UNLIMITED: Final = 1_000_000
"""Width at which nothing is folded or cut: adverts are far smaller."""

MIN_FOLDED_WIDTH: Final = 24
"""The first column is never folded to less than this; a narrower terminal wraps the lines."""

STYLES: Final[Mapping[str, str]] = {
    "ready": "green",
    "loading": "yellow",
    "pulling": "green",
    "finishing": "green",
    "reading": "yellow",
    "waiting": "yellow",
    "idle": "red",
    "unavailable": "yellow",
    "stalled": "yellow",
    "suspect": "yellow",
    "accused": "red",
    "dead": "red",
    "left": "dim",
}
"""rich's style for each word that says how a member or its weights are."""

_GAP: Final = "  "

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """A heading, and a function that makes its cells."""

    title: str
    cell: Callable[[T], str]
    right: bool = False
    wide: bool = False
    """Whether only `-o wide` shows it."""
    keep: int = 0
    """Where a terminal is too narrow, columns with a lower number are left out first. Those with
    the highest number of a table always stay."""


@dataclass(frozen=True)
class Columns(Generic[T]):
    """How rows of one kind are shown. The first column is folded where a terminal is narrow."""

    columns: Sequence[Column[T]]
    style: Callable[[T], str] = lambda row: ""
    """rich's style for a whole row."""
    coloured: str = "STATUS"
    """Title of the column that `colour` is for."""
    colour: Callable[[T], str] = lambda row: ""


@dataclass(frozen=True, slots=True)
class Showing:
    """How a table is written."""

    wide: bool = False
    headers: bool = True
    terminal: bool = False
    """Whether to a terminal: with colours, and folded to its width. Elsewhere each row is one line,
    and nothing is cut. Wide tables are never folded, because people copy from them."""


def write_table(
    table: Columns[T], rows: Sequence[T], out: TextIO, showing: Showing, summary: str = ""
) -> None:
    """Write the rows, and for a terminal a last line with the summary."""
    grid = _Grid(table, rows, showing)
    if showing.terminal and _write_to_screen(grid, out, showing, summary):
        return
    out.writelines(f"{line.text.rstrip()}\n" for line in grid.lines())


def plain(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user wants no colours: `NO_COLOR` (no-color.org), or `CLICOLOR=0`."""
    return bool(environ.get("NO_COLOR")) or environ.get("CLICOLOR") == "0"


def _write_to_screen(grid: _Grid[T], out: TextIO, showing: Showing, summary: str) -> bool:
    """Whether this terminal can show colours, and was shown the table."""
    # Only people need this part of rich, and its import takes longer than to write the table.
    from rich.console import Console
    from rich.text import Text

    screen = Console(file=out, force_terminal=True)
    if screen.is_dumb_terminal:
        return False
    console = Console(
        file=out,
        width=UNLIMITED,
        force_terminal=True,
        no_color=plain(),
        soft_wrap=False,
        highlight=False,
        emoji=False,
        markup=False,
    )
    left_out = grid.fit(screen.width) if not showing.wide else 0
    for line in grid.lines(None if showing.wide else screen.width):
        text = Text(line.text.rstrip(), style=line.style)
        for start, end, style in line.spans:
            text.stylize(style, start, end)
        console.print(text)
    if left_out:
        summary += f"; {counted(left_out, 'column')} left out, -o wide has all"
    if summary:
        console.print(Text(summary, "dim"))
    return True


@dataclass(frozen=True, slots=True)
class _TableLine:
    """One line of a table, as it is written."""

    text: str
    style: str = ""
    spans: tuple[tuple[int, int, str], ...] = ()
    """Parts with a style of their own: first character, the one behind the last, style."""


class _Grid(Generic[T]):
    """Cells in aligned columns. rich's own tables take seconds for thousands of rows."""

    def __init__(self, table: Columns[T], rows: Sequence[T], showing: Showing) -> None:
        self._table = table
        self._columns = [column for column in table.columns if showing.wide or not column.wide]
        self._rows = rows
        self._headers = showing.headers
        # Text, not markup: nothing in a cell is obeyed.
        self._cells = [
            [escape(column.cell(row)) or NOTHING for column in self._columns] for row in rows
        ]
        self._widths = [
            max(
                _width(text)
                for text in (
                    column.title if showing.headers else "",
                    *(row[number] for row in self._cells),
                )
            )
            for number, column in enumerate(self._columns)
        ]

    def fit(self, screen: int) -> int:
        """Leave out columns until the rest fits a screen; returns how many."""
        left_out = 0
        dearest = max(column.keep for column in self._columns)
        while self._least() > screen:
            keep, number = min((c.keep, -n) for n, c in enumerate(self._columns))
            if keep == dearest:
                break
            self._leave_out(-number)
            left_out += 1
        return left_out

    def lines(self, screen: int | None = None) -> Iterator[_TableLine]:
        """`screen`: columns of the screen that the first column is folded for."""
        widths = list(self._widths)
        excess = 0 if screen is None else _across(widths) - screen
        if excess > 0:
            widths[0] = min(widths[0], max(MIN_FOLDED_WIDTH, widths[0] - excess))
        if self._headers:
            titles = [column.title for column in self._columns]
            yield _TableLine(self._joined(titles, widths), "bold")
        coloured = [n for n, c in enumerate(self._columns) if c.title == self._table.coloured]
        for row, cells in zip(self._rows, self._cells, strict=True):
            first, *more = chop_cells(cells[0], widths[0]) if excess > 0 else cells[:1]
            style = self._table.style(row)
            shown = [first, *cells[1:]]
            spans = tuple(
                (start, start + len(shown[n]), self._table.colour(row))
                for n in coloured
                for start in [self._start(shown, widths, n)]
            )
            yield _TableLine(self._joined(shown, widths), style, spans)
            for part in more:
                yield _TableLine(part, style)

    def _least(self) -> int:
        first, *rest = self._widths
        return _across([min(first, MIN_FOLDED_WIDTH), *rest])

    def _leave_out(self, number: int) -> None:
        del self._columns[number], self._widths[number]
        for cells in self._cells:
            del cells[number]

    def _start(self, cells: Sequence[str], widths: Sequence[int], number: int) -> int:
        """The character at which a cell begins."""
        # Where a cell before has wide characters, it has fewer characters than columns.
        narrower = sum(_width(cell) - len(cell) for cell in cells[:number])
        start = sum(widths[:number]) + len(_GAP) * number - narrower
        if self._columns[number].right:
            start += widths[number] - _width(cells[number])
        return start

    def _joined(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        # `rjust` and `ljust` count characters, of which wide ones take two columns.
        return _GAP.join(
            [
                cell.rjust(width - _width(cell) + len(cell))
                if column.right
                else cell.ljust(width - _width(cell) + len(cell))
                for column, cell, width in zip(self._columns, cells, widths, strict=True)
            ]
        )


def _across(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _width(cell: str) -> int:
    """Cells of the screen that printable text takes."""
    return len(cell) if cell.isascii() else cell_len(cell)
