"""Which chunks are still wanted, on their way or done, and which of them is asked for next. Pure.

A chunk is in one of three states: wanted, asked of one source, done. Each chunk is asked of one
source at a time, so that nothing travels twice. What is picked next, first rule first:

    given back   a chunk that was asked for in vain: its source is gone
    rarest       a chunk that the fewest other replicas have or are getting
    order        by id; or, if others pull as well, in an order of this replica's own

Rarest first is BitTorrent's rule: a chunk that only one member has would be lost with it, and ten
replicas with ten different chunks can serve each other, while ten with the same one cannot. An
order of its own keeps each replica from choosing what all others choose that see the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence, Set
from hashlib import blake2b
from typing import Final

_RARITY: Final = 1 << 32
"""Weight of one holder in a rank, above any place in the order."""

_FRESH: Final = 1 << 62
"""Weight in the rank of a chunk that was not given back, above any number of holders."""


class PiecePicker:
    """Knows the state and the rarity of each chunk of one pull."""

    def __init__(self, sizes: Sequence[int], staged: Collection[int], name: str = "") -> None:
        """`sizes` are the bytes of each chunk, by id; `staged` the ids that need staging memory.
        With the `name` of this replica, chunks that are equally rare are picked in an order of its
        own, otherwise by id."""
        self.sizes = tuple(sizes)
        self.staged = frozenset(staged)
        self._wanted = set(range(len(self.sizes)))
        self.wanted_bytes = sum(self.sizes)
        """Bytes of the chunks that no source has been asked for."""
        self._done: set[int] = set()
        self._rank = [_FRESH + place for place in _places(len(self.sizes), name)]

    @property
    def complete(self) -> bool:
        """Whether every chunk is done."""
        return len(self._done) == len(self.sizes)

    @property
    def wanted(self) -> Set[int]:
        """Chunks that no source has been asked for."""
        return self._wanted

    @property
    def done(self) -> frozenset[int]:
        return frozenset(self._done)

    def next_of(
        self, available: Set[int], *, staging: bool, without: Set[int] = frozenset()
    ) -> int | None:
        """The next chunk for a source that has `available`, except those in `without`; None when it
        has no wanted chunk. Without `staging`, chunks that need staging memory are skipped."""
        found = self._wanted & available
        found.difference_update(without)
        if not staging:
            found -= self.staged
        return min(found, key=self._rank.__getitem__, default=None)

    def interested(self, available: Set[int]) -> bool:
        """False when chunks are wanted and a source that has `available` has none of them
        (BitTorrent's word)."""
        return not self._wanted or not self._wanted.isdisjoint(available)

    def rarity(self, chunk: int) -> int:
        """How many other replicas are known to have the chunk or to be getting it."""
        return self._rank[chunk] % _FRESH // _RARITY

    def spread(self, chunk: int) -> None:
        """Note that one more replica has a chunk, or is getting it."""
        self._rank[chunk] += _RARITY

    def vanish(self, chunk: int) -> None:
        """Note that one replica less has a chunk: takes a `spread` back."""
        self._rank[chunk] -= _RARITY

    def ask(self, chunk: int) -> None:
        """Note that a wanted chunk is asked of a source."""
        self._wanted.remove(chunk)
        self.wanted_bytes -= self.sizes[chunk]

    def arrived(self, chunk: int) -> None:
        """Note that a chunk that was asked for is done."""
        self._done.add(chunk)

    def give_back(self, chunks: Iterable[int]) -> None:
        """Note that chunks that were asked for will not arrive; they are picked next."""
        for chunk in chunks:
            self._wanted.add(chunk)
            self.wanted_bytes += self.sizes[chunk]
            self._rank[chunk] %= _FRESH

    def invalidate(self) -> None:
        """Fetch the done chunks again: the promise that verified them is void."""
        self._wanted |= self._done
        self.wanted_bytes += sum(self.sizes[chunk] for chunk in self._done)
        self._done.clear()

    def check(self, in_flight: Iterable[int]) -> None:
        """Raise `AssertionError` when a chunk is lost or counted twice. For tests."""
        everything = sorted([*self._wanted, *in_flight, *self._done])
        assert everything == list(range(len(self.sizes))), "a chunk is lost or counted twice"
        assert self.wanted_bytes == sum(self.sizes[chunk] for chunk in self._wanted)
        assert all(rank >= 0 for rank in self._rank), "a holder was taken back that never was"


def _places(count: int, name: str) -> list[int]:
    """The place of each chunk in the order."""
    if not name:
        return list(range(count))
    key = blake2b(name.encode(), digest_size=32).digest()
    draws = [blake2b(chunk.to_bytes(8), digest_size=8, key=key).digest() for chunk in range(count)]
    places = [0] * count
    for place, chunk in enumerate(sorted(range(count), key=draws.__getitem__)):
        places[chunk] = place
    return places
