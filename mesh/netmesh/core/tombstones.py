"""Tombstones: the dead are told for a while, asked for ever, shown for minutes, forgotten in a day.

A tombstone keeps an old rumour from bringing a dead member back.
"""

from __future__ import annotations

from collections import deque

from netmesh.core.changes import Change
from netmesh.core.node import Node
from netmesh.core.records import MemberId, Status
from netmesh.core.timers import Timer

SWEEP_S = 15.0
RECENT_LIMIT = 256


class Tombstones:
    """Keeps contact with the dead, because a partition makes half the mesh look dead."""

    __slots__ = ("_node", "_queue", "_recent")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._queue: deque[MemberId] = deque()
        """The dead, in the order in which they are pinged; stale ids are skipped."""
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
        """Ping one dead member: if it lives, it learns what others say about it and refutes
        that."""
        node = self._node
        for _ in range(len(self._queue)):
            member = self._queue.popleft()
            record = node.table.get(member)
            if record is not None and record.status is Status.DEAD:
                self._queue.append(member)
                node.ping(member, 0)
                break
        self._arm()

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
            self._queue.append(new.id)
            while len(self._queue) > node.settings.tombstone_limit:
                self._queue.popleft()
            if (Timer.ANNOUNCE, 0) not in node.timers:
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
        if self._queue and not node.leaving:
            pause = node.settings.announce_interval_s / len(self._queue)
            # A random phase, because all members learn about a death at the same time and would
            # then all ping that address at once.
            jittered = max(1.0, pause) * (0.5 + node.rng.random())
            node.timers.set((Timer.ANNOUNCE, 0), node.now + jittered)
