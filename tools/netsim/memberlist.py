"""The comparison protocols: memberlist's rules, and plain SWIM as the same without Lifeguard.

Rules and defaults are those of hashicorp/memberlist's LAN configuration, as its documentation and
papers describe them. This is our own sans-IO engine, which takes the core's events and uses the
core's messages:

    ping, ack             Ping, Ack           piggybacked broadcasts are the claims
    indirect ping, nack   Relay, Relayed
    compound broadcast    Gossip
    push-pull             Exchange            reliable stream, both full tables

Where memberlist starts a goroutine or a timer, this engine keeps a deadline. Roots are always 0,
because there is no digest to compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from random import Random

from netmesh.core.claims import Claim, head, whole
from netmesh.core.effects import Departed, Effect, Reply, Send
from netmesh.core.events import (
    Connection,
    Contacts,
    Event,
    Leave,
    Publish,
    Received,
)
from netmesh.core.messages import Ack, Exchange, Gossip, Message, Ping, Relay, Relayed
from netmesh.core.records import (
    Generation,
    MemberId,
    Record,
    Status,
    pack_advert,
)
from netmesh.core.timers import Timer
from netsim.machine import Changed
from netsim.memberlist_claims import Believer
from netsim.memberlist_settings import MemberlistSettings
from netsim.memberlist_view import MemberlistView

STREAM = 1 << 31
"""Sequence numbers from here on mark pings that travel on a stream."""


@dataclass(slots=True)
class _OpenProbe:
    target: MemberId
    sequence: int
    nacks_expected: int = 0
    nacks: int = 0


class Memberlist(Believer):
    """One member under the rules of memberlist."""

    def __init__(
        self, settings: MemberlistSettings, me: Record, rng: Random, changed: Changed
    ) -> None:
        super().__init__(settings, me, rng, changed)
        self._effects: list[Effect] = []
        self._turn = 0
        self._probe: _OpenProbe | None = None
        self._sequence = 0
        self._relays: dict[int, tuple[Connection, int]] = {}
        self._contacts: tuple[MemberId, ...] = ()
        self._met = False
        self._departed = False
        self._started = False

    def deadline(self) -> float:
        """When the next Tick is due."""
        if not self._started:
            return float("-inf")
        return float("inf") if self._departed else self._timers.next()

    def check(self) -> None:
        """Raise AssertionError when the state contradicts itself."""
        self._view.check()
        for member in self._suspicions:
            assert self._view.records[member].status is Status.SUSPECT, member
            assert (Timer.SUSPICION, member) in self._timers, f"{member} is suspect for ever"

    def acquaint(
        self, model: MemberlistView | None, records: list[Record], now: float
    ) -> MemberlistView:
        """Take over a whole view; `model` is one that holds the same records already."""
        self._now = now
        self._start()
        self._met = True
        if model is None:
            for record in records:
                if record.id != self.id:
                    self._view.put(record, now)
        else:
            self._view.copy(model)
        self._order = list(self._view.records)
        self._rng.shuffle(self._order)
        # In a mesh that has run for long, the members' exchanges are spread evenly.
        phase = self._rng.random() * self._settings.push_pull_interval_s(self.size)
        self._timers.set((Timer.COMPARE, 0), now + phase)
        return self._view

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in one event. Dials and links have no meaning here."""
        if self._departed:
            return []
        self._now = max(now, self._now)
        self._start()
        match event:
            case Received(connection, message):
                if message.sender != self.id:
                    self._received(connection, message)
            case Contacts(ids):
                self._contacts = tuple(i for i in ids if i != self.id)
                if self._contacts and not self._met:
                    self._join()
            case Publish(advert):
                self._publish(pack_advert(advert))
            case Leave():
                self._leave()
            case _:
                pass
        while (key := self._timers.pop(self._now)) is not None:
            self._expired(*key)
        effects, self._effects = self._effects, []
        return effects

    # Messages

    def _received(self, connection: Connection, message: Message) -> None:
        match message:
            case Ping():
                # A ping on the stream is answered on the stream, and carries nothing else.
                claims = () if message.sequence >= STREAM else self._packet()
                self._hear(message.claims)
                self._reply(
                    connection,
                    Ack(self.id, self._generation, message.sequence, 0, 0, claims),
                )
            case Ack():
                self._hear(message.claims)
                self._acked(message)
            case Gossip():
                self._hear(message.claims)
            case Relay():
                self._sequence = self._sequence % (STREAM - 1) + 1
                self._relays[self._sequence] = (connection, message.sequence)
                self._send_ping(message.target, self._sequence, ())
                due = self._now + self._settings.probe_timeout_s
                self._timers.set((Timer.RELAY, self._sequence), due)
            case Relayed():
                self._relayed(message)
            case Exchange():
                self._merge(message.claims)
                self._met = True
                if not message.answer:
                    state = tuple(map(whole, self._view.records.values()))
                    self._reply(connection, Exchange(self.id, self._generation, True, state))
            case _:
                pass

    # Deadlines

    def _expired(self, timer: Timer, about: str | int) -> None:
        settings = self._settings
        match timer, about:
            case Timer.PROBE, _:
                self._timers.set((Timer.PROBE, 0), self._now + settings.probe_interval_s)
                if self._probe is None:
                    self._probe_next()
            case Timer.DIRECT, int():
                self._ask_others(about)
            case Timer.INDIRECT, int():
                self._failed(about)
            case Timer.RELAY, int():
                asked = self._relays.pop(about, None)
                if asked is not None and settings.lifeguard:
                    no = Relayed(self.id, self._generation, asked[1], False)
                    self._reply(asked[0], no)
            case Timer.SUSPICION, str():
                record = self._view.records[MemberId(about)]
                del self._suspicions[record.id]
                self._dead(replace(head(record, (self.id,)), status=Status.DEAD))
            case Timer.GOSSIP, _:
                self._timers.set((Timer.GOSSIP, 0), self._now + settings.gossip_interval_s)
                self._gossip()
            case Timer.COMPARE, _:
                self._push_pull()
            case Timer.CONTACT, _:
                if not self._met:
                    self._join()
            case Timer.LEAVE, _:
                self._departed = True
                self._effects.append(Departed())
            case _:
                pass

    def _probe_next(self) -> None:
        for _ in range(len(self._order) + 1):
            if self._turn >= len(self._order):
                self._new_round()
            target = self._order[self._turn]
            self._turn += 1
            record = self._view.records[target]
            if target != self.id and record.status.live:
                break
        else:
            return
        self._sequence = self._sequence % (STREAM - 1) + 1
        self._probe = probe = _OpenProbe(target, self._sequence)
        first: tuple[Claim, ...] = ()
        if self._settings.lifeguard and record.status is Status.SUSPECT:
            first = (head(record, (self.id,)),)
        self._send_ping(target, probe.sequence, first)
        interval = self._settings.probe_interval_s * (1 + self._awareness)
        timeout = self._settings.probe_timeout_s
        self._timers.set((Timer.DIRECT, probe.sequence), self._now + timeout)
        self._timers.set((Timer.INDIRECT, probe.sequence), self._now + interval)

    def _new_round(self) -> None:
        """Forget members that have been dead for long, and shuffle."""
        before = self._now - self._settings.gossip_to_dead_s
        self._view.forget(before)
        self._order = list(self._view.records)
        self._rng.shuffle(self._order)
        self._turn = 0

    def _ask_others(self, sequence: int) -> None:
        probe = self._probe
        if probe is None or probe.sequence != sequence:
            return
        relays = self._view.sample(
            self._rng, self._settings.indirect_checks, (self.id, probe.target), alive=True
        )
        for relay in relays:
            self._send(relay, Relay(self.id, self._generation, sequence, probe.target))
        if self._settings.lifeguard:
            probe.nacks_expected = len(relays)
        # Perhaps only datagrams fail, so try once more on a stream.
        self._send_ping(probe.target, sequence | STREAM, ())

    def _acked(self, message: Ack) -> None:
        sequence = message.sequence & (STREAM - 1)
        asked = self._relays.pop(sequence, None)
        if asked is not None:
            self._timers.cancel((Timer.RELAY, sequence))
            self._reply(asked[0], Relayed(self.id, self._generation, asked[1], True))
            return
        probe = self._probe
        if probe is not None and probe.sequence == sequence and probe.target == message.sender:
            self._succeeded(probe)

    def _relayed(self, message: Relayed) -> None:
        probe = self._probe
        if probe is None or probe.sequence != message.sequence:
            return
        if message.heard:
            self._succeeded(probe)
        else:
            probe.nacks += 1

    def _succeeded(self, probe: _OpenProbe) -> None:
        self._timers.cancel((Timer.DIRECT, probe.sequence))
        self._timers.cancel((Timer.INDIRECT, probe.sequence))
        self._probe = None
        self._aware(-1)

    def _failed(self, sequence: int) -> None:
        probe = self._probe
        if probe is None or probe.sequence != sequence:
            return
        self._probe = None
        self._timers.cancel((Timer.DIRECT, sequence))
        if probe.nacks_expected:
            self._aware(max(0, probe.nacks_expected - probe.nacks))
        else:
            self._aware(1)
        record = self._view.records.get(probe.target)
        if record is not None:
            self._suspect(replace(head(record, (self.id,)), status=Status.SUSPECT))

    def _gossip(self) -> None:
        if not len(self._broadcasts):
            return
        before = self._now - self._settings.gossip_to_dead_s
        for peer in self._view.sample(
            self._rng, self._settings.gossip_nodes, (self.id,), dead_since=before
        ):
            claims = self._packet()
            if not claims:
                return
            self._send(peer, Gossip(self.id, self._generation, claims))

    def _push_pull(self) -> None:
        interval = self._settings.push_pull_interval_s(self.size)
        self._timers.set((Timer.COMPARE, 0), self._now + interval)
        for peer in self._view.sample(self._rng, 1, (self.id,), alive=True):
            self._exchange(peer)

    def _join(self) -> None:
        for contact in self._contacts:
            self._exchange(contact)
        self._timers.set((Timer.CONTACT, ""), self._now + self._settings.join_retry_s)

    def _leave(self) -> None:
        """Announce my own death, and stay until the news has had time to spread."""
        self._leaving = True
        me = self._view.mine
        self._dead(head(replace(me, status=Status.LEFT)))
        copies = self._settings.retransmits(self.size) / self._settings.gossip_nodes
        self._timers.cancel((Timer.PROBE, 0))
        wait = self._settings.gossip_interval_s * math.ceil(copies)
        self._timers.set((Timer.LEAVE, 0), self._now + wait)

    # Plumbing

    @property
    def _generation(self) -> Generation:
        return self._view.mine.generation

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        settings, random = self._settings, self._rng.random
        self._timers.set((Timer.PROBE, 0), self._now + random() * settings.probe_interval_s)
        self._timers.set((Timer.GOSSIP, 0), self._now + random() * settings.gossip_interval_s)
        first = settings.push_pull_s * (1.0 + random())
        self._timers.set((Timer.COMPARE, 0), self._now + first)

    def _send_ping(self, to: MemberId, sequence: int, first: tuple[Claim, ...]) -> None:
        claims = first if sequence >= STREAM else first + self._packet(100)
        self._send(to, Ping(self.id, self._generation, sequence, 0, 0, claims))

    def _exchange(self, peer: MemberId) -> None:
        state = tuple(map(whole, self._view.records.values()))
        self._send(peer, Exchange(self.id, self._generation, False, state))

    def _send(self, to: MemberId, message: Message) -> None:
        self._effects.append(Send(to, message))

    def _reply(self, to: Connection, message: Message) -> None:
        self._effects.append(Reply(to, message))
