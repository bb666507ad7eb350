"""Machines, which the world runs: they take the core's events and return its effects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from netmesh.core.effects import Effect
from netmesh.core.engine import Engine
from netmesh.core.events import Contacts, Event
from netmesh.core.messages import Message
from netmesh.core.records import MemberId, Record
from netmesh.core.settings import ProtocolSettings

Changed = Callable[[Record | None, Record], None]
"""Called with the old and the new record whenever a view changes."""


class Machine(Protocol):
    """One member: `netmesh.core.engine.Engine`, or a member of a comparison protocol."""

    @property
    def id(self) -> MemberId: ...
    @property
    def size(self) -> int:
        """Live members in its view, including itself."""
        ...

    @property
    def root(self) -> int:
        """Hash over the live part of its view, equal for equal views."""
        ...

    def handle(self, event: Event, now: float) -> list[Effect]: ...
    def deadline(self) -> float: ...
    def record(self, member: MemberId) -> Record | None: ...
    def check(self) -> None:
        """Raise AssertionError when the state contradicts itself."""
        ...


class Species(Protocol):
    """Makes the members of one protocol."""

    name: str
    messages_first: bool
    """Whether a member, after a pause, handles waiting messages before overdue deadlines. The
    shell of netmesh promises that; in a Go program the timers fire first."""
    timers_run_while_blocked: bool
    """Lifeguard's experiment blocks a process where it sends or receives. A process with a single
    thread then stops as a whole; with a thread for each deadline, the deadlines go on."""

    def make(self, me: Record, rng: Random, changed: Changed) -> Machine:
        """A member that knows nobody yet."""
        ...

    def acquaint(self, machines: Sequence[Machine], records: Sequence[Record], now: float) -> None:
        """Give all of them the same view at once, without the cost of a join."""
        ...

    def reliable(self, message: Message) -> bool:
        """True for a message on a stream, where a loss only costs time."""
        ...


class ReportingEngine(Engine):
    """An engine that reports after each event which records changed."""

    def __init__(
        self, settings: ProtocolSettings, me: Record, rng: Random, changed: Changed
    ) -> None:
        super().__init__(settings, me, rng)
        self._changed = changed

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in the event, and report the changes."""
        effects = super().handle(event, now)
        for change in self.changes:
            self._changed(change.old, change.new)
        return effects


class NetmeshSpecies:
    """Members that our own core runs."""

    name = "netmesh"
    messages_first = True
    timers_run_while_blocked = False

    def __init__(self, settings: ProtocolSettings | None = None) -> None:
        self._settings = settings or ProtocolSettings()

    def make(self, me: Record, rng: Random, changed: Changed) -> Machine:
        """An engine that reports its changes."""
        return ReportingEngine(self._settings, me, rng, changed)

    def acquaint(self, machines: Sequence[Machine], records: Sequence[Record], now: float) -> None:
        """Fill one table normally and copy it: 2,000 members take seconds, not minutes."""
        model = None
        for machine in machines:
            assert isinstance(machine, Engine)
            table = machine._node.table
            # The join is over before it starts, because there is nobody to ask.
            machine.handle(Contacts(()), now)
            if model is None:
                for record in records:
                    if record.id != table.me:
                        table.put(record, now)
                model = table
                continue
            table.records = dict(model.records)
            table.ring = list(model.ring)
            table.hashes = list(model.hashes)
            table.root = model.root
            table.revision = model.revision
            table.ring_revision = model.ring_revision
            table._buckets = [list(bucket) for bucket in model._buckets]
            table._hosts = {host: list(there) for host, there in model._hosts.items()}

    def reliable(self, message: Message) -> bool:
        """Never: see `LinkQuality.loss`."""
        return False
