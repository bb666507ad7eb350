"""Which chunks of its weights a source can hand out, while a pull still brings it the rest."""

from __future__ import annotations

import threading


class Availability:
    """Grows chunk by chunk, each of which is verified. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gained: list[int] = []
        self._held: set[int] = set()

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

    def since(self, told: int) -> tuple[int, ...]:
        """All chunks except for the first `told`, in the order in which they came."""
        with self._lock:
            return tuple(self._gained[told:])
