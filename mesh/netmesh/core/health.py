"""How well this process itself is doing: Lifeguard's local health, and how long round trips
take."""

from __future__ import annotations

from collections import deque

from netmesh.core.settings import ProtocolSettings

SAMPLES = 64
"""Round trips remembered; their maximum stands for the p99."""


class LocalHealth:
    """A multiplier of 1..8 on my own probe interval and timeout.

    A member that misses answers that others get, or that is itself accused, is probably slow. Such
    a member asks less often and waits longer before it accuses anybody.
    """

    __slots__ = ("_most", "score")

    def __init__(self, settings: ProtocolSettings) -> None:
        self._most = settings.local_health_max - 1
        self.score = 0

    @property
    def multiplier(self) -> int:
        """1 when healthy, up to `local_health_max`."""
        return 1 + self.score

    def worse(self, by: int = 1) -> None:
        """Note that something went wrong that may be my own fault."""
        self.score = min(self._most, self.score + by)

    def better(self) -> None:
        """Note that a probe of mine was answered in time."""
        self.score = max(0, self.score - 1)


class RoundTrips:
    """Recent round trip times, and the probe timeout that follows from them."""

    __slots__ = ("_samples", "_settings")

    def __init__(self, settings: ProtocolSettings) -> None:
        self._settings = settings
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def add(self, seconds: float) -> None:
        """Note that a probe was answered after `seconds`."""
        self._samples.append(seconds)

    def timeout_s(self, multiplier: int) -> float:
        """How long to wait for an answer; generous until something was measured."""
        settings = self._settings
        if not self._samples:
            return settings.probe_timeout_max_s * multiplier
        wanted = settings.rtt_factor * max(self._samples)
        low, high = settings.probe_timeout_min_s, settings.probe_timeout_max_s
        return min(high, max(low, wanted)) * multiplier
