"""Which candidates may be asked now, by what became of earlier tries. Pure.

A source that is busy said when to come again. One that was lost may be back, from a link that was
cut or a process that was held up: it is asked again after a backoff, and again if it has delivered
since. One that was dropped may always come back: the others may yet be lost. One that sent wrong
bytes or refused for good is not asked again. One that contradicted an earlier source is asked again
only if that earlier one breaks its promise. Sources that the operator listed go before the mesh: as
long as one of them can be used, only they are.
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
    """What became of the tries of one candidate."""

    tried: bool = False
    """Whether a try has ended, however."""
    losses: int = 0
    """Since it last delivered something."""
    not_before: float = 0.0
    contradicted: bool = False
    """Whether it promised other weights than the source that the pull goes by."""


class RetryPolicy:
    """Remembers what became of each candidate. Time is passed in, in seconds."""

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
        """Those that may be asked now, in the order given, without the endpoints in `in_use`; those
        that have been tried before only with `again`."""
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
        """A try of `candidate` is over."""
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
        """The promise that the pull went by is void: who contradicted it may have been right."""
        for history in self._histories.values():
            if history.contradicted:
                history.contradicted = history.tried = False
                history.not_before = 0.0

    def _of(self, candidate: Candidate) -> _History:
        # Another generation is another process: what its predecessor did says nothing about it.
        return self._histories.setdefault((candidate.endpoint, candidate.generation), _History())
