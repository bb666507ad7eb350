"""Refuting what is said about me: a higher incarnation (SWIM), version or generation."""

from __future__ import annotations

from netmesh.core.changes import Change, Telling, apply
from netmesh.core.claims import Claim
from netmesh.core.effects import Displaced
from netmesh.core.node import NEVER, Node
from netmesh.core.records import MAX_COUNTER, MAX_GENERATION, Generation, Status
from netmesh.core.states import Cause

OUTBID_SPACING_S = 1.0
"""Seconds between outbids: two processes that claim one id must not outbid each other at wire
speed."""
OUTBIDS = 3
WITHIN_S = 60.0
"""After so many outbids within this time, the other process lives and has the same address. Then
the one that nobody reaches there stands back, until somebody does."""
REACHED_WITHIN_S = 10.0
"""Whoever was pinged this recently is the one that the address leads to."""
OUTBIDS_REACHED = 30
"""How often that one outbids the others within the same time: once for each of ten that share an
address and try three times."""
STAND_BACK_S = 60.0
STAND_BACK_MOST_S = 3600.0
"""How long the other is let be then, at first and at most; twice as long each time."""
REFUTATIONS_UNREACHED = 5
"""How often somebody whom nobody has ever reached refutes within the same time. Others find nobody
at its address each time that they believe it."""


class Refutation:
    """My answers to claims about me."""

    __slots__ = (
        "_node",
        "_not_before",
        "_outbids",
        "_pause_s",
        "_refutations",
        "_told",
        "stands_back",
    )

    def __init__(self, node: Node) -> None:
        self._node = node
        self._not_before = -1e9
        self._outbids: list[float] = []
        self._refutations: list[float] = []
        self._pause_s = 0.0
        self._told = False
        self.stands_back = False
        """Whether another process has my address, and I let it."""

    def answer(self, claim: Claim) -> Change | None:
        """What I say from now on to outrank the claim; None when my record outranks it already."""
        node = self._node
        me = node.me
        if claim.generation < me.generation or node.leaving:
            return None
        if claim.generation > node.horizon():
            return None  # nobody believes it
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
        if not causes or not self._may_refute():
            return None
        called = claim.status.name.lower()
        node.log_rarely("refuted", "info", f"refuted: {claim.id} was called {called}")
        said = Claim(me.id, me.generation, incarnation, Status.ALIVE, version, me.advert)
        return apply(me, said, causes, Telling.AT_ONCE)

    def look(self) -> None:
        """Notice, once a second or so, that nobody has ever reached me although others are
        there."""
        node = self._node
        began = node.now if node.began is None else node.began
        if node.leaving or node.pinged_at > NEVER or node.now - began < WITHIN_S:
            return
        if node.generation > node.horizon():
            # My clock was more than a day ahead when I started, so nobody has believed me.
            node.effects.append(Displaced(elsewhere=False))
        elif node.table.size > 1 and not self.stands_back:
            self._tell_unreached()

    def _may_refute(self) -> bool:
        """Whether a refutation is of use: not if nobody has ever found me at my address."""
        node = self._node
        if node.pinged_at > NEVER:
            return True
        self._refutations = [at for at in self._refutations if node.now - at < WITHIN_S]
        if len(self._refutations) >= REFUTATIONS_UNREACHED:
            self._tell_unreached()
            return False
        self._refutations.append(node.now)
        return True

    def _outbid(self, claim: Claim) -> Change | None:
        """Become newer than another process that uses my id, or is said to use it."""
        node = self._node
        reached = node.now - node.pinged_at < REACHED_WITHIN_S
        if node.now < self._not_before or (self.stands_back and not reached):
            return None
        self.stands_back = False
        self._not_before = node.now + OUTBID_SPACING_S
        if claim.generation >= MAX_GENERATION - 2:
            self._stand_back(f"{node.id} is claimed with the last possible generation")
            return None
        self._outbids = [at for at in self._outbids if node.now - at < WITHIN_S]
        if len(self._outbids) >= (OUTBIDS_REACHED if reached else OUTBIDS):
            self._stand_back(f"another process advertises {node.id}, too, and lives")
            return None
        self._outbids.append(node.now)
        room = MAX_GENERATION - claim.generation - 1
        generation = Generation(claim.generation + 1 + node.rng.getrandbits(20) % room)
        me = node.me
        node.log_rarely(
            "outbids", "warning", f"another process claims my address {claim.id}: taking it back"
        )
        said = Claim(me.id, generation, 0, Status.ALIVE, 1, me.advert)
        return apply(me, said, (Cause.RESTARTED,))

    def _stand_back(self, why: str) -> None:
        """Let the other process have the address, until others reach me there, and for a while."""
        node = self._node
        self._outbids.clear()
        self.stands_back = True
        self._pause_s = min(STAND_BACK_MOST_S, max(STAND_BACK_S, 2 * self._pause_s))
        self._not_before = node.now + self._pause_s * (0.75 + 0.5 * node.rng.random())
        node.log_rarely(
            "outbids.given_up",
            "warning",
            f"{why}: others see only one of us. Give each process an address and port of its own "
            "(MESH_ADVERTISE, MESH_PORT)",
        )
        node.effects.append(Displaced(elsewhere=True))

    def _tell_unreached(self) -> None:
        if not self._told:
            self._told = True
            self._node.log(
                "warning",
                f"nobody has reached this member at {self._node.id} yet, so others do not take "
                "from it: that must be its own address (MESH_ADVERTISE), and its clock must not be "
                "more than a day ahead",
            )
