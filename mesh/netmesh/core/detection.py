"""The failure detector: SWIM's probes, direct and through others, and triage of failed ones."""

from __future__ import annotations

from netmesh.core.changes import Change, Finding
from netmesh.core.events import Dialled, DialOutcome
from netmesh.core.health import LocalHealth, RoundTrips
from netmesh.core.messages import Ack, Relay, Relayed
from netmesh.core.node import DIAL_GRACE, Node
from netmesh.core.prober import Probe, Probes, RoundRobin
from netmesh.core.records import MemberId, Status, host_of
from netmesh.core.states import Cause, triage
from netmesh.core.timers import Timer

WAITING = (Timer.DIRECT, Timer.INDIRECT, Timer.RELAY, Timer.PATIENCE, Timer.SUSPICION)
"""Deadlines that stand for another member's silence; they move when I was the one that slept."""


MISLED_FIRST_S = 60.0
MISLED_MOST_S = 3600.0
MISLED_LIMIT = 256


class Detector:
    """Probes members, and returns its findings."""

    def __init__(self, node: Node, health: LocalHealth) -> None:
        self._node = node
        self._health = health
        self.round_trips = RoundTrips(node.settings)
        self.probes = Probes()
        self._order = RoundRobin(node.table, node.rng)
        self._watch_turn = 0
        self._watched: tuple[int, frozenset[MemberId]] = (-1, frozenset())
        self._misleading: dict[MemberId, tuple[int, float, float]] = {}
        """Members whose address leads to another: generation, when and after which pause they are
        accused again."""

    def start(self) -> None:
        """Begin probing, at a random phase so that members that start together do not probe in
        step."""
        node, settings = self._node, self._node.settings
        first = node.now + node.rng.random() * settings.probe_interval_s
        node.timers.set((Timer.PROBE, 0), first)
        watch = node.now + node.rng.random() * settings.watch_probe_interval_s
        node.timers.set((Timer.WATCH_PROBE, 0), watch)

    def stop(self) -> None:
        """Stop accusing anybody, because I am leaving."""
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
        """Discount the `by` seconds by which I was woken too late: that time says nothing about
        others."""
        self._node.timers.delay(WAITING, by)
        self._health.worse()

    def suspected(self) -> None:
        """Note that others suspect me. Lifeguard: a suspect is probably slow."""
        self._health.worse()

    # Probing

    def probe_next(self) -> None:
        """Take one step of the round robin."""
        node = self._node
        pause = node.settings.probe_interval_s * self._health.multiplier
        node.timers.set((Timer.PROBE, 0), node.now + pause)
        target = self._order.next()
        if target is not None:
            self._probe(target)

    def probe_watched(self) -> None:
        """Probe one of the ring successors, in turn."""
        node = self._node
        pause = node.settings.watch_probe_interval_s * self._health.multiplier
        node.timers.set((Timer.WATCH_PROBE, 0), node.now + pause)
        successors = node.table.successors(node.id, node.settings.watch_links)
        if successors:
            self._watch_turn += 1
            self._probe(successors[self._watch_turn % len(successors)])

    def verify(self, member: MemberId) -> None:
        """Check at once, by ping and by connect, whether that member is there."""
        if not self._node.table.live(member):
            return
        probe = self._probe(member)
        if probe is not None and probe.dial is None:
            self._node.dial(member)

    def look_around(self, member: MemberId) -> None:
        """Check the other members on that host: a host that does not answer probably took them with
        it."""
        node = self._node
        table = node.table
        seen = 0
        for other in table.on_host(host_of(member)):
            if seen == node.settings.crowd_triage:
                break
            if other != node.id and table.records[other].status is not Status.SUSPECT:
                self.verify(other)
                seen += 1

    def follow(self, change: Change) -> None:
        """Keep the round robin and the open probes in step with the table."""
        node = self._node
        old, new = change.old, change.new
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
            and node.id not in change.claim.accusers
            and new.id in self.watched()
        ):
            # I watch this member, so I have to find out whether the accuser is right.
            self.verify(new.id)

    def acked(self, message: Ack) -> Finding | None:
        """Act on an answer."""
        probe = self.probes.numbered(message.sequence)
        if probe is None:
            return None
        if probe.target != message.sender:
            return self._misled(probe, message.sender)
        if not probe.escalated:
            self.round_trips.add(self._node.now - probe.sent)
        self._succeeded(probe)
        return None

    def relayed(self, message: Relayed) -> None:
        """Act on a relay's report."""
        probe = self.probes.numbered(message.sequence)
        if probe is None:
            return
        if message.heard:
            self._succeeded(probe)
        elif probe.nacks < probe.relays:
            probe.nacks += 1

    def direct_timeout(self, sequence: int) -> None:
        """No answer has come yet: ask again, ask others, and ask the kernel."""
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
        wait = settings.indirect_timeout_factor * self.round_trips.timeout_s(
            self._health.multiplier
        )
        node.timers.set((Timer.INDIRECT, sequence), node.now + wait)
        if probe.dial is None and not node.dial(probe.target):
            # Too many connects are in flight to tell stalled from gone; the next round will.
            self._close(probe)

    def indirect_timeout(self, sequence: int) -> Finding | None:
        """Conclude a probe whose target nobody heard."""
        probe = self.probes.numbered(sequence)
        if probe is None:
            return None
        if probe.dial is not None:
            return self._conclude(probe, probe.dial)
        if probe.over:
            # The shell lost the connect's answer: reach no verdict, but leave no stuck probe.
            self._close(probe)
        else:
            probe.over = True
            wait = DIAL_GRACE * self._node.settings.dial_timeout_s
            self._node.timers.set((Timer.INDIRECT, sequence), self._node.now + wait)
        return None

    def dialled(self, event: Dialled) -> Finding | None:
        """Act on the end of a connect, which may belong to a probe."""
        probe = self.probes.of(event.id)
        if probe is None:
            return None
        probe.dial = event.outcome
        if event.outcome is DialOutcome.REFUSED or probe.over:
            return self._conclude(probe, event.outcome)
        return None

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
        wait = self.round_trips.timeout_s(self._health.multiplier)
        node.timers.set((Timer.DIRECT, probe.sequence), node.now + wait)
        return probe

    def _close(self, probe: Probe) -> None:
        self.probes.close(probe)
        self._node.timers.cancel((Timer.DIRECT, probe.sequence))
        self._node.timers.cancel((Timer.INDIRECT, probe.sequence))

    def _succeeded(self, probe: Probe) -> None:
        self._close(probe)
        self._health.better()

    def _misled(self, probe: Probe, by: MemberId) -> Finding | None:
        """Conclude a probe that another member answered: from here the target's address leads to
        it.

        The target may live and be reached by others, which it then shows by refuting. So the same
        accusation is repeated less and less often.
        """
        self._close(probe)
        node = self._node
        generation, again_at, pause = self._misleading.pop(probe.target, (0, 0.0, 0.0))
        accuse = generation != probe.generation or node.now >= again_at
        if accuse:
            pause = min(MISLED_MOST_S, max(MISLED_FIRST_S, 2 * pause))
            again_at = node.now + pause
            node.log_rarely(
                "probes.misled",
                "warning",
                f"the address of {probe.target} leads to {by} from here: one of the two advertises "
                "an address that is not its own (MESH_ADVERTISE)",
            )
        self._misleading[probe.target] = (probe.generation, again_at, pause)
        if len(self._misleading) > MISLED_LIMIT:
            del self._misleading[next(iter(self._misleading))]
        return Finding(probe.target, probe.generation, Cause.ANOTHER_ANSWERS) if accuse else None

    def _conclude(self, probe: Probe, outcome: DialOutcome) -> Finding | None:
        self._close(probe)
        cause = triage(outcome)
        if cause is None:
            self._health.worse()
            return None
        if outcome is not DialOutcome.REFUSED and (not probe.relays or probe.nacks < probe.relays):
            # Lifeguard: relays that do not even say "not heard" point at my own connection.
            self._health.worse(max(1, probe.relays - probe.nacks) if probe.nacks else 1)
        return Finding(probe.target, probe.generation, cause)
