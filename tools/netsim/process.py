"""One process of the simulated world: a machine, and its fate."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from netmesh.core.effects import Effect
from netmesh.core.events import Connection, Event
from netmesh.core.records import Generation, MemberId
from netsim.machine import Machine


class Fate(Enum):
    """What a process can still do."""

    RUNNING = "running"
    STALLED = "stalled"
    """Does nothing; its kernel still accepts connections and buffers messages."""
    BLOCKED = "blocked"
    """Its deadlines run, but its messages wait, in both directions."""
    CRASHED = "crashed"
    """Gone; its kernel refuses connections."""
    VANISHED = "vanished"
    """Gone with its host: nothing answers at all."""
    DEPARTED = "departed"
    """Said goodbye and ended."""

    @property
    def ended(self) -> bool:
        """True when nothing of the process is left."""
        return self in (Fate.CRASHED, Fate.VANISHED, Fate.DEPARTED)


@dataclass(slots=True, eq=False)
class Process:
    """State that the world keeps about one process. A restart makes another process."""

    id: MemberId
    generation: Generation
    index: int
    """Place in the order of starts, and name in traces."""
    machine: Machine
    connection: Connection
    """Token with which its peers reply to it."""
    started: float
    fate: Fate = Fate.RUNNING
    ended: float = float("inf")
    """When (virtual time) it crashed, vanished or began to say goodbye."""
    pace_s: float = 0.0
    """Time that each event takes on a slow CPU."""
    busy_until: float = 0.0
    wake_at: float = float("inf")
    """When the next tick is scheduled."""
    inbox: list[Event] = field(default_factory=list)
    outbox: list[Effect] = field(default_factory=list)
    watching: frozenset[MemberId] = frozenset()
    links: dict[MemberId, int] = field(default_factory=dict)
    """Watched links that are up, by the index of the process at the other end."""
    logs: list[str] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """True if the process exists and has not said goodbye, however slow it is."""
        return self.ended == float("inf")
