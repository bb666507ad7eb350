"""What is in flight from one source, and how much of it there should be. Pure.

Time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

from netloader.replica.settings import WindowSettings

_RECENT = 0.3
"""Weight of the last chunk in the estimate of a source's rate. High, because a rate of a few
seconds ago decides nothing here."""


def request_window(
    seconds_per_byte: float | None, chunk_bytes: int, limits: WindowSettings
) -> float:
    """Bytes that a source may have in flight; None: it has not delivered anything yet."""
    if seconds_per_byte is None:
        return limits.first_chunks * chunk_bytes
    most = limits.max_chunks * chunk_bytes
    if seconds_per_byte * most <= limits.seconds:
        return most
    return max(limits.min_chunks * chunk_bytes, limits.seconds / seconds_per_byte)


class InFlight:
    """The chunks that were asked for from one source and have not arrived, oldest first."""

    def __init__(self, now: float) -> None:
        self.nbytes = 0
        """Of all of them together."""
        self.staged = 0
        """How many of them need staging memory."""
        self.seconds_per_byte: float | None = None
        """As the source delivered lately; None before its first chunk."""
        self._moved_at = now  # When it last delivered or, having nothing to do, was asked.
        self._chunks: dict[int, tuple[int, bool]] = {}  # Bytes, and whether staged.

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Their ids, oldest first."""
        return tuple(self._chunks)

    def within(self, available: set[int]) -> bool:
        """Whether all of them are among those that another source has."""
        return self._chunks.keys() <= available

    def ask(self, chunk: int, nbytes: int, staged: bool, now: float) -> None:
        """A chunk was asked for."""
        if not self._chunks:
            self._moved_at = now
        self._chunks[chunk] = (nbytes, staged)
        self.nbytes += nbytes
        self.staged += staged

    def arrived(self, chunk: int, now: float) -> None:
        """A chunk is here."""
        nbytes, staged = self._chunks.pop(chunk)
        self.nbytes -= nbytes
        self.staged -= staged
        latest = (now - self._moved_at) / max(1, nbytes)
        before = self.seconds_per_byte
        self.seconds_per_byte = latest if before is None else before + _RECENT * (latest - before)
        self._moved_at = now

    def silent_for(self, now: float) -> float:
        """Seconds since it last delivered or, having nothing to do, was asked."""
        return now - self._moved_at

    def expected(self, now: float) -> float | None:
        """Seconds per byte to expect of what is asked next; None: nothing is known yet.

        Silence counts: a chunk that has taken long will take as long yet.
        """
        if self.seconds_per_byte is None or not self._chunks:
            return self.seconds_per_byte
        oldest, _ = next(iter(self._chunks.values()))
        return max(self.seconds_per_byte, self.silent_for(now) / max(1, oldest))
