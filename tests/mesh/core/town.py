"""Engines in netsim's world, called by their ids: what the tests of the core are written in.

Everything that happens, happens in `netsim.world`. Here are only names for it, and a look at each
engine after each of its events.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

from netmesh.core.effects import Effect
from netmesh.core.engine import Engine
from netmesh.core.events import Dialled, DialOutcome, Event
from netmesh.core.records import JsonObject, MemberId, Record, Status, host_of
from netmesh.core.settings import ProtocolSettings
from netsim.machine import Changed, Machine, NetmeshSpecies
from netsim.network import Block, LinkQuality
from netsim.process import Fate, Process
from netsim.world import World


@dataclass
class Observed:
    """An engine that tells when it has handled something, and may lose the answers of dials."""

    town: Town
    engine: Engine

    @property
    def id(self) -> MemberId:
        return self.engine.id

    @property
    def size(self) -> int:
        return self.engine.size

    @property
    def root(self) -> int:
        return self.engine.root

    def handle(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Dialled) and not self.town.dials_answered:
            return []
        if isinstance(event, Dialled) and self.town.dial_outcome is not None:
            event = Dialled(event.id, self.town.dial_outcome)
        effects = self.engine.handle(event, now)
        self.town.handled(self.id)
        return effects

    def deadline(self) -> float:
        return self.engine.deadline()

    def record(self, member: MemberId) -> Record | None:
        return self.engine.record(member)

    def check(self) -> None:
        self.engine.check()


class ObservedSpecies(NetmeshSpecies):
    """Makes engines that a town watches."""

    def __init__(self, settings: ProtocolSettings, town: Town) -> None:
        super().__init__(settings)
        self.town = town

    def make(self, me: Record, rng: Random, changed: Changed) -> Machine:
        engine = super().make(me, rng, changed)
        assert isinstance(engine, Engine)
        return Observed(self.town, engine)


class Town:
    """Some members, each of which runs an engine."""

    def __init__(
        self,
        seed: int = 1,
        *,
        settings: ProtocolSettings | None = None,
        loss: float = 0.0,
        checked: bool = True,
        advert: JsonObject | None = None,
    ) -> None:
        self.settings = settings or ProtocolSettings()
        species = ObservedSpecies(self.settings, self)
        self.world = World(species, seed, link=LinkQuality(loss=loss), checked=checked)
        self.advert: JsonObject = advert if advert is not None else {"model": "m"}
        self.dials_answered = True
        """False: the shells lose what their connects found."""
        self.dial_outcome: DialOutcome | None = None
        """What every connect ends with, whatever the network says."""
        self.handled: Callable[[MemberId], object] = lambda viewer: None
        """Called with each member that has handled an event."""

    # Population

    def start(self, name: str, contacts: Iterable[str] = ()) -> MemberId:
        found = [MemberId(contact) for contact in contacts]
        return self.world.start(MemberId(name), found, self.advert).id

    def grow(self, count: int, seconds: float = 15.0, per_host: int = 1) -> list[MemberId]:
        """`count` members that all know the first, run until they know each other."""
        first = self.start(self.name(0, per_host))
        ids = [first]
        ids += [self.start(self.name(i, per_host), (first,)) for i in range(1, count)]
        assert self.until(self.converged, seconds), self.sizes()
        self.run(1.0)
        return ids

    @staticmethod
    def name(index: int, per_host: int = 1) -> str:
        host = index // per_host
        return f"10.{host // 65536}.{host // 256 % 256}.{host % 256}:{17946 + index % per_host}"

    def process(self, member: str) -> Process:
        return self.world.processes[MemberId(member)]

    def engine(self, member: str) -> Engine:
        machine = self.process(member).machine
        assert isinstance(machine, Observed)
        return machine.engine

    def running(self) -> list[MemberId]:
        return [process.id for process in self.world.running()]

    def departed(self, member: MemberId) -> bool:
        return self.process(member).fate is Fate.DEPARTED

    def status(self, viewer: str, member: str) -> Status | None:
        record = self.engine(viewer).record(MemberId(member))
        return None if record is None else record.status

    def statuses(self, member: str) -> set[Status | None]:
        """What the others that run think of that member."""
        return {self.status(viewer, member) for viewer in self.running() if viewer != member}

    def converged(self) -> bool:
        return self.world.converged()

    def sizes(self) -> Counter[int]:
        """How many members see how many."""
        return Counter(self.engine(member).size for member in self.running())

    # Faults

    def crash(self, member: MemberId) -> None:
        self.world.crash(self.process(member))

    def host_down(self, member: MemberId) -> list[MemberId]:
        """The host of that member loses power; returns all that went with it."""
        return [process.id for process in self.world.crash_host(host_of(member))]

    def stall(self, member: MemberId, seconds: float) -> None:
        self.world.stall(self.process(member), seconds)

    def cut(self, some: Iterable[MemberId], others: Iterable[MemberId] | None = None) -> None:
        """Nothing passes between these and those (without `others`: everybody else)."""
        here = frozenset(some)
        there = frozenset(self.world.processes) - here if others is None else frozenset(others)
        self.world.block(Block(here, there))
        self.world.block(Block(there, here))

    def deafen(self, member: MemberId) -> None:
        """Nothing reaches that member; what it sends arrives."""
        self.world.block(Block(frozenset(self.world.processes), frozenset({member})))

    def mend(self) -> None:
        """All paths work again."""
        for block in list(self.world.network.blocks):
            self.world.unblock(block)

    # Time

    @property
    def now(self) -> float:
        return self.world.now

    def run(self, seconds: float) -> None:
        self.world.run(seconds)

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        return self.world.until(condition, seconds, every=0.05)

    def give(self, member: MemberId, event: Event) -> None:
        self.world.give(self.process(member), event)
