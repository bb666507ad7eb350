"""The table of members and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mesh_inspect.output.table import STYLES, Column, Columns
from mesh_inspect.view.rows import HoldingRow
from mesh_inspect.view.words import counted, human_age, human_bytes, short_layout


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


def _origin(row: HoldingRow) -> str:
    if row.holding is None:
        return ""
    if row.reads_storage:
        return "reading storage"
    return ":".join(filter(None, (row.holding.origin, ",".join(row.holding.carried))))


MEMBERS: Final = Columns[HoldingRow](
    (
        Column("MODEL", lambda row: row.model or "", keep=9),
        Column("ROLE", lambda row: row.role or "", keep=4),
        Column("LAYOUT", lambda row: short_layout(row.place), keep=6),
        Column("STATUS", lambda row: row.condition, keep=9),
        Column("HOST", lambda row: row.member.host, keep=7),
        Column("ENDPOINT", lambda row: row.endpoint or "", keep=1),
        Column(
            "BACKEND",
            lambda row: "" if row.holding is None else ",".join(row.holding.offered),
            keep=0,
        ),
        Column("BYTES", _nbytes, right=True, keep=5),
        Column("SESSIONS", _sessions, keep=3),
        Column("AGE", lambda row: human_age(row.member.age_s), right=True, keep=2),
        Column("MEMBER", lambda row: row.member.id, wide=True),
        Column("GENERATION", lambda row: str(row.member.generation), right=True, wide=True),
        Column("WEIGHTS", lambda row: row.weights_layout or "", wide=True),
        Column("ORIGIN", _origin, wide=True),
        Column("GIVEN", lambda row: row.given or "", wide=True),
        Column("CONTENT", lambda row: row.content_id or "", wide=True),
        Column(
            "IDENTITY",
            lambda row: "" if row.holding is None else row.holding.identity,
            wide=True,
        ),
        Column("REASON", lambda row: row.reason, wide=True),
    ),
    style=lambda row: "dim" if row.gone else "",
    colour=lambda row: STYLES.get(row.condition, ""),
)


def summary(rows: Sequence[HoldingRow], mesh: str) -> str:
    """`mesh default: 3 members, 2 ready`."""
    members = len({(row.member.id, row.member.generation) for row in rows})
    ready = sum(row.ready for row in rows)
    return f"mesh {mesh}: {counted(members, 'member')}, {ready} ready"
