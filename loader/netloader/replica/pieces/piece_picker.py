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

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from hashlib import blake2b
from typing import Final

_CHUNK: Final = 1 << 20
"""Above any chunk's id (`protocol.messages.MAX_CHUNKS`), and so above any place in the order."""

_RARITY: Final = _CHUNK * _CHUNK
"""Weight of one holder in a key, above the place in the order and the id."""

_FRESH: Final = _RARITY << 20
"""Weight in the key of a chunk that was not given back, above any number of holders."""

_MANY: Final = 32
"""Keys that are changed one by one; of more, all are sorted again."""


class PiecePicker:
    """Knows the state and the rarity of each chunk of one pull.

    The wanted chunks stand in a sorted list of keys, so the next one for a source that has most of
    them is found at once. For a source that has few, these few are compared instead.
    """

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
        places = _places(len(self.sizes), name)
        self._keys = [_FRESH + place * _CHUNK + chunk for chunk, place in enumerate(places)]
        self._queue = sorted(self._keys)  # Of the wanted chunks.

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
        self, useful: Set[int], allowed: Callable[[int], bool] = lambda chunk: True
    ) -> int | None:
        """The next chunk for a source that has the wanted chunks in `useful`, of those that are
        `allowed`; None when there is none."""
        if len(useful) ** 2 <= len(self._queue):
            return min(filter(allowed, useful), key=self._keys.__getitem__, default=None)
        for key in self._queue:
            chunk = key % _CHUNK
            if chunk in useful and allowed(chunk):
                return chunk
        return None

    def rarity(self, chunk: int) -> int:
        """How many other replicas are known to have the chunk or to be getting it."""
        return self._keys[chunk] % _FRESH // _RARITY

    def spread(self, chunks: Collection[int]) -> None:
        """Note that one more replica has each of these chunks, or is getting it."""
        self._shift(chunks, _RARITY)

    def vanish(self, chunks: Collection[int]) -> None:
        """Note that one replica less has each of these chunks: takes a `spread` back."""
        self._shift(chunks, -_RARITY)

    def _shift(self, chunks: Collection[int], by: int) -> None:
        many = len(chunks) > _MANY
        for chunk in chunks:
            queued = not many and chunk in self._wanted
            if queued:
                self._unqueue(chunk)
            self._keys[chunk] += by
            if queued:
                insort(self._queue, self._keys[chunk])
        if many:
            self._queue = sorted(self._keys[chunk] for chunk in self._wanted)

    def _unqueue(self, chunk: int) -> None:
        del self._queue[bisect_left(self._queue, self._keys[chunk])]

    def ask(self, chunk: int) -> None:
        """Note that a wanted chunk is asked of a source."""
        self._wanted.remove(chunk)
        self._unqueue(chunk)
        self.wanted_bytes -= self.sizes[chunk]

    def arrived(self, chunk: int) -> None:
        """Note that a chunk that was asked for is done."""
        self._done.add(chunk)

    def give_back(self, chunks: Iterable[int]) -> None:
        """Note that chunks that were asked for will not arrive; they are picked next."""
        for chunk in chunks:
            self._keys[chunk] %= _FRESH
            self._want(chunk)

    def invalidate(self) -> None:
        """Fetch the done chunks again: the promise that verified them is void."""
        for chunk in self._done:
            self._want(chunk)
        self._done.clear()

    def _want(self, chunk: int) -> None:
        self._wanted.add(chunk)
        insort(self._queue, self._keys[chunk])
        self.wanted_bytes += self.sizes[chunk]

    def check(self, in_flight: Iterable[int]) -> None:
        """Raise `AssertionError` when a chunk is lost or counted twice. For tests."""
        everything = sorted([*self._wanted, *in_flight, *self._done])
        assert everything == list(range(len(self.sizes))), "a chunk is lost or counted twice"
        assert self.wanted_bytes == sum(self.sizes[chunk] for chunk in self._wanted)
        assert self._queue == sorted(self._keys[chunk] for chunk in self._wanted)
        assert all(key >= 0 for key in self._keys), "a holder was taken back that never was"


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
