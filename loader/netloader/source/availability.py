"""Which chunks of its weights a source can hand out, and which it is getting, while a pull still
brings it the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterable


class Availability:
    """Grows chunk by chunk, each of which is verified. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gained: list[int] = []
        self._held: set[int] = set()
        self._plans: list[tuple[int, bool]] = []  # What was asked for (True) or given up, in order.
        self.overheard = False
        """Whether somebody wants to hear what is asked for. Once it is, it stays."""

    def __contains__(self, chunk: int) -> bool:
        with self._lock:
            return chunk in self._held

    def __len__(self) -> int:
        """How many chunks there are."""
        with self._lock:
            return len(self._gained)

    def add(self, chunk: int) -> None:
        """Note that a chunk is verified and in place."""
        with self._lock:
            if chunk not in self._held:
                self._held.add(chunk)
                self._gained.append(chunk)

    def complete(self, chunks: int) -> None:
        """Note that all of so many chunks are there."""
        for chunk in range(chunks):
            self.add(chunk)

    def asked(self, chunk: int) -> None:
        """Note that a chunk was asked of another host."""
        with self._lock:
            self._plans.append((chunk, True))

    def given_up(self, chunks: Iterable[int]) -> None:
        """Note that chunks that were asked for do not come."""
        with self._lock:
            self._plans.extend((chunk, False) for chunk in chunks)

    def plans(self, told: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """What is coming and what is given up, of the plans after the first `told`; and how many
        plans there are. Chunks that are held are left out."""
        with self._lock:
            latest = dict(self._plans[told:])
            count = len(self._plans)
            pending = {chunk: asked for chunk, asked in latest.items() if chunk not in self._held}
        coming = tuple(chunk for chunk, asked in pending.items() if asked)
        return coming, tuple(chunk for chunk, asked in pending.items() if not asked), count

    def since(self, told: int) -> tuple[int, ...]:
        """All chunks except for the first `told`, in the order in which they came."""
        with self._lock:
            return tuple(self._gained[told:])
