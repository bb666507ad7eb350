"""A member of the simulated data plane: pulls what it lacks, and serves what it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from netloader.replica.neighbours import Neighbour, neighbours
from netloader.replica.schedule import Schedule
from netloader.source.policy.super_seeding import SuperSeeding
from netsim.dataplane.fluid import Fluid, SharedLink
from netsim.dataplane.options import FanoutOptions
from netsim.dataplane.timeline import Timeline
from netsim.dataplane.uploads import Upload, Uploads

RETRY_S = 1.0
"""After which a member asks again that was refused or lost: `SourceSettings.retry_after_s`."""


@dataclass(frozen=True, slots=True)
class HostLinks:
    """What connects one host, and the processes on it."""

    egress: SharedLink
    ingress: SharedLink
    local: SharedLink


@dataclass(slots=True)
class Control:
    """Messages of one member on its control connections."""

    messages: int = 0
    nbytes: int = 0

    def count(self, chunks: int) -> None:
        """Count a message that lists so many chunks."""
        self.messages += 1
        # {"type":"have","session":"<32>","chunks":[...],"coming":[...]}: the fixed part as
        # `protocol.messages` encodes it, and up to 4 digits and a comma for each chunk.
        self.nbytes += 90 + 5 * chunks


class DataPlane(Protocol):
    """What a member needs of the simulation."""

    timeline: Timeline
    fluid: Fluid
    options: FanoutOptions
    sizes: tuple[int, ...]

    members: list[SimulatedMember]
    """All that are there, and can be seen."""
    snubbed: int
    """Sources that were dropped because they kept replicas waiting."""

    def completed(self, member: SimulatedMember) -> None:
        """Told once when a member has everything."""


@dataclass(slots=True)
class _Download:
    """One session, as its replica sees it."""

    source: SimulatedMember
    open: bool = False


@dataclass(slots=True)
class _News:
    """What a replica is told next."""

    have: list[int] = field(default_factory=list)
    coming: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.have) + len(self.coming) + len(self.gone)


class SimulatedMember:
    """One process. `has` are the chunks with which it begins."""

    def __init__(
        self,
        name: str,
        host: HostLinks,
        place: DataPlane,
        has: Iterable[int] = (),
        *,
        seeds: bool = False,
    ) -> None:
        """`seeds` says that it gets nothing from others: it has everything, or reads it from
        storage."""
        options = place.options
        self.name = name
        self.host = host
        self.control = Control()
        self.alive = True
        self.started = place.timeline.now
        self.done_at: float | None = None
        self.has = set(has)
        """Chunks that can be served."""
        self.fetched: dict[int, int] = {}
        """How often each chunk came from another member."""
        self.brought: dict[str, int] = {}
        """Bytes that each source has brought, by its name."""
        self._place = place
        self._seeds = seeds
        self._swarms = options.policy == "swarm"
        self.uploads = Uploads(place.fluid, place.sizes)
        self._seeding = SuperSeeding(len(place.sizes), self.has) if seeds and self._swarms else None
        self._schedule = Schedule(
            place.sizes,
            options.size_of_chunks,
            (),
            options.pull,
            name if self._swarms else "",
        )
        self._downloads: dict[str, _Download] = {}
        self._not_before: dict[str, float] = {}
        self._replicas: dict[str, SimulatedMember] = {}
        self._news: dict[str, _News] = {}
        self._coming: set[int] = set()  # Asked of sources on other hosts, and not here.

    @property
    def complete(self) -> bool:
        return len(self.has) == len(self._place.sizes)

    @property
    def serves(self) -> bool:
        """Whether others may open sessions with it."""
        if self._place.options.policy == "upstream":
            return self._seeds
        return self.alive and (self.complete or self._swarms)

    @property
    def deals(self) -> bool:
        """Whether it super-seeds, and wants to hear what its replicas have got elsewhere."""
        return self._seeding is not None

    @property
    def sources(self) -> list[str]:
        """Names of those with which it has a session as their replica."""
        return [name for name, download in self._downloads.items() if download.open]

    @property
    def reads(self) -> bool:
        """Whether it reads the weights from storage."""
        return self._seeds and not self.complete

    # As a replica.

    def look(self) -> None:
        """Open sessions with whom it seems useful, and look again later."""
        if not self.alive or self.complete:
            return
        now = self._place.timeline.now
        slow = self._schedule.snubbed(now)
        if slow is not None:
            self._place.snubbed += 1
            self._end(slow)
            self._pick_all()
        self._connect()
        self._place.timeline.after(self._place.options.pull.look_s, self.look)

    def begin(self) -> None:
        """Start pulling."""
        self.look()
        if self._place.options.placement:
            self._poll()

    def _connect(self) -> None:
        now = self._place.timeline.now
        free = [
            other
            for other in self._place.members
            if other is not self
            and other.serves
            and (other.deals or other.started + self._place.options.gossip_s <= now)
            and other.name not in self._downloads
            and self._not_before.get(other.name, 0.0) <= now
        ]
        # As `discovery.selection` does: those that serve few come first.
        free.sort(key=lambda other: len(other.uploads))
        by_name = {other.name: other for other in free}
        used = [self._seen(download.source) for download in self._downloads.values()]
        degree = self._place.options.degree
        for one in neighbours(self.name, used, [self._seen(other) for other in free], degree):
            source = by_name[one.endpoint]
            download = self._downloads[source.name] = _Download(source)
            self.control.count(0)
            self._place.timeline.after(self._place.options.open_s, self._opened, download)

    def _seen(self, other: SimulatedMember) -> Neighbour:
        complete = other.complete or other.deals
        near = other.host is self.host
        return Neighbour(other.name, complete=complete, near=near, serving=len(other.uploads))

    def _opened(self, download: _Download) -> None:
        source = download.source
        if not self.alive or self._downloads.get(source.name) is not download:
            return
        if self.complete:
            del self._downloads[source.name]
            return
        if not source.admit(self):
            del self._downloads[source.name]
            self._not_before[source.name] = self._place.timeline.now + RETRY_S
            self._connect()
            return
        download.open = True
        near = source.name if source.host is self.host and self._swarms else ""
        self._schedule.join(source.name, (), self._place.timeline.now, near=near)
        self._pick(source.name)

    def hear(self, source: SimulatedMember, news: _News) -> None:
        """A source says what it has, gets, or no longer offers."""
        download = self._downloads.get(source.name)
        if not self.alive or download is None or download.source is not source:
            return
        self._schedule.have(source.name, news.have)
        self._schedule.coming(source.name, news.coming, self._place.timeline.now)
        self._schedule.gone(source.name, news.gone)
        superfluous = [chunk for chunk in news.have if chunk in self.has]
        if superfluous and source.deals:
            self._say_has(source, superfluous)
        self._pick(source.name)

    def _say_has(self, source: SimulatedMember, chunks: Iterable[int]) -> None:
        chunks = tuple(chunks)
        self.control.count(len(chunks))
        self._place.timeline.after(self._place.options.latency_s, source.told_of, self, chunks)

    def lost(self, source: SimulatedMember) -> None:
        """A session broke."""
        download = self._downloads.get(source.name)
        if self.alive and download is not None and download.source is source:
            self._end(source.name)
            self._connect()
            self._pick_all()

    def _end(self, name: str) -> None:
        download = self._downloads.pop(name)
        self._not_before[name] = self._place.timeline.now + RETRY_S
        if download.open:
            unfinished = self._schedule.leave(name)
            if self._coming.intersection(unfinished):
                self._coming.difference_update(unfinished)
                self._tell_near(gone=unfinished)
            self._place.timeline.after(self._place.options.latency_s, download.source.left, self)

    def _pick_all(self) -> None:
        for name, download in list(self._downloads.items()):
            if download.open:
                self._pick(name)

    def _poll(self) -> None:
        """Look for work once a while, as idle streams do: what was left to others may be free."""
        if self.alive and not self.complete:
            self._pick_all()
            self._place.timeline.after(self._place.options.pull.idle_s, self._poll)

    def _pick(self, name: str) -> None:
        source = self._downloads[name].source
        asked: list[int] = []
        while (chunk := self._schedule.pick(name, self._place.timeline.now)) is not None:
            asked.append(chunk)
        if not asked:
            return
        if source.host is not self.host:
            self._coming.update(asked)
            self._tell_near(coming=asked)
        self.control.count(len(asked))
        self._place.timeline.after(self._place.options.latency_s, source.want, self, tuple(asked))

    def arrived(self, source: SimulatedMember, chunk: int) -> None:
        """A chunk has come."""
        download = self._downloads.get(source.name)
        if not self.alive or download is None or download.source is not source:
            return
        self.fetched[chunk] = self.fetched.get(chunk, 0) + 1
        nbytes = self._place.sizes[chunk]
        self.brought[source.name] = self.brought.get(source.name, 0) + nbytes
        self._schedule.arrived(source.name, chunk, self._place.timeline.now)
        self._coming.discard(chunk)
        for other in self._downloads.values():
            if (
                other.open
                and other.source is not source
                and other.source.deals
                and self._schedule.offers(other.source.name, chunk)
            ):
                self._say_has(other.source, (chunk,))
        self.gain(chunk)
        if not self.complete:
            self._pick(source.name)
            self._pick_all()

    def gain(self, chunk: int) -> None:
        """A chunk is in place, and can be served."""
        self.has.add(chunk)
        if self._seeding is not None:
            self._seeding.gain((chunk,))
            self._offer()
        else:
            for name in self._replicas:
                self._note(name).have.append(chunk)
        if self.complete and self.done_at is None:
            self.done_at = self._place.timeline.now
            for name in list(self._downloads):
                self._end(name)
            self._place.completed(self)

    # As a source.

    def admit(self, replica: SimulatedMember) -> bool:
        """Whether `replica` gets a session; if so, it is open."""
        if not self.serves or len(self.uploads) >= self._place.options.most_sessions:
            return False
        near = replica.host is self.host
        links = (self.host.local,) if near else (self.host.egress, replica.host.ingress)
        self.uploads.open(Upload(replica.name, links, lambda chunk: self._deliver(replica, chunk)))
        self._replicas[replica.name] = replica
        if self._seeding is not None:
            self._seeding.join(replica.name, replica.has)
            self._offer()
        else:
            news = self._note(replica.name)
            news.have += sorted(self.has)
            if near:
                news.coming += sorted(self._coming)
        return True

    def want(self, replica: SimulatedMember, chunks: tuple[int, ...]) -> None:
        """A replica asks for chunks."""
        if not self.alive or self._replicas.get(replica.name) is not replica:
            return
        for chunk in chunks:
            self.uploads.want(replica.name, chunk)
        self.told_of(replica, chunks)

    def told_of(self, replica: SimulatedMember, chunks: tuple[int, ...]) -> None:
        """A replica has these chunks, or asks for them."""
        known = self._replicas.get(replica.name) is replica
        if self.alive and known and self._seeding is not None:
            self._seeding.has(replica.name, chunks)
            self._offer()

    def left(self, replica: SimulatedMember) -> None:
        """A replica has ended its session, or is dead."""
        if self._replicas.get(replica.name) is not replica:
            return
        del self._replicas[replica.name]
        self._news.pop(replica.name, None)
        sent = self.uploads.close(replica.name)
        if self._seeding is not None:
            self._seeding.leave(replica.name, sent)
            self._offer()

    def kill(self) -> None:
        """The process ends without a word. Others see their connections break."""
        self.alive = False
        after = self._place.timeline.after
        for replica in self._replicas.values():
            self.uploads.close(replica.name)
            after(self._place.options.latency_s, replica.lost, self)
        for download in self._downloads.values():
            after(self._place.options.latency_s, download.source.left, self)

    def _deliver(self, replica: SimulatedMember, chunk: int) -> None:
        if self.alive:
            self._place.timeline.after(self._place.options.latency_s, replica.arrived, self, chunk)

    def _offer(self) -> None:
        assert self._seeding is not None
        for name, change in self._seeding.changes().items():
            news = self._note(name)
            news.have += change.offered
            news.gone += change.retracted

    def _tell_near(self, coming: Iterable[int] = (), gone: Iterable[int] = ()) -> None:
        for name, replica in self._replicas.items():
            if replica.host is self.host:
                news = self._note(name)
                news.coming += coming
                news.gone += gone

    def _note(self, name: str) -> _News:
        """What a replica is told once all that happens now has happened."""
        if not self._news:
            self._place.timeline.after(0.0, self._tell)
        return self._news.setdefault(name, _News())

    def _tell(self) -> None:
        told, self._news = self._news, {}
        for name, news in told.items():
            if news and self.alive:
                self.control.count(len(news))
                self._place.timeline.after(
                    self._place.options.latency_s, self._replicas[name].hear, self, news
                )
