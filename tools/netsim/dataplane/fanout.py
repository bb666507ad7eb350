"""One source, or none, and many replicas: how long until all have everything."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Final

from netsim.dataplane import bound
from netsim.dataplane.film import FanoutFilm
from netsim.dataplane.fluid import Fluid, SharedLink
from netsim.dataplane.member import HostLinks, SimulatedMember
from netsim.dataplane.options import PAYLOAD, FanoutOptions
from netsim.dataplane.timeline import Timeline

_ENOUGH: Final = 10.0
"""A run that takes so many times what one link needs for everything counts as hanging."""


class FanoutStuck(Exception):
    """A run did not end."""


@dataclass(frozen=True, slots=True)
class FanoutResult:
    """What one run came to. Times in seconds of virtual time."""

    makespan_s: float
    """From the start until the last replica has everything."""
    ideal_s: float
    """Bytes by the rate of a link."""
    ratio: float
    """The one by the other."""
    bound_s: float
    """No schedule could do it in less: `bound.least_s`. NaN with storage, for which it is not
    known."""
    per_replica_s: tuple[float, ...]
    """From each replica's own start; in the order in which they started."""
    source_bytes: int
    """What the first source, or the readers of storage, sent to other members."""
    storage_bytes: int
    """What was read from storage, by all."""
    fetched_twice: int
    """Chunks that one process received twice."""
    snubbed: int
    """Sources that replicas dropped because they kept them waiting."""
    control_messages: int
    """Messages on control connections by the busiest member."""
    control_bytes: int
    """Bytes of these."""

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return [_rounded(each) for each in value] if isinstance(value, tuple) else value


class _Fanout:
    """One run."""

    def __init__(self, options: FanoutOptions, film: FanoutFilm | None = None) -> None:
        self.options = options
        self._film = film
        self.timeline = Timeline()
        self.fluid = Fluid(self.timeline)
        self.sizes = options.chunks
        self.members: list[SimulatedMember] = []
        self.snubbed = 0
        self._rng = Random(options.seed)
        self._everybody: list[SimulatedMember] = []
        self._hosts: dict[int, HostLinks] = {}
        self._storage = SharedLink((options.storage_rate or options.rate) * PAYLOAD)
        self._seeds: list[SimulatedMember] = []
        self._storage_bytes = 0
        self._missing = 0  # Members that do not have everything.
        self._kills = options.churn.kills if options.churn is not None else 0

    def run(self) -> FanoutResult:
        options = self.options
        if options.has_source:
            source = self._start("source", self._host(0), range(len(self.sizes)), seeds=True)
            source.done_at = 0.0
        hosts = options.hosts
        readers = 0
        if not options.has_source:
            readers = options.storage_loaders if options.policy == "swarm" else options.replicas
        for number in range(options.replicas):
            host = self._host(hosts[number])
            member = self._start(f"replica-{number}", host, seeds=number < readers)
            if number < readers:
                self._read(member, 0)
            else:
                # A few milliseconds apart, as processes of one job are.
                self.timeline.after(self._rng.uniform(0.0, 0.01), member.begin)
        if options.churn is not None:
            self.timeline.after(options.churn.every_s, self._churn)
        if self._film is not None:
            self._look(self._film)
        slowest = min([options.rate, *options.rates.values()])
        limit_s = _ENOUGH * options.nbytes / slowest * max(1, options.replicas)
        while self._kills or self._missing:
            if not self.timeline.step() or self.timeline.now > limit_s:
                raise FanoutStuck(f"{options} hangs at {self.timeline.now:.3f} s")
        if self._film is not None:
            self._film.look(self.timeline.now, self.members)
        return self._result()

    def completed(self, member: SimulatedMember) -> None:
        """Count a member that has everything."""
        self._missing -= 1

    def _look(self, film: FanoutFilm) -> None:
        film.look(self.timeline.now, self.members)
        self.timeline.after(film.every_s, self._look, film)

    @property
    def _ideal_s(self) -> float:
        return self.options.nbytes / self.options.rate

    def _start(
        self, name: str, host: HostLinks, has: range = range(0), *, seeds: bool = False
    ) -> SimulatedMember:
        member = SimulatedMember(name, host, self, has, seeds=seeds)
        self.members.append(member)
        self._everybody.append(member)
        self._missing += not member.complete
        if seeds:
            self._seeds.append(member)
        return member

    def _host(self, number: int) -> HostLinks:
        if number not in self._hosts:
            rate = self.options.rates.get(number, self.options.rate) * PAYLOAD
            self._hosts[number] = HostLinks(
                SharedLink(rate), SharedLink(rate), SharedLink(self.options.local_rate)
            )
        return self._hosts[number]

    def _read(self, member: SimulatedMember, chunk: int) -> None:
        """Read the weights from storage, from this chunk on."""
        if not member.alive:
            return

        def read() -> None:
            self._storage_bytes += self.sizes[chunk]
            last = chunk + 1 == len(self.sizes)
            if self.options.serve_while_reading:
                member.gain(chunk)
            elif last:
                for each in range(len(self.sizes)):
                    member.gain(each)
            if not last:
                self._read(member, chunk + 1)

        self.fluid.start((self._storage, member.host.ingress), self.sizes[chunk], read)

    def _churn(self) -> None:
        """Kill a replica that is not done, and start another in its place."""
        victims = [one for one in self.members if not one.complete and one not in self._seeds]
        if not victims:
            self._kills = 0
            return
        victim = self._rng.choice(victims)
        victim.kill()
        self._missing -= 1
        self.members.remove(victim)
        self._kills -= 1
        self.timeline.after(0.0, self._start(f"{victim.name}'", victim.host).begin)
        if self._kills and self.options.churn is not None:
            self.timeline.after(self.options.churn.every_s, self._churn)

    def _result(self) -> FanoutResult:
        replicas = [one for one in self.members if one.name != "source"]
        makespan_s = max(one.done_at or 0.0 for one in replicas)
        twice = sum(
            count - 1 for one in self._everybody for count in one.fetched.values() if count > 1
        )
        return FanoutResult(
            makespan_s=makespan_s,
            ideal_s=self._ideal_s,
            ratio=makespan_s / self._ideal_s,
            bound_s=bound.least_s(self.options) if self.options.has_source else math.nan,
            per_replica_s=tuple((one.done_at or 0.0) - one.started for one in replicas),
            source_bytes=sum(one.uploads.sent_bytes for one in self._seeds),
            storage_bytes=self._storage_bytes,
            fetched_twice=twice,
            snubbed=self.snubbed,
            control_messages=max(one.control.messages for one in self._everybody),
            control_bytes=max(one.control.nbytes for one in self._everybody),
        )


def play(options: FanoutOptions, record: Path | None = None) -> FanoutResult:
    """Play one fan-out, and write it to a recording if a file is named. Raises `FanoutStuck` when
    it does not end."""
    if record is None:
        return _Fanout(options).run()
    film = FanoutFilm(record, options)
    run = _Fanout(options, film)
    try:
        return run.run()
    finally:
        film.close(run.timeline.now)
