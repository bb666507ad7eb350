"""The membership table: every record, its hashes, and the ring of live members.

`put` takes the new record of a `Change`. `put` keeps all derived values up to date in O(log N) plus
one list insertion; nothing here walks the table on a timer. The root covers only live members,
because tombstones expire at different times in different places and must not make equal tables look
different.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from functools import lru_cache

from netmesh.core.records import (
    BUCKETS,
    MemberId,
    Record,
    bucket_of,
    host_of,
    position,
)
from netmesh.core.rng import Rng

SHOWN_LIMIT = 4096
"""Dead members shown at most; the oldest deaths are left out first."""


@lru_cache(maxsize=16384)
def _place(member: MemberId) -> tuple[int, str]:
    return (position(member), member)


class Table:
    """Records by id; `me` is always among them."""

    __slots__ = (
        "_buckets",
        "_hosts",
        "_showing",
        "changed_at",
        "hashes",
        "me",
        "records",
        "revision",
        "ring",
        "ring_revision",
        "root",
        "tombstones",
    )

    def __init__(self, me: Record) -> None:
        self.me = me.id
        self.records: dict[MemberId, Record] = {}
        self.ring: list[MemberId] = []
        """Live members by place on the ring; random members are also drawn from this list."""
        self.hashes = [0] * BUCKETS
        self.root = 0
        self.tombstones: dict[MemberId, float] = {}
        """Members that died or left, with the time at which this table learnt it, oldest first."""
        self.changed_at = 0.0
        self.revision = 0
        """Grows with every visible change."""
        self.ring_revision = 0
        """Grows when a member joins or leaves the ring."""
        self._buckets: list[list[MemberId]] = [[] for _ in range(BUCKETS)]
        self._hosts: dict[str, list[MemberId]] = {}
        self._showing: deque[tuple[float, MemberId]] = deque(maxlen=SHOWN_LIMIT)
        self.put(me, 0.0)

    @property
    def size(self) -> int:
        """Live members, me included."""
        return len(self.ring)

    @property
    def mine(self) -> Record:
        """My own record."""
        return self.records[self.me]

    def get(self, member: MemberId) -> Record | None:
        """The record, dead or alive."""
        return self.records.get(member)

    def live(self, member: MemberId) -> bool:
        """True when the member is known and neither dead nor gone."""
        record = self.records.get(member)
        return record is not None and record.status.live

    def put(self, record: Record, now: float) -> None:
        """Replace what is known about one member."""
        member = record.id
        old = self.records.get(member)
        bucket = bucket_of(member)
        change = 0
        was_live = old is not None and old.status.live
        if old is not None and was_live:
            change ^= old.digest
        is_live = record.status.live
        if is_live:
            change ^= record.digest
        self.records[member] = record
        if is_live != was_live or old is None:
            self._move(member, bucket, is_live, now)
        if change:
            self.root ^= change
            self.hashes[bucket] ^= change
            self.changed_at = now
        self.revision += 1

    def forget(self, member: MemberId) -> None:
        """Drop a tombstone."""
        if self.tombstones.pop(member, None) is not None:
            del self.records[member]
            self.revision += 1

    def hide(self, before: float) -> None:
        """Stop showing members that died before that time."""
        while self._showing and self._showing[0][0] < before:
            self._showing.popleft()
            self.revision += 1

    def shown(self, since: float) -> Iterator[Record]:
        """Live members in ring order, then members that died after `since`."""
        for member in self.ring:
            yield self.records[member]
        for died, member in self._showing:
            if died >= since and self.tombstones.get(member) == died:
                yield self.records[member]

    def in_bucket(self, bucket: int) -> list[MemberId]:
        """Live members of one bucket. Not a copy."""
        return self._buckets[bucket]

    def on_host(self, host: str) -> tuple[MemberId, ...]:
        """Live members with that host part."""
        return tuple(self._hosts.get(host, ()))

    def successors(self, member: MemberId, count: int) -> list[MemberId]:
        """The next `count` live members on the ring after `member`, excluding it."""
        return self._walk(member, count, 1)

    def predecessors(self, member: MemberId, count: int) -> list[MemberId]:
        """The previous `count` live members on the ring: those that watch `member`."""
        return self._walk(member, count, -1)

    def sample(self, rng: Rng, count: int, skip: frozenset[MemberId]) -> list[MemberId]:
        """Up to `count` different live members that are not in `skip`."""
        ring = self.ring
        if len(ring) <= count + len(skip) + 4:
            # There are so few that draws would mostly collide.
            pool = [member for member in ring if member not in skip]
            rng.shuffle(pool)
            return pool[:count]
        chosen: list[MemberId] = []
        for _ in range(4 * count + 8):
            member = ring[rng.randrange(len(ring))]
            if member not in skip and member not in chosen:
                chosen.append(member)
                if len(chosen) == count:
                    break
        return chosen

    def check(self) -> None:
        """Raise AssertionError when a derived value disagrees with the records (tests only)."""
        live = [r for r in self.records.values() if r.status.live]
        root = 0
        hashes = [0] * BUCKETS
        for record in live:
            root ^= record.digest
            hashes[bucket_of(record.id)] ^= record.digest
        assert root == self.root and hashes == self.hashes, "hashes differ from the records"
        assert self.ring == sorted((r.id for r in live), key=_place), "ring differs"
        assert sorted(m for b in self._buckets for m in b) == sorted(self.ring), "buckets differ"
        on_hosts = sorted(m for there in self._hosts.values() for m in there)
        assert on_hosts == sorted(self.ring) and all(self._hosts.values()), "hosts differ"
        dead = {r.id for r in self.records.values() if not r.status.live}
        assert dead == set(self.tombstones), "tombstones differ"
        assert self.me in self.records, "I am missing from my own table"
        assert list(self.tombstones.values()) == sorted(self.tombstones.values()), (
            "tombstones out of order"
        )

    def _move(self, member: MemberId, bucket: int, is_live: bool, now: float) -> None:
        place = bisect_left(self.ring, _place(member), key=_place)
        if is_live:
            self.ring.insert(place, member)
            self._buckets[bucket].append(member)
            self._hosts.setdefault(host_of(member), []).append(member)
            self.tombstones.pop(member, None)
        else:
            if place < len(self.ring) and self.ring[place] == member:
                del self.ring[place]
                self._buckets[bucket].remove(member)
                neighbours = self._hosts[host_of(member)]
                neighbours.remove(member)
                if not neighbours:
                    del self._hosts[host_of(member)]
            self.tombstones[member] = now
            self._showing.append((now, member))
        self.ring_revision += 1

    def _walk(self, member: MemberId, count: int, step: int) -> list[MemberId]:
        ring = self.ring
        place = bisect_left(ring, _place(member), key=_place)
        there = place < len(ring) and ring[place] == member
        others = len(ring) - there
        if step > 0:
            first = place + there
            return [ring[(first + i) % len(ring)] for i in range(min(count, others))]
        return [ring[(place - 1 - i) % len(ring)] for i in range(min(count, others))]
