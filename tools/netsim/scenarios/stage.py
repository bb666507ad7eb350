"""The common part of all scenarios: a populated world, samples, and the final judgement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from netmesh.core.records import JsonObject, MemberId, Record, Status
from netsim.film import Film
from netsim.machine import Species
from netsim.network import LinkQuality
from netsim.options import RunOptions
from netsim.process import Process
from netsim.report import RunReport, percentile
from netsim.trace import Trace
from netsim.witness import Watchpoint
from netsim.world import START_S, World

PORT = 17946
SETTLED_S = 60.0
"""After the last fault, all members must agree within this time. The comparison protocols need most
of it."""


def address(index: int, per_host: int) -> MemberId:
    """Address of the worker with that number; `per_host` neighbours share a host."""
    host, worker = divmod(index, per_host)
    return MemberId(f"10.{host // 65536}.{host // 256 % 256}.{host % 256}:{PORT + worker}")


def is_dead(record: Record) -> bool:
    """How a view shows a member that is gone."""
    return not record.status.live


def is_bad(record: Record) -> bool:
    """How a view shows a member that is not selectable."""
    return record.status is not Status.ALIVE


class PlayStage:
    """One run in progress."""

    def __init__(
        self, options: RunOptions, species: Species, trace: Trace, film: Film | None = None
    ) -> None:
        self.options = options
        link = LinkQuality(loss=options.loss or 0.0)
        self.world = World(
            species,
            options.seed,
            link=link,
            checked=options.checked,
            through_wire=options.through_wire,
            trace=trace,
        )
        if film is not None:
            film.watch(self.world)
        self.species = species
        self.rng = self.world.rng
        self.samples: list[float] = []
        self.details: dict[str, float] = {}
        self.problems: list[str] = []
        self.may_die_falsely = False
        """False deaths are counted and reported, and do not break the run."""
        self._metered_s = 0.0

    # Population

    def advert(self, index: int, edition: int = 0) -> JsonObject:
        """The advert of that member: `advert_bytes` long once packed."""
        fixed: JsonObject = {"edition": edition, "rank": index, "text": ""}
        used = len('{"edition":,"rank":,"text":""}') + len(f"{edition}{index}")
        fixed["text"] = "w" * max(0, self.options.advert_bytes - used)
        return fixed

    def id(self, index: int) -> MemberId:
        """Address of one member."""
        return address(index, self.options.workers_per_host)

    def populate(self) -> None:
        """Start all members; they know each other. The traffic window begins after a quiet time."""
        world, options = self.world, self.options
        for index in range(options.members):
            world.start(self.id(index), None, self.advert(index))
        world.acquaint()
        seed = (self.id(0),)
        for process in world.running():
            world.contact(process, seed)
        world.run(options.settle_s)
        self.require(len(world.running()) == options.members, "not all members run")
        self.require(world.converged(), "members do not agree before the first fault")
        world.measure(on=True)

    def pick(self, count: int) -> list[Process]:
        """Some members at random; never the seed."""
        running = self.world.running()[1:]
        return self.rng.sample(running, min(count, len(running) - 2))

    def faults(self, usual: int) -> int:
        """How many members the fault hits."""
        return self.options.faults or usual

    def duration(self, usual: float) -> float:
        """How long it lasts."""
        return self.options.duration_s or usual

    # Samples

    def expect(
        self, process: Process, holds: Callable[[Record], bool], *, sticky: bool = False
    ) -> Watchpoint:
        """From now on, note which observers come to believe this about that member."""
        point = Watchpoint(process.id, self.world.now, holds, sticky)
        return self.world.witness.watch(point)

    def collect(
        self,
        points: Sequence[Watchpoint],
        observers: Callable[[], Iterable[Process]],
        horizon_s: float,
        what: str,
    ) -> list[float]:
        """Wait until all observers have reached all points; return the delays."""

        def missing() -> int:
            there = list(observers())
            return sum(
                o.index not in point.reached
                for point in points
                for o in there
                if o.id != point.subject
            )

        self.world.until(lambda: not missing(), horizon_s)
        left = missing()
        self.require(not left, f"{left} views never showed {what} within {horizon_s:g} s")
        delays: list[float] = []
        for point in points:
            self.world.witness.unwatch(point)
            there = {o.index for o in observers() if o.id != point.subject}
            delays += [at - point.since for index, at in point.reached.items() if index in there]
        return delays

    def require(self, holds: bool, text: str) -> None:
        """Note a problem unless this holds: the run does not count then."""
        if not holds:
            self.problems.append(text)

    def agree(self, within_s: float = SETTLED_S) -> float:
        """Wait until all members have the same, right view; return how long that took."""
        world = self.world
        began = world.now
        if not world.until(world.converged, within_s):
            sizes = sorted({p.machine.size for p in world.running()})
            self.require(
                False, f"{len(world.running())} run, {within_s:g} s later views hold {sizes}"
            )
        return world.now - began

    # The end

    def report(self) -> RunReport:
        """Judge the run as a whole."""
        world, options, meter = self.world, self.options, self.world.meter
        witness = world.witness
        world.measure(on=False)
        self._nobody_is_mistaken()
        if witness.false_deaths and not self.may_die_falsely and self.species.name == "netmesh":
            self.problems += witness.false_log
        cells = len(meter.cells) or 1
        measured = sum(meter.cells) / cells
        samples = self.samples
        network = world.network
        noise = network.lost + network.duplicated + network.held + network.blocked
        return RunReport(
            scenario=options.scenario,
            protocol=self.species.name,
            members=options.members,
            seed=options.seed,
            p50_s=_or_none(percentile(samples, 0.50)),
            p99_s=_or_none(percentile(samples, 0.99)),
            max_s=_or_none(percentile(samples, 1.0)),
            samples=len(samples),
            false_deaths=witness.false_deaths,
            faults_fired=sum(world.faults.values()) + noise,
            bytes_per_member_s_mean=measured,
            bytes_per_member_s_p99=percentile(meter.cells, 0.99),
            messages_per_member_s=meter.messages / cells,
            virtual_s=world.now - START_S,
            events=world.handled,
            trace=world.trace.digest,
            details=self.details,
            problems=tuple(self.problems + witness.problems),
        )

    def _nobody_is_mistaken(self) -> None:
        """Check that at the end no member takes the living for dead or the dead for living."""
        world = self.world
        if world.converged():
            return
        running = {p.id for p in world.running()}
        for observer in world.running():
            for member in world.processes:
                record = observer.machine.record(member)
                live = record is not None and record.status.live
                if live != (member in running):
                    believed = "lives" if live else "is gone"
                    self.problems.append(f"{observer.id} thinks that {member} {believed}")
                    return


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
