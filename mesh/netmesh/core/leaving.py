"""Leaving: a member says goodbye, so that everybody knows within about a second."""

from __future__ import annotations

from dataclasses import replace

from netmesh.core.changes import apply
from netmesh.core.claims import Claim, head
from netmesh.core.messages import Gossip
from netmesh.core.node import Node
from netmesh.core.records import MemberId
from netmesh.core.states import Cause
from netmesh.core.timers import Timer
from netmesh.core.view import MembershipView

ROUND_S = 0.1
FAREWELLS = 8
"""Members told in each round; the first round tells the whole of a smaller mesh."""


class Leaving:
    """Says goodbye for a few rounds, then stops."""

    __slots__ = ("_claim", "_node", "_view")

    def __init__(self, node: Node, view: MembershipView) -> None:
        self._node = node
        self._view = view
        self._claim: Claim | None = None

    def begin(self) -> None:
        """Say goodbye. The incarnation grows, so that the goodbye outranks whatever is said about
        me."""
        node = self._node
        me = node.me
        said = replace(head(me), incarnation=me.incarnation + 1)
        # Watchers first: their links to me break next, which they must not take for a crash.
        first = node.table.predecessors(node.id, node.settings.watch_links)
        node.leaving = True
        self._view.apply(apply(me, said, (Cause.REFUTED, Cause.LEAVES)))
        self._claim = head(node.me)
        self._tell(first)
        self.round(0)

    def round(self, number: int) -> bool:
        """Send one round of goodbyes; True when it was the last."""
        node = self._node
        if number >= node.settings.leave_rounds:
            return True
        self._tell(node.table.sample(node.rng, FAREWELLS, frozenset((node.id,))))
        node.timers.set((Timer.LEAVE, number + 1), node.now + ROUND_S)
        return False

    def _tell(self, peers: list[MemberId]) -> None:
        node = self._node
        if self._claim is not None:
            for peer in peers:
                node.send(peer, Gossip(node.id, node.generation, (self._claim,)))
