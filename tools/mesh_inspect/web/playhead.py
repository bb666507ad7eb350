"""Where a replay is: play, pause, seek, speed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

SLOWEST: Final = 0.1
FASTEST: Final = 1000.0
"""A night in half a minute."""


@dataclass(frozen=True, slots=True)
class Playhead:
    """The time that is shown, as a function of the clock."""

    begin: float
    """First time of the recording, in seconds since the epoch, as all times of it are."""
    to: float
    """Its last."""
    shown: float
    """The time that was shown at `since`."""
    since: float
    """By a clock that only goes forward, in seconds."""
    speed: float = 1.0
    paused: bool = False

    def at(self, now: float) -> float:
        """The time that is shown at `now` of the clock."""
        if self.paused:
            return self.shown
        return min(self.to, self.shown + (now - self.since) * self.speed)

    def ended(self, now: float) -> bool:
        """Whether it plays and there is nothing left."""
        return not self.paused and self.at(now) >= self.to

    def steered(
        self,
        now: float,
        *,
        paused: bool | None = None,
        speed: float | None = None,
        at: float | None = None,
    ) -> Playhead:
        """The playhead after an order. What is None stays. Playing on from the end begins anew."""
        shown = self.at(now) if at is None else min(self.to, max(self.begin, at))
        if paused is False and at is None and shown >= self.to:
            shown = self.begin
        return replace(
            self,
            shown=shown,
            since=now,
            speed=self.speed if speed is None else speed,
            paused=self.paused if paused is None else paused,
        )

    def told(self, now: float) -> dict[str, object]:
        """As readers get it."""
        return {
            "from": self.begin,
            "to": self.to,
            "at": self.at(now),
            "speed": self.speed,
            "paused": self.paused,
        }
