"""Changes of records: one function applies a claim.

The transition table (`states`) says which status follows from the causes. The lattice (`records`)
says whether the result is above the record that is known. Nothing else makes a `Change`, and
records change in no other way. Only an expired tombstone is dropped without a `Change`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from netmesh.core.claims import Claim
from netmesh.core.records import Generation, MemberId, Record, Status, make_record, merge
from netmesh.core.states import TRANSITIONS, Cause, after

TOLD: Mapping[Status, Cause] = MappingProxyType(
    {
        Status.STALLED: Cause.TOLD_STALLED,
        Status.SUSPECT: Cause.TOLD_SUSPECT,
        Status.DEAD: Cause.TOLD_DEAD,
        Status.LEFT: Cause.LEAVES,
    }
)
"""The cause that corresponds to another member's verdict, taken at its word. ALIVE is not a
verdict."""


class Telling(Enum):
    """Whether a change is passed on."""

    RUMOUR = "rumour"
    """As a rumour; verdicts and refutations seen here for the first time do not wait."""
    AT_ONCE = "at once"
    """My own refutation cannot wait, because the accusation spreads meanwhile."""
    NOT = "not"
    """A stranger found by anti-entropy: members that lack it find it the same way."""
    HEARSAY = "hearsay"
    """A death found by anti-entropy: I look for myself before I accuse anybody."""


@dataclass(frozen=True, slots=True)
class Finding:
    """My own evidence about a process."""

    member: MemberId
    generation: Generation
    cause: Cause


@dataclass(frozen=True, slots=True)
class Change:
    """One step of a record."""

    old: Record | None
    """None when the member was not known."""
    new: Record
    causes: tuple[Cause, ...]
    """Rows of the transition table that lead from the old status to the new one, in order."""
    claim: Claim
    """The claim, whose witnesses count as accusers."""
    telling: Telling

    def check(self) -> None:
        """Raise AssertionError unless each cause is a row of the table and the record rose in the
        lattice."""
        old, new = self.old, self.new
        status = None if old is None else old.status
        for cause in self.causes:
            assert (status, cause) in TRANSITIONS, f"{new.id}: no row for {status}, {cause.name}"
            status = TRANSITIONS[status, cause]
        assert self.causes and status is new.status, f"{new.id}: {status} is not {new.status}"
        if old is not None:
            assert merge(old, new) == new != old, f"{new.id}: {new} is not above {old}"


def apply(
    old: Record | None,
    claim: Claim,
    causes: tuple[Cause, ...],
    telling: Telling = Telling.RUMOUR,
) -> Change | None:
    """The change that follows from a claim and its causes; None when nothing changes.

    The status comes from the table, not from the claim. A stranger or a new generation cannot be
    known without an advert. Inside a generation the status half needs no advert.
    """
    status = after(None if old is None else old.status, *causes)
    if not causes or status is None:
        return None
    version, advert = claim.version, claim.advert
    if advert is None:
        if old is None or claim.generation != old.generation:
            return None
        version, advert = old.version, old.advert
    said = make_record(claim.id, claim.generation, claim.incarnation, status, version, advert)
    new = said if old is None else merge(old, said)
    return None if new is old else Change(old, new, causes, claim, telling)


def causes_of(old: Record | None, claim: Claim, verdict: Cause | None) -> tuple[Cause, ...]:
    """The causes of another member's claim; `verdict` is the cause that its status stands for.

    Only a half that is above the old record in the lattice has causes.
    """
    said = () if verdict is None else (verdict,)
    if old is None:
        return (Cause.JOINS, *said)
    if claim.generation != old.generation:
        return (Cause.RESTARTED, *said) if claim.generation > old.generation else ()
    causes: tuple[Cause, ...] = ()
    if (claim.incarnation, int(claim.status)) > old.order:
        causes = said
        if claim.incarnation > old.incarnation:
            causes = (Cause.REFUTED, *said)
    if claim.advert is not None and (claim.version, claim.advert) > old.edition:
        causes = (*causes, Cause.ADVERTISES)
    return causes


def lacks_advert(old: Record | None, claim: Claim) -> bool:
    """True when the claim announces an unknown advert, which must be fetched."""
    if claim.advert is not None:
        return False
    if old is None or claim.generation > old.generation:
        return claim.status.live
    return claim.generation == old.generation and claim.version > old.version
