"""How often a worker tells the mesh how far its loads are. Pure.

Every member hears every word. So the more members load at once, the longer each of them is silent,
and all of them together speak about `1 / SPACING_S` times a second. Time is passed in, in seconds
of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SHORTEST_S: Final = 1.0
"""Seconds between two words of one worker: people look once a second."""

SPACING_S: Final = 0.05
"""Seconds between two words of all members that load, on average: 20 a second, of 1 to 3 KB. The
mesh tells each one to each member, so this bounds what a member hears, however many load."""


def interval_s(loading: int, longest_s: float = float("inf")) -> float:
    """Seconds between two words of one worker while `loading` members load. `longest_s` is the most
    that whoever depends on the word can wait."""
    return max(SHORTEST_S, min(loading * SPACING_S, longest_s))


class Pace:
    """When one worker may speak again, of whichever of its models."""

    def __init__(self) -> None:
        self._spoke_at: float | None = None

    def allows(
        self, now: float, loading: Callable[[], int], longest_s: float = float("inf")
    ) -> bool:
        """Whether it may speak now. `loading` counts the members that load, which takes a while, so
        it is called only where the answer depends on it."""
        if self._spoke_at is None:
            return True
        silent_s = now - self._spoke_at
        return silent_s >= SHORTEST_S and silent_s >= interval_s(loading(), longest_s)

    def spoke(self, now: float) -> None:
        """Note that it has spoken."""
        self._spoke_at = now
