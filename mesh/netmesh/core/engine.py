"""The protocol as one object: `handle(event, now)` returns the effects to carry out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from netmesh.core.accusation_limits import AccusationLimits
from netmesh.core.antientropy import AntiEntropy
from netmesh.core.changes import Change, apply
from netmesh.core.claims import head
from netmesh.core.detection import Detector
from netmesh.core.dissemination import Dissemination
from netmesh.core.effects import Departed, Effect, Watch
from netmesh.core.events import (
    Connection,
    Contacts,
    Dialled,
    Event,
    Leave,
    LinkLost,
    Publish,
    Received,
    Tick,
)
from netmesh.core.fetches import Fetches
from netmesh.core.health import LocalHealth
from netmesh.core.ingest import Channel, Ingest
from netmesh.core.joining import Joining
from netmesh.core.leaving import Leaving
from netmesh.core.member import Member, member_of
from netmesh.core.messages import (
    NOBODY,
    Ack,
    Buckets,
    Busy,
    Digest,
    Exchange,
    Forget,
    Forgotten,
    Gossip,
    Join,
    Message,
    Observe,
    Ping,
    Relay,
    Relayed,
    State,
)
from netmesh.core.node import Node
from netmesh.core.reach import EVERYWHERE, Reach
from netmesh.core.records import (
    Generation,
    MemberId,
    Record,
    Status,
    pack_advert,
)
from netmesh.core.relaying import Relays
from netmesh.core.rng import Rng
from netmesh.core.settings import ProtocolSettings
from netmesh.core.states import Cause
from netmesh.core.suspicion import Suspicions
from netmesh.core.timers import Timer
from netmesh.core.tombstones import Tombstones
from netmesh.core.verdicts import Verdicts
from netmesh.core.view import MembershipView


class Engine:
    """One member of the mesh, without I/O. Not thread safe: it has one owner.

    The owner calls `handle` with every event and carries out the effects in order. It sends
    `Tick` whenever `deadline()` has passed, after it has handed in what the network brought: an
    answer that waits in a buffer must not look like silence.
    """

    def __init__(
        self,
        settings: ProtocolSettings,
        me: Record,
        rng: Rng,
        counters: Counter[str] | None = None,
        reach: Reach = EVERYWHERE,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        """*counters* gets a ``dropped.*`` for everything that a limit kept out. Members beyond
        *reach* are not taken in, asked or answered. *wall_ms* gives milliseconds since the epoch;
        without it the clock of the first generation goes on."""
        self._node = node = Node(settings, me, rng, counters, reach, wall_ms)
        suspicions = Suspicions(settings)
        limits = AccusationLimits(settings)
        health = LocalHealth(settings)
        self._fetches = Fetches(node)
        self._verdicts = Verdicts(node, suspicions, limits, health)
        self._detector = Detector(node, health)
        self._tombstones = Tombstones(node)
        self._view = MembershipView(
            node,
            Ingest(node, suspicions, limits),
            self._fetches,
            self._verdicts,
            self._detector,
            self._tombstones,
        )
        self._gossip = Dissemination(node, self._tombstones)
        self._relays = Relays(node)
        self._antientropy = AntiEntropy(node, self._view)
        self._joining = Joining(node, self._view, self._antientropy)
        self._leaving = Leaving(node, self._view)
        self._started: float | None = None
        self._watching: frozenset[MemberId] = frozenset()
        self._departed = False

    @property
    def id(self) -> MemberId:
        """My own id."""
        return self._node.id

    @property
    def generation(self) -> Generation:
        """My generation; grows when another process claims my id."""
        return self._node.generation

    @property
    def revision(self) -> int:
        """Grows whenever `members()` would show something else."""
        return self._node.table.revision

    @property
    def joined(self) -> bool:
        """True when my table equals that of at least one contact, or there is nobody to join."""
        return self._joining.joined

    @property
    def root(self) -> int:
        """64-bit hash over the live part of the table: equal for equal tables."""
        return self._node.table.root

    @property
    def size(self) -> int:
        """Live members, me included."""
        return self._node.table.size

    def live(self, member: MemberId) -> bool:
        """True when the member is known and neither dead nor gone; O(1)."""
        return self._node.table.live(member)

    def record(self, member: MemberId) -> Record | None:
        """What is known about one member; O(1)."""
        return self._node.table.get(member)

    @property
    def changes(self) -> Sequence[Change]:
        """What the last event changed in the table, in order."""
        return self._node.changes

    def deadline(self) -> float:
        """When (monotonic seconds) the next `Tick` is due; minus infinity before the first event.

        Infinity once departed.
        """
        if self._started is None:
            return float("-inf")
        return float("inf") if self._departed else self._node.timers.next()

    def members(self) -> tuple[Member, ...]:
        """A snapshot that includes me; the dead are shown for ten minutes."""
        node = self._node
        now_ms = node.clock_ms()
        return tuple(
            member_of(record, now_ms, me=record.id == node.id)
            for record in node.table.shown(node.now - node.settings.dead_shown_s)
        )

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event at `now` (monotonic seconds) and return what to do about it."""
        node = self._node
        node.changes = []
        if self._departed:
            return []
        if self._started is None:
            self._start(now)
        late = now - node.timers.next()
        node.now = max(now, node.now)
        if late > node.settings.late_s:
            self._detector.late(late)
        match event:
            case Received():
                self._received(event)
            case Tick():
                pass
            case Dialled():
                node.dialling.pop(event.id, None)
                self._view.apply(self._verdicts.dialled(event))
                self._view.find(self._detector.dialled(event))
                self._joining.dialled(event)
                self._tombstones.dialled(event)
            case LinkLost():
                self._detector.verify(event.id)
            case Contacts():
                self._joining.found(event.ids)
            case Publish():
                self._publish(event)
            case Leave():
                self._leave()
        # Deadlines are served on every event: under load a Tick may come late.
        while (key := node.timers.pop(node.now)) is not None:
            self._expired(*key)
        self._settle()
        effects, node.effects = node.effects, []
        return effects

    def check(self) -> None:
        """Raise AssertionError when the state contradicts itself (tests and simulator only)."""
        node = self._node
        node.table.check()
        self._check_changes()
        suspicions = self._verdicts.suspicions
        for member, record in node.table.records.items():
            suspect = record.status is Status.SUSPECT and member != node.id
            assert (member in suspicions) == suspect, f"{member}: {record.status.name}"
            if suspect and not node.leaving:
                assert (Timer.SUSPICION, member) in node.timers, f"{member} suspect for ever"
        assert len(node.rumours) <= node.settings.rumour_limit
        assert len(node.table.tombstones) <= node.settings.tombstone_limit + 1
        assert node.me.status.live or node.leaving, "I think that I am dead"

    def _check_changes(self) -> None:
        """Check that every change of the last event is a row of the table and a step up from
        before."""
        latest: dict[MemberId, Record] = {}
        for change in self._node.changes:
            change.check()
            known = latest.get(change.new.id, change.old)
            forgotten = change.old is None and known is not None and not known.status.live
            assert change.old == known or forgotten, f"changed from {change.old}, was {known}"
            latest[change.new.id] = change.new
        for member, record in latest.items():
            kept = self._node.table.get(member)
            # A tombstone may have made room for the next.
            forgotten = kept is None and not record.status.live
            assert kept == record or forgotten, f"{member} is {kept}, not {record}"

    def _start(self, now: float) -> None:
        node = self._node
        self._started = now
        node.now = node.began = now
        self._detector.start()

    def _received(self, event: Received) -> None:
        message, connection = event.message, event.connection
        if not self._accept(message):
            return
        match message:
            case Ping():
                self._on_ping(event, message)
            case Ack():
                self._view.find(self._detector.acked(message))
                self._relays.close(message.sequence, heard=True, by=message.sender)
                self._view.hear(message.claims, Channel.GOSSIP, message.sender)
                self._compare(message)
            case Gossip():
                self._view.hear(message.claims, Channel.GOSSIP, message.sender)
            case Relay():
                timeout = self._detector.round_trips.timeout_s(1)
                self._relays.open(connection, message, timeout)
            case Relayed():
                self._detector.relayed(message)
            case Join():
                self._joining.on_join(connection, message)
            case Observe():
                self._joining.on_observe(connection, message)
            case State():
                self._joining.on_state(message)
            case Busy():
                self._antientropy.busy(message)
                self._joining.on_busy(message)
            case Buckets():
                self._antientropy.on_buckets(connection, message)
            case Digest():
                self._antientropy.on_digest(connection, message)
            case Exchange():
                self._antientropy.on_exchange(connection, message)
            case Forget():
                self._forget(connection, message)
            case Forgotten():
                pass  # an answer to observers

    def _accept(self, message: Message) -> bool:
        """False for messages of an earlier process on that address, and for my own echo."""
        node = self._node
        sender = message.sender
        if sender == node.id:
            return False
        if not sender:
            return True
        record = node.known(sender)
        if record is None and not node.reaches(sender):
            return False
        if isinstance(message, Join):
            return True
        if record is None or record.generation < message.generation:
            if message.generation > node.horizon():
                node.counters["dropped.generation_ahead"] += 1
                return isinstance(message, Ping)
            self._fetches.stranger(sender, message.generation)
            return True
        if record.generation > message.generation:
            # The sender has not heard that it was replaced. Its pings get the news back; its other
            # messages are void.
            if isinstance(message, Ping):
                return True
            node.counters["dropped.old_generation"] += 1
            return False
        if record.status is Status.SUSPECT:
            self._view.apply(self._verdicts.heard_from(record))
        return True

    def _on_ping(self, event: Received, message: Ping) -> None:
        node, table = self._node, self._node.table
        if message.target in (NOBODY, node.id):
            node.pinged_at = node.now
        else:
            # The answer has my name, so that the sender learns whom it has reached.
            node.log_rarely(
                "received.for_another",
                "warning",
                f"{message.sender} reaches me as {message.target}: one of us advertises an address "
                "that is not its own (MESH_ADVERTISE)",
            )
        self._view.hear(message.claims, Channel.GOSSIP, message.sender)
        claims = node.piggyback(message.sender, message.generation)
        node.reply(
            event.connection,
            Ack(node.id, node.generation, message.sequence, table.root, table.size, claims),
        )
        self._compare(message)

    def _forget(self, connection: Connection, message: Forget) -> None:
        """An operator says that a dead member will not come back: count it as one that left."""
        node = self._node
        record = node.table.get(message.member)
        if record is not None and record.status is Status.DEAD:
            node.log("info", f"an operator says that {message.member} will not come back")
            self._view.apply(apply(record, head(record), (Cause.LEAVES,)))
            record = node.table.get(message.member)
        status = None if record is None else record.status
        node.reply(connection, Forgotten(node.id, node.generation, message.member, status))

    def _compare(self, message: Ping | Ack) -> None:
        self._joining.observe(message.sender, message.root)
        eager = not self._joining.joined
        self._antientropy.observe(message.sender, message.root, message.size, eager=eager)

    def _publish(self, event: Publish) -> None:
        node = self._node
        advert = pack_advert(event.advert)
        me = node.me
        if advert != me.advert and not node.leaving:
            said = replace(head(me), version=me.version + 1, advert=advert)
            self._view.apply(apply(me, said, (Cause.ADVERTISES,)))

    def _leave(self) -> None:
        if not self._node.leaving:
            self._detector.stop()
            self._leaving.begin()

    def _expired(self, timer: Timer, about: str | int) -> None:
        detector = self._detector
        match timer, about:
            case Timer.PROBE, _:
                detector.probe_next()
                self._view.look()
                if self._view.stands_back:
                    self._joining.look_on()
            case Timer.WATCH_PROBE, _:
                detector.probe_watched()
            case Timer.DIRECT, int():
                detector.direct_timeout(about)
            case Timer.INDIRECT, int():
                self._view.find(detector.indirect_timeout(about))
            case Timer.RELAY, int():
                self._relays.close(about, heard=False)
            case Timer.PATIENCE, str():
                self._view.find(self._verdicts.patience_over(MemberId(about)))
            case Timer.SUSPICION, str():
                self._view.apply(self._verdicts.suspicion_over(MemberId(about)))
            case Timer.GOSSIP, _:
                self._gossip.round()
            case Timer.ANNOUNCE, _:
                self._tombstones.announce()
            case Timer.SWEEP, _:
                self._tombstones.sweep()
            case Timer.CONTACT, str():
                self._joining.retry(MemberId(about))
            case Timer.COMPARE, _:
                self._joining.compare()
            case Timer.LEAVE, int():
                if self._leaving.round(about):
                    self._departed = True
                    self._node.effects.append(Departed())

    def _settle(self) -> None:
        """Do what follows from the event as a whole."""
        self._view.settle()
        self._joining.settle()
        watched = frozenset() if self._node.leaving else self._detector.watched()
        if watched != self._watching:
            self._watching = watched
            self._node.effects.append(Watch(watched))
