"""Which chunks are still wanted, which are on their way, and which have arrived. Pure.

A chunk is in one of three states: wanted, asked of one source, done. Each chunk is asked of one
source at a time, so that nothing travels twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


class PiecePicker:
    """Picks the next chunk to ask for: first the chunks that were given back, then by id."""

    def __init__(self, sizes: Sequence[int], staged: Collection[int]) -> None:
        """`sizes` are the bytes of each chunk, by id; `staged` the ids that need staging memory."""
        self.sizes = tuple(sizes)
        self.staged = frozenset(staged)
        # A dict, because it keeps the order and finds a member at once.
        self._wanted: dict[int, None] = dict.fromkeys(range(len(self.sizes)))
        self.wanted_bytes = sum(self.sizes)
        """Bytes of the chunks that no source has been asked for."""
        self._done: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every chunk is done."""
        return len(self._done) == len(self.sizes)

    @property
    def done(self) -> frozenset[int]:
        return frozenset(self._done)

    def next_of(self, available: Collection[int], *, staging: bool) -> int | None:
        """The next chunk for a source that has `available`; None when it has no wanted chunk.
        Without `staging`, chunks that need staging memory are skipped."""
        return next(
            (
                chunk
                for chunk in self._wanted
                if chunk in available and (staging or chunk not in self.staged)
            ),
            None,
        )

    def interested(self, available: set[int]) -> bool:
        """False when chunks are wanted and a source that has `available` has none of them
        (BitTorrent's word)."""
        return not self._wanted or not available.isdisjoint(self._wanted)

    def ask(self, chunk: int) -> None:
        """Note that a wanted chunk is asked of a source."""
        del self._wanted[chunk]
        self.wanted_bytes -= self.sizes[chunk]

    def arrived(self, chunk: int) -> None:
        """Note that a chunk that was asked for is done."""
        self._done.add(chunk)

    def give_back(self, chunks: Iterable[int]) -> None:
        """Note that chunks that were asked for will not arrive; they are picked next."""
        returned = sorted(chunks)
        self._wanted = dict.fromkeys((*returned, *self._wanted))
        self.wanted_bytes += sum(self.sizes[chunk] for chunk in returned)

    def invalidate(self) -> None:
        """Fetch the done chunks again: the promise that verified them is void."""
        for chunk in sorted(self._done):
            self._wanted[chunk] = None
            self.wanted_bytes += self.sizes[chunk]
        self._done.clear()

    def check(self, in_flight: Iterable[int]) -> None:
        """Raise `AssertionError` when a chunk is lost or counted twice. For tests."""
        everything = sorted([*self._wanted, *in_flight, *self._done])
        assert everything == list(range(len(self.sizes))), "a chunk is lost or counted twice"
        assert self.wanted_bytes == sum(self.sizes[chunk] for chunk in self._wanted)
