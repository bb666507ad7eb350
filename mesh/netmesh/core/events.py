"""What can happen to an engine. The shell and the simulator make these; nothing else does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType, TypeAlias

from netmesh.core.messages import Message
from netmesh.core.records import JsonObject, MemberId

Connection = NewType("Connection", bytes)
"""Opaque token of the connection that a message came in on; only good for `Reply`."""


class DialOutcome(Enum):
    """How a plain TCP connect ended: the kernel answers even while its process cannot."""

    REFUSED = "refused"
    """No process listens there."""
    CONNECTED = "connected"
    """The kernel accepts for a process that may be busy."""
    SILENT = "silent"
    """Nothing came back in time: the host or the path is down."""
    UNKNOWN = "unknown"
    """This host could not even try, for example for lack of descriptors: no finding about
    others."""


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message arrived."""

    connection: Connection
    message: Message


@dataclass(frozen=True, slots=True)
class Tick:
    """`Engine.deadline()` has passed."""


@dataclass(frozen=True, slots=True)
class Dialled:
    """Answer to the effect `Dial`; exactly one for each."""

    id: MemberId
    outcome: DialOutcome


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The connection to a watched member broke."""

    id: MemberId


@dataclass(frozen=True, slots=True)
class Contacts:
    """Bootstrap found these addresses (again). Empty means that it looked and found nobody."""

    ids: tuple[MemberId, ...]


@dataclass(frozen=True, slots=True)
class Publish:
    """My advert is now this."""

    advert: JsonObject


@dataclass(frozen=True, slots=True)
class Leave:
    """Say goodbye; `Departed` follows within about half a second."""


Event: TypeAlias = Received | Tick | Dialled | LinkLost | Contacts | Publish | Leave
