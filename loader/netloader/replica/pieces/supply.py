"""What the sources of a pull have and are getting, and so how rare each chunk is. Pure.

A source that has everything says so once. A replica that still loads, or a source that gives each
replica other chunks first (super-seeding), says from time to time what has changed:

    has      chunks that can be asked of it now
    coming   chunks that it has asked others for, and will have soon
    gone     chunks that it neither has nor gets any more, or does not offer now
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from netloader.replica.pieces.piece_picker import PiecePicker


class Stock:
    """What one source has. `near` is its name if it is on this host, else empty."""

    def __init__(self, available: Iterable[int], near: str) -> None:
        self.has = set(available)
        self.useful: set[int] = set()
        """What it has and this replica wants."""
        self.coming: set[int] = set()
        self.near = near


class Supply:
    """What all sources of a pull have. Tells the picker how rare each chunk is."""

    def __init__(self, picker: PiecePicker, patience_s: float) -> None:
        """`patience_s` is how long what a near source is getting is waited for."""
        self._picker = picker
        self._patience_s = patience_s
        self._stocks: dict[str, Stock] = {}
        self._partial = 0  # How many sources do not offer everything.
        self._near: dict[int, int] = {}  # How many near sources have each chunk.
        self._near_coming: set[int] = set()  # What one says that it gets.
        self._first_said: dict[int, float] = {}  # When one first said that it gets a chunk.

    @property
    def shared(self) -> bool:
        """Whether other replicas pull as well: not every source offers everything."""
        return self._partial > 0

    def is_near(self, chunk: int, now: float) -> bool:
        """Whether a source on this host has the chunk or is getting it."""
        if chunk in self._near:
            return True
        # Counted from the first word: a source that takes its word back and gives it anew must not
        # keep this replica waiting for ever.
        return chunk in self._near_coming and now - self._first_said[chunk] < self._patience_s

    def of(self, source: str) -> Stock:
        return self._stocks[source]

    @property
    def neighbourhood(self) -> list[str]:
        """Names of the near sources."""
        return [stock.near for stock in self._stocks.values() if stock.near]

    def join(self, source: str, available: Iterable[int], near: str) -> None:
        """Add a source. One that has everything when it comes is no neighbour of this host: it
        does not share what crosses the link."""
        has = set(available)
        self._stocks[source] = Stock((), near if len(has) < len(self._picker.sizes) else "")
        self._partial += self._is_partial(self._stocks[source])
        self.have(source, has)

    def have(self, source: str, chunks: Iterable[int]) -> None:
        """Note that a source has more chunks than before."""
        stock = self._stocks[source]
        new = set(chunks) - stock.has
        self._picker.spread(new - stock.coming)
        self._partial -= self._is_partial(stock)
        stock.has |= new
        stock.useful |= new & self._picker.wanted
        stock.coming -= new
        self._partial += self._is_partial(stock)
        if stock.near:
            for chunk in new:
                self._near[chunk] = self._near.get(chunk, 0) + 1
                self._near_coming.discard(chunk)

    def coming(self, source: str, chunks: Iterable[int], now: float) -> None:
        """Note what a source is getting."""
        stock = self._stocks[source]
        new = set(chunks) - stock.has - stock.coming
        self._picker.spread(new)
        stock.coming |= new
        if stock.near:
            self._near_coming |= new
            for chunk in new:
                self._first_said.setdefault(chunk, now)

    def gone(self, source: str, chunks: Iterable[int]) -> None:
        """Note what a source offers no longer, or does not get."""
        stock = self._stocks[source]
        had, coming = stock.has.intersection(chunks), stock.coming.intersection(chunks)
        self._picker.vanish(had | coming)
        self._partial -= self._is_partial(stock)
        stock.has -= had
        stock.useful -= had
        stock.coming -= coming
        self._partial += self._is_partial(stock)
        if stock.near:
            for chunk in had:
                self._near[chunk] -= 1
                if not self._near[chunk]:
                    del self._near[chunk]
            self._near_coming -= coming

    def taken(self, chunk: int) -> None:
        """Note that a chunk is no longer wanted: a source was asked for it."""
        for stock in self._stocks.values():
            stock.useful.discard(chunk)

    def wanted_again(self, chunks: Collection[int]) -> None:
        """Note that chunks are wanted once more."""
        for stock in self._stocks.values():
            stock.useful |= stock.has.intersection(chunks)

    def leave(self, source: str) -> None:
        """Remove a source."""
        stock = self._stocks[source]
        self.gone(source, stock.has | stock.coming)
        self._partial -= self._is_partial(stock)
        del self._stocks[source]

    def _is_partial(self, stock: Stock) -> bool:
        return len(stock.has) < len(self._picker.sizes)
