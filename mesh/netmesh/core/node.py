"""What the parts of the engine share: the table, the timers, the time, and the outbox."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from netmesh.core.changes import Change, Telling
from netmesh.core.claims import Claim, head, whole
from netmesh.core.effects import Dial, Effect, Log, Reply, Send
from netmesh.core.events import Connection
from netmesh.core.fields import claim_bytes
from netmesh.core.messages import Message, Ping
from netmesh.core.reach import EVERYWHERE, Reach
from netmesh.core.records import (
    DAY_MS,
    FIRST_MS,
    MAX_GENERATION,
    Generation,
    MemberId,
    Record,
    Status,
    first_generation,
    started_ms,
)
from netmesh.core.rng import Rng
from netmesh.core.rumours import Rumours
from netmesh.core.settings import ProtocolSettings
from netmesh.core.table import Table
from netmesh.core.timers import Timer, Timers

EAGER_ADVERT_BYTES = 256
"""A small advert travels with the rumour; each member that lacks a larger one fetches it once."""
MAX_DIALS = 64
"""Connects in flight; the shell holds one file descriptor for each."""
DIAL_GRACE = 5.0
"""Times the timeout of a connect: a lost answer in the shell must not block the next connect."""

NEVER = -1e9
"""A time (monotonic seconds) before all others."""


class Node:
    """State of one member. The node decides only whom to tell what it is given to tell."""

    def __init__(
        self,
        settings: ProtocolSettings,
        me: Record,
        rng: Rng,
        counters: Counter[str] | None = None,
        reach: Reach = EVERYWHERE,
        wall_ms: Callable[[], int] | None = None,
    ) -> None:
        self._wall_ms = wall_ms
        self._started_ms = started_ms(me.generation)
        self.began: float | None = None
        """Time of the first event."""
        self.settings = settings
        self.reach = reach
        self.counters: Counter[str] = Counter() if counters is None else counters
        self.rng = rng
        self.table = Table(me)
        self.rumours = Rumours(settings.rumour_limit, self.counters)
        self.timers = Timers()
        self.now = 0.0
        self.effects: list[Effect] = []
        self.leaving = False
        self.gossiped_at = -1e9
        self.pinged_at = NEVER
        """When somebody last reached me at my address."""
        self.dialling: dict[MemberId, float] = {}
        """Connects under way, each with the time after which no answer is expected any more."""
        self.changes: list[Change] = []
        """What the current event has changed so far."""
        self._sequence = rng.getrandbits(31)
        self._retransmits = (0, 0)

    @property
    def me(self) -> Record:
        """My own record."""
        return self.table.mine

    @property
    def id(self) -> MemberId:
        """My own id."""
        return self.table.me

    @property
    def generation(self) -> Generation:
        """My generation."""
        return self.table.mine.generation

    def sequence(self) -> int:
        """A number that identifies the answers to one question; 32 bits, wraps, never 0."""
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def send(self, to: MemberId, message: Message) -> None:
        """Put a message to a member into the outbox."""
        self.effects.append(Send(to, message))

    def reply(self, to: Connection, message: Message) -> None:
        """Put an answer into the outbox."""
        self.effects.append(Reply(to, message))

    def ping(self, to: MemberId, sequence: int) -> None:
        """Send one ping; sequence 0 means that nobody waits for the answer."""
        table = self.table
        record = table.get(to)
        claims = self.piggyback(to, None if record is None else record.generation)
        ping = Ping(self.id, self.generation, sequence, table.root, table.size, claims, to)
        if sequence:
            self.counters["probes"] += 1
        self.send(to, ping)

    def log_rarely(self, what: str, level: Literal["info", "warning"], message: str) -> None:
        """Tell the operator the 1st, 2nd, 4th, 8th ... time, and count `what` each time."""
        count = self.counters[what] = self.counters[what] + 1
        if count & (count - 1) == 0:
            self.log(level, message if count == 1 else f"{message} ({count} times so far)")

    def log(self, level: Literal["debug", "info", "warning"], message: str) -> None:
        """Tell the operator."""
        self.effects.append(Log(level, message))

    def dial(self, member: MemberId) -> bool:
        """Start a connect, or join one under way; False when too many are under way."""
        if self.dialling.get(member, -1e9) > self.now:
            return True
        if len(self.dialling) >= MAX_DIALS:
            self.dialling = {m: due for m, due in self.dialling.items() if due > self.now}
            if len(self.dialling) >= MAX_DIALS:
                self.counters["dropped.dial_limit"] += 1
                return False
        self.dialling[member] = self.now + DIAL_GRACE * self.settings.dial_timeout_s
        self.effects.append(Dial(member, self.settings.dial_timeout_s))
        return True

    def clock_ms(self) -> float:
        """Milliseconds since the epoch."""
        if self._wall_ms is not None:
            return self._wall_ms()
        # My first generation holds the wall clock at my start.
        return self._started_ms + (self.now - (self.began or self.now)) * 1000

    def horizon(self) -> int:
        """The newest generation that is believed: nobody has started more than a day from now.

        A clock that shows a time before this protocol was made is no clock, so it limits nobody.
        """
        clock = int(self.clock_ms())
        return (
            MAX_GENERATION
            if clock < FIRST_MS
            else min(MAX_GENERATION, first_generation(clock + DAY_MS))
        )

    def known(self, member: MemberId) -> Record | None:
        """The record of that member, without a tombstone that no right clock can have made: it
        would lock the address out."""
        record = self.table.get(member)
        if record is not None and not record.status.live and record.generation > self.horizon():
            self.table.forget(member)
            return None if member != self.id else record
        return record

    def reaches(self, member: MemberId) -> bool:
        """Whether I may talk to that member; counts a refusal."""
        if self.reach.allows(member):
            return True
        self.counters["dropped.not_reachable_from_here"] += 1
        return False

    def take(self, change: Change) -> None:
        """Take a change into the table and pass it on."""
        self.table.put(change.new, self.now)
        self.changes.append(change)
        was = None if change.old is None else change.old.status
        if change.new.status is Status.SUSPECT is not was:
            self.counters["suspicions"] += 1
        if change.telling in (Telling.RUMOUR, Telling.AT_ONCE):
            self._tell(change)

    def _tell(self, change: Change) -> None:
        old, new = change.old, change.new
        if change.telling is Telling.AT_ONCE:
            self.spread(head(new), urgent=True)
            return
        fresh = old is None or old.generation != new.generation or old.version != new.version
        if fresh and len(new.advert) <= EAGER_ADVERT_BYTES:
            claim = whole(new)
        else:
            claim = head(new, change.claim.accusers, change.claim.crash)
        # Deaths and refutations cannot wait; joins, adverts and stalls can.
        urgent = old is not None and old.status is not new.status
        self.spread(claim, urgent=urgent and new.status is not Status.STALLED)

    def spread(self, claim: Claim, *, urgent: bool) -> None:
        """Queue a rumour, and make sure that it will be told."""
        self.rumours.add(claim)
        settings = self.settings
        spacing = settings.gossip_urgent_s if urgent else settings.gossip_interval_s
        self.timers.sooner((Timer.GOSSIP, 0), max(self.now, self.gossiped_at + spacing))

    def retransmits(self) -> int:
        """How often I pass on one rumour in a mesh of the current size."""
        size = self.table.size
        if size != self._retransmits[0]:
            self._retransmits = (size, self.settings.retransmits(size))
        return self._retransmits[1]

    def piggyback(self, to: MemberId, generation: Generation | None) -> tuple[Claim, ...]:
        """Claims for a ping or ack: first what the receiver is accused of, then rumours.

        Lifeguard's buddy system tells the suspect before anybody else, so that it can refute within
        one round trip.
        """
        record = self.table.get(to)
        budget = self.settings.piggyback_bytes
        first: tuple[Claim, ...] = ()
        if record is not None and (
            record.status is not Status.ALIVE
            or (generation is not None and record.generation > generation)
        ):
            first = (head(record),)
            budget -= claim_bytes(first[0])
        if not len(self.rumours):
            return first
        return first + self.rumours.take(budget, 1, self.retransmits())
