"""How fast bytes come, over the last moments. Pure.

Chunks are large: from a slow source one comes every few seconds, and the difference of two looks
would be nothing or far too much. So a rate is taken over `WINDOW_S`. Bytes that stop coming show as
a rate of 0 that much later.
"""

from __future__ import annotations

from collections import deque
from typing import Final

WINDOW_S: Final = 2.0
"""Seconds over which a rate is taken, or since the last look but one, where that is longer ago."""


class Speed:
    """Of one count of bytes that grows. Time is passed in, in seconds of any monotonic clock."""

    def __init__(self, now: float) -> None:
        """Nothing had come at `now`."""
        self._looks = deque([(now, 0)])

    def note(self, now: float, nbytes: int) -> None:
        """Note how many bytes have come in all: less than before, once some were thrown away."""
        if nbytes < self._looks[-1][1]:
            self._looks.clear()
        self._looks.append((now, nbytes))
        while len(self._looks) > 2 and self._looks[1][0] <= now - WINDOW_S:
            self._looks.popleft()

    @property
    def rate(self) -> int:
        """Bytes per second."""
        (began, before), (ended, after) = self._looks[0], self._looks[-1]
        return int((after - before) / (ended - began)) if ended > began else 0
