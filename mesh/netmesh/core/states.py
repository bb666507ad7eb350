"""The life of a member as one table: (status, cause) -> status.

The theory: silence is not death. A silent process whose kernel accepts connections is *stalled*. An
address that answers nothing at all is *suspect* (SWIM's suspicion), because a broken path and a
dead host look the same from here. Only a refused connection seen twice, or a suspicion that nobody
refuted in time, makes a member *dead*. The member itself can take back everything: it raises its
incarnation (`REFUTED`, SWIM's refutation) or comes back as a new process (`RESTARTED`).

The code runs the table: `changes.apply` takes every status from it. One claim may stand for several
rows in sequence. For example, a member that is dead here and called suspect under a higher
incarnation has refuted, then was suspected again.

A pair that is not in the table changes nothing. docs/reference/protocol.md shows this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from netmesh.core.events import DialOutcome
from netmesh.core.records import Status


class Cause(Enum):
    """Why a record changes; the value is the text in the diagram."""

    # The member's own word
    JOINS = "joins"
    ADVERTISES = "new advert"
    REFUTED = "higher incarnation"
    RESTARTED = "newer generation"
    LEAVES = "says goodbye"
    # My own finding
    PROCESS_SILENT = "connects but does not answer"
    UNREACHABLE = "no answer, no connection"
    ANOTHER_ANSWERS = "another member answers there"
    CRASH_SEEN = "refused, one observer"
    CRASH_CONFIRMED = "refused, two observers"
    PATIENCE_OVER = "stalled for 120 s"
    SUSPICION_OVER = "suspicion ran out"
    # The verdict of another member
    TOLD_STALLED = "told: stalled"
    TOLD_SUSPECT = "told: suspect"
    TOLD_DEAD = "told: dead"
    DEATH_DOUBTED = "told: dead, but not believed"


_A, _ST, _SU, _D, _L = Status.ALIVE, Status.STALLED, Status.SUSPECT, Status.DEAD, Status.LEFT

TRANSITIONS: Mapping[tuple[Status | None, Cause], Status] = MappingProxyType(
    {
        (None, Cause.JOINS): _A,
        (_A, Cause.ADVERTISES): _A,
        (_A, Cause.REFUTED): _A,
        (_A, Cause.RESTARTED): _A,
        (_A, Cause.PROCESS_SILENT): _ST,
        (_A, Cause.TOLD_STALLED): _ST,
        (_A, Cause.UNREACHABLE): _SU,
        (_A, Cause.ANOTHER_ANSWERS): _SU,
        (_A, Cause.CRASH_SEEN): _SU,
        (_A, Cause.TOLD_SUSPECT): _SU,
        (_A, Cause.DEATH_DOUBTED): _SU,
        (_A, Cause.CRASH_CONFIRMED): _D,
        (_A, Cause.TOLD_DEAD): _D,
        (_A, Cause.LEAVES): _L,
        (_ST, Cause.ADVERTISES): _ST,
        (_ST, Cause.REFUTED): _A,
        (_ST, Cause.RESTARTED): _A,
        (_ST, Cause.UNREACHABLE): _SU,
        (_ST, Cause.ANOTHER_ANSWERS): _SU,
        (_ST, Cause.CRASH_SEEN): _SU,
        (_ST, Cause.PATIENCE_OVER): _SU,
        (_ST, Cause.TOLD_SUSPECT): _SU,
        (_ST, Cause.DEATH_DOUBTED): _SU,
        (_ST, Cause.CRASH_CONFIRMED): _D,
        (_ST, Cause.TOLD_DEAD): _D,
        (_ST, Cause.LEAVES): _L,
        (_SU, Cause.ADVERTISES): _SU,
        (_SU, Cause.REFUTED): _A,
        (_SU, Cause.RESTARTED): _A,
        (_SU, Cause.CRASH_CONFIRMED): _D,
        (_SU, Cause.SUSPICION_OVER): _D,
        (_SU, Cause.TOLD_DEAD): _D,
        (_SU, Cause.LEAVES): _L,
        (_D, Cause.ADVERTISES): _D,
        (_D, Cause.REFUTED): _A,
        (_D, Cause.RESTARTED): _A,
        (_D, Cause.LEAVES): _L,
        (_L, Cause.ADVERTISES): _L,
        (_L, Cause.REFUTED): _A,
        (_L, Cause.RESTARTED): _A,
    }
)
"""`None` stands before the first record of a member."""


def after(status: Status | None, *causes: Cause) -> Status | None:
    """The status that follows from these causes, one after the other.

    A cause that means nothing in a status leaves the status as it is.
    """
    for cause in causes:
        status = TRANSITIONS.get((status, cause), status)
    return status


def triage(outcome: DialOutcome) -> Cause | None:
    """What an unanswered probe means, given how a plain connect to the same address ended.

    None when the connect could not be tried: a lack of mine says nothing about others.
    """
    match outcome:
        case DialOutcome.REFUSED:
            return Cause.CRASH_SEEN
        case DialOutcome.CONNECTED:
            return Cause.PROCESS_SILENT
        case DialOutcome.SILENT:
            return Cause.UNREACHABLE
        case DialOutcome.UNKNOWN:
            return None
