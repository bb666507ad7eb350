"""Which chunks a source offers to which replica, while replicas can serve each other. Pure.

A source that has what nobody else has is the bottleneck: each chunk must leave it once, and each
further copy takes up a link that first copies need. Replicas that ask at the same moment cannot see
each other's requests, so the source keeps them apart: each chunk is offered to one replica first
(BitTorrent's super-seeding). Once every chunk has been offered, all are offered to all.

    alone     one replica: it is offered everything, for there is nobody to serve
    dealing   several: each has up to `ahead` chunks on offer that it has not asked for
    open      nothing is left that nobody was offered: everybody is offered everything, until all
              these replicas have left

A replica that gets an offered chunk elsewhere says so (`has`), and is offered another. It may ask
for what is not on offer, for instance because a retraction crossed its request, and gets that too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

AHEAD: Final = 1
"""Chunks on offer to a replica that it has not asked for: one that it asks for next, and one for
the round trip until the next offer arrives."""


@dataclass(frozen=True, slots=True)
class OfferChange:
    """What a replica has to be told: chunks that are on offer now, and some that no longer are."""

    offered: tuple[int, ...] = ()
    retracted: tuple[int, ...] = ()


@dataclass(slots=True)
class _Dealt:
    """One replica."""

    has: set[int]
    """Chunks that it had itself when it came, or asked for."""
    offered: set[int] = field(default_factory=set)
    """Chunks that it was told of, those included that it has asked for."""

    @property
    def waiting(self) -> int:
        """How many on offer it has neither asked for nor got elsewhere."""
        return len(self.offered - self.has)


class SuperSeeding:
    """The offers of one source to the replicas that serve while they load. Belongs to one thread.

    After each call, `changes` gives what replicas have to be told. Replicas that do not serve
    others are no part of this: they are offered everything.
    """

    def __init__(self, chunks: int, available: Iterable[int], ahead: int = AHEAD) -> None:
        """`chunks` is how many there are; `available` those that the source has already."""
        self._chunks = chunks
        self._ahead = ahead
        self._available: set[int] = set()
        self._undealt: dict[int, None] = {}  # Available, and offered to nobody; in order.
        self._replicas: dict[str, _Dealt] = {}
        self._opened = False
        self.gain(available)

    def gain(self, chunks: Iterable[int]) -> None:
        """The source has more chunks: it still reads them from storage."""
        for chunk in chunks:
            if chunk not in self._available:
                self._available.add(chunk)
                self._undealt[chunk] = None

    def join(self, replica: str, has: Iterable[int] = ()) -> None:
        """A replica opens a session; it has some chunks already, and can serve these."""
        self._replicas[replica] = _Dealt(set())
        self.has(replica, has)

    def has(self, replica: str, chunks: Iterable[int]) -> None:
        """A replica has these chunks, or asks for them now."""
        dealt = self._replicas[replica]
        for chunk in chunks:
            dealt.has.add(chunk)
            self._undealt.pop(chunk, None)

    def leave(self, replica: str, got: Iterable[int]) -> None:
        """A session ends. What the replica was offered and has not `got` is for others."""
        dealt = self._replicas.pop(replica)
        if not self._replicas:
            self._opened = False
            self._undealt = dict.fromkeys(sorted(self._available))
        elif not self._opened:
            for chunk in sorted(dealt.offered.difference(got)):
                if not any(chunk in other.has for other in self._replicas.values()):
                    self._undealt[chunk] = None

    def changes(self) -> dict[str, OfferChange]:
        """What each replica has to be told now, as far as that is anything."""
        before = {name: frozenset(dealt.offered) for name, dealt in self._replicas.items()}
        alone = len(self._replicas) == 1
        if not alone and not self._opened:
            self._retract()
            self._deal()
            self._opened = not self._undealt and len(self._available) == self._chunks
        if alone or self._opened:
            for dealt in self._replicas.values():
                dealt.offered |= self._available
        told = {}
        for name, dealt in self._replicas.items():
            if dealt.offered != before[name]:
                told[name] = OfferChange(
                    tuple(sorted(dealt.offered - before[name])),
                    tuple(sorted(before[name] - dealt.offered)),
                )
        return told

    def _retract(self) -> None:
        """Take back what a replica was offered while it was alone, except for what it asks for
        next. Nothing that it was offered then counts as dealt before."""
        for dealt in self._replicas.values():
            waiting = sorted(dealt.offered - dealt.has)
            for chunk in waiting[: self._ahead]:
                self._undealt.pop(chunk, None)
            dealt.offered.difference_update(waiting[self._ahead :])

    def _deal(self) -> None:
        while self._undealt and self._replicas:
            dealt = min(self._replicas.values(), key=lambda one: one.waiting)
            if dealt.waiting >= self._ahead:
                return
            chunk = next(iter(self._undealt))
            del self._undealt[chunk]
            dealt.offered.add(chunk)
