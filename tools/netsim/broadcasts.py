"""memberlist's queue of broadcasts: those sent least often first, then longer, then newer ones."""

from __future__ import annotations

from bisect import insort

import orjson

from netmesh.core.claims import Claim
from netmesh.core.fields import dump_claim
from netmesh.core.records import MemberId

_Key = tuple[int, int, int, MemberId]


class Broadcasts:
    """Keeps one broadcast per member, the last one."""

    def __init__(self) -> None:
        self._queue: list[_Key] = []
        self._by_id: dict[MemberId, tuple[_Key, Claim]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, claim: Claim) -> None:
        """Queue a broadcast. It replaces an earlier one about the same member."""
        self._drop(claim.id)
        self._count += 1
        size = len(orjson.dumps(dump_claim(claim)))
        self._insert((0, -size, -self._count, claim.id), claim)

    def take(self, room: int, limit: int) -> tuple[Claim, ...]:
        """Claims that fit into `room` bytes. Each claim is dropped after `limit` copies."""
        if not self._queue:
            return ()
        chosen: list[tuple[_Key, Claim]] = []
        for key in self._queue:
            size = 1 - key[1]
            if size <= room:
                room -= size
                chosen.append((key, self._by_id[key[3]][1]))
            if room < 60:
                break
        for key, claim in chosen:
            self._drop(claim.id)
            if key[0] + 1 < limit:
                self._insert((key[0] + 1, *key[1:]), claim)
        return tuple(claim for _, claim in chosen)

    def _insert(self, key: _Key, claim: Claim) -> None:
        insort(self._queue, key)
        self._by_id[claim.id] = (key, claim)

    def _drop(self, member: MemberId) -> None:
        known = self._by_id.pop(member, None)
        if known is not None:
            self._queue.remove(known[0])
