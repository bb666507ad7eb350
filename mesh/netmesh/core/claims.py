"""A claim: what one member tells another about a third. The unit of every exchange.

SWIM has a message for each kind of news (alive, suspect, confirm); here a claim covers all of them.
A claim is a record whose advert may be left out, with the witnesses of bad news. Without adverts
gossip stays small: a refutation or a death costs about 90 bytes. A changed advert is announced by
its version, and each member that lacks the advert fetches it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from netmesh.core.records import Advert, Generation, MemberId, Record, Status

MAX_WITNESSES = 4
"""Witnesses carried: more than any rule counts (2 for a crash, 1 + 2 for a suspicion)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """(generation, incarnation, status) of `id`, and its advert where the receiver may need it."""

    id: MemberId
    generation: Generation
    incarnation: int
    status: Status
    version: int
    advert: Advert | None = None
    accusers: tuple[MemberId, ...] = ()
    """Members whose own probe of `id` failed; each counts as one confirmation."""
    crash: tuple[MemberId, ...] = ()
    """Accusers that saw the process gone (connection refused), not just silent."""
    held: bool = False
    """True when somebody's connect was accepted since the suspicion began: treat it like a
    stall."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Rank of the status half among all claims about the member."""
        return (self.generation, self.incarnation, int(self.status))


@lru_cache(maxsize=4096)
def whole(record: Record) -> Claim:
    """Everything that the record holds."""
    return Claim(
        record.id,
        record.generation,
        record.incarnation,
        record.status,
        record.version,
        record.advert,
    )


def head(
    record: Record,
    accusers: tuple[MemberId, ...] = (),
    crash: tuple[MemberId, ...] = (),
    *,
    held: bool = False,
) -> Claim:
    """The record without its advert."""
    return Claim(
        record.id,
        record.generation,
        record.incarnation,
        record.status,
        record.version,
        None,
        accusers[:MAX_WITNESSES],
        crash[:MAX_WITNESSES],
        held,
    )
