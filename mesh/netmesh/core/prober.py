"""Whom to probe next, and the probes that are under way."""

from __future__ import annotations

from dataclasses import dataclass

from netmesh.core.events import DialOutcome
from netmesh.core.records import Generation, MemberId
from netmesh.core.rng import Rng
from netmesh.core.table import Table


@dataclass(slots=True)
class Probe:
    """One unanswered question to one member."""

    target: MemberId
    generation: Generation
    sequence: int
    sent: float
    relays: int = 0
    """Number of members asked to ping for me."""
    nacks: int = 0
    """How many of those relays answered that they heard nothing: they live, and so do I."""
    dial: DialOutcome | None = None
    escalated: bool = False
    """The direct timeout has passed: relays and the kernel were asked."""
    over: bool = False
    """The indirect timeout has passed; only the dial's answer is missing."""


class Probes:
    """Open probes, by sequence and by target; at most one per target."""

    __slots__ = ("_by_sequence", "_by_target")

    def __init__(self) -> None:
        self._by_sequence: dict[int, Probe] = {}
        self._by_target: dict[MemberId, Probe] = {}

    def open(self, probe: Probe) -> None:
        """Start waiting."""
        self._by_sequence[probe.sequence] = probe
        self._by_target[probe.target] = probe

    def of(self, target: MemberId) -> Probe | None:
        """The open probe of that member."""
        return self._by_target.get(target)

    def numbered(self, sequence: int) -> Probe | None:
        """The probe with that sequence number."""
        return self._by_sequence.get(sequence)

    def close(self, probe: Probe) -> None:
        """Stop waiting."""
        if self._by_sequence.pop(probe.sequence, None) is not None:
            del self._by_target[probe.target]


class RoundRobin:
    """A shuffled list of everybody: each is probed once per round, in unpredictable order.

    Random choice would leave a member unprobed for O(N log N) intervals in the worst case; a round
    robin leaves it for at most two rounds.
    """

    __slots__ = ("_next", "_order", "_rng", "_table")

    def __init__(self, table: Table, rng: Rng) -> None:
        self._table = table
        self._rng = rng
        self._order: list[MemberId] = []
        self._next = 0

    def joined(self, member: MemberId) -> None:
        """A new member takes a random place in the rest of this round."""
        order = self._order
        if len(order) > 4 * self._table.size + 64:
            # Members come and go all the time: start a new round instead of growing.
            self._next = len(order)
            return
        order.append(member)
        last = len(order) - 1
        if last > self._next:
            place = self._next + self._rng.randrange(last - self._next + 1)
            order[place], order[last] = order[last], order[place]

    def next(self) -> MemberId | None:
        """The next live member other than me; None when I am alone."""
        for _ in range(2):
            while self._next < len(self._order):
                member = self._order[self._next]
                self._next += 1
                if member != self._table.me and self._table.live(member):
                    return member
            self._order = list(self._table.ring)
            self._rng.shuffle(self._order)
            self._next = 0
        return None
