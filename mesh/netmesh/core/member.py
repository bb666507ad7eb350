"""The view of a member that users of the mesh get."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from netmesh.core.records import (
    Advert,
    Generation,
    JsonObject,
    MemberId,
    Record,
    Status,
    host_of,
    started_ms,
    unpack_advert,
)


@dataclass(frozen=True, slots=True)
class Member:
    """Snapshot of one member."""

    id: MemberId
    generation: Generation
    incarnation: int
    status: Status
    version: int
    advert: JsonObject
    """As published by the member; treat it as read-only."""
    age_s: float
    """Seconds since that process started, by its own clock; never negative."""
    me: bool = False
    """True for the member that took the snapshot."""

    @property
    def host(self) -> str:
        """Host part of the id, without brackets."""
        return host_of(self.id).strip("[]")

    @property
    def started_s(self) -> float:
        """When that process started, by its own clock: seconds since the epoch."""
        return started_ms(self.generation) / 1000

    @property
    def selectable(self) -> bool:
        """True when the member may be asked for anything."""
        return self.status is Status.ALIVE


def member_of(record: Record, now_ms: float, *, me: bool) -> Member:
    """The snapshot of a record; `now_ms` in milliseconds since the epoch."""
    return Member(
        record.id,
        record.generation,
        record.incarnation,
        record.status,
        record.version,
        read_advert(record.advert),
        max(0.0, (now_ms - started_ms(record.generation)) / 1000),
        me,
    )


@lru_cache(maxsize=4096)
def read_advert(advert: Advert) -> JsonObject:
    """Parse an advert. Snapshots are taken often and adverts change seldom, so readers share the
    object."""
    return unpack_advert(advert)
