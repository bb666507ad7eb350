"""Pings sent on behalf of others: SWIM's indirect probe (ping-req), seen from the relay."""

from __future__ import annotations

from netmesh.core.events import Connection
from netmesh.core.messages import Relay, Relayed
from netmesh.core.node import Node
from netmesh.core.records import MemberId
from netmesh.core.timers import Timer


class Relays:
    """Askers, by the number of the ping that was sent for them. Bounded."""

    __slots__ = ("_node", "_waiting")

    LIMIT = 256

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waiting: dict[int, tuple[Connection, int, MemberId]] = {}

    def open(self, connection: Connection, message: Relay, timeout_s: float) -> None:
        """Ping the target and remember whom to answer, unless too many wait already."""
        node = self._node
        if not node.reaches(message.target):
            return
        if len(self._waiting) >= self.LIMIT:
            node.counters["dropped.relay_limit"] += 1
            return
        sequence = node.sequence()
        self._waiting[sequence] = (connection, message.sequence, message.target)
        node.timers.set((Timer.RELAY, sequence), node.now + timeout_s)
        node.ping(message.target, sequence)

    def close(self, sequence: int, *, heard: bool, by: MemberId | None = None) -> None:
        """Answer the asker; `by` is the member that acknowledged, None when nobody did."""
        waiting = self._waiting.get(sequence)
        if waiting is None or (by is not None and by != waiting[2]):
            return
        del self._waiting[sequence]
        node = self._node
        node.timers.cancel((Timer.RELAY, sequence))
        node.reply(waiting[0], Relayed(node.id, node.generation, waiting[1], heard))
