"""Which chunk from which source next: decisions of a pull from many sources. Pure.

Every source has a window of chunks in flight and gets the next one when it has delivered one, so
that each contributes what it really delivers: work is not dealt out beforehand. Two rules keep the
slowest source from deciding when the pull ends:

    take       a chunk is not given to a source that would deliver it later than the others would
               be done with it and with everything else that is left
    let_go     when nothing is left to give out, a source is dropped whose unfinished chunks the
               idle ones could bring in less than half the time that it will still need

A chunk is in flight from one source at a time. What a source leaves unfinished, because it was lost
or let go, goes back and is given out first; what it delivered stays.

Time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from netloader.replica.settings import PullSettings

_RECENT = 0.3
"""Weight of the last chunk in a source's pace. High, because a pace that was right a few seconds
ago decides nothing here."""


@dataclass
class _Source:
    """What is known of one source that is being pulled from."""

    available: set[int]
    in_flight: dict[int, int] = field(default_factory=dict)
    """Chunk id to bytes, oldest first."""
    seconds_per_byte: float | None = None
    """As it delivered lately; None before its first chunk."""
    moved_at: float = 0.0
    """When it last delivered something or, having nothing to do, was given something."""

    @property
    def owes(self) -> int:
        """Bytes in flight."""
        return sum(self.in_flight.values())

    def pace(self, now: float) -> float | None:
        """Seconds per byte to expect. Silence counts: what has taken long will take as long yet."""
        if self.seconds_per_byte is None or not self.in_flight:
            return self.seconds_per_byte
        head = next(iter(self.in_flight.values()))
        return max(self.seconds_per_byte, (now - self.moved_at) / head)


class Schedule:
    """Hands out chunks to sources and remembers what became of them."""

    def __init__(
        self,
        sizes: Sequence[int],
        chunk_bytes: int,
        staged: Collection[int],
        settings: PullSettings,
    ) -> None:
        """`sizes` are the bytes of each chunk, by id; `staged` the ids that need staging memory."""
        self._sizes = tuple(sizes)
        self._chunk_bytes = chunk_bytes
        self._staged = frozenset(staged)
        self._window, self._end_game = settings.window, settings.end_game
        self._max_staged = max(self._window.min_chunks, self._window.staging_bytes // chunk_bytes)
        self._sources: dict[str, _Source] = {}
        # A dict, because it keeps order and finds a member at once.
        self._waiting: dict[int, None] = dict.fromkeys(range(len(self._sizes)))
        self._waiting_bytes = sum(self._sizes)
        self._done: set[int] = set()
        self._patience_s = self._end_game.first_patience_s

    @property
    def complete(self) -> bool:
        """Whether every chunk has arrived."""
        return len(self._done) == len(self._sizes)

    @property
    def done(self) -> frozenset[int]:
        """Chunks that have arrived."""
        return frozenset(self._done)

    def join(self, source: str, available: Iterable[int], now: float) -> None:
        """A source is ready to be asked for the chunks in `available`."""
        self._sources[source] = _Source(set(available), moved_at=now)

    def offer(self, source: str, chunks: Iterable[int]) -> None:
        """A source has more chunks than it had."""
        this = self._sources.get(source)
        if this is not None:
            this.available.update(chunks)

    def take(self, source: str, now: float) -> int | None:
        """The chunk to ask `source` for next; None: nothing now, or it has left."""
        this = self._sources.get(source)
        if this is None:
            return None
        chunk = self._first_for(this)
        if chunk is None or len(this.in_flight) >= self._window.max_chunks:
            return None
        if this.owes + self._sizes[chunk] > self.window(source):
            return None
        if not self._worth_it(this, chunk, now):
            return None
        if not this.in_flight:
            this.moved_at = now
        self._wait_no_more(chunk)
        this.in_flight[chunk] = self._sizes[chunk]
        return chunk

    def window(self, source: str) -> float:
        """Bytes that `source` may have in flight."""
        seconds_per_byte = self._sources[source].seconds_per_byte
        if seconds_per_byte is None:
            return self._window.first_chunks * self._chunk_bytes
        least = self._window.min_chunks * self._chunk_bytes
        most = self._window.max_chunks * self._chunk_bytes
        if seconds_per_byte * most <= self._window.seconds:
            return most
        return max(least, self._window.seconds / seconds_per_byte)

    def starved(self, source: str) -> bool:
        """Whether chunks wait to be given out, and `source` has none of them."""
        this = self._sources.get(source)
        return this is not None and bool(self._waiting) and this.available.isdisjoint(self._waiting)

    def arrived(self, source: str, chunk: int, now: float) -> None:
        """`source` has delivered a chunk, and it was verified."""
        this = self._sources[source]
        latest = (now - this.moved_at) / max(1, this.in_flight.pop(chunk))
        before = this.seconds_per_byte
        this.seconds_per_byte = latest if before is None else before + _RECENT * (latest - before)
        this.moved_at = now
        self._done.add(chunk)

    def leave(self, source: str) -> tuple[int, ...]:
        """`source` delivers nothing more. Returns its unfinished chunks: others get them next.

        Only once nothing of it can still be written to where they belong.
        """
        this = self._sources.pop(source, None)
        if this is None:
            return ()
        unfinished = tuple(sorted(this.in_flight))
        self._waiting = dict.fromkeys((*unfinished, *self._waiting))
        self._waiting_bytes += this.owes
        return unfinished

    def disown(self, chunks: Iterable[int]) -> None:
        """These have arrived, but what verified them turned out to be wrong: fetch them again."""
        for chunk in sorted(chunks):
            self._done.remove(chunk)
            self._waiting[chunk] = None
            self._waiting_bytes += self._sizes[chunk]

    def let_go(self, now: float) -> str | None:
        """A source that should be dropped because idle ones would bring what it owes much sooner.

        None while there is none, or while there is still something else to give out.
        """
        idle = [s for s in self._sources.values() if not s.in_flight]
        if any(self._first_for(s) is not None for s in idle):
            return None
        for name, slow in self._sources.items():
            if not slow.in_flight:
                continue
            able = [s for s in idle if slow.in_flight.keys() <= s.available]
            if not able:
                continue
            silent_for = now - slow.moved_at
            # Who has shown nothing yet is as good as who has to be replaced.
            paces = [pace for s in able if (pace := s.seconds_per_byte or slow.seconds_per_byte)]
            if not paces:
                if silent_for > self._patience_s:
                    self._patience_s *= 2  # Perhaps all are slow: one must be given the time.
                    return name
                continue
            theirs = slow.owes / sum(1 / pace for pace in paces)
            pace = slow.pace(now)
            its = silent_for if pace is None else max(silent_for, slow.owes * pace - silent_for)
            limits = self._end_game
            if its > limits.times_sooner * theirs + limits.seconds_sooner:
                return name
        return None

    def check(self) -> None:
        """Raise `AssertionError` when a chunk is lost or counted twice. For tests."""
        in_flight = [chunk for s in self._sources.values() for chunk in s.in_flight]
        everything = sorted([*self._waiting, *in_flight, *self._done])
        assert everything == list(range(len(self._sizes))), "a chunk is lost or counted twice"
        assert self._waiting_bytes == sum(self._sizes[chunk] for chunk in self._waiting)

    def _first_for(self, source: _Source) -> int | None:
        staging = [
            sum(chunk in self._staged for chunk in s.in_flight) for s in self._sources.values()
        ]
        own = sum(chunk in self._staged for chunk in source.in_flight)
        full = sum(staging) >= self._max_staged or own >= max(1, self._max_staged // len(staging))
        return next(
            (
                chunk
                for chunk in self._waiting
                if chunk in source.available and not (full and chunk in self._staged)
            ),
            None,
        )

    def _worth_it(self, source: _Source, chunk: int, now: float) -> bool:
        """Whether the others would not be done with everything before `source` with this chunk.

        The source that can deliver it first always gets it, so something is always given out.
        """
        pace = source.pace(now)
        others = [
            (other, other_pace)
            for other in self._sources.values()
            if other is not source and chunk in other.available and (other_pace := other.pace(now))
        ]
        if not pace or not others:
            return True
        size = self._sizes[chunk]
        together = (self._waiting_bytes + sum(other.owes for other, _ in others)) / sum(
            1 / other_pace for _, other_pace in others
        )
        # Together they are quick, but a chunk comes from one of them.
        soonest = min((other.owes + size) * other_pace for other, other_pace in others)
        return (source.owes + size) * pace <= max(together, soonest)

    def _wait_no_more(self, chunk: int) -> None:
        del self._waiting[chunk]
        self._waiting_bytes -= self._sizes[chunk]
