"""From members to rows: one row for each model that a member holds. Pure.

An advert may contain anything that somebody on the network chose to send. Valid values are shown
unchanged (the renderer escapes them); invalid ones are unknown: `None`, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final

from netloader.discovery.accusations import accusers
from netloader.discovery.advert import Holding, decode
from netloader.discovery.candidate import Process
from netloader.identity.identity import Fields, content_id
from netmesh import JsonObject, Member, MemberId, Status

MAX_COUNT: Final = 2**63 - 1
"""Bound on shown numbers: the largest that a 64-bit reader of the JSON can hold."""


@dataclass(frozen=True, slots=True)
class RankPlace:
    """Sizes and ranks of the parallel layout, as far as they are known. Ranks count from 0."""

    tp_size: int | None = None
    tp_rank: int | None = None
    pp_size: int | None = None
    pp_rank: int | None = None
    ep_size: int | None = None
    ep_rank: int | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """Sorts the ranks of one model as an operator counts them, unknown ones first."""
        ranks = (self.pp_rank, self.tp_rank, self.ep_rank)
        return tuple(-1 if rank is None else rank for rank in ranks)


@dataclass(frozen=True, slots=True)
class HoldingRow:
    """One member and one of its holdings, or a member that has none yet."""

    member: Member
    holding: Holding | None
    accusers: int = 0
    """How many members say that this process sent them other bytes than it had promised."""

    @property
    def model(self) -> str | None:
        """Name of the model held, as people know it."""
        return None if self.holding is None else self.holding.model or None

    @property
    def given(self) -> str | None:
        """The model that the worker was started with, often a path."""
        return None if self.holding is None else self.holding.names.get("given") or None

    @property
    def content_id(self) -> str | None:
        """The value of `CONTENT` that asks for these weights."""
        return None if self.holding is None else content_id(self.holding.content) or None

    @property
    def weights_layout(self) -> str | None:
        """`checkpoint` or `runtime`: the form in which the weights are held."""
        return self._text("layout")

    @property
    def place(self) -> RankPlace:
        """Where the member stands in the parallel layout of this model."""
        return RankPlace() if self.holding is None else place_of(self.holding.fields)

    @property
    def ready(self) -> bool:
        """True when a replica may ask for these weights now."""
        return self.holding is not None and self.holding.state == "ready" and self.member.selectable

    def shares(self, fabric: str) -> bool:
        """Whether a worker with this label (empty: none) may ask for these weights (`FABRIC`)."""
        theirs = "" if self.holding is None else self.holding.fabric
        return "" in (fabric, theirs) or fabric == theirs

    @property
    def gone(self) -> bool:
        """True for a member that is no longer part of the mesh, shown as it was last known."""
        return not self.member.status.live

    @property
    def status(self) -> str:
        """The mesh's verdict in lower case: alive, stalled, suspect, dead or left."""
        return self.member.status.name.lower()

    @property
    def condition(self) -> str:
        """The one word that matters most. First what is wrong with the member, then that its bytes
        were wrong, then the state of its weights, then that it is alive."""
        if self.member.status is not Status.ALIVE or self.holding is None:
            return self.status
        if self.accusers and self.holding.state == "ready":
            return "accused"
        return self.holding.state

    @property
    def nbytes(self) -> int:
        """Bytes of weights held."""
        return 0 if self.holding is None else min(self.holding.nbytes, MAX_COUNT)

    @property
    def total(self) -> int:
        """Bytes of weights that a member wants which still loads; 0 where it has not said."""
        loads = self.holding is not None and self.holding.state == "loading"
        return min(self.holding.total, MAX_COUNT) if loads and self.holding is not None else 0

    @property
    def held(self) -> int:
        """Bytes of these that are in place."""
        return min(self.holding.held, self.total) if self.holding is not None else 0

    @property
    def serving(self) -> int:
        """Sessions in which the member is the source."""
        return 0 if self.holding is None else min(self.holding.serving, MAX_COUNT)

    @property
    def pulling(self) -> int:
        """Sessions in which the member is the replica."""
        return 0 if self.holding is None else min(self.holding.pulling, MAX_COUNT)

    @property
    def rate(self) -> int:
        """Bytes per second by which the weights in place have grown of late."""
        return 0 if self.holding is None else min(self.holding.rate, MAX_COUNT)

    @property
    def fabric(self) -> str | None:
        """Label of the network that its transfers use."""
        return None if self.holding is None else self.holding.fabric or None

    @property
    def role(self) -> str | None:
        """`target` or `draft`."""
        return None if self.holding is None else self.holding.role

    @property
    def endpoint(self) -> str | None:
        """Where its source listens."""
        return None if self.holding is None else self.holding.endpoint or None

    @property
    def reads_storage(self) -> bool:
        """Whether it reads the weights from storage now."""
        return self.holding is not None and self.holding.storage == "reading"

    @property
    def reason(self) -> str:
        """Why it is unavailable or accused; empty: it is neither."""
        if self.holding is None:
            return ""
        if self.condition == "accused":
            members = "1 member" if self.accusers == 1 else f"{self.accusers} members"
            return f"sent wrong bytes to {members}"
        return self.holding.reason

    def _text(self, name: str) -> str | None:
        value = None if self.holding is None else self.holding.fields.get(name)
        return value if isinstance(value, str) and value else None


_PLACES: Final = tuple(one.name for one in fields(RankPlace))


def place_of(parts: Fields) -> RankPlace:
    """The place that an identity's parts tell."""
    return _shared_place(*[_number(parts.get(name)) for name in _PLACES])


@lru_cache
def _shared_place(*numbers: int | None) -> RankPlace:
    """Thousands of workers stand in a few places."""
    return RankPlace(*numbers)


Read = Callable[[JsonObject], Sequence[Holding]]
"""Reads an advert, as `decode` does."""


class AdvertReader:
    """Reads adverts, and each of them once: an `Observer` gives the same object for an advert that
    did not change. Remembers those of the last two looks."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[JsonObject, Sequence[Holding]]] = {}
        self._now: dict[int, tuple[JsonObject, Sequence[Holding]]] = {}

    def next_look(self) -> None:
        """Forget what the look before the last one showed."""
        self._before, self._now = self._now, {}

    def __call__(self, advert: JsonObject) -> Sequence[Holding]:
        # The advert is kept beside what it says, so its id names no other object meanwhile.
        key = id(advert)
        known = self._now.get(key) or self._before.get(key)
        if known is None:
            known = (advert, decode(advert))
        self._now[key] = known
        return known[1]


def rows_of(
    members: Iterable[Member], model: str | None = None, read: Read = decode
) -> tuple[HoldingRow, ...]:
    """A row for each holding, and one for a member without any; members that are gone come last.

    `model` keeps only rows of that model: its name, or a shell pattern (`*`, `?`, `[...]`).
    """
    held = [(member, read(member.advert)) for member in members]
    accused = accusers(held)
    rows = [
        HoldingRow(
            member,
            holding,
            0 if holding is None else accused[holding.endpoint, int(member.generation)],
        )
        for member, holdings in held
        for holding in holdings or (None,)
    ]
    found = (row for row in rows if model is None or matches(row.model, model))
    return tuple(sorted(found, key=_order))


def processes(rows: Iterable[HoldingRow]) -> dict[Process, MemberId]:
    """Which member is meant by an endpoint and a generation. Left out: what two members claim."""
    found: dict[Process, set[MemberId]] = {}
    for row in rows:
        if row.endpoint is not None:
            found.setdefault((row.endpoint, int(row.member.generation)), set()).add(row.member.id)
    return {process: id for process, ids in found.items() if len(ids) == 1 for id in ids}


def matches(text: str | None, pattern: str) -> bool:
    """Whether a text is this one, or is matched by it as a shell pattern."""
    # The plain comparison is for names with brackets, which have a meaning in a pattern.
    return text is not None and (text == pattern or fnmatchcase(text, pattern))


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value <= MAX_COUNT else None


def _order(row: HoldingRow) -> tuple[bool, str, str, tuple[int, ...], str]:
    return (row.gone, row.model or "", row.role or "", row.place.order, row.member.id)
