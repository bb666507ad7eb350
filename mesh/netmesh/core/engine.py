"""The protocol as one object: `handle(event, now)` returns the effects to carry out."""

from __future__ import annotations

from netmesh.core.effects import Effect
from netmesh.core.events import Event
from netmesh.core.member import Member
from netmesh.core.records import Generation, MemberId, Record
from netmesh.core.rng import Rng
from netmesh.core.settings import ProtocolSettings


class Engine:
    """One member of the mesh, without I/O. Not thread safe: it has one owner."""

    def __init__(self, settings: ProtocolSettings, me: Record, rng: Rng) -> None:
        raise NotImplementedError

    @property
    def id(self) -> MemberId:
        """My own id."""
        raise NotImplementedError

    @property
    def generation(self) -> Generation:
        """My generation; grows when another process claims my id."""
        raise NotImplementedError

    @property
    def revision(self) -> int:
        """Grows whenever `members()` would show something else."""
        raise NotImplementedError

    @property
    def joined(self) -> bool:
        """My table equals that of at least one contact, or there is nobody to join."""
        raise NotImplementedError

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event at `now` (monotonic seconds) and return what to do about it."""
        raise NotImplementedError

    def deadline(self) -> float:
        """When (monotonic seconds) the next `Tick` is due."""
        raise NotImplementedError

    def members(self) -> tuple[Member, ...]:
        """Snapshot, me included; the dead are shown for ten minutes."""
        raise NotImplementedError
