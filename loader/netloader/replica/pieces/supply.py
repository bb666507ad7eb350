"""What the sources of a pull have and are getting, and so how rare each chunk is. Pure.

A source that has everything says so once. A replica that still loads, or a source that gives each
replica other chunks first (super-seeding), says from time to time what has changed:

    has      chunks that can be asked of it now
    coming   chunks that it has asked others for, and will have soon
    gone     chunks that it neither has nor gets any more, or does not offer now
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from netloader.replica.pieces.piece_picker import PiecePicker


class Stock:
    """What one source has. `near` is its name if it is on this host, else empty."""

    def __init__(self, available: Iterable[int], near: str) -> None:
        self.has = set(available)
        self.coming: set[int] = set()
        self.near = near


class Supply:
    """What all sources of a pull have. Tells the picker how rare each chunk is."""

    def __init__(self, picker: PiecePicker) -> None:
        self._picker = picker
        self._stocks: dict[str, Stock] = {}
        self._partial = 0  # How many sources do not offer everything.
        self._near: dict[int, int] = {}  # How many near sources bring each chunk.

    @property
    def shared(self) -> bool:
        """Whether other replicas pull as well: not every source offers everything."""
        return self._partial > 0

    @property
    def near(self) -> Set[int]:
        """Chunks that sources on this host have or are getting."""
        return self._near.keys()

    def of(self, source: str) -> Stock:
        return self._stocks[source]

    @property
    def neighbourhood(self) -> list[str]:
        """Names of the near sources."""
        return [stock.near for stock in self._stocks.values() if stock.near]

    def join(self, source: str, available: Iterable[int], near: str) -> None:
        """Add a source."""
        stock = self._stocks[source] = Stock(available, near)
        self._count(stock, stock.has)
        self._partial += self._is_partial(stock)

    def have(self, source: str, chunks: Iterable[int]) -> None:
        """Note that a source has more chunks than before."""
        stock = self._stocks[source]
        new = set(chunks) - stock.has
        self._count(stock, new - stock.coming)
        self._partial -= self._is_partial(stock)
        stock.has |= new
        stock.coming -= new
        self._partial += self._is_partial(stock)

    def coming(self, source: str, chunks: Iterable[int]) -> None:
        """Note what a source is getting."""
        stock = self._stocks[source]
        new = set(chunks) - stock.has - stock.coming
        self._count(stock, new)
        stock.coming |= new

    def gone(self, source: str, chunks: Iterable[int]) -> None:
        """Note what a source offers no longer, or does not get."""
        stock = self._stocks[source]
        lost = (stock.has | stock.coming).intersection(chunks)
        self._uncount(stock, lost)
        self._partial -= self._is_partial(stock)
        stock.has -= lost
        stock.coming -= lost
        self._partial += self._is_partial(stock)

    def leave(self, source: str) -> None:
        """Remove a source."""
        stock = self._stocks.pop(source)
        self._uncount(stock, stock.has | stock.coming)
        self._partial -= self._is_partial(stock)

    def _is_partial(self, stock: Stock) -> bool:
        return len(stock.has) < len(self._picker.sizes)

    def _count(self, stock: Stock, chunks: Iterable[int]) -> None:
        for chunk in chunks:
            self._picker.spread(chunk)
            if stock.near:
                self._near[chunk] = self._near.get(chunk, 0) + 1

    def _uncount(self, stock: Stock, chunks: Iterable[int]) -> None:
        for chunk in chunks:
            self._picker.vanish(chunk)
            if stock.near:
                self._near[chunk] -= 1
                if not self._near[chunk]:
                    del self._near[chunk]
