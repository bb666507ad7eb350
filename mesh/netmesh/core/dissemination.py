"""Epidemic dissemination: every round tells the rumours to a few random members (SWIM's gossip)."""

from __future__ import annotations

from netmesh.core.messages import Gossip
from netmesh.core.node import Node
from netmesh.core.timers import Timer
from netmesh.core.tombstones import Tombstones


class Dissemination:
    """Runs rounds of gossip while there is anything to tell."""

    __slots__ = ("_node", "_tombstones")

    def __init__(self, node: Node, tombstones: Tombstones) -> None:
        self._node = node
        self._tombstones = tombstones

    def round(self) -> None:
        """Tell the rumours, and set the next round when some are left."""
        node, settings = self._node, self._node.settings
        if not len(node.rumours):
            return
        node.gossiped_at = node.now
        peers = node.table.sample(node.rng, settings.gossip_fanout, frozenset((node.id,)))
        peers = self._tombstones.mix_in(peers)
        if not peers:
            return
        claims = node.rumours.take(settings.gossip_bytes, len(peers), node.retransmits())
        if claims:
            message = Gossip(node.id, node.generation, claims)
            for peer in peers:
                node.send(peer, message)
        if len(node.rumours):
            node.timers.sooner((Timer.GOSSIP, 0), node.now + settings.gossip_interval_s)
