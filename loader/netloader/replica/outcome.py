"""How a stream ended: one of ten values. Pure.

    Finished       done: the pull needs nothing more
    Dropped        this worker ended it; nothing is wrong with the source
    AskLater       busy: the source said when to come again
    Unopened       the transport could not be opened, on either side: another one may do
    Unreached      nothing answers at one of its ports: a firewall, most likely
    Declined       the source refused for good
    Contradicted   the source promised other weights than those before it: one of them is wrong
    Lost           the source died, went silent or ended the session
    Corrupt        the source sent other bytes than it had promised, and is accused of it
    Faulty         the source broke the protocol, or this worker has a fault

Errors cross calls within a stream, and become one of these where the stream ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from netloader.discovery.candidate import Process
from netloader.errors import Refused, SourceLost, TransferError, Unanswered


@dataclass(frozen=True, slots=True)
class Finished:
    """The pull needs nothing more."""

    reason: ClassVar[str] = "the pull is over"


@dataclass(frozen=True, slots=True)
class Dropped:
    """This worker ended it; nothing is wrong with the source."""

    reason: str


@dataclass(frozen=True, slots=True)
class AskLater:
    """The source is busy."""

    reason: str
    after_s: float
    """Seconds after which the source says that asking again makes sense."""


@dataclass(frozen=True, slots=True)
class Unopened:
    """The transport could not be opened, on either side. Nothing else is wrong with the source."""

    reason: str
    transport: str


class Port(Enum):
    """What a replica connects to."""

    CONTROL = "control port"
    DATA = "data port"


@dataclass(frozen=True, slots=True)
class Unreached:
    """Nothing answers at one of the source's ports, not even with a refusal."""

    reason: str
    port: Port


@dataclass(frozen=True, slots=True)
class Declined:
    """The source refused for good."""

    reason: str


@dataclass(frozen=True, slots=True)
class Contradicted:
    """The source promised other weights than those before it: one of them is wrong."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The source died, went silent or ended the session."""

    reason: str


@dataclass(frozen=True, slots=True)
class Corrupt:
    """The source sent other bytes than it had promised."""

    reason: str
    chunk: int
    accused: Process
    """The process that opened the session."""
    void: bool
    """Whether no other source stands by the same promise. Then everything that has come is
    worthless, and a source that contradicted this one may have been right."""


@dataclass(frozen=True, slots=True)
class Faulty:
    """The source broke the protocol, or this worker has a fault."""

    reason: str


Outcome = (
    Finished
    | Dropped
    | AskLater
    | Unopened
    | Unreached
    | Declined
    | Contradicted
    | Lost
    | Corrupt
    | Faulty
)


@dataclass(frozen=True, slots=True)
class Brought:
    """What a stream has brought so far."""

    nbytes: int = 0
    """Bytes of weights, verified."""
    seconds: float = 0.0
    """From the first message to the source until its last verified chunk."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a stream."""

    how: Outcome
    accepted: bool
    """Whether the source had opened a session."""
    brought: Brought


def of(error: TransferError) -> Outcome:
    """What an error means for the stream that it ends. An error alone does not settle wrong bytes:
    `PullState.corrupt` knows what else they mean."""
    match error:
        case Refused(retry_after_s=float() as after_s):
            return AskLater(error.reason, after_s)
        case Refused():
            return Declined(error.reason)
        case Unanswered():
            return Unreached(error.reason, Port.CONTROL)
        case SourceLost():
            return Lost(error.reason)
        case _:
            return Faulty(error.reason)
