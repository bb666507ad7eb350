"""Adverts that gossip announced only by version, and that are on their way to me."""

from __future__ import annotations

from netmesh.core.claims import Claim
from netmesh.core.messages import Exchange
from netmesh.core.node import Node
from netmesh.core.records import Generation, MemberId, Status

WANT_PATIENCE_S = 1.0
"""Seconds after which an unanswered fetch is asked for again at the next occasion."""


class Fetches:
    """Remembers what was asked for, so that each advert is asked for once. Bounded by the size of a
    table."""

    __slots__ = ("_asked", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._asked: dict[MemberId, tuple[int, int, float]] = {}
        """Generation, version, and until when nobody else is asked."""

    def due(self, claim: Claim) -> bool:
        """True when this advert is not yet on its way; notes that it is from now on."""
        now = self._node.now
        known = self._asked.get(claim.id)
        wanted = (claim.generation, claim.version)
        if known is not None and known[:2] >= wanted and known[2] > now:
            return False
        self._asked.pop(claim.id, None)
        self._asked[claim.id] = (*wanted, now + WANT_PATIENCE_S)
        while len(self._asked) > self._node.settings.member_limit:
            del self._asked[next(iter(self._asked))]
        return True

    def stranger(self, member: MemberId, generation: Generation) -> None:
        """Ask a member for its own record, of which I know only the generation."""
        if self.due(Claim(member, generation, 0, Status.ALIVE, 0)):
            self.ask(member, (member,))

    def ask(self, source: MemberId, members: tuple[MemberId, ...]) -> None:
        """Ask `source` for the records of these members."""
        node = self._node
        node.send(source, Exchange(node.id, node.generation, False, (), members))
