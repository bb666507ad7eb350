"""What users of the mesh see of a member."""

from __future__ import annotations

from dataclasses import dataclass

from netmesh.core.records import Generation, JsonObject, MemberId, Status, host_of


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
    def selectable(self) -> bool:
        """True when it may be asked for anything."""
        return self.status is Status.ALIVE
