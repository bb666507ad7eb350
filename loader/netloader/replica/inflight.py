"""What is in flight from one source, and how much should be. Pure.

Time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

from netloader.replica.settings import WindowSettings

_RECENT = 0.3
"""Weight of the last chunk in the estimate of a source's rate. The weight is high, because a rate
from a few seconds ago no longer matters here."""


def request_window(
    seconds_per_byte: float | None, chunk_bytes: int, limits: WindowSettings
) -> float:
    """Bytes that a source may have in flight; None when it has not delivered anything yet."""
    if seconds_per_byte is None:
        return limits.first_chunks * chunk_bytes
    most = limits.max_chunks * chunk_bytes
    if seconds_per_byte * most <= limits.seconds:
        return most
    return max(limits.min_chunks * chunk_bytes, limits.seconds / seconds_per_byte)


class InFlight:
    """The chunks that were asked of one source and have not arrived, oldest first."""

    def __init__(self, now: float) -> None:
        self.nbytes = 0
        """Bytes of all these chunks together."""
        self.staged = 0
        """How many of these chunks need staging memory."""
        self.seconds_per_byte: float | None = None
        """The source's recent pace; None before its first chunk."""
        self._moved_at = now  # When the source last delivered or, when idle, was asked.
        self._chunks: dict[int, tuple[int, bool]] = {}  # Bytes, and whether staged.

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Their ids, oldest first."""
        return tuple(self._chunks)

    def within(self, available: set[int]) -> bool:
        """Whether another source has all of these chunks."""
        return self._chunks.keys() <= available

    def ask(self, chunk: int, nbytes: int, staged: bool, now: float) -> None:
        """Note that a chunk was asked for."""
        if not self._chunks:
            self._moved_at = now
        self._chunks[chunk] = (nbytes, staged)
        self.nbytes += nbytes
        self.staged += staged

    def arrived(self, chunk: int, now: float) -> None:
        """Note that a chunk has arrived."""
        nbytes, staged = self._chunks.pop(chunk)
        self.nbytes -= nbytes
        self.staged -= staged
        latest = (now - self._moved_at) / max(1, nbytes)
        before = self.seconds_per_byte
        self.seconds_per_byte = latest if before is None else before + _RECENT * (latest - before)
        self._moved_at = now

    def silent_for(self, now: float) -> float:
        """Seconds since the source last delivered or, when idle, was asked."""
        return now - self._moved_at

    def expected(self, now: float) -> float | None:
        """Seconds per byte to expect of the next request; None when nothing is known yet.

        Silence counts: a chunk that has already taken long is expected to take as long again.
        """
        if self.seconds_per_byte is None or not self._chunks:
            return self.seconds_per_byte
        oldest, _ = next(iter(self._chunks.values()))
        return max(self.seconds_per_byte, self.silent_for(now) / max(1, oldest))
