"""When a pull gives way to storage, whatever its sources do. Pure.

Storage always works, so peers may cost a start only a bounded time. Two rules hold together:

    silent     no chunk was verified for `peer_budget_s`
    slow       at the rate of the last `peer_budget_s`, everything would be there later than storage
               would have brought it, had it been read at once, plus `peer_budget_s`

So a pull ends at the latest `peer_budget_s` after the moment at which storage alone would have been
done. A few bytes now and then are no progress: they satisfy the first rule and break the second.

Storage is taken to bring `min_rate`, or what was measured when this host last read from it, if that
is more: peers must not cost more than storage is known to.

A worker without weight files has no storage that could be later. It is held to the first rule only.

Time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from netloader.replica.settings import PullSettings

_MILESTONES: Final = 32
"""How many points in time stand for the last `peer_budget_s`: a long one costs no more memory."""


@dataclass(frozen=True, slots=True)
class _Milestone:
    at: float
    verified: int
    """Bytes verified since the pull began, those included that were thrown away later."""


class Budget:
    """The time that one pull has."""

    def __init__(
        self,
        settings: PullSettings,
        nbytes: int,
        started: float,
        *,
        has_storage: bool,
        measured_rate: float | None = None,
    ) -> None:
        """`nbytes` is the size of the whole model. `started` is when looking for peers began.
        `has_storage` says whether this worker can read the weights itself, and `measured_rate` how
        many bytes per second that would bring, if somebody has measured."""
        self._nbytes = nbytes
        self._storage_rate: float | None = float(settings.min_rate) if has_storage else None
        self._rate_source = "MIN_RATE"
        if self._storage_rate is not None and (measured_rate or 0.0) > self._storage_rate:
            self._storage_rate, self._rate_source = measured_rate, "measured on this host"
        self._patience_s, self._setting = settings.peer_budget_s, "PEER_BUDGET"
        if not has_storage and settings.source_timeout_s > self._patience_s:
            # Whoever waits for a source longer on purpose has nothing else to start from.
            self._patience_s, self._setting = settings.source_timeout_s, "SOURCE_TIMEOUT"
        self._started = started
        self._arrived = 0
        self._last_progress = started
        self._milestones = deque([_Milestone(started, 0)])

    def over(self, arrived: int, now: float) -> str | None:
        """Why the pull must end now, in words; None when it may go on.

        `arrived` is how many bytes of the model are verified and in place.
        """
        fresh = max(0, arrived - self._arrived)
        self._arrived = arrived  # Less than before, once a promise was void.
        if fresh:
            self._last_progress = now
        self._note(fresh, now)
        if now - self._last_progress >= self._patience_s:
            return f"no verified progress in {self._patience_s:g} s ({self._setting})"
        return self._slow(now)

    @property
    def _verified(self) -> int:
        return self._milestones[-1].verified

    def _note(self, fresh: int, now: float) -> None:
        verified = self._verified + fresh
        if (
            len(self._milestones) > 1
            and now - self._milestones[-2].at < self._patience_s / _MILESTONES
        ):
            self._milestones[-1] = _Milestone(now, verified)
        else:
            self._milestones.append(_Milestone(now, verified))
        while len(self._milestones) > 2 and self._milestones[1].at <= now - self._patience_s:
            self._milestones.popleft()

    def _slow(self, now: float) -> str | None:
        elapsed_s = now - self._started
        if self._storage_rate is None or elapsed_s < self._patience_s:
            return None
        left_s = self._nbytes / self._storage_rate + self._patience_s - elapsed_s
        rate = (self._verified - self._milestones[0].verified) / (now - self._milestones[0].at)
        if (self._nbytes - self._arrived) <= rate * left_s:
            return None
        return (
            f"peers bring {rate / 1e6:.3g} MB/s, and storage is taken to be done sooner by "
            f"{self._storage_rate / 1e6:.3g} MB/s ({self._rate_source})"
        )
