"""Noticing that a member is gone: probes, triage, suspicion, and what follows from each."""

from __future__ import annotations

from netmesh.core.accusers import Accusers
from netmesh.core.claims import Claim, head
from netmesh.core.events import Connection, Dialled, DialOutcome
from netmesh.core.health import LocalHealth, RoundTrips
from netmesh.core.messages import Ack, Gossip, Relay, Relayed
from netmesh.core.node import Node
from netmesh.core.prober import Probe, Probes, RoundRobin
from netmesh.core.records import MemberId, Record, Status, host_of
from netmesh.core.states import Cause, after, triage
from netmesh.core.suspicion import Suspicions
from netmesh.core.timers import Timer

WAITING = (Timer.DIRECT, Timer.INDIRECT, Timer.RELAY, Timer.PATIENCE, Timer.SUSPICION)
"""Deadlines that stand for somebody else's silence; they move when it was I that slept."""


class Detector:
    """Probes members and judges those that do not answer."""

    def __init__(self, node: Node, suspicions: Suspicions, accusers: Accusers) -> None:
        self._node = node
        self.suspicions = suspicions
        self._accusers = accusers
        self.health = LocalHealth(node.settings)
        self.round_trips = RoundTrips(node.settings)
        self.probes = Probes()
        self._order = RoundRobin(node.table, node.rng)
        self._watch_turn = 0
        self._bad_since: dict[MemberId, float] = {}
        self._watched: tuple[int, frozenset[MemberId]] = (-1, frozenset())
        node.on_change.append(self._changed)

    def start(self) -> None:
        """Begin probing, at a random phase so that members started together do not beat."""
        node, settings = self._node, self._node.settings
        first = node.now + node.rng.random() * settings.probe_interval_s
        node.timers.set((Timer.PROBE, 0), first)
        watch = node.now + node.rng.random() * settings.watch_probe_interval_s
        node.timers.set((Timer.WATCH_PROBE, 0), watch)

    def stop(self) -> None:
        """I am leaving: accuse nobody any more."""
        for kind in (Timer.PROBE, Timer.WATCH_PROBE):
            self._node.timers.cancel((kind, 0))

    def watched(self) -> frozenset[MemberId]:
        """The ring successors whose links must stay open."""
        table = self._node.table
        if self._watched[0] != table.ring_revision:
            successors = table.successors(table.me, self._node.settings.watch_links)
            self._watched = (table.ring_revision, frozenset(successors))
        return self._watched[1]

    def late(self, by: float) -> None:
        """I was woken `by` seconds too late: that time says nothing about others."""
        self._node.timers.delay(WAITING, by)
        self.health.worse()

    # Probing

    def probe_next(self) -> None:
        """One step of the round robin."""
        node = self._node
        pause = node.settings.probe_interval_s * self.health.multiplier
        node.timers.set((Timer.PROBE, 0), node.now + pause)
        target = self._order.next()
        if target is not None:
            self._probe(target)

    def probe_watched(self) -> None:
        """One of the ring successors, in turn."""
        node = self._node
        pause = node.settings.watch_probe_interval_s * self.health.multiplier
        node.timers.set((Timer.WATCH_PROBE, 0), node.now + pause)
        successors = node.table.successors(node.id, node.settings.watch_links)
        if successors:
            self._watch_turn += 1
            self._probe(successors[self._watch_turn % len(successors)])

    def link_lost(self, member: MemberId) -> None:
        """A monitored connection broke: look at once, by ping and by connect."""
        if not self._node.table.live(member):
            return
        probe = self._probe(member)
        if probe is not None and not probe.escalated:
            probe.lost_link = True
            self._node.dial(member)

    def acked(self, message: Ack) -> Probe | None:
        """An answer came; the probe it belongs to, when it still waits."""
        probe = self.probes.numbered(message.sequence)
        if probe is None or probe.target != message.sender:
            return None
        if not probe.escalated:
            self.round_trips.add(self._node.now - probe.sent)
        self._succeeded(probe)
        return probe

    def relayed(self, message: Relayed) -> None:
        """A relay reports."""
        probe = self.probes.numbered(message.sequence)
        if probe is None:
            return
        if message.heard:
            self._succeeded(probe)
        elif probe.nacks < probe.relays:
            probe.nacks += 1

    def direct_timeout(self, sequence: int) -> None:
        """No answer yet: ask again, ask others, and ask the kernel."""
        probe = self.probes.numbered(sequence)
        if probe is None:
            return
        node, settings = self._node, self._node.settings
        probe.escalated = True
        count = node.table.size if node.table.size < settings.indirect_all_below else 0
        relays = node.table.sample(
            node.rng, count or settings.indirect_probes, frozenset((node.id, probe.target))
        )
        probe.relays = len(relays)
        for relay in relays:
            node.send(relay, Relay(node.id, node.generation, sequence, probe.target))
        self._node.ping(probe.target, sequence)
        wait = settings.indirect_timeout_factor * self.round_trips.timeout_s(self.health.multiplier)
        node.timers.set((Timer.INDIRECT, sequence), node.now + wait)
        if probe.dial is None and not node.dial(probe.target):
            # Too many connects are in flight to tell stalled from gone; the next round will.
            self._close(probe)

    def indirect_timeout(self, sequence: int) -> None:
        """Nobody heard it."""
        probe = self.probes.numbered(sequence)
        if probe is None:
            return
        probe.over = True
        if probe.dial is not None:
            self._conclude(probe, probe.dial)

    def dialled(self, event: Dialled) -> None:
        """A connect ended."""
        suspicion = self.suspicions.get(event.id)
        if suspicion is not None and suspicion.looking:
            suspicion.looking = False
            self._looked(event.id, event.outcome)
        probe = self.probes.of(event.id)
        if probe is None:
            return
        probe.dial = event.outcome
        if event.outcome is DialOutcome.REFUSED or probe.over:
            self._conclude(probe, event.outcome)

    def _probe(self, target: MemberId) -> Probe | None:
        """Start a probe unless one runs; returns the running one."""
        running = self.probes.of(target)
        if running is not None:
            return running
        node = self._node
        record = node.table.get(target)
        if record is None or target == node.id or node.leaving:
            return None
        probe = Probe(target, record.generation, node.sequence(), node.now)
        self.probes.open(probe)
        self._node.ping(target, probe.sequence)
        wait = self.round_trips.timeout_s(self.health.multiplier)
        node.timers.set((Timer.DIRECT, probe.sequence), node.now + wait)
        return probe

    def _close(self, probe: Probe) -> None:
        self.probes.close(probe)
        self._node.timers.cancel((Timer.DIRECT, probe.sequence))
        self._node.timers.cancel((Timer.INDIRECT, probe.sequence))

    def _succeeded(self, probe: Probe) -> None:
        self._close(probe)
        self.health.better()

    def _conclude(self, probe: Probe, outcome: DialOutcome) -> None:
        self._close(probe)
        if outcome is not DialOutcome.REFUSED and (not probe.relays or probe.nacks < probe.relays):
            # Lifeguard: relays that do not even say "not heard" point at my own connection.
            self.health.worse(max(1, probe.relays - probe.nacks) if probe.nacks else 1)
        self._judge(probe.target, probe.generation, triage(outcome))
        if outcome is DialOutcome.SILENT:
            self._look_around(probe.target)

    def _look_around(self, member: MemberId) -> None:
        """A host that does not answer probably took its other workers with it."""
        node = self._node
        host = host_of(member)
        seen = 0
        for other in node.table.on_host(host):
            if seen == node.settings.crowd_triage:
                break
            if other != node.id and other not in self.suspicions:
                self._probe(other)
                node.dial(other)
                seen += 1

    # Judging

    def _judge(self, member: MemberId, generation: int, cause: Cause) -> None:
        node = self._node
        record = node.table.get(member)
        if record is None or record.generation != generation or node.leaving:
            return
        crash = (node.id,) if cause is Cause.CRASH_SEEN else ()
        if cause is Cause.CRASH_SEEN and node.table.size <= 3:
            cause = Cause.CRASH_CONFIRMED
        status = after(record.status, cause)
        if status is not record.status:
            accusers = () if status is Status.STALLED else (node.id,)
            self._pronounce(record, status, accusers, crash)
        elif record.status is Status.SUSPECT and self.suspicions.confirm(member, (node.id,), crash):
            self._confirmed(record)
        if crash and node.table.live(member):
            self._tell_watchers(member)

    def _pronounce(
        self,
        record: Record,
        status: Status,
        accusers: tuple[MemberId, ...],
        crash: tuple[MemberId, ...],
    ) -> None:
        node = self._node
        new = Record(
            record.id,
            record.generation,
            record.incarnation,
            status,
            record.version,
            record.advert,
        )
        node.change(record, new, head(new, accusers, crash))

    def _confirmed(self, record: Record) -> None:
        """The suspicion has a new witness: tell it, and see whether that is enough."""
        node = self._node
        suspicion = self.suspicions.get(record.id)
        if suspicion is None:
            return
        told = head(record, suspicion.accusers, suspicion.crash)
        node.spread(told, urgent=bool(suspicion.crash))
        self._weigh(record)

    def _weigh(self, record: Record) -> None:
        """Bury a suspect that enough members saw crash, else set its deadline."""
        node = self._node
        suspicion = self.suspicions.get(record.id)
        if suspicion is None:
            return
        if self.suspicions.crash_confirmed(record.id, node.table.size):
            status = after(record.status, Cause.CRASH_CONFIRMED)
            self._pronounce(record, status, suspicion.accusers, suspicion.crash)
            return
        due = self.suspicions.due(record.id, node.table.size, node.id)
        node.timers.set((Timer.SUSPICION, record.id), max(due, node.now))

    def _tell_watchers(self, member: MemberId) -> None:
        """The others that watch it saw the same at the same moment: two of us make it certain."""
        node = self._node
        record = node.table.get(member)
        suspicion = self.suspicions.get(member)
        if record is None or suspicion is None:
            return
        claim = head(record, suspicion.accusers, suspicion.crash)
        for watcher in node.table.predecessors(member, node.settings.watch_links):
            if watcher != node.id:
                node.send(watcher, Gossip(node.id, node.generation, (claim,)))

    def suspicion_over(self, member: MemberId) -> None:
        """Nobody refuted in time: look one last time before burying."""
        suspicion = self.suspicions.get(member)
        node = self._node
        if suspicion is None or suspicion.looking:
            return
        if node.now - suspicion.bad_since >= node.settings.stall_patience_s:
            self._bury(member)
        elif node.dial(member):
            suspicion.looking = True
        else:
            node.timers.set((Timer.SUSPICION, member), node.now + node.settings.dial_timeout_s)

    def patience_over(self, member: MemberId) -> None:
        """It has been stalled for too long."""
        record = self._node.table.get(member)
        if record is not None:
            self._judge(member, record.generation, Cause.PATIENCE_OVER)

    def _looked(self, member: MemberId, outcome: DialOutcome) -> None:
        node = self._node
        suspicion = self.suspicions.get(member)
        if suspicion is None:
            return
        if outcome is DialOutcome.CONNECTED:
            # Somebody's kernel holds the port: wait as for a stall, from when it went bad.
            again = node.now + node.settings.suspicion_min_s(node.table.size)
            patient = suspicion.bad_since + node.settings.stall_patience_s
            node.timers.set((Timer.SUSPICION, member), min(again, max(patient, node.now)))
            return
        self._bury(member)

    def _bury(self, member: MemberId) -> None:
        node = self._node
        record = node.table.get(member)
        suspicion = self.suspicions.get(member)
        if record is None or suspicion is None or node.leaving:
            return
        status = after(record.status, Cause.SUSPICION_OVER)
        self._pronounce(record, status, (node.id,), ())

    # Reacting to the table

    def _changed(self, old: Record | None, new: Record, claim: Claim) -> None:
        """Keep suspicions and deadlines in step with the table."""
        node = self._node
        member = new.id
        if member == node.id:
            return
        if old is None or (new.status.live and not old.status.live):
            self._order.joined(member)
        if new.status is Status.ALIVE:
            self._bad_since.pop(member, None)
        else:
            self._bad_since.setdefault(member, node.now)
        if new.status is Status.SUSPECT:
            self._suspect(old, new, claim)
        else:
            self._acquit(old, new)
        if new.status is Status.STALLED:
            if old is not new:
                until = node.now + node.settings.stall_patience_s
                node.timers.set((Timer.PATIENCE, member), until)
        else:
            node.timers.cancel((Timer.PATIENCE, member))
        if not new.status.live:
            self._bad_since.pop(member, None)
            probe = self.probes.of(member)
            if probe is not None:
                self._close(probe)

    def _suspect(self, old: Record | None, new: Record, claim: Claim) -> None:
        node = self._node
        bad_since = self._bad_since.get(new.id, node.now)
        first = new.id not in self.suspicions
        self.suspicions.open(new, node.now, bad_since)
        self.suspicions.confirm(new.id, claim.accusers, claim.crash)
        self._weigh(new)
        if first and node.id not in claim.accusers and new.id in self.watched():
            probe = self._probe(new.id)
            if probe is not None and probe.dial is None:
                node.dial(new.id)

    def _acquit(self, old: Record | None, new: Record) -> None:
        node = self._node
        suspicion = self.suspicions.close(new.id)
        if suspicion is None:
            return
        node.timers.cancel((Timer.SUSPICION, new.id))
        if old is not None and new.status is Status.ALIVE and new.generation == old.generation:
            for accuser in suspicion.accusers:
                self._accusers.refuted(accuser, node.now)


class Relays:
    """Pings sent for others: who wants to know, under which number. Bounded."""

    __slots__ = ("_node", "_waiting")

    LIMIT = 256

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: dict[int, tuple[Connection, int, MemberId]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def open(self, connection: Connection, message: Relay, timeout_s: float) -> int | None:
        """Remember whom to answer; None when too many wait already."""
        if len(self._waiting) >= self.LIMIT:
            return None
        node = self._node
        sequence = node.sequence()
        self._waiting[sequence] = (connection, message.sequence, message.target)
        node.timers.set((Timer.RELAY, sequence), node.now + timeout_s)
        return sequence

    def close(self, sequence: int, *, heard: bool, by: MemberId | None = None) -> None:
        """Answer whoever asked; `by` is who acknowledged, None when nobody did."""
        waiting = self._waiting.get(sequence)
        if waiting is None or (by is not None and by != waiting[2]):
            return
        del self._waiting[sequence]
        node = self._node
        node.timers.cancel((Timer.RELAY, sequence))
        node.reply(waiting[0], Relayed(node.id, node.generation, waiting[1], heard))
