"""Noticing that a member does not answer: probes, detours over others, and triage."""

from __future__ import annotations

from netmesh.core.claims import Claim
from netmesh.core.events import Dialled, DialOutcome
from netmesh.core.health import LocalHealth, RoundTrips
from netmesh.core.messages import Ack, Relay, Relayed
from netmesh.core.node import DIAL_GRACE, Node
from netmesh.core.prober import Probe, Probes, RoundRobin
from netmesh.core.records import MemberId, Record, Status, host_of
from netmesh.core.states import triage
from netmesh.core.timers import Timer
from netmesh.core.verdicts import Verdicts

WAITING = (Timer.DIRECT, Timer.INDIRECT, Timer.RELAY, Timer.PATIENCE, Timer.SUSPICION)
"""Deadlines that stand for somebody else's silence; they move when it was I that slept."""


class Detector:
    """Probes members and hands those that do not answer to the judge."""

    def __init__(self, node: Node, verdicts: Verdicts, health: LocalHealth) -> None:
        self._node = node
        self._verdicts = verdicts
        self.health = health
        self.round_trips = RoundTrips(node.settings)
        self.probes = Probes()
        self._order = RoundRobin(node.table, node.rng)
        self._watch_turn = 0
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
        self.verify(member)

    def verify(self, member: MemberId) -> None:
        """See at once for myself whether that member is there."""
        if not self._node.table.live(member):
            return
        probe = self._probe(member)
        if probe is not None and probe.dial is None:
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
        if probe.dial is not None:
            self._conclude(probe, probe.dial)
        elif probe.over:
            # The answer of the connect got lost in the shell: no verdict, and no stuck probe.
            self._close(probe)
        else:
            probe.over = True
            wait = DIAL_GRACE * self._node.settings.dial_timeout_s
            self._node.timers.set((Timer.INDIRECT, sequence), self._node.now + wait)

    def dialled(self, event: Dialled) -> None:
        """A connect ended."""
        self._verdicts.dialled(event)
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
        self._verdicts.judge(probe.target, probe.generation, triage(outcome))
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
            if other != node.id and other not in self._verdicts.suspicions:
                self.verify(other)
                seen += 1

    def _changed(self, old: Record | None, new: Record, claim: Claim) -> None:
        """Keep the round robin and the open probes in step with the table."""
        node = self._node
        if new.id == node.id:
            return
        if not new.status.live:
            probe = self.probes.of(new.id)
            if probe is not None:
                self._close(probe)
        elif old is None or not old.status.live:
            self._order.joined(new.id)
        elif (
            new.status is Status.SUSPECT
            and old.status is not Status.SUSPECT
            and node.id not in claim.accusers
            and new.id in self.watched()
        ):
            # I watch it: whether the accuser is right is for me to find out.
            self.verify(new.id)
