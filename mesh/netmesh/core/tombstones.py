"""Tombstones: the dead are told for a while, looked for ever more seldom, shown for minutes,
forgotten in a day.

A tombstone keeps an old rumour from bringing a dead member back. Looking for the dead heals
partitions. It costs all members together one connect a minute for each dead member at first, one an
hour in the end, however many they are: an address of the dead may belong to somebody else by now.
"""

from __future__ import annotations

import math
from collections import deque

from netmesh.core.changes import Change
from netmesh.core.events import Dialled, DialOutcome
from netmesh.core.node import Node
from netmesh.core.records import MemberId, Status
from netmesh.core.timers import Timer

SWEEP_S = 15.0
RECENT_LIMIT = 256


class Tombstones:
    """Keeps contact with the dead, because a partition makes half the mesh look dead."""

    __slots__ = ("_armed_for", "_looking", "_node", "_queue", "_queued", "_recent")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._queue: deque[MemberId] = deque()
        """The dead, in the order in which they are looked for; stale ids are skipped."""
        self._queued: set[MemberId] = set()
        self._armed_for = 0.0
        """Dead members for each living one, when the deadline was set."""
        self._looking: set[MemberId] = set()
        """The dead to which a connect is under way."""
        self._recent: deque[tuple[float, MemberId]] = deque(maxlen=RECENT_LIMIT)

    def mix_in(self, peers: list[MemberId]) -> list[MemberId]:
        """Add a recently dead member to the receivers of gossip at times, in proportion to their
        number."""
        node = self._node
        recent = self._recent
        while recent and recent[0][0] < node.now - node.settings.gossip_to_dead_s:
            recent.popleft()
        if not recent:
            return peers
        pick = node.rng.randrange(node.table.size + len(recent))
        if pick >= len(recent):
            return peers
        dead = recent[pick][1]
        return peers if node.table.live(dead) or dead in peers else [*peers, dead]

    def announce(self) -> None:
        """Perhaps connect to one dead member, the more seldom the longer it has been dead."""
        node = self._node
        for _ in range(len(self._queue)):
            member = self._queue.popleft()
            record = node.table.get(member)
            if record is not None and record.status is Status.DEAD:
                self._queue.append(member)
                settings = node.settings
                dead_s = node.now - node.table.tombstones.get(member, node.now)
                share = settings.announce_interval_s / settings.announce_pause_s(dead_s)
                if node.rng.random() < share and node.dial(member):
                    self._looking.add(member)
                break
            self._queued.discard(member)
        self._arm()

    def dialled(self, event: Dialled) -> None:
        """Ping a dead member whose address accepts connections: if it lives, it learns what others
        say about it, and refutes that."""
        if event.id not in self._looking:
            return
        self._looking.discard(event.id)
        record = self._node.table.get(event.id)
        dead = record is not None and record.status is Status.DEAD
        if dead and event.outcome is DialOutcome.CONNECTED:
            self._node.ping(event.id, 0)

    def sweep(self) -> None:
        """Hide the dead after ten minutes, forget them after a day."""
        node, table, settings = self._node, self._node.table, self._node.settings
        table.hide(node.now - settings.dead_shown_s)
        while table.tombstones:
            member, died = next(iter(table.tombstones.items()))
            if member == node.id or died >= node.now - settings.tombstone_s:
                break
            table.forget(member)
        if table.tombstones:
            node.timers.set((Timer.SWEEP, 0), node.now + SWEEP_S)

    def follow(self, change: Change) -> None:
        """Set up a tombstone where a member died or left."""
        node = self._node
        old, new = change.old, change.new
        if new.status.live or new.id == node.id or (old is not None and not old.status.live):
            return
        self._recent.append((node.now, new.id))
        if new.status is Status.DEAD:
            if new.id not in self._queued:
                self._queued.add(new.id)
                self._queue.append(new.id)
            while len(self._queue) > node.settings.tombstone_limit:
                self._queued.discard(self._queue.popleft())
            self._arm()
        if len(node.table.tombstones) > node.settings.tombstone_limit:
            node.counters["dropped.tombstone_limit"] += 1
            # While I leave, my own record is among the tombstones, and I could not speak without
            # it.
            node.table.forget(next(who for who in node.table.tombstones if who != node.id))
        if (Timer.SWEEP, 0) not in node.timers:
            node.timers.set((Timer.SWEEP, 0), node.now + SWEEP_S)

    def _arm(self) -> None:
        node = self._node
        if not self._queue or node.leaving:
            return
        dead = len(self._queue) / node.table.size
        if (Timer.ANNOUNCE, 0) in node.timers and dead < 2 * self._armed_for:
            return
        self._armed_for = dead
        pause = max(1.0, node.settings.announce_interval_s / dead)
        # Exponential, because all members learn about a death at the same time: together they then
        # connect at the same rate from the first second on.
        due = node.now - pause * math.log(1.0 - node.rng.random())
        node.timers.sooner((Timer.ANNOUNCE, 0), due)
