"""From rows to text: a table for people, lines for a pipe, a document for programs.

Everything in a row came over the network. Tables escape each character that is not printable, and
never read text as rich markup. The JSON document is plain ASCII.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

import orjson
from rich.cells import cell_len, chop_cells

from mesh_inspect.rows import HoldingRow, RankPlace

API_VERSION: Final = "mesh-inspect/v1"

NOTHING: Final = "-"
"""Shown for unknown or empty values, so that every line of a table has the same columns."""

_GAP: Final = "  "

_NOT_ASCII: Final = re.compile(r"[^\n -~]")
_DELETE: Final = "\x7f"

UNLIMITED: Final = 1_000_000
"""Width at which nothing is folded or cut: adverts are far smaller."""

MIN_MODEL_WIDTH: Final = 24
"""Model names are never folded to less than this; a narrower terminal wraps the lines itself."""

_STYLES: Final = {
    "ready": "green",
    "loading": "yellow",
    "unavailable": "yellow",
    "stalled": "yellow",
    "suspect": "yellow",
    "accused": "red",
    "dead": "red",
    "left": "dim",
}
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


@dataclass(frozen=True, slots=True)
class _Column:
    """A heading, and a function that makes its cells."""

    title: str
    cell: Callable[[HoldingRow], str]
    right: bool = False


def _endpoint(row: HoldingRow) -> str:
    return "" if row.holding is None else row.holding.endpoint


def _backend(row: HoldingRow) -> str:
    return "" if row.holding is None else ",".join(row.holding.offered)


def _role(row: HoldingRow) -> str:
    return "" if row.holding is None else row.holding.role


def _origin(row: HoldingRow) -> str:
    if row.holding is None:
        return ""
    if row.holding.storage == "reading":
        return "reading storage"
    return ":".join(filter(None, (row.holding.origin, ",".join(row.holding.carried))))


def _identity(row: HoldingRow) -> str:
    return "" if row.holding is None else row.holding.identity


def _reason(row: HoldingRow) -> str:
    if row.holding is None:
        return ""
    if row.condition == "accused":
        return f"sent wrong bytes to {_count(row.accusers, 'member')}"
    return row.holding.reason


def _nbytes(row: HoldingRow) -> str:
    if row.holding is None:
        return ""
    if row.total:
        return f"{100 * row.held // row.total}% of {human_bytes(row.total)}"
    return human_bytes(row.nbytes)


def _sessions(row: HoldingRow) -> str:
    if row.holding is None:
        return ""
    counts = {"serving": row.serving, "pulling": row.pulling}
    return ",".join(f"{what}:{count}" for what, count in counts.items() if count) or "0"


_NARROW: Final = (
    _Column("MODEL", lambda row: row.model or ""),
    _Column("ROLE", _role),
    _Column("LAYOUT", lambda row: short_layout(row.place)),
    _Column("STATUS", lambda row: row.condition),
    _Column("HOST", lambda row: row.member.host),
    _Column("ENDPOINT", _endpoint),
    _Column("BACKEND", _backend),
    _Column("BYTES", _nbytes, right=True),
    _Column("SESSIONS", _sessions),
    _Column("AGE", lambda row: human_age(row.member.age_s), right=True),
)
_WIDE: Final = (
    *_NARROW,
    _Column("MEMBER", lambda row: row.member.id),
    _Column("GENERATION", lambda row: str(row.member.generation), right=True),
    _Column("WEIGHTS", lambda row: row.weights_layout or ""),
    _Column("ORIGIN", _origin),
    _Column("GIVEN", lambda row: row.given or ""),
    _Column("CONTENT", lambda row: row.content_id or ""),
    _Column("IDENTITY", _identity),
    _Column("REASON", _reason),
)


def write_table(
    rows: Sequence[HoldingRow],
    out: TextIO,
    *,
    mesh: str,
    wide: bool = False,
    terminal: bool = False,
) -> None:
    """Write the rows as aligned columns.

    On a terminal, the table has colours, folds model names to fit, and ends with a summary.
    Elsewhere each row is one line, and nothing is cut. Wide tables are never folded, because people
    copy from them.
    """
    grid = _Grid(_WIDE if wide else _NARROW, rows)
    if terminal and _write_to_screen(grid, out, rows, mesh=mesh, wide=wide):
        return
    out.writelines(f"{line.text.rstrip()}\n" for line in grid.lines())


def _write_to_screen(
    grid: _Grid, out: TextIO, rows: Sequence[HoldingRow], *, mesh: str, wide: bool
) -> bool:
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
        soft_wrap=False,
        highlight=False,
        emoji=False,
        markup=False,
    )
    for line in grid.lines(None if wide else screen.width):
        text = Text(line.text.rstrip(), style=line.style)
        for start, end, style in line.spans:
            text.stylize(style, start, end)
        console.print(text)
    members = len({(row.member.id, row.member.generation) for row in rows})
    ready = sum(row.ready for row in rows)
    console.print(Text(f"mesh {mesh}: {_count(members, 'member')}, {ready} ready", "dim"))
    return True


def to_json(rows: Sequence[HoldingRow], *, mesh: str) -> str:
    """The document of `-o json`. Unknown values are null; keys are never missing."""
    document = {
        "apiVersion": API_VERSION,
        "mesh": mesh,
        "members": [_entry(row) for row in rows],
    }
    return ascii_json(document)


def ascii_json(document: object) -> str:
    """JSON of a document for programs. ASCII only: a terminal obeys characters that JSON would let
    through."""
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    if text.isascii() and _DELETE not in text:
        return text  # orjson has escaped all other characters that a terminal obeys.
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def escape(text: str) -> str:
    """The text with every character that a terminal might obey or hide written as an escape."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


_NOWHERE: Final = RankPlace()


def short_layout(place: RankPlace) -> str:
    """`tp0/2,pp1/4`: rank and size in each dimension that is split; tensor parallel always."""
    parts = [f"tp{_known(place.tp_rank)}/{_known(place.tp_size)}"]
    if place.pp_size != 1:
        parts.append(f"pp{_known(place.pp_rank)}/{_known(place.pp_size)}")
    if place.ep_size != 1:
        parts.append(f"ep{_known(place.ep_rank)}/{_known(place.ep_size)}")
    return "" if place == _NOWHERE else ",".join(parts)


def human_bytes(count: int) -> str:
    """`1.5GiB`, without a space, so that a cell stays one word."""
    unit = min(max(0, count.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{count}B" if unit == 0 else f"{count / 1024**unit:.1f}{_UNITS[unit]}"


def human_age(seconds: float) -> str:
    """The two largest units: `42s`, `3m05s`, `2h07m`, `4d03h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


@dataclass(frozen=True, slots=True)
class _TableLine:
    """One line of a table, as it is written."""

    text: str
    style: str = ""
    spans: tuple[tuple[int, int, str], ...] = ()
    """Parts with a style of their own: first character, the one behind the last, style."""


class _Grid:
    """Cells in aligned columns. rich's own tables take seconds for thousands of rows."""

    def __init__(self, columns: Sequence[_Column], rows: Sequence[HoldingRow]) -> None:
        self._columns = columns
        self._rows = rows
        # Text, not markup: nothing in a cell is obeyed.
        self._cells = [[escape(column.cell(row)) or NOTHING for column in columns] for row in rows]
        self._widths = [
            max(_width(text) for text in (column.title, *(row[n] for row in self._cells)))
            for n, column in enumerate(columns)
        ]

    def lines(self, screen: int | None = None) -> Iterator[_TableLine]:
        """`screen`: columns of the screen that model names are folded for."""
        widths = list(self._widths)
        excess = 0 if screen is None else sum(widths) + len(_GAP) * (len(widths) - 1) - screen
        if excess > 0:
            widths[0] = min(widths[0], max(MIN_MODEL_WIDTH, widths[0] - excess))
        yield _TableLine(self._joined([column.title for column in self._columns], widths), "bold")
        status = next(n for n, column in enumerate(self._columns) if column.title == "STATUS")
        start = sum(widths[:status]) + len(_GAP) * status
        for row, cells in zip(self._rows, self._cells, strict=True):
            model, *more = chop_cells(cells[0], widths[0]) if excess > 0 else cells[:1]
            style = "dim" if row.gone else ""
            text = self._joined([model, *cells[1:]], widths)
            # Where a name has wide characters, its cells are more than its characters.
            first = start - (_width(model) - len(model))
            spans = ((first, first + len(cells[status]), _STYLES.get(row.condition, "")),)
            yield _TableLine(text, style, spans)
            for part in more:
                yield _TableLine(part, style)

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


def _width(cell: str) -> int:
    """Columns of the screen that printable text takes."""
    return len(cell) if cell.isascii() else cell_len(cell)


def _entry(row: HoldingRow) -> dict[str, object]:
    member, holding = row.member, row.holding
    return {
        "id": member.id,
        "generation": member.generation,
        "status": row.status,
        "ready": row.ready,
        "model": row.model,
        "given": row.given,
        "content": row.content_id,
        "identity": None if holding is None else holding.identity,
        "role": None if holding is None else holding.role,
        "layout": row.place,
        "backend": None if holding is None else holding.backend or None,
        "transports": None if holding is None else list(holding.offered),
        "host": member.host,
        "endpoint": _endpoint(row) or None,
        "bytes": row.nbytes,
        "held_bytes": row.held,
        "total_bytes": row.total,
        "reads_storage": holding is not None and holding.storage == "reading",
        "sessions": {"serving": row.serving, "pulling": row.pulling},
        "age_s": round(member.age_s, 3),
        "state": None if holding is None else holding.state,
        "reason": _reason(row) or None,
        "accused_by": row.accusers,
        "origin": None if holding is None else holding.origin or None,
        "carried_by": None if holding is None else list(holding.carried),
        "weights_layout": row.weights_layout,
    }


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
