"""The lists of the screen: their columns, their order, and what a search finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from mesh_inspect.output.transfers import done, left, rate, size, suppliers
from mesh_inspect.view.changes import Happening
from mesh_inspect.view.models import Coverage
from mesh_inspect.view.rows import HoldingRow
from mesh_inspect.view.transfers import Load
from mesh_inspect.view.words import human_age, human_bytes, short_layout

Row = TypeVar("Row")

Order = tuple[float, str]
"""What rows are sorted by: a number, or 0 and a text."""

LAST: Final = float("inf")
"""Of what is unknown."""


@dataclass(frozen=True, slots=True)
class ScreenColumn(Generic[Row]):
    """One column of a list."""

    title: str
    cell: Callable[[Row], str]
    """As the mesh said it: neither escaped nor cut."""
    order: Callable[[Row], Order]
    least: int
    """Characters; narrower it says nothing."""
    most: int
    """Wider it takes room from others."""
    drop: int = 0
    """On a narrow screen the column with the highest number goes first; 0: it stays."""
    right: bool = False
    is_status: bool = False
    """Whether its words have colours."""
    whole: bool = False
    """Whether others go before its cells are cut: half an address says nothing."""


@dataclass(frozen=True, slots=True)
class ListView(Generic[Row]):
    """One list: what it is called, and how its rows are shown and told apart."""

    title: str
    columns: tuple[ScreenColumn[Row], ...]
    key: Callable[[Row], Hashable]
    """The same from look to look: the cursor and marks stay with it."""
    member: Callable[[Row], str | None]
    """The id of the member that a row is about."""
    text: Callable[[Row], Iterable[str | None]]
    """What a search looks in."""
    faded: Callable[[Row], bool]
    """Whether the row is about somebody who is gone."""
    empty: str
    """Said where there is no row."""


@dataclass(frozen=True, slots=True)
class RowOrder:
    """What an operator wants to see of a list, and in which order."""

    column: int | None = None
    """To sort by; None: by model and rank, those that are gone last."""
    down: bool = False
    words: str = ""
    """Rows with all of these words are shown."""

    def arranged(self, view: ListView[Row], rows: Sequence[Row]) -> Sequence[Row]:
        """The rows to show, in order. Equals stay in the order of `rows`."""
        words = self.words.lower().split()
        if words:
            rows = [row for row in rows if _has_all(view.text(row), words)]
        if self.column is not None:
            order = view.columns[self.column].order
            rows = sorted(rows, key=order, reverse=self.down)
        return rows


def _has_all(texts: Iterable[str | None], words: Sequence[str]) -> bool:
    whole = "\n".join(filter(None, texts)).lower()
    return all(word in whole for word in words)


_TROUBLE: Final = (
    *("accused", "dead", "suspect", "stalled", "unavailable", "idle"),
    *("reading", "waiting", "starting", "pulling", "finishing", "loading"),
    *("alive", "ready", "left"),
)
"""States, those first that an operator looks for."""

_TROUBLES: Final = {state: float(place) for place, state in enumerate(_TROUBLE)}


def _by_text(text: str | None) -> Order:
    return (0.0, text or "")


def _by_number(number: float | None) -> Order:
    return (LAST if number is None else float(number), "")


def _by_state(state: str) -> Order:
    return (_TROUBLES.get(state, LAST), state)


def _by_place(row: HoldingRow) -> Order:
    return (0.0, " ".join(f"{rank:20}" for rank in row.place.order))


def _key(row: HoldingRow) -> Hashable:
    role = None if row.holding is None else row.holding.role
    return (row.member.id, int(row.member.generation), role, row.model)


def _role(row: HoldingRow) -> str:
    return "" if row.holding is None else row.holding.role


def bytes_of(row: HoldingRow) -> str:
    """What a member has, and of how much while it loads."""
    if row.total:
        return f"{100 * row.held // row.total}% of {human_bytes(row.total)}"
    return "" if row.holding is None else human_bytes(row.nbytes)


def _sessions(row: HoldingRow) -> str:
    told = {"serves": row.serving, "pulls": row.pulling}
    return ",".join(f"{what} {count}" for what, count in told.items() if count)


def _row_text(row: HoldingRow) -> list[str | None]:
    endpoint = "" if row.holding is None else row.holding.endpoint
    return [row.member.id, row.model, row.condition, short_layout(row.place), _role(row), endpoint]


MEMBERS: Final[ListView[HoldingRow]] = ListView(
    "Members",
    (
        ScreenColumn(
            "MEMBER", lambda r: r.member.id, lambda r: _by_text(r.member.id), 9, 48, whole=True
        ),
        ScreenColumn("MODEL", lambda r: r.model or "", lambda r: _by_text(r.model), 10, 60),
        ScreenColumn("ROLE", _role, lambda r: _by_text(_role(r)), 6, 6, drop=5),
        ScreenColumn("RANK", lambda r: short_layout(r.place), _by_place, 6, 24, drop=2),
        ScreenColumn(
            "STATUS", lambda r: r.condition, lambda r: _by_state(r.condition), 8, 11, is_status=True
        ),
        ScreenColumn(
            "BYTES", bytes_of, lambda r: _by_number(r.total or r.nbytes), 14, 14, drop=1, right=True
        ),
        ScreenColumn(
            "SESSIONS", _sessions, lambda r: _by_number(r.serving + r.pulling), 9, 18, drop=3
        ),
        ScreenColumn(
            "AGE",
            lambda r: human_age(r.member.age_s),
            lambda r: _by_number(r.member.age_s),
            *(6, 6),
            drop=4,
            right=True,
        ),
    ),
    key=_key,
    member=lambda row: row.member.id,
    text=_row_text,
    faded=lambda row: row.gone,
    empty="the mesh has no members",
)


_BAR: Final = 10
"""Characters of a bar."""


def bar_of(row: HoldingRow) -> str:
    """How much of a load is there, as a bar."""
    if not row.total:
        return ""
    full = _BAR * row.held // row.total
    return "━" * full + "─" * (_BAR - full)


def _share(row: HoldingRow) -> Order:
    return _by_number(row.held / row.total if row.total else None)


def _load_text(load: Load) -> list[str | None]:
    sources = [name for edge in load.edges for name in (edge.name, edge.endpoint)]
    return [*_row_text(load.row), load.state, *sources, *load.awaits]


def _supplier(load: Load) -> str:
    """The fastest source; `storage`; or the first member that is waited for."""
    return suppliers(load).partition(",")[0]


LOADS: Final[ListView[Load]] = ListView(
    "Transfers",
    (
        ScreenColumn(
            "REPLICA",
            lambda d: d.row.member.id,
            lambda d: _by_text(d.row.member.id),
            9,
            48,
            whole=True,
        ),
        ScreenColumn(
            "MODEL", lambda d: d.row.model or "", lambda d: _by_text(d.row.model), 10, 60, drop=4
        ),
        ScreenColumn(
            "RANK", lambda d: short_layout(d.row.place), lambda d: _by_place(d.row), 6, 24, drop=8
        ),
        ScreenColumn("", lambda d: bar_of(d.row), lambda d: _share(d.row), 10, 10, drop=5),
        ScreenColumn("DONE", lambda d: done(d.row), lambda d: _share(d.row), 4, 4, right=True),
        ScreenColumn(
            "SIZE",
            lambda d: size(d.row),
            lambda d: _by_number(d.row.total or None),
            *(7, 9),
            drop=7,
            right=True,
        ),
        ScreenColumn(
            "RATE", lambda d: rate(d.rate), lambda d: _by_number(d.rate), 10, 11, 2, right=True
        ),
        ScreenColumn(
            "SRC",
            lambda d: str(len(d.edges)),
            lambda d: _by_number(len(d.edges)),
            *(3, 3),
            drop=6,
            right=True,
        ),
        ScreenColumn("FROM", _supplier, lambda d: _by_text(_supplier(d)), 9, 48, 3, whole=True),
        ScreenColumn("LEFT", left, lambda d: _by_number(d.left_s), 6, 6, 1, right=True),
        ScreenColumn(
            "STATE", lambda d: d.state, lambda d: _by_state(d.state), 8, 9, is_status=True
        ),
    ),
    key=lambda load: load.key,
    member=lambda load: load.row.member.id,
    text=_load_text,
    faded=lambda load: load.row.gone,
    empty="nothing is loading",
)


def _missing(one: Coverage) -> str:
    names, count = one.missing
    return ",".join(names) + (f",+{count - len(names)}" if count > len(names) else "")


COVERAGES: Final[ListView[Coverage]] = ListView(
    "Models",
    (
        ScreenColumn("MODEL", lambda c: c.make.model, lambda c: _by_text(c.make.model), 14, 60),
        ScreenColumn("ROLE", lambda c: c.make.role, lambda c: _by_text(c.make.role), 6, 6, drop=4),
        ScreenColumn(
            "RANKS", lambda c: c.make.split, lambda c: _by_text(c.make.split), 5, 20, drop=2
        ),
        ScreenColumn(
            "SOURCES",
            lambda c: str(c.complete),
            lambda c: _by_number(c.complete),
            *(7, 9),
            right=True,
        ),
        ScreenColumn("MISSING", _missing, lambda c: _by_number(c.missing[1]), 8, 30),
        ScreenColumn(
            "READY", lambda c: str(c.ready), lambda c: _by_number(c.ready), 5, 9, 1, right=True
        ),
        ScreenColumn(
            "LOADING",
            lambda c: str(c.loading),
            lambda c: _by_number(c.loading),
            *(7, 9),
            drop=3,
            right=True,
        ),
        ScreenColumn(
            "BYTES",
            lambda c: human_bytes(c.nbytes),
            lambda c: _by_number(c.nbytes),
            *(8, 9),
            drop=5,
            right=True,
        ),
    ),
    key=lambda one: one.make,
    member=lambda one: None,
    text=lambda one: [one.make.model, one.make.role, _missing(one)],
    faded=lambda one: False,
    empty="nobody holds a model",
)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


HAPPENINGS: Final[ListView[Happening]] = ListView(
    "Events",
    (
        ScreenColumn("TIME", lambda h: _clock(h.at), lambda h: _by_number(h.at), 8, 8),
        ScreenColumn("MEMBER", lambda h: h.id, lambda h: _by_text(h.id), 9, 48, whole=True),
        ScreenColumn("WHAT", lambda h: h.text, lambda h: _by_text(h.text), 10, 200),
    ),
    key=lambda happening: happening,
    member=lambda happening: happening.id,
    text=lambda happening: [happening.id, happening.text],
    faded=lambda happening: False,
    empty="nothing has happened since this screen was opened",
)
