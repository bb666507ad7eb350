"""This member's view of the mesh: claims and findings go in, the table changes.

The parts return their conclusions. They are applied here, in this order:

    a claim    -> `Ingest` or `Refutation` -> Change
    a finding  -> `Verdicts`               -> Change
    a Change   -> table and rumours, then `Verdicts` (which may conclude another), then
                  `Detector`, then `Tombstones`

No part calls one that stands above it, and none holds back conclusions for another to collect.
"""

from __future__ import annotations

from collections.abc import Iterable

from netmesh.core.changes import Change, Finding
from netmesh.core.claims import Claim, head
from netmesh.core.detection import Detector
from netmesh.core.fetches import Fetches
from netmesh.core.ingest import Channel, Ingest
from netmesh.core.node import Node
from netmesh.core.records import MemberId, Status
from netmesh.core.refutation import Refutation
from netmesh.core.states import Cause
from netmesh.core.tombstones import Tombstones
from netmesh.core.verdicts import Verdicts

WANT_LIMIT = 128
"""Members asked for in one message; the rest are asked for at the next occasion."""
CORRECTIONS = 64
DOUBTED_LIMIT = 16
"""Doubted members probed at once. After a healed partition there are hundreds, which refute by
themselves."""


class MembershipView:
    """Applies claims and findings; records change nowhere else."""

    __slots__ = (
        "_detector",
        "_doubted",
        "_fetches",
        "_ingest",
        "_node",
        "_refutation",
        "_suspected",
        "_tombstones",
        "_verdicts",
    )

    def __init__(
        self,
        node: Node,
        ingest: Ingest,
        fetches: Fetches,
        verdicts: Verdicts,
        detector: Detector,
        tombstones: Tombstones,
    ) -> None:
        self._node = node
        self._ingest = ingest
        self._fetches = fetches
        self._refutation = Refutation(node)
        self._verdicts = verdicts
        self._detector = detector
        self._tombstones = tombstones
        # State of the current event.
        self._doubted: list[MemberId] = []
        self._suspected = False

    def apply(self, change: Change | None) -> None:
        """Take a change into the table, pass it on, and let the parts follow it."""
        if change is None:
            return
        self._node.take(change)
        self.apply(self._verdicts.follow(change))
        self._detector.follow(change)
        self._tombstones.follow(change)

    def find(self, finding: Finding | None) -> None:
        """Take in my own evidence about a process."""
        if finding is None:
            return
        self.apply(self._verdicts.judge(finding))
        if finding.cause is Cause.CRASH_SEEN:
            self._verdicts.tell_watchers(finding)
        elif finding.cause is Cause.UNREACHABLE:
            self._detector.look_around(finding.member)

    def hear(
        self, claims: Iterable[Claim], channel: Channel, sender: MemberId, *, correct: bool = False
    ) -> list[Claim]:
        """Take in claims told by `sender`; returns corrections of those that are out of date."""
        node = self._node
        wants: list[MemberId] = []
        corrections: list[Claim] = []
        for claim in self._ingest.news(claims, channel):
            if claim.id == node.id:
                self._hear_of_me(claim)
                continue
            read = self._ingest.read(claim, channel, sender)
            if read.doubted and len(self._doubted) < DOUBTED_LIMIT:
                self._doubted.append(claim.id)
            self.apply(read.change)
            if read.testimony is not None:
                self.apply(self._verdicts.testify(read.testimony))
            if read.lacks_advert and len(wants) < WANT_LIMIT and self._fetches.due(claim):
                wants.append(claim.id)
            if correct and len(corrections) < CORRECTIONS:
                mine = node.table.get(claim.id)
                if mine is not None and claim.order < (mine.generation, *mine.order):
                    corrections.append(head(mine))
        if wants and sender:
            self._fetches.ask(sender, tuple(wants))
        return corrections

    @property
    def stands_back(self) -> bool:
        """Whether another process has my address, so that others do not see me."""
        return self._refutation.stands_back

    def look(self) -> None:
        """Notice what nobody tells me: that nobody reaches me."""
        self._refutation.look()

    def settle(self) -> None:
        """Do what follows from the event as a whole, at its end."""
        if self._suspected:
            self._suspected = False
            self._detector.suspected()
        if self._doubted:
            doubted, self._doubted = self._doubted, []
            for member in doubted:
                self._detector.verify(member)

    def _hear_of_me(self, claim: Claim) -> None:
        change = self._refutation.answer(claim)
        self.apply(change)
        if change is not None and Cause.REFUTED in change.causes:
            self._suspected = self._suspected or claim.status is Status.SUSPECT
