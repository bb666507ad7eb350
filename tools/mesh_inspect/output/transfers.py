"""The table of loads: who gets what, how fast, and from whom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from mesh_inspect.output.table import STYLES, Column, Columns
from mesh_inspect.output.text import escape
from mesh_inspect.view.changes import happenings
from mesh_inspect.view.rows import HoldingRow
from mesh_inspect.view.transfers import Edge, Load, LoadState, Transfers
from mesh_inspect.view.words import counted, human_age, human_bytes, human_rate, short_layout
from mesh_inspect.watching import Sight


def done(row: HoldingRow) -> str:
    """How much of a load is there, in percent; empty where the member has not said."""
    return f"{100 * row.held // row.total}%" if row.total else ""


def size(row: HoldingRow) -> str:
    """Bytes of a load when all are there; empty where the member has not said."""
    return human_bytes(row.total) if row.total else ""


def rate(per_second: int | None) -> str:
    """`1.5GiB/s`; empty where it is unknown."""
    return "" if per_second is None else human_rate(per_second)


def left(load: Load) -> str:
    """How long until all bytes are there; empty where nothing tells."""
    return "" if load.left_s is None else human_age(load.left_s)


def suppliers(load: Load) -> str:
    """One word: the fastest source and how many more, `storage`, or the members waited for."""
    names = _names(load)
    return ",".join(names[:1] + [f"+{len(names) - 1}"] * (len(names) > 1))


def _names(load: Load) -> list[str]:
    if load.state is LoadState.READING:
        return ["storage", *(edge.name for edge in load.edges)]
    return [edge.name for edge in load.edges] or list(load.awaits)


def _every_supplier(load: Load) -> str:
    """All sources, each with its state, what it brought and how fast."""
    storage = ["storage"] * (load.state is LoadState.READING)
    return ",".join(storage + [_told(edge) for edge in load.edges])


def _told(edge: Edge) -> str:
    fast = f"@{human_rate(edge.rate)}" if edge.rate is not None else ""
    return f"{edge.name}({edge.condition})={human_bytes(edge.nbytes)}{fast}"


TRANSFERS: Final[Columns[Load]] = Columns(
    (
        Column("MODEL", lambda load: load.row.model or "", keep=4),
        Column("LAYOUT", lambda load: short_layout(load.row.place), keep=3),
        Column("REPLICA", lambda load: load.row.member.id, keep=9),
        Column("DONE", lambda load: done(load.row), right=True, keep=8),
        Column("SIZE", lambda load: size(load.row), right=True, keep=2),
        Column("RATE", lambda load: rate(load.rate), right=True, keep=7),
        Column("FROM", suppliers, keep=5),
        Column("LEFT", left, right=True, keep=6),
        Column("STATE", lambda load: load.state, keep=9),
        Column("GENERATION", lambda load: str(load.row.member.generation), right=True, wide=True),
        Column("ROLE", lambda load: load.row.role or "", wide=True),
        Column("AWAITS", lambda load: ",".join(load.awaits), wide=True),
        Column("SOURCES", _every_supplier, wide=True),
    ),
    style=lambda load: "dim" if load.row.gone else "",
    coloured="STATE",
    colour=lambda load: STYLES.get(load.state, ""),
)


def ended(before: tuple[Sight, Transfers], after: tuple[Sight, Transfers]) -> Iterator[str]:
    """What became of the members that loaded, and of who answers, a line each."""
    clock = time.strftime("%H:%M:%S", time.localtime(after[0].at))
    was, now = before[0].silence, after[0].silence
    if was != now:
        yield f"{clock}  {escape(f'nobody answers: {now}' if now else 'somebody answers again')}"
    members = {load.row.member.id for load in before[1].loads}
    for one in happenings(before[0].rows, after[0].rows, after[0].at):
        if one.id in members:
            yield f"{clock}  {escape(f'{one.id} {one.text}')}"


def summary(transfers: Transfers, mesh: str) -> str:
    """`mesh default: 3 loads, 1.2GiB/s`."""
    loads = sum(not load.row.gone for load in transfers.loads)
    return f"mesh {mesh}: {counted(loads, 'load')}, {human_rate(transfers.rate)}"
