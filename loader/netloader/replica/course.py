"""What a pull does next: whom it asks, and when it ends without everything. Pure.

`Pull` carries this out, with threads and a clock. `RetryPolicy` says who may be asked, `Budget` how
long all of it may take. Time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from netloader.discovery.candidate import Candidate
from netloader.replica.budget import Budget
from netloader.replica.neighbours import Neighbour, neighbours
from netloader.replica.outcome import AskLater, Ended, Unreached
from netloader.replica.retry import RetryPolicy
from netloader.replica.settings import PullSettings


@dataclass(frozen=True, slots=True)
class Standing:
    """How the pull stands."""

    in_use: Collection[str]
    """Endpoints of the sources that are being asked or pulled from."""
    served: bool
    """Whether one of them has opened a session."""
    arrived: int
    """Bytes of the model that are verified and in place."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Sources to ask now, each by the transport beside it, with so many seconds to connect."""

    sources: tuple[tuple[Candidate, str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The pull ends; storage fills the rest."""

    reason: str


class Course:
    """The decisions of one pull."""

    def __init__(
        self,
        settings: PullSettings,
        transports: Sequence[str],
        budget: Budget,
        now: float,
        name: str = "",
    ) -> None:
        """`transports` can carry bytes to this worker, best first. `name` is this worker's."""
        self._name = name
        self._settings = settings
        self._retry = RetryPolicy(settings.retry, transports)
        self._budget = budget
        self._hopeful = False  # Whether any source ever was there, even a busy one.
        self._alone_since = now

    def begin(self, budget: Budget, now: float, *, wait_for_one: bool) -> None:
        """Begin, or go on after an end, with another budget. With `wait_for_one` the pull also
        waits when nobody was ever there."""
        self._budget, self._alone_since = budget, now
        self._hopeful = self._hopeful or wait_for_one

    def next(
        self, standing: Standing, find: Callable[[], Sequence[Candidate]], now: float
    ) -> Ask | GiveUp:
        """`find` gives the current candidates, best first; it is called when there is room for
        one."""
        spent = self._budget.over(standing.arrived, now)
        if spent is not None:
            asked = ", ".join(sorted(standing.in_use))
            return GiveUp(f"{spent}; asked last: {asked}" if asked else spent)
        if standing.served:
            self._alone_since = now
        waited = now - self._alone_since >= self._settings.source_timeout_s and not standing.served
        chosen: list[Candidate] = []
        if len(standing.in_use) < self._settings.max_sources:
            found = find()
            # Otherwise the pull could greet busy sources in turn for ever.
            free = self._retry.eligible(found, standing.in_use, now, again=not waited)
            chosen = self._neighbours(found, standing.in_use, free)
        if not chosen and not standing.in_use and (waited or not self._hopeful):
            return GiveUp(self._nobody())
        return Ask(tuple((one, self._retry.transport(one), self._connect_s()) for one in chosen))

    def ended(self, candidate: Candidate, ended: Ended, now: float) -> None:
        """Note how a try of `candidate` ended."""
        self._retry.ended(candidate, ended, now)
        if isinstance(ended.how, AskLater) or (
            ended.accepted and not isinstance(ended.how, Unreached)
        ):
            self._hopeful = True

    def _neighbours(
        self, found: Sequence[Candidate], in_use: Collection[str], free: Sequence[Candidate]
    ) -> list[Candidate]:
        """Those of `free` to ask now."""
        known = {one.endpoint: _neighbour(one) for one in found}
        used = [known.get(endpoint, Neighbour(endpoint)) for endpoint in in_use]
        by_endpoint = {one.endpoint: one for one in free}
        degree = self._settings.max_sources
        picked = neighbours(self._name, used, [known[name] for name in by_endpoint], degree)
        return [by_endpoint[one.endpoint] for one in picked]

    def _connect_s(self) -> float:
        limits = self._settings.handshake
        return limits.short_connect_s if self._retry.blocked else limits.connect_timeout_s

    def _nobody(self) -> str:
        if self._hopeful:
            reason = f"waited {self._settings.source_timeout_s:g} s for a source, none came"
        else:
            reason = "no source could be used"
        alike = self._retry.alike
        return f"{reason}; the others were not tried: {alike}" if alike else reason


def _neighbour(one: Candidate) -> Neighbour:
    return Neighbour(one.endpoint, one.complete, one.near, one.serving)
