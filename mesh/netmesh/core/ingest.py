"""Ingest: what a claim of another member changes, and how far the claim is believed.

Gossip (rumours and piggybacked claims) is believed within the limits of the accuser. A death that
anti-entropy brings up is never believed: the verdict may be as old as a partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from netmesh.core.accusation_limits import AccusationLimits
from netmesh.core.changes import TOLD, Change, Telling, apply, causes_of, lacks_advert
from netmesh.core.claims import Claim
from netmesh.core.node import Node
from netmesh.core.records import MemberId, Record, Status
from netmesh.core.states import Cause
from netmesh.core.suspicion import Suspicions


class Channel(Enum):
    """How a claim came."""

    GOSSIP = "gossip"
    ANTI_ENTROPY = "anti-entropy"


@dataclass(frozen=True, slots=True)
class Ingested:
    """The outcome of reading one claim about another member."""

    change: Change | None = None
    testimony: Claim | None = None
    """A claim that changes nothing, but whose witnesses count for a suspicion that already runs
    here."""
    doubted: bool = False
    """A teller that is not believed calls a live member dead: I check for myself."""
    lacks_advert: bool = False


NOTHING = Ingested()


class Ingest:
    """Reads claims against the table, without changing the table."""

    __slots__ = ("_limits", "_node", "_suspicions")

    def __init__(self, node: Node, suspicions: Suspicions, limits: AccusationLimits) -> None:
        self._node = node
        self._suspicions = suspicions
        self._limits = limits

    def news(self, claims: Iterable[Claim], channel: Channel) -> Iterator[Claim]:
        """Claims that are not already known word for word; each is looked at when it is asked for.

        Most claims have been heard before, so this path decides how much gossip costs.
        """
        node = self._node
        records = node.table.records
        limit = node.retransmits() if channel is Channel.GOSSIP else 0
        for claim in claims:
            known = records.get(claim.id)
            if (
                known is None
                or known.generation != claim.generation
                or not (claim.status is Status.ALIVE is known.status)
                or claim.incarnation > known.incarnation
                or claim.version > known.version
                or (claim.advert is not None and claim.advert != known.advert)
            ):
                yield claim
            elif limit:
                node.rumours.heard(claim, limit)

    def read(self, claim: Claim, channel: Channel, sender: MemberId) -> Ingested:
        """Read a claim about somebody else."""
        node = self._node
        old = node.known(claim.id)
        newer = old is None or claim.generation > old.generation
        if newer and claim.generation > node.horizon():
            node.log_rarely(
                "dropped.generation_ahead",
                "warning",
                f"{claim.id} claims to have started more than a day from now: the clock there or "
                "the one here is wrong",
            )
            return NOTHING
        if old is None and node.table.size >= node.settings.member_limit:
            node.counters["dropped.member_limit"] += 1
            return NOTHING
        if old is None and not node.reaches(claim.id):
            return NOTHING
        told = claim
        bad = claim.status in (Status.SUSPECT, Status.DEAD)
        # A goodbye is believed from the one that leaves; others may tell it as little as a death.
        bad = bad or (claim.status is Status.LEFT and sender != claim.id)
        if old is not None and bad:
            believed = self._believed(claim, old, channel, sender)
            if believed is None:
                return NOTHING
            told = believed
        doubted = told is not claim
        telling = Telling.RUMOUR
        if channel is Channel.ANTI_ENTROPY and (old is None or doubted):
            telling = Telling.HEARSAY if doubted else Telling.NOT
        verdict = Cause.DEATH_DOUBTED if doubted else TOLD.get(told.status)
        change = apply(old, told, causes_of(old, told, verdict), telling)
        testimony = None
        if change is None and old is not None:
            node.rumours.heard(told, node.retransmits())
            if told.status is Status.SUSPECT and told.order == (old.generation, *old.order):
                testimony = told
        return Ingested(change, testimony, doubted, lacks_advert(old, told))

    def _believed(
        self, claim: Claim, old: Record, channel: Channel, sender: MemberId
    ) -> Claim | None:
        """Bad news as far as its teller is believed; None when the teller is not believed at
        all."""
        if claim.order < (old.generation, *old.order):
            return claim
        if claim.generation != old.generation and claim.advert is None:
            return claim  # changes nothing: the record of a new process is fetched first
        node = self._node
        accuser = claim.accusers[0] if claim.accusers else sender
        if accuser not in node.table.records:
            accuser = sender
        if not self._limits.trusted(accuser, node.now):
            node.counters["dropped.accuser_not_believed"] += 1
            return None
        if not old.status.live or not self._deadly(claim):
            return claim
        if channel is Channel.GOSSIP or claim.status is Status.LEFT:
            if self._limits.may_declare_dead(accuser, node.now):
                return claim
            node.counters["dropped.accuser_limit"] += 1
        accusers = claim.accusers or ((sender,) if sender else ())
        return replace(claim, status=Status.SUSPECT, accusers=accusers[:1], crash=())

    def _deadly(self, claim: Claim) -> bool:
        """True when believing the claim would make the member dead on the word of others."""
        if claim.status in (Status.DEAD, Status.LEFT):
            return True
        seen = set(claim.crash)
        suspicion = self._suspicions.get(claim.id)
        if (
            suspicion is not None
            and suspicion.generation == claim.generation
            and suspicion.incarnation == claim.incarnation
        ):
            if not seen - set(suspicion.crash):
                return False  # this is already known
            seen.update(suspicion.crash)
        return bool(seen) and len(seen) >= self._suspicions.observers(self._node.table.size)
