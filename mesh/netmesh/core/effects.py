"""What an engine wants done. Effects are requests: any of them may silently fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from netmesh.core.events import Connection
from netmesh.core.messages import Message
from netmesh.core.records import MemberId


@dataclass(frozen=True, slots=True)
class Send:
    """Send over a connection that we open to that member; the answer comes back over the same
    one."""

    to: MemberId
    message: Message


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer over a connection that somebody opened to us."""

    to: Connection
    message: Message


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect by plain TCP, close at once, and answer with exactly one `Dialled`."""

    id: MemberId
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Watch:
    """The complete set of members whose connections must stay open and be monitored."""

    ids: frozenset[MemberId]


@dataclass(frozen=True, slots=True)
class Departed:
    """Leaving is done; the shell may close."""


@dataclass(frozen=True, slots=True)
class Displaced:
    """Nobody will ever know me by my id and generation. The shell puts another member in my place,
    if it can; until then, and else, I stand back: others do not see me, and I see them."""

    elsewhere: bool
    """True: another process has my address, so it takes another one. False: my generation came from
    a clock that was wrong, so it takes another generation."""


@dataclass(frozen=True, slots=True)
class Log:
    """Something that an operator cares about."""

    level: Literal["debug", "info", "warning"]
    message: str


Effect: TypeAlias = Send | Reply | Dial | Watch | Departed | Displaced | Log
