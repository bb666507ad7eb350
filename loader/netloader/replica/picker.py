"""Which chunks are to be asked for, are on their way, have arrived. Pure.

A chunk is in one of three states: wanted, asked of one source, done. It is asked of one source at a
time, so that nothing travels twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


class PiecePicker:
    """Picks the next chunk to ask for: those that were given back first, then by id."""

    def __init__(self, sizes: Sequence[int], staged: Collection[int]) -> None:
        """`sizes` are the bytes of each chunk, by id; `staged` the ids that need staging memory."""
        self.sizes = tuple(sizes)
        self.staged = frozenset(staged)
        # A dict, because it keeps order and finds a member at once.
        self._wanted: dict[int, None] = dict.fromkeys(range(len(self.sizes)))
        self.wanted_bytes = sum(self.sizes)
        """Bytes of the chunks that nobody has been asked for."""
        self._done: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every chunk is done."""
        return len(self._done) == len(self.sizes)

    @property
    def done(self) -> frozenset[int]:
        return frozenset(self._done)

    def next_of(self, available: Collection[int], *, staging: bool) -> int | None:
        """The next chunk for a source that has `available`; None: it has none that is wanted.
        Without `staging` none that needs staging memory."""
        return next(
            (
                chunk
                for chunk in self._wanted
                if chunk in available and (staging or chunk not in self.staged)
            ),
            None,
        )

    def interested(self, available: set[int]) -> bool:
        """False: chunks are to be asked for, and a source that has `available` has none of them
        (BitTorrent's word)."""
        return not self._wanted or not available.isdisjoint(self._wanted)

    def ask(self, chunk: int) -> None:
        """A wanted chunk is asked of a source."""
        del self._wanted[chunk]
        self.wanted_bytes -= self.sizes[chunk]

    def arrived(self, chunk: int) -> None:
        """A chunk that was asked for is done."""
        self._done.add(chunk)

    def give_back(self, chunks: Iterable[int]) -> None:
        """Chunks that were asked for will not arrive: they are next."""
        returned = sorted(chunks)
        self._wanted = dict.fromkeys((*returned, *self._wanted))
        self.wanted_bytes += sum(self.sizes[chunk] for chunk in returned)

    def invalidate(self) -> None:
        """What verified the chunks that are done is void: fetch them again."""
        for chunk in sorted(self._done):
            self._wanted[chunk] = None
            self.wanted_bytes += self.sizes[chunk]
        self._done.clear()

    def check(self, in_flight: Iterable[int]) -> None:
        """Raise `AssertionError` when a chunk is lost or counted twice. For tests."""
        everything = sorted([*self._wanted, *in_flight, *self._done])
        assert everything == list(range(len(self.sizes))), "a chunk is lost or counted twice"
        assert self.wanted_bytes == sum(self.sizes[chunk] for chunk in self._wanted)
