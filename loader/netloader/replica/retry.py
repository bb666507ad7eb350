"""Which candidates may be asked now, given the outcomes of earlier tries. Pure.

A busy source said when to come again. A lost source may be back, after a cut link or a process that
was held up: it is asked again after a backoff, and again whenever it has delivered since. A dropped
source may always come back, because the others may still be lost. A source that sent wrong bytes or
refused for good is not asked again. A source that contradicted an earlier one is asked again only
if the earlier one breaks its promise. Sources that the operator listed go before the mesh: while
one of them can be used, only listed ones are used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from netloader.discovery.candidate import Candidate
from netloader.replica.outcome import AskLater, Contradicted, Corrupt, Dropped, Ended, Lost
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


class RetryPolicy:
    """Remembers the outcomes of each candidate. Time is passed in, in seconds."""

    def __init__(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._histories: dict[tuple[str, int | None], _History] = {}

    def eligible(
        self,
        candidates: Sequence[Candidate],
        in_use: Collection[str],
        now: float,
        *,
        again: bool = True,
    ) -> list[Candidate]:
        """Candidates that may be asked now, in the given order, without the endpoints in `in_use`.
        Candidates that were tried before are included only with `again`."""
        ready = [
            candidate
            for candidate in candidates
            if candidate.endpoint not in in_use
            and self._of(candidate).not_before <= now
            and (again or not self._of(candidate).tried)
        ]
        listed = [candidate for candidate in candidates if candidate.listed]
        if any(candidate.endpoint in in_use or candidate in ready for candidate in listed):
            return [candidate for candidate in ready if candidate.listed]
        return ready

    def ended(self, candidate: Candidate, ended: Ended, now: float) -> None:
        """Note how a try of `candidate` ended."""
        limits, history = self._settings, self._of(candidate)
        history.tried = True
        if ended.brought.nbytes:
            history.losses = 0
        match ended.how:
            case AskLater(after_s=after_s):
                history.not_before = now + max(limits.min_pause_s, after_s)
            case Dropped():
                history.not_before = now + limits.backoff_s
            case Lost():
                history.losses += 1
                backoff_s = limits.backoff_s * 2 ** (history.losses - 1)
                history.not_before = now + backoff_s
                if history.losses >= limits.max_losses:
                    history.not_before = _NEVER
            case Contradicted():
                history.contradicted = True
                history.not_before = _NEVER
            case Corrupt(void=True):
                self._forgive_contradictions()
                history.not_before = _NEVER
            case _:
                history.not_before = _NEVER

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
