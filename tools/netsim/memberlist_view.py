"""Knowledge of a member of the comparison protocols: its table, and running suspicions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from netmesh.core.records import MemberId, Record
from netsim.machine import Changed


@dataclass(slots=True)
class SuspicionTimer:
    """Lifeguard's dynamic timeout; with low == high, SWIM's fixed one."""

    started: float
    low: float
    high: float
    wanted: int
    """Confirmations that shorten the timeout to `low`."""
    accusers: set[MemberId]

    def confirm(self, accuser: MemberId) -> bool:
        """True when this accuser counts."""
        if len(self.accusers) - 1 >= self.wanted or accuser in self.accusers:
            return False
        self.accusers.add(accuser)
        return True

    def due(self) -> float:
        """When the suspicion runs out."""
        if not self.wanted:
            return self.started + self.low
        share = math.log(len(self.accusers)) / math.log(self.wanted + 1)
        return self.started + max(self.low, self.high - share * (self.high - self.low))


class MemberlistView:
    """Records by id, with the live ones also in a list to draw from."""

    def __init__(self, me: Record, changed: Changed) -> None:
        self.me = me.id
        self.records: dict[MemberId, Record] = {}
        self.live: list[MemberId] = []
        self.root = 0
        self._at: dict[MemberId, int] = {}
        """Place in `live`."""
        self._dead_since: dict[MemberId, float] = {}
        self._changed: Changed | None = None
        self.put(me, 0.0)
        self._changed = changed

    @property
    def mine(self) -> Record:
        """My own record."""
        return self.records[self.me]

    def put(self, record: Record, now: float) -> None:
        """Replace what is known about one member."""
        member = record.id
        old = self.records.get(member)
        self.records[member] = record
        if old is not None and old.status.live:
            self.root ^= old.digest
        if record.status.live:
            self.root ^= record.digest
            if member not in self._at:
                self._at[member] = len(self.live)
                self.live.append(member)
            self._dead_since.pop(member, None)
        else:
            if member in self._at:
                place, last = self._at.pop(member), self.live.pop()
                if last != member:
                    self.live[place] = last
                    self._at[last] = place
            self._dead_since[member] = now
        if self._changed is not None:
            self._changed(old, record)

    def forget(self, before: float) -> None:
        """Drop those that died before that time."""
        for member in [m for m, since in self._dead_since.items() if since < before]:
            del self._dead_since[member]
            del self.records[member]

    def copy(self, other: MemberlistView) -> None:
        """Take over the records of another view, whose member knows the same."""
        self.records = dict(other.records)
        self.live = list(other.live)
        self._at = dict(other._at)
        self.root = other.root

    def sample(
        self,
        rng: Random,
        count: int,
        skip: tuple[MemberId, ...],
        *,
        alive: bool = False,
        dead_since: float = math.inf,
    ) -> list[MemberId]:
        """Up to `count` members: only alive ones, or also suspects, or also the recently dead."""
        dead = [m for m, since in self._dead_since.items() if since >= dead_since]
        total = len(self.live) + len(dead)
        chosen: list[MemberId] = []
        for _ in range(3 * total if total < 16 else 3 * count + 16):
            if len(chosen) == count:
                break
            place = rng.randrange(total)
            member = self.live[place] if place < len(self.live) else dead[place - len(self.live)]
            if member in skip or member in chosen or (alive and self.records[member].status):
                continue
            chosen.append(member)
        return chosen

    def check(self) -> None:
        """Raise AssertionError when a derived value disagrees with the records."""
        root = 0
        for record in self.records.values():
            if record.status.live:
                root ^= record.digest
            assert (record.id in self._at) == record.status.live, record
            assert (record.id in self._dead_since) != record.status.live, record
        assert root == self.root, "hash differs from the records"
        assert all(self.live[place] == member for member, place in self._at.items())
        assert len(self.live) == len(self._at) and self.me in self.records
