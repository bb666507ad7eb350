"""Virtual time, and what happens when."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timeline:
    """Calls what is due, in the order of time, then of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the beginning."""
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0

    def after(self, delay_s: float, action: Callable[..., None], *args: object) -> None:
        """Call `action` in that many seconds. 0 means after all that is already due now."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, action, args))

    def step(self) -> bool:
        """Do what is due next. False when nothing ever is."""
        if not self._heap:
            return False
        self.now, _, action, args = heapq.heappop(self._heap)
        action(*args)
        return True
