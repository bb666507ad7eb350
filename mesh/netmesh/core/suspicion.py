"""SWIM's suspicions in progress: the accusers, and how long the suspect may refute (Lifeguard)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netmesh.core.claims import MAX_WITNESSES, Claim, head
from netmesh.core.records import Generation, MemberId, Record
from netmesh.core.settings import ProtocolSettings

TINY_MESH = 3
"""With this many live members, one observer of a crash is enough: hardly anybody is left to ask."""


@dataclass(slots=True)
class Suspicion:
    """One suspected process."""

    generation: Generation
    incarnation: int
    started: float
    bad_since: float
    """When the member was last ALIVE here; a stall before the suspicion counts."""
    accusers: tuple[MemberId, ...] = ()
    crash: tuple[MemberId, ...] = ()
    held: bool = False
    """The suspect's kernel accepted somebody's connection: a stall, whatever else it looks like."""
    hearsay: bool = False
    """Found by anti-entropy: nobody accused, so nobody was wrong if the suspicion is refuted."""
    looking: bool = False
    """The last look (a dial) is under way."""

    def told(self, record: Record) -> Claim:
        """The suspicion as news."""
        return head(record, self.accusers, self.crash, held=self.held)


def timeout_s(settings: ProtocolSettings, members: int, accusers: int) -> float:
    """Length of a suspicion with this many accusers among `members` live members.

    Lifeguard: the length starts at the maximum and shrinks with the logarithm of the confirmations.
    So one slow accuser must wait long, while several independent ones are believed soon.
    """
    low, high = settings.suspicion_min_s(members), settings.suspicion_max_s(members)
    # The suspect and the first accuser cannot confirm, so a small mesh may have too few confirmers.
    needed = min(settings.confirmations, members - 2)
    if needed < 1:
        return low
    confirmed = min(max(0, accusers - 1), needed)
    return max(low, high - (high - low) * math.log(confirmed + 1) / math.log(needed + 1))


class Suspicions:
    """All suspicions, by member."""

    __slots__ = ("_by_id", "_settings")

    def __init__(self, settings: ProtocolSettings) -> None:
        self._settings = settings
        self._by_id: dict[MemberId, Suspicion] = {}

    def __contains__(self, member: MemberId) -> bool:
        return member in self._by_id

    def get(self, member: MemberId) -> Suspicion | None:
        """The suspicion against that member."""
        return self._by_id.get(member)

    def open(self, record: Record, now: float, bad_since: float) -> Suspicion:
        """Start a suspicion, or return the one that already runs against this incarnation."""
        known = self._by_id.get(record.id)
        if (
            known is not None
            and known.generation == record.generation
            and known.incarnation == record.incarnation
        ):
            return known
        new = Suspicion(record.generation, record.incarnation, now, bad_since)
        self._by_id[record.id] = new
        return new

    def close(self, member: MemberId) -> Suspicion | None:
        """End the suspicion: the member is no longer suspect."""
        return self._by_id.pop(member, None)

    def confirm(
        self,
        member: MemberId,
        accusers: tuple[MemberId, ...],
        crash: tuple[MemberId, ...],
        *,
        held: bool,
    ) -> bool:
        """Count these witnesses; True when the suspicion gained something worth telling."""
        suspicion = self._by_id.get(member)
        if suspicion is None:
            return False
        before = (len(suspicion.accusers), len(suspicion.crash), suspicion.held)
        suspicion.held = suspicion.held or held
        suspicion.accusers = _union(suspicion.accusers, accusers)
        suspicion.crash = _union(suspicion.crash, crash)
        enough = self._settings.confirmations + 1
        gained = len(suspicion.accusers) > before[0] and before[0] < enough
        return gained or len(suspicion.crash) > before[1] or suspicion.held is not before[2]

    def due(self, member: MemberId, members: int, me: MemberId, multiplier: int = 1) -> float:
        """When the suspicion runs out here (monotonic seconds).

        `multiplier` is my local health: if I have trouble myself and nobody shares my suspicion,
        the trouble is probably mine.
        """
        suspicion = self._by_id[member]
        wait = timeout_s(self._settings, members, len(suspicion.accusers))
        if suspicion.accusers == (me,):
            wait *= multiplier
        elif me not in suspicion.accusers:
            wait += self._settings.bystander_grace_s
        due = suspicion.started + wait
        if suspicion.held:
            settings = self._settings
            patient = suspicion.bad_since + settings.stall_patience_s
            due = max(due, patient + settings.suspicion_min_s(members))
        return due

    def crash_confirmed(self, member: MemberId, members: int, me: MemberId) -> bool:
        """True when enough observers saw the process gone.

        A crash that I saw myself needs one other accuser, with any evidence.
        """
        suspicion = self._by_id.get(member)
        if suspicion is None:
            return False
        if me in suspicion.crash and any(who != me for who in suspicion.accusers):
            return True
        return len(suspicion.crash) >= self.observers(members)

    def observers(self, members: int) -> int:
        """How many observers of a refused connection make a death among `members` live members."""
        return 1 if members <= TINY_MESH else self._settings.crash_observers


def _union(a: tuple[MemberId, ...], b: tuple[MemberId, ...]) -> tuple[MemberId, ...]:
    new = tuple(member for member in b if member not in a)
    return (a + new)[:MAX_WITNESSES] if new else a
