"""Taking in claims: what changes in the table, what must be fetched, what must be refuted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum

from netmesh.core.accusation_limits import AccusationLimits
from netmesh.core.claims import Claim, head
from netmesh.core.messages import Exchange
from netmesh.core.node import Node
from netmesh.core.records import (
    MAX_COUNTER,
    MAX_GENERATION,
    Generation,
    MemberId,
    Record,
    Status,
    make_record,
)
from netmesh.core.suspicion import Suspicions

WANT_LIMIT = 128
"""Members asked for in one message; the rest is asked for at the next occasion."""
WANT_PATIENCE_S = 1.0
CORRECTIONS = 64
DOUBTED_LIMIT = 16
"""Probed at once; after a healed partition there are hundreds, and they refute by themselves."""
OUTBID_SPACING_S = 1.0
"""Two processes that claim one id must not outbid each other at wire speed."""


class Lane(Enum):
    """How a claim came: a death told as news is believed, one found by comparing is not."""

    NEWS = "news"
    SYNC = "sync"


def absorb(old: Record | None, claim: Claim) -> tuple[Record | None, bool]:
    """The record after hearing `claim`, and whether its advert must be fetched.

    Returns `old` itself when nothing changes. Without the advert nothing can be known about a
    stranger or a new generation; inside a generation the status half needs no advert.
    """
    if old is None or claim.generation > old.generation:
        if claim.advert is None:
            return old, claim.status.live
        new = make_record(
            claim.id,
            claim.generation,
            claim.incarnation,
            claim.status,
            claim.version,
            claim.advert,
        )
        return new, False
    if claim.generation < old.generation:
        return old, False
    newer_status = (claim.incarnation, int(claim.status)) > old.order
    newer_advert = claim.advert is not None and (claim.version, claim.advert) > (
        old.version,
        old.advert,
    )
    missing = claim.advert is None and claim.version > old.version
    if not newer_status and not newer_advert:
        return old, missing
    incarnation, status = old.incarnation, old.status
    if newer_status:
        incarnation, status = claim.incarnation, claim.status
    version, advert = old.version, old.advert
    if newer_advert and claim.advert is not None:
        version, advert = claim.version, claim.advert
    return make_record(old.id, old.generation, incarnation, status, version, advert), missing


class Ingest:
    """Applies claims to the node's table."""

    __slots__ = (
        "_node",
        "_outbid_at",
        "_suspicions",
        "_wanted",
        "accusers",
        "doubted",
        "told_suspect",
    )

    def __init__(self, node: Node, suspicions: Suspicions) -> None:
        self._node = node
        self._suspicions = suspicions
        self._wanted: dict[MemberId, tuple[int, int, float]] = {}
        self._outbid_at = -1e9
        self.accusers = AccusationLimits(node.settings)
        self.doubted: list[MemberId] = []
        """Live members that somebody holds dead; the engine has them probed."""
        self.told_suspect = 0
        """How often I heard that I am suspect; the engine takes it as a sign of bad health."""

    def hear(
        self, claims: Iterable[Claim], lane: Lane, sender: MemberId, *, correct: bool = False
    ) -> list[Claim]:
        """Take in claims told by `sender`; returns corrections of those that are out of date."""
        wants: list[MemberId] = []
        corrections: list[Claim] = []
        node = self._node
        records, me = node.table.records, node.id
        limit = node.retransmits() if lane is Lane.NEWS else 0
        for claim in claims:
            known = records.get(claim.id)
            if (
                known is not None
                and known.generation == claim.generation
                and claim.status is Status.ALIVE is known.status
                and claim.incarnation <= known.incarnation
                and claim.version <= known.version
                and (claim.advert is None or claim.advert == known.advert)
            ):
                # Most of what is heard is heard again: this path decides how much gossip costs.
                if limit:
                    node.rumours.heard(claim, limit)
                continue
            if claim.id == me:
                self._about_me(claim)
                continue
            missing = self._hear_one(claim, lane, sender)
            if missing and len(wants) < WANT_LIMIT and self._may_want(claim):
                wants.append(claim.id)
            if correct and len(corrections) < CORRECTIONS:
                mine = records.get(claim.id)
                if mine is not None and claim.order < (mine.generation, *mine.order):
                    corrections.append(head(mine))
        if wants and sender:
            question = Exchange(node.id, node.generation, False, (), tuple(wants))
            node.send(sender, question)
        return corrections

    def fetch(self, member: MemberId, generation: Generation, source: MemberId) -> None:
        """Ask `source` for the record of `member`, of which I know no more than this."""
        node = self._node
        if self._may_want(Claim(member, generation, 0, Status.ALIVE, 0)):
            node.send(source, Exchange(node.id, node.generation, False, (), (member,)))

    def _hear_one(self, claim: Claim, lane: Lane, sender: MemberId) -> bool:
        """True when the advert is missing."""
        node = self._node
        old = node.table.get(claim.id)
        if old is None and node.table.size >= node.settings.member_limit:
            node.counters["dropped.member_limit"] += 1
            return False
        hearsay = False
        if claim.status in (Status.SUSPECT, Status.DEAD) and old is not None:
            doubted = self._doubt(claim, old, lane, sender)
            if doubted is None:
                return False
            hearsay = lane is Lane.SYNC and doubted is not claim
            claim = doubted
        new, missing = absorb(old, claim)
        if new is not None and new is not old:
            # A stranger found by comparing is no news: whoever lacks it finds it the same way.
            # Nor is a death found so: I look for myself before I accuse anybody.
            tell = lane is Lane.NEWS or (old is not None and not hearsay)
            node.change(old, new, claim, tell=tell)
            suspicion = self._suspicions.get(claim.id)
            if hearsay and suspicion is not None:
                suspicion.hearsay = True
        elif old is not None:
            if claim.status is Status.SUSPECT and claim.order == (old.generation, *old.order):
                self._confirm(old, claim)
            node.rumours.heard(claim, node.retransmits())
        return missing

    def _doubt(self, claim: Claim, old: Record, lane: Lane, sender: MemberId) -> Claim | None:
        """The claim as far as its teller is believed; None when not at all."""
        if claim.order < (old.generation, *old.order):
            return claim
        if claim.generation != old.generation and claim.advert is None:
            return claim  # changes nothing: the record of a new process is fetched first
        node = self._node
        accuser = claim.accusers[0] if claim.accusers else sender
        if accuser not in node.table.records:
            accuser = sender
        if not self.accusers.trusted(accuser, node.now):
            node.counters["dropped.accuser_not_believed"] += 1
            return None
        if not old.status.live or not self._deadly(claim):
            return claim
        if lane is Lane.NEWS and self.accusers.may_declare_dead(accuser, node.now):
            return claim
        if lane is Lane.NEWS:
            node.counters["dropped.accuser_limit"] += 1
        accusers = claim.accusers or ((sender,) if sender else ())
        if len(self.doubted) < DOUBTED_LIMIT:
            self.doubted.append(claim.id)
        return replace(claim, status=Status.SUSPECT, accusers=accusers[:1], crash=())

    def _deadly(self, claim: Claim) -> bool:
        """True when taking the claim over would bury the member on the word of others."""
        if claim.status is Status.DEAD:
            return True
        node = self._node
        seen = set(claim.crash)
        suspicion = self._suspicions.get(claim.id)
        if (
            suspicion is not None
            and suspicion.generation == claim.generation
            and suspicion.incarnation == claim.incarnation
        ):
            if not seen - set(suspicion.crash):
                return False  # nothing that is not known already
            seen.update(suspicion.crash)
        return bool(seen) and len(seen) >= self._suspicions.observers(node.table.size)

    def _confirm(self, old: Record, claim: Claim) -> None:
        node = self._node
        if self._suspicions.confirm(claim.id, claim.accusers, claim.crash, held=claim.held):
            suspicion = self._suspicions.get(claim.id)
            if suspicion is not None:
                told = suspicion.told(old)
                node.spread(told, urgent=bool(suspicion.crash))
                for listener in node.on_change:
                    listener(old, old, told)

    def _may_want(self, claim: Claim) -> bool:
        """True when this advert is not already on its way."""
        now = self._node.now
        known = self._wanted.get(claim.id)
        asked = (claim.generation, claim.version)
        if known is not None and known[:2] >= asked and known[2] > now:
            return False
        self._wanted.pop(claim.id, None)
        self._wanted[claim.id] = (*asked, now + WANT_PATIENCE_S)
        while len(self._wanted) > node_limit(self._node):
            del self._wanted[next(iter(self._wanted))]
        return True

    def _about_me(self, claim: Claim) -> None:
        node = self._node
        me = node.me
        if claim.generation < me.generation or node.leaving:
            return
        if claim.generation > me.generation or max(claim.incarnation, claim.version) >= MAX_COUNTER:
            self._outbid(claim)
            return
        news = (claim.incarnation, int(claim.status)) > me.order
        forged = claim.version > me.version or (
            claim.version == me.version and claim.advert not in (None, me.advert)
        )
        if not news and not forged:
            return
        incarnation, version = me.incarnation, me.version
        if news:
            incarnation = claim.incarnation + 1
            if claim.status is Status.SUSPECT:
                self.told_suspect += 1
        if forged:
            # Not from me: a forgery, or a twin with my generation. What I say must come out on top.
            version = claim.version + 1
        new = replace(me, incarnation=incarnation, version=version)
        node.log("info", f"refuted: {claim.id} was called {claim.status.name.lower()}")
        node.change(me, new, Claim(me.id, me.generation, incarnation, Status.ALIVE, version))
        node.spread(head(new), urgent=True)

    def _outbid(self, claim: Claim) -> None:
        """Another process uses my id, or is said to: become newer than it."""
        node = self._node
        if node.now - self._outbid_at < OUTBID_SPACING_S:
            return
        self._outbid_at = node.now
        if claim.generation >= MAX_GENERATION - 2:
            node.log("warning", f"{claim.id} is claimed with the last possible generation")
            return
        room = MAX_GENERATION - claim.generation - 1
        step = 1 + node.rng.getrandbits(20) % room
        me = node.me
        new = replace(me, generation=Generation(claim.generation + step), incarnation=0, version=1)
        node.log("warning", f"another process claims my address {claim.id}: taking it back")
        node.change(me, new, head(new))


def node_limit(node: Node) -> int:
    """Fetches remembered: one per member that the table may hold."""
    return node.settings.member_limit
