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
from dataclasses import dataclass
from typing import Final

AHEAD: Final = 1
"""Chunks on offer to a replica that it has not asked for: one that it asks for next, and one for
the round trip until the next offer arrives."""


@dataclass(frozen=True, slots=True)
class OfferChange:
    """What a replica has to be told: chunks that are on offer now, and some that no longer are."""

    offered: tuple[int, ...] = ()
    retracted: tuple[int, ...] = ()


class _Dealt:
    """One replica, and what is on offer to it."""

    def __init__(self) -> None:
        self.has: set[int] = set()
        """Chunks that it had when it came, got elsewhere, or asked for."""
        self.offered: set[int] = set()
        """Chunks on offer, those included that it has."""
        self.waiting: set[int] = set()
        """Chunks on offer that it does not have."""
        self._news: set[int] = set()
        self._taken_back: set[int] = set()

    def offer(self, chunks: Iterable[int]) -> None:
        new = set(chunks) - self.offered
        self.offered |= new
        self.waiting |= new - self.has
        self._news |= new - self._taken_back
        self._taken_back -= new

    def retract(self, chunks: Iterable[int]) -> None:
        old = self.offered.intersection(chunks)
        self.offered -= old
        self.waiting -= old
        self._taken_back |= old - self._news
        self._news -= old

    def change(self) -> OfferChange | None:
        """What the replica has to be told; None for nothing."""
        if not self._news and not self._taken_back:
            return None
        told = OfferChange(tuple(sorted(self._news)), tuple(sorted(self._taken_back)))
        self._news.clear()
        self._taken_back.clear()
        return told


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
        new = [chunk for chunk in chunks if chunk not in self._available]
        self._available.update(new)
        self._undealt.update(dict.fromkeys(new))

    def join(self, replica: str, has: Iterable[int] = ()) -> None:
        """A replica opens a session; it has some chunks already, and can serve these."""
        self._replicas[replica] = _Dealt()
        self.has(replica, has)

    def has(self, replica: str, chunks: Iterable[int]) -> None:
        """A replica has these chunks, or asks for them now."""
        dealt = self._replicas[replica]
        for chunk in chunks:
            dealt.has.add(chunk)
            dealt.waiting.discard(chunk)
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
        alone = len(self._replicas) == 1
        if not alone and not self._opened:
            self._retract()
            self._deal()
            self._opened = not self._undealt and len(self._available) == self._chunks
        told = {}
        for name, dealt in self._replicas.items():
            if (alone or self._opened) and len(dealt.offered) < len(self._available):
                dealt.offer(self._available)
            change = dealt.change()
            if change is not None:
                told[name] = change
        return told

    def _retract(self) -> None:
        """Take back what a replica was offered while it was alone, except for what it asks for
        next. Nothing that it was offered then counts as dealt before."""
        for dealt in self._replicas.values():
            if len(dealt.waiting) > self._ahead:
                waiting = sorted(dealt.waiting)
                for chunk in waiting[: self._ahead]:
                    self._undealt.pop(chunk, None)
                dealt.retract(waiting[self._ahead :])
                self._undealt.update(dict.fromkeys(waiting[self._ahead :]))

    def _deal(self) -> None:
        while self._undealt and self._replicas:
            dealt = min(self._replicas.values(), key=lambda one: len(one.waiting))
            if len(dealt.waiting) >= self._ahead:
                return
            chunk = next(iter(self._undealt))
            del self._undealt[chunk]
            dealt.offer((chunk,))
