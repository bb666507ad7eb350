"""Deadlines by key, on one heap."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from enum import IntEnum


class Timer(IntEnum):
    """What a deadline is for; the key's second half says for whom."""

    PROBE = 1
    WATCH_PROBE = 2
    DIRECT = 3
    INDIRECT = 4
    RELAY = 5
    PATIENCE = 6
    SUSPICION = 7
    GOSSIP = 8
    ANNOUNCE = 9
    SWEEP = 10
    CONTACT = 11
    COMPARE = 12
    LEAVE = 13


Key = tuple[Timer, str | int]


class Timers:
    """At most one deadline per key; setting a key again moves it."""

    __slots__ = ("_count", "_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._due

    def set(self, key: Key, due: float) -> None:
        """Fire `key` at `due`."""
        self._count += 1
        self._due[key] = (due, self._count)
        heapq.heappush(self._heap, (due, self._count, key))
        # Moved and cancelled deadlines stay on the heap; rebuild before they dominate it.
        if len(self._heap) > 4 * len(self._due) + 64:
            self._rebuild()

    def sooner(self, key: Key, due: float) -> None:
        """Like `set`, but never makes the deadline later than it already is."""
        now = self._due.get(key)
        if now is None or due < now[0]:
            self.set(key, due)

    def cancel(self, key: Key) -> None:
        """Forget `key`; no error when it is not set."""
        self._due.pop(key, None)

    def next(self) -> float:
        """The earliest deadline; infinity when there is none."""
        heap = self._heap
        while heap:
            due, count, key = heap[0]
            if self._due.get(key) == (due, count):
                return due
            heapq.heappop(heap)
        return float("inf")

    def pop(self, now: float) -> Key | None:
        """Remove and return the earliest key that is due; None when none is."""
        if self.next() > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._due[key]
        return key

    def delay(self, kinds: Collection[Timer], by: float) -> None:
        """Move every deadline of these kinds back by `by` seconds."""
        for key, (due, _) in list(self._due.items()):
            if key[0] in kinds:
                self.set(key, due + by)

    def _rebuild(self) -> None:
        self._heap = [(due, count, key) for key, (due, count) in self._due.items()]
        heapq.heapify(self._heap)
