"""Which candidates may be tried now, by what became of earlier tries. Pure.

A source that is busy said when to come again. One that was lost may be back, from a link that was
cut or a process that was held up: it is tried once more after a pause, and again if it has
delivered since. One that was let go for being slow may always come back: the others may yet be
lost. One that sent wrong bytes or refused for good is not tried again; one that promised other
bytes than an earlier source is, should that one turn out to have lied. Sources that the operator
listed go before the mesh: as long as one of them can be used, only they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from netloader.discovery.candidate import Candidate
from netloader.errors import LetGo, OtherPromise, Refused, SourceLost, TransferError

MAX_LOSSES = 2
"""Times that a source may be lost without having delivered anything in between."""

LOST_PAUSE_S = 1.0
"""Before a lost source is tried again; doubled with each loss."""

MIN_PAUSE_S = 0.1
"""However soon a busy source says to come again."""

_NEVER = float("inf")


@dataclass
class _Record:
    tried: bool = False
    """Whether a try has ended, however."""
    losses: int = 0
    not_before: float = 0.0
    contradicts: bool = False
    """Whether it promised other weights than the source that the pull goes by."""


class Prospects:
    """Remembers each candidate's failures. Time is passed in, in seconds."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, int | None], _Record] = {}

    def usable(
        self,
        candidates: Sequence[Candidate],
        busy: Collection[str],
        now: float,
        *,
        again: bool = True,
    ) -> list[Candidate]:
        """Those that may be tried now, in the order given, without the endpoints in `busy`; those
        that have been tried before only with `again`."""
        ready = [
            candidate
            for candidate in candidates
            if candidate.endpoint not in busy
            and self._of(candidate).not_before <= now
            and (again or not self._of(candidate).tried)
        ]
        listed = [candidate for candidate in candidates if candidate.listed]
        if any(candidate.endpoint in busy or candidate in ready for candidate in listed):
            return [candidate for candidate in ready if candidate.listed]
        return ready

    def ended(
        self, candidate: Candidate, error: TransferError | None, nbytes: int, now: float
    ) -> None:
        """A try of `candidate` is over: what it brought, and why it brought no more."""
        record = self._of(candidate)
        record.tried = True
        if nbytes:
            record.losses = 0
        match error:
            case Refused(retry_after_s=float() as pause):
                record.not_before = now + max(MIN_PAUSE_S, pause)
            case OtherPromise():
                record.contradicts = True
                record.not_before = _NEVER
            case LetGo():
                record.not_before = now + LOST_PAUSE_S
            case SourceLost():
                record.losses += 1
                pause = LOST_PAUSE_S * 2 ** (record.losses - 1)
                record.not_before = now + pause if record.losses < MAX_LOSSES else _NEVER
            case _:
                record.not_before = _NEVER

    def promise_broken(self) -> None:
        """What the pull went by was a lie: who contradicted it may have been right."""
        for record in self._records.values():
            if record.contradicts:
                record.contradicts = record.tried = False
                record.not_before = 0.0

    def _of(self, candidate: Candidate) -> _Record:
        # Another generation is another process: what its predecessor did says nothing about it.
        return self._records.setdefault((candidate.endpoint, candidate.generation), _Record())
