"""Refuting what is said about me: a higher incarnation (SWIM), version or generation."""

from __future__ import annotations

from netmesh.core.changes import Change, Telling, apply
from netmesh.core.claims import Claim
from netmesh.core.node import Node
from netmesh.core.records import MAX_COUNTER, MAX_GENERATION, Generation, Status
from netmesh.core.states import Cause

OUTBID_SPACING_S = 1.0
"""Seconds between outbids: two processes that claim one id must not outbid each other at wire
speed."""


class Refutation:
    """My answers to claims about me."""

    __slots__ = ("_node", "_outbid_at")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._outbid_at = -1e9

    def answer(self, claim: Claim) -> Change | None:
        """What I say from now on to outrank the claim; None when my record outranks it already."""
        node = self._node
        me = node.me
        if claim.generation < me.generation or node.leaving:
            return None
        if claim.generation > me.generation or max(claim.incarnation, claim.version) >= MAX_COUNTER:
            return self._outbid(claim)
        incarnation, version = me.incarnation, me.version
        causes: tuple[Cause, ...] = ()
        if (claim.incarnation, int(claim.status)) > me.order:
            incarnation = claim.incarnation + 1
            causes = (Cause.REFUTED,)
        if claim.version > me.version or (
            claim.version == me.version and claim.advert not in (None, me.advert)
        ):
            # The claim is not from me: a forgery, or a twin with my generation. My word must come
            # out on top.
            version = claim.version + 1
            causes = (*causes, Cause.ADVERTISES)
        if not causes:
            return None
        node.log("info", f"refuted: {claim.id} was called {claim.status.name.lower()}")
        said = Claim(me.id, me.generation, incarnation, Status.ALIVE, version, me.advert)
        return apply(me, said, causes, Telling.AT_ONCE)

    def _outbid(self, claim: Claim) -> Change | None:
        """Become newer than another process that uses my id, or is said to use it."""
        node = self._node
        if node.now - self._outbid_at < OUTBID_SPACING_S:
            return None
        self._outbid_at = node.now
        if claim.generation >= MAX_GENERATION - 2:
            node.log("warning", f"{claim.id} is claimed with the last possible generation")
            return None
        room = MAX_GENERATION - claim.generation - 1
        generation = Generation(claim.generation + 1 + node.rng.getrandbits(20) % room)
        me = node.me
        node.log("warning", f"another process claims my address {claim.id}: taking it back")
        said = Claim(me.id, generation, 0, Status.ALIVE, 1, me.advert)
        return apply(me, said, (Cause.RESTARTED,))
