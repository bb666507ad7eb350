"""From rows to text: a table for people, lines for a pipe, a document for programs.

Everything in a row came over the network. Tables escape each character that is not printable, and
never read text as rich markup. The JSON document is plain ASCII.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mesh_inspect.rows import HoldingRow, RankPlace

API_VERSION: Final = "mesh-inspect/v1"

NOTHING: Final = "-"
"""Shown for unknown or empty values, so that every line of a table has the same columns."""

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
    return "" if row.holding is None else human_bytes(row.nbytes)


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
    columns = _WIDE if wide else _NARROW
    screen = Console(file=out, force_terminal=terminal)
    if not terminal or screen.is_dumb_terminal:  # rich would cut lines at 80 for the latter
        buffer = io.StringIO()
        _console(buffer, terminal=False).print(_table(rows, columns))
        out.writelines(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())
        return
    console = _console(out, terminal=True)
    table = _table(rows, columns)
    excess = console.measure(table).maximum - screen.width
    if excess > 0 and not wide:
        longest = max((Text(escape(row.model or "")).cell_len for row in rows), default=0)
        table.columns[0].max_width = max(MIN_MODEL_WIDTH, longest - excess)
    console.print(table)
    members = len({(row.member.id, row.member.generation) for row in rows})
    ready = sum(row.ready for row in rows)
    console.print(Text(f"mesh {mesh}: {_count(members, 'member')}, {ready} ready", "dim"))


def to_json(rows: Sequence[HoldingRow], *, mesh: str) -> str:
    """The document of `-o json`. Unknown values are null; keys are never missing."""
    document = {
        "apiVersion": API_VERSION,
        "mesh": mesh,
        "members": [_entry(row) for row in rows],
    }
    # ASCII only: a terminal obeys characters that JSON would let through.
    return json.dumps(document, indent=2, ensure_ascii=True)


def escape(text: str) -> str:
    """The text with every character that a terminal might obey or hide written as an escape."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def short_layout(place: RankPlace) -> str:
    """`tp0/2,pp1/4`: rank and size in each dimension that is split; tensor parallel always."""
    parts = [f"tp{_known(place.tp_rank)}/{_known(place.tp_size)}"]
    if place.pp_size != 1:
        parts.append(f"pp{_known(place.pp_rank)}/{_known(place.pp_size)}")
    if place.ep_size != 1:
        parts.append(f"ep{_known(place.ep_rank)}/{_known(place.ep_size)}")
    return "" if place == RankPlace() else ",".join(parts)


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


def _console(out: TextIO, *, terminal: bool) -> Console:
    return Console(
        file=out,
        width=UNLIMITED,
        force_terminal=terminal,
        soft_wrap=False,
        highlight=False,
        emoji=False,
        markup=False,
    )


def _table(rows: Sequence[HoldingRow], columns: Sequence[_Column]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.title != "MODEL",
        )
    for row in rows:
        # Text objects, not strings, because rich never looks for markup in them.
        cells = [Text(escape(column.cell(row)) or NOTHING) for column in columns]
        for column, cell in zip(columns, cells, strict=True):
            if column.title == "STATUS":
                cell.stylize(_STYLES.get(row.condition, ""))
        table.add_row(*cells, style="dim" if row.gone else None)
    return table


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
        "layout": asdict(row.place),
        "backend": None if holding is None else holding.backend or None,
        "transports": None if holding is None else list(holding.offered),
        "host": member.host,
        "endpoint": _endpoint(row) or None,
        "bytes": row.nbytes,
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
