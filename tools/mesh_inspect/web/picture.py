"""What a reader is shown, and what of it a look has changed. Pure.

A look brings all members again, and one in forty has changed. The entries of the others are kept,
so a look costs in proportion to what is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mesh_inspect.view.changes import Happening, happenings
from mesh_inspect.view.entries import API_VERSION, Entry, entry_of
from mesh_inspect.view.rows import HoldingRow, processes
from mesh_inspect.watching import Sight
from netloader.discovery.candidate import Process
from netmesh import Member, MemberId


@dataclass(frozen=True, slots=True)
class _Portrait:
    """One member."""

    rows: tuple[HoldingRow, ...]
    feeds: tuple[MemberId | None, ...]
    """Who the sources are that it pulls from."""
    entries: tuple[Entry, ...]
    """As they were when the member changed last; only the age has become another."""

    @property
    def member(self) -> Member:
        return self.rows[0].member

    def told(self) -> list[Entry]:
        """The entries, with the age of the process."""
        age = round(self.member.age_s, 3)
        return [{**entry, "age_s": age} for entry in self.entries]


@dataclass(frozen=True, slots=True)
class MeshPicture:
    """The mesh after a look."""

    at: float
    """Seconds since the epoch."""
    silence: str | None
    portraits: Mapping[MemberId, _Portrait]

    def member(self, wanted: MemberId) -> Entry | None:
        """All that is known of a member, as `/api/members` tells it; None: there is none."""
        portrait = self.portraits.get(wanted)
        if portrait is None:
            return None
        member = portrait.member
        return {
            "id": member.id,
            "entries": portrait.told(),
            "advert": member.advert,
            "status": member.status.name.lower(),
            "incarnation": member.incarnation,
            "version": member.version,
            "age_s": round(member.age_s, 3),
        }

    def document(self, mesh: str, replay: object) -> Entry:
        """The document of `/api/mesh`."""
        return {
            "apiVersion": API_VERSION,
            "mesh": mesh,
            "at": self.at,
            "members": [entry for one in self.portraits.values() for entry in one.told()],
            "replay": replay,
            "silence": self.silence,
        }


@dataclass(frozen=True, slots=True)
class PictureChange:
    """What a look has changed."""

    changed: list[Entry] = field(default_factory=list)
    """All entries of each member that changed."""
    gone: list[MemberId] = field(default_factory=list)
    happened: list[Happening] = field(default_factory=list)


def picture_of(sight: Sight, before: MeshPicture | None = None) -> MeshPicture:
    """The picture after a look that followed `before`."""
    known = {} if before is None else before.portraits
    rows: dict[MemberId, list[HoldingRow]] = {}
    for row in sight.rows:
        rows.setdefault(row.member.id, []).append(row)
    sources = processes(sight.rows)
    return MeshPicture(
        sight.at,
        sight.silence,
        {id: _portrait(tuple(those), known.get(id), sources) for id, those in rows.items()},
    )


def difference(before: MeshPicture, after: MeshPicture) -> PictureChange:
    """What differs between two pictures."""
    changed = [
        (before.portraits.get(id), portrait)
        for id, portrait in after.portraits.items()
        if not _shows_the_same(before.portraits.get(id), portrait)
    ]
    gone = [id for id in before.portraits if id not in after.portraits]
    was = [row for old, _ in changed if old is not None for row in old.rows]
    was += [row for id in gone for row in before.portraits[id].rows]
    return PictureChange(
        [entry for _, portrait in changed for entry in portrait.told()],
        gone,
        happenings(was, [row for _, portrait in changed for row in portrait.rows], after.at),
    )


def _portrait(
    rows: tuple[HoldingRow, ...], old: _Portrait | None, sources: Mapping[Process, MemberId]
) -> _Portrait:
    feeds = tuple(
        sources.get((feed.endpoint, feed.generation))
        for row in rows
        if row.holding is not None
        for feed in row.holding.feeds
    )
    if old is not None and old.feeds == feeds and _are_alike(old.rows, rows):
        return _Portrait(rows, feeds, old.entries)
    return _Portrait(rows, feeds, tuple(entry_of(row, sources) for row in rows))


def _are_alike(old: tuple[HoldingRow, ...], new: tuple[HoldingRow, ...]) -> bool:
    """Whether nothing has changed but the age."""
    mine, theirs = old[0].member, new[0].member
    return (
        mine.version == theirs.version
        and mine.status is theirs.status
        and mine.incarnation == theirs.incarnation
        and mine.generation == theirs.generation
        and [row.accusers for row in old] == [row.accusers for row in new]
    )


def _shows_the_same(old: _Portrait | None, new: _Portrait) -> bool:
    if old is None:
        return False
    if old.entries is new.entries:
        return True
    ages = {"age_s": None}
    return [one | ages for one in old.entries] == [one | ages for one in new.entries]
