"""Rumours: claims waiting to be passed on by gossip, or piggybacked on pings and acks.

One rumour per member, the newest. Rumours that were sent least often go first; among those,
refutations and joins go before bad news, and newer ones first. Each rumour is dropped after enough
copies. My own sends count, and so does hearing the rumour from another member, because that member
spreads it too. All operations are O(rumours touched).
"""

from __future__ import annotations

from collections import Counter

from netmesh.core.claims import Claim
from netmesh.core.fields import claim_bytes
from netmesh.core.records import MemberId, Status

HEARD_WEIGHT = 1
"""Sends that one duplicate of a join or an advert stands for. Verdicts and refutations do not age
by being heard: when they did, all tellers of a death stopped early, and one view in five hundred
learnt about the death seconds later, by anti-entropy."""

MOST_SENT = 32
"""Rumours sent more often than this are treated alike; no mesh needs as many sends."""


class _Rumour:
    __slots__ = ("claim", "sent", "size")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.sent = 0
        self.size = claim_bytes(claim)


class Rumours:
    """Bounded queue of claims, by member."""

    __slots__ = ("_by_id", "_counters", "_limit", "_tiers")

    def __init__(self, limit: int, counters: Counter[str]) -> None:
        self._by_id: dict[MemberId, _Rumour] = {}
        # Two tiers per number of sends; a dict keeps insertion order and gives O(1) removal.
        self._tiers: list[dict[MemberId, _Rumour]] = [{} for _ in range(2 * MOST_SENT + 2)]
        self._limit = limit
        self._counters = counters

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, claim: Claim) -> None:
        """Spread this claim, in place of the earlier rumour about that member."""
        self.drop(claim.id)
        rumour = _Rumour(claim)
        self._by_id[claim.id] = rumour
        self._tier(rumour)[claim.id] = rumour
        if len(self._by_id) > self._limit:
            self._evict()

    def drop(self, member: MemberId) -> None:
        """Say nothing more about that member."""
        rumour = self._by_id.pop(member, None)
        if rumour is not None:
            del self._tier(rumour)[member]

    def heard(self, claim: Claim, limit: int) -> None:
        """Note that another member told the same."""
        rumour = self._by_id.get(claim.id)
        if rumour is None:
            return
        mine = rumour.claim
        if mine.status is not Status.ALIVE or mine.incarnation:
            return
        if (
            mine.generation == claim.generation
            and mine.incarnation == claim.incarnation
            and claim.status is Status.ALIVE
            and mine.version == claim.version
        ):
            self._age(rumour, HEARD_WEIGHT, limit)

    def take(self, budget: int, copies: int, limit: int) -> tuple[Claim, ...]:
        """Claims of at most `budget` bytes to send to `copies` members."""
        chosen: list[_Rumour] = []
        for tier in self._tiers:
            full = False
            for rumour in reversed(tier.values()):
                if rumour.size > budget:
                    full = True
                    break
                budget -= rumour.size
                chosen.append(rumour)
            if full:
                break
        for rumour in chosen:
            self._age(rumour, copies, limit)
        return tuple(rumour.claim for rumour in chosen)

    def _age(self, rumour: _Rumour, by: int, limit: int) -> None:
        member = rumour.claim.id
        del self._tier(rumour)[member]
        rumour.sent += by
        if rumour.sent >= limit:
            del self._by_id[member]
        else:
            self._tier(rumour)[member] = rumour

    def _tier(self, rumour: _Rumour) -> dict[MemberId, _Rumour]:
        sent = rumour.sent if rumour.sent < MOST_SENT else MOST_SENT
        return self._tiers[2 * sent + (rumour.claim.status is not Status.ALIVE)]

    def _evict(self) -> None:
        for tier in reversed(self._tiers):
            if tier:
                self.drop(next(iter(tier)))
                self._counters["dropped.rumour_limit"] += 1
                return
