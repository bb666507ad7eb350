"""Which candidates may be asked now, given the outcomes of earlier tries. Pure.

A busy source said when to come again. A lost source may be back, after a cut link or a process that
was held up: it is asked again after a backoff, and again whenever it has delivered since. A dropped
source may always come back, because the others may still be lost. A source that sent wrong bytes or
refused for good is not asked again. If a transport could not be opened, the same source is asked
again at once for the next best one that both have; the last one counts as a loss. A source that
contradicted an earlier one is asked again only if the earlier one breaks its promise. Sources that
the operator listed go before the mesh: while one of them can be used, only listed ones are used.

A port that does not answer tells of its neighbours. Candidates of a host with such a port come
after all others, and so does who was lost. When `max_alike` candidates have failed in one way while
nobody delivered anything, no further one is tried.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from netloader.discovery.candidate import Candidate
from netloader.replica.outcome import (
    AskLater,
    Contradicted,
    Corrupt,
    Dropped,
    Ended,
    Finished,
    Lost,
    Outcome,
    Unopened,
    Unreached,
)
from netloader.replica.settings import RetrySettings

_NEVER = float("inf")


@dataclass
class _History:
    """The outcomes of the tries of one candidate."""

    tried: bool = False
    """Whether a try has ended, in any way."""
    losses: int = 0
    """Losses since the candidate last delivered something."""
    not_before: float = 0.0
    contradicted: bool = False
    """Whether it promised other weights than the source that the pull follows."""
    unopened: set[str] = field(default_factory=set)
    """Transports that could not be opened with it."""


class RetryPolicy:
    """Remembers the outcomes of each candidate. Time is passed in, in seconds."""

    def __init__(self, settings: RetrySettings, transports: Sequence[str]) -> None:
        """`transports` are those that can carry bytes to this worker, best first."""
        self._settings = settings
        self._transports = tuple(transports)
        self._histories: dict[tuple[str, int | None], _History] = {}
        # What was learnt since a source last delivered something:
        self._silent_hosts: set[str] = set()
        self._failed: dict[str, set[str]] = {}

    @property
    def blocked(self) -> bool:
        """Whether a port did not answer, and nobody has delivered anything since."""
        return bool(self._silent_hosts)

    @property
    def alike(self) -> str:
        """How so many have failed that the others are not tried; empty while that is not so."""
        for how, endpoints in self._failed.items():
            if len(endpoints) >= self._settings.max_alike:
                return f"{len(endpoints)} sources failed in one way ({how})"
        return ""

    def eligible(
        self,
        candidates: Sequence[Candidate],
        in_use: Collection[str],
        now: float,
        *,
        again: bool = True,
    ) -> list[Candidate]:
        """Candidates that may be asked now, without the endpoints in `in_use`: in the given order,
        those without a failure first. Candidates that were tried before are included only with
        `again`."""
        if self.alike:
            return []
        ready = [
            candidate
            for candidate in candidates
            if candidate.endpoint not in in_use
            and self._of(candidate).not_before <= now
            and (again or not self._of(candidate).tried)
        ]
        ready.sort(key=self._doubt)
        listed = [candidate for candidate in candidates if candidate.listed]
        if any(candidate.endpoint in in_use or candidate in ready for candidate in listed):
            return [candidate for candidate in ready if candidate.listed]
        return ready

    def transport(self, candidate: Candidate) -> str:
        """What a candidate is asked to send by: the best that both have and that was not tried in
        vain, else the last one that both have."""
        return next(iter(self._left(candidate)), self._common(candidate)[-1])

    def ended(self, candidate: Candidate, ended: Ended, now: float) -> None:
        """Note how a try of `candidate` ended."""
        limits, history = self._settings, self._of(candidate)
        history.tried = True
        if ended.brought.nbytes:
            history.losses = 0
            self._silent_hosts.clear()
            self._failed.clear()
        self._learn(candidate, ended.how)
        match ended.how:
            case AskLater(after_s=after_s):
                history.not_before = now + max(limits.min_pause_s, after_s)
            case Dropped():
                history.not_before = now + limits.backoff_s
            case Unopened(transport=transport):
                history.unopened.add(transport)
                if self._left(candidate):
                    history.tried = False  # It was not asked for the next one yet.
                else:
                    self._lost(history, now)
            case Lost() | Unreached():
                self._lost(history, now)
            case Contradicted():
                history.contradicted = True
                history.not_before = _NEVER
            case Corrupt(void=True):
                self._forgive_contradictions()
                history.not_before = _NEVER
            case _:
                history.not_before = _NEVER

    def _lost(self, history: _History, now: float) -> None:
        history.losses += 1
        backoff_s = self._settings.backoff_s * 2 ** (history.losses - 1)
        history.not_before = now + backoff_s
        if history.losses >= self._settings.max_losses:
            history.not_before = _NEVER

    def _learn(self, candidate: Candidate, how: Outcome) -> None:
        """What this end tells of other candidates."""
        match how:
            case Finished() | Dropped() | AskLater() | Contradicted() | Corrupt():
                return
            case Unreached(port=port):
                self._silent_hosts.add(_host(candidate))
                kind = f"its {port.value} did not answer"
            case _:
                kind = type(how).__name__.lower()
        self._failed.setdefault(kind, set()).add(candidate.endpoint)

    def _doubt(self, candidate: Candidate) -> int:
        """0 for a candidate of which nothing bad is known."""
        return self._of(candidate).losses + (_host(candidate) in self._silent_hosts)

    def _left(self, candidate: Candidate) -> list[str]:
        """What both have and was not tried in vain."""
        unopened = self._of(candidate).unopened
        return [one for one in self._common(candidate) if one not in unopened]

    def _common(self, candidate: Candidate) -> tuple[str, ...]:
        """What both have, as far as this worker knows; everything of its own where it does not."""
        theirs = self._transports if candidate.transports is None else candidate.transports
        return tuple(one for one in self._transports if one in theirs) or self._transports

    def _forgive_contradictions(self) -> None:
        """Give sources that contradicted the void promise another chance: they may have been
        right."""
        for history in self._histories.values():
            if history.contradicted:
                history.contradicted = history.tried = False
                history.not_before = 0.0

    def _of(self, candidate: Candidate) -> _History:
        # Another generation is another process, and its predecessor's record says nothing about it.
        return self._histories.setdefault((candidate.endpoint, candidate.generation), _History())


def _host(candidate: Candidate) -> str:
    return candidate.endpoint.rpartition(":")[0]
