"""The tables of groups (`list --by`) and of what can be served (`models`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from mesh_inspect.output.table import STYLES, Column, Columns
from mesh_inspect.view.groups import By, RowGroup
from mesh_inspect.view.models import Coverage
from mesh_inspect.view.words import human_age, human_bytes, short_layout

MANY: Final = 3
"""Names in a cell; of more, the rest is counted."""


def some(names: Sequence[str], count: int | None = None) -> str:
    """`a,b,c and 4 more`."""
    count = len(names) if count is None else count
    more = f" and {count - MANY} more" if count > MANY else ""
    return ",".join(names[:MANY]) + more


def _ranks(group: RowGroup) -> str:
    """`tp 4/4`, `dp2,tp2 3/4`; and `x2` for two replicas that nothing tells apart, `x1..2` where
    one of them has all ranks and another has some."""
    replica_set = group.replica_set
    if replica_set is None:
        return ""
    split = replica_set.make.split
    shown = split.rstrip("0123456789") if "," not in split else split
    least, most = replica_set.complete, replica_set.replicas
    times = "" if most == 1 else f" x{most}" if least == most else f" x{least}..{most}"
    return f"{shown} {replica_set.present}/{replica_set.make.ranks}{times}"


def _nbytes(group: RowGroup) -> str:
    total = group.total(lambda row: row.total)
    held, nbytes = group.total(lambda row: row.held), group.total(lambda row: row.nbytes)
    if total:
        loading = f"{100 * held // total}% of {human_bytes(total)}"
        return f"{human_bytes(nbytes)}+{loading}" if nbytes else loading
    return human_bytes(nbytes)


def _sessions(group: RowGroup) -> str:
    counts = {
        "serving": group.total(lambda row: row.serving),
        "pulling": group.total(lambda row: row.pulling),
    }
    return ",".join(f"{what}:{count}" for what, count in counts.items() if count) or "0"


def _missing(group: RowGroup | Coverage) -> str:
    names, count = group.missing
    return some(names, count)


_MODEL: Final = Column[RowGroup]("MODEL", lambda one: one.model or some(one.models), keep=9)
_ROLE: Final = Column[RowGroup]("ROLE", lambda one: one.role or "", keep=3)
_STATUS: Final = Column[RowGroup]("STATUS", lambda one: one.condition, keep=9)
_HOSTS: Final = Column[RowGroup]("HOST", lambda one: some(one.hosts), keep=5)
_MEMBERS: Final = Column[RowGroup]("MEMBERS", lambda one: str(len(one.members)), right=True, keep=6)
_BYTES: Final = Column[RowGroup]("BYTES", _nbytes, right=True, keep=4)
_SESSIONS: Final = Column[RowGroup]("SESSIONS", _sessions, keep=2)
_AGE: Final = Column[RowGroup]("AGE", lambda one: human_age(one.age_s), right=True, keep=1)
_IDENTITY: Final = Column[RowGroup]("IDENTITY", lambda one: one.identity or "", keep=1)
_CONTENT: Final = Column[RowGroup]("CONTENT", lambda one: one.content_id or "", wide=True)
_IDS: Final = Column[RowGroup]("IDS", lambda one: ",".join(one.members), wide=True)

_COLUMNS: Final[Mapping[By, tuple[Column[RowGroup], ...]]] = {
    "model": (
        _MODEL,
        _ROLE,
        Column("RANKS", _ranks, keep=8),
        _STATUS,
        _HOSTS,
        _BYTES,
        _SESSIONS,
        _AGE,
        Column("MISSING", _missing, wide=True),
        _CONTENT,
        _IDS,
    ),
    "host": (
        Column("HOST", lambda one: some(one.hosts), keep=9),
        _STATUS,
        Column("MODEL", lambda one: some(one.models), keep=7),
        _MEMBERS,
        _BYTES,
        _SESSIONS,
        _AGE,
        _IDS,
    ),
    "identity": (
        _MODEL,
        _ROLE,
        Column("LAYOUT", lambda one: short_layout(one.rows[0].place), keep=8),
        _STATUS,
        _MEMBERS,
        _HOSTS,
        _BYTES,
        _SESSIONS,
        _IDENTITY,
        _CONTENT,
        _IDS,
    ),
}


def group_columns(by: By) -> Columns[RowGroup]:
    """How groups of this kind are shown."""
    return Columns(
        _COLUMNS[by],
        style=lambda group: "dim" if group.gone else "",
        colour=lambda group: STYLES.get(group.worst, ""),
    )


COVERAGE: Final[Columns[Coverage]] = Columns(
    (
        Column("MODEL", lambda one: one.make.model, keep=9),
        Column("ROLE", lambda one: one.make.role, keep=3),
        Column("RANKS", lambda one: one.make.split, keep=6),
        Column("SOURCES", lambda one: str(one.complete), right=True, keep=9),
        Column("MISSING", _missing, keep=8),
        Column("READY", lambda one: str(one.ready), right=True, keep=5),
        Column("LOADING", lambda one: str(one.loading), right=True, keep=7),
        Column("BYTES", lambda one: human_bytes(one.nbytes), right=True, keep=4),
        Column("WEIGHTS", lambda one: one.make.weights, wide=True),
        Column("CONTENT", lambda one: one.make.content, wide=True),
        Column("BY RANK", lambda one: _by_rank(one.document()["ranks"]), wide=True),
    ),
    coloured="SOURCES",
    colour=lambda one: "green" if one.complete else "red",
)


def _by_rank(ranks: object) -> str:
    """`tp0:2,tp1:0`: how many sources each rank has that somebody holds or loads."""
    assert isinstance(ranks, Iterable)
    return ",".join(f"{one['rank']}:{one['ready']}" for one in ranks)
