"""What is different between two looks, and the events that tell it. Pure.

That a member grows older is no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from mesh_inspect.view.entries import Entry
from mesh_inspect.view.rows import HoldingRow
from mesh_inspect.view.words import counted, human_age, human_bytes, human_rate, short_layout
from netmesh import MemberId, Status

Kind = Literal[
    "joined",
    "restarted",
    "stalled",
    "suspect",
    "died",
    "left",
    "back",
    "forgotten",
    "loading",
    "reading",
    "ready",
    "unavailable",
    "accused",
    "dropped",
]
"""What happens to a member, then what happens to one of its holdings."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_BECAME: Final[Mapping[Status, tuple[Kind, str]]] = {
    Status.ALIVE: ("back", "answers again"),
    Status.STALLED: ("stalled", "is silent, but its kernel accepts connections"),
    Status.SUSPECT: ("suspect", "does not answer"),
    Status.DEAD: ("died", "is dead"),
    Status.LEFT: ("left", "left the mesh"),
}


@dataclass(frozen=True, slots=True)
class Happening:
    """A line of the time line."""

    at: float
    """Seconds since the epoch."""
    kind: Kind
    id: MemberId
    text: str
    """What the member did, in words that follow its id. It may come from the network."""

    def document(self) -> Entry:
        """As it is told to programs."""
        return {"at": self.at, "kind": self.kind, "id": self.id, "text": self.text}


@dataclass(frozen=True, slots=True)
class Replacement:
    """What a reader of the entries has to replace."""

    changed: tuple[MemberId, ...]
    """Members of which any entry is another now, new ones among them."""
    gone: tuple[MemberId, ...]
    """Members that are not shown any more."""

    def __bool__(self) -> bool:
        return bool(self.changed or self.gone)


def by_member(entries: Iterable[Entry]) -> dict[MemberId, list[Entry]]:
    """The entries of each member, members in the order of their first entry."""
    found: dict[MemberId, list[Entry]] = {}
    for entry in entries:
        found.setdefault(MemberId(str(entry["id"])), []).append(entry)
    return found


def difference(
    before: Mapping[MemberId, Sequence[Entry]], after: Mapping[MemberId, Sequence[Entry]]
) -> Replacement:
    """What is different, by the entries of each member."""
    changed = [
        id
        for id, entries in after.items()
        if list(map(_ageless, entries)) != list(map(_ageless, before.get(id, ())))
    ]
    return Replacement(tuple(changed), tuple(id for id in before if id not in after))


def happenings(
    before: Iterable[HoldingRow], after: Iterable[HoldingRow], at: float
) -> list[Happening]:
    """What has happened between two looks, in the order of `after`; the forgotten come last."""
    was, now = _grouped(before), _grouped(after)
    found = [
        Happening(at, kind, id, text)
        for id, rows in now.items()
        for kind, text in _of_member(was.get(id, ()), rows)
    ]
    found += [
        Happening(at, "forgotten", id, f"was {rows[0].status}, and is not shown any more")
        for id, rows in was.items()
        if id not in now
    ]
    return found


def strides(
    before: Iterable[HoldingRow], after: Iterable[HoldingRow]
) -> list[tuple[MemberId, str]]:
    """Members whose loading has reached another tenth of their weights, and words for it."""
    known = {(row.member.id, row.member.generation, row.role): row for row in before}
    found = []
    for row in after:
        old = known.get((row.member.id, row.member.generation, row.role))
        if old is None or not row.total or old.total != row.total:
            continue
        if 10 * row.held // row.total > 10 * old.held // row.total:
            done = f"has {100 * row.held // row.total}% of {human_bytes(row.total)}"
            rate = f", {human_rate(row.rate)}" if row.rate else ""
            found.append((row.member.id, f"{done} of {_named(row)}{rate}"))
    return found


def _ageless(entry: Entry) -> Entry:
    return {**entry, "age_s": None}


def _grouped(rows: Iterable[HoldingRow]) -> dict[MemberId, list[HoldingRow]]:
    found: dict[MemberId, list[HoldingRow]] = {}
    for row in rows:
        found.setdefault(row.member.id, []).append(row)
    return found


def _of_member(
    before: Sequence[HoldingRow], after: Sequence[HoldingRow]
) -> Iterator[tuple[Kind, str]]:
    member = after[0].member
    known = before[0].member if before else None
    if known is not None and known.generation == member.generation:
        if known.status is not member.status:
            yield _BECAME[member.status]
        yield from _of_holdings(before, after)
    elif not member.status.live:
        # It came and went between two looks.
        if known is not None:
            yield _BECAME[member.status]
    else:
        if known is None:
            yield "joined", "joined"
        else:
            ran_s = max(0.0, member.started_s - known.started_s)
            yield "restarted", f"is another process, started {human_age(ran_s)} after the last one"
        if member.status is not Status.ALIVE:
            yield _BECAME[member.status]
        yield from _of_holdings((), after)


def _of_holdings(
    before: Sequence[HoldingRow], after: Sequence[HoldingRow]
) -> Iterator[tuple[Kind, str]]:
    was, now = _by_place(before), _by_place(after)
    for place, row in now.items():
        yield from _of_holding(was.get(place), row)
    for place, row in was.items():
        if place not in now:
            yield "dropped", f"holds {_named(row)} no more"


def _by_place(rows: Sequence[HoldingRow]) -> dict[tuple[str, int], HoldingRow]:
    """The holdings by role, and by number among those of the role."""
    found: dict[tuple[str, int], HoldingRow] = {}
    for row in rows:
        if row.holding is not None:
            role = row.holding.role
            number = sum(1 for known, _ in found if known == role)
            found[role, number] = row
    return found


def _of_holding(before: HoldingRow | None, row: HoldingRow) -> Iterator[tuple[Kind, str]]:
    holding = row.holding
    assert holding is not None, "only rows with holdings have a place"
    if before is not None and before.holding is holding and before.accusers == row.accusers:
        return  # An advert that did not change is read once: nothing is to be compared.
    old = None if before is None else before.holding
    named = _named(row)
    if old is None or (old.state, old.identity) != (holding.state, holding.identity):
        if holding.state == "ready":
            took = f", {human_bytes(row.nbytes)} from {holding.origin}" if holding.origin else ""
            yield "ready", f"is ready to serve {named}{took}"
        elif holding.state == "unavailable":
            why = f": {holding.reason}" if holding.reason else ""
            yield "unavailable", f"cannot hand out {named}{why}"
        else:
            yield "loading", f"loads {named}"
    if row.reads_storage and not (before is not None and before.reads_storage):
        yield "reading", f"reads {named} from storage"
    if row.accusers > (0 if before is None else before.accusers):
        yield "accused", f"sent wrong bytes of {named}, say {counted(row.accusers, 'member')}"


def _named(row: HoldingRow) -> str:
    """`Qwen/Qwen3-8B (target, tp0/2)`."""
    place = ", ".join(filter(None, (row.role, short_layout(row.place))))
    return f"{row.model or 'a model'} ({place})"
