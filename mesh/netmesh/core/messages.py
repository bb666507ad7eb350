"""Everything that members say to each other. docs/reference/protocol.md is the grammar in words.

Every message names its sender; an observer, which is not a member, sends `NOBODY` and generation 0.
Messages marked *answer* travel back over the connection that the question came in on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from netmesh.core.claims import Claim
from netmesh.core.records import Generation, MemberId, Status

NOBODY = MemberId("")
"""Sender of a message that does not come from a member."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Carries a summary of the sender's table, and a few claims."""

    kind: ClassVar[int] = 1
    sender: MemberId
    generation: Generation
    sequence: int
    root: int
    """64-bit hash over the live part of the sender's table."""
    size: int
    """Live members in the sender's table, including the sender."""
    claims: tuple[Claim, ...] = ()
    target: MemberId = NOBODY
    """Who is meant, because an address may lead to another member. `NOBODY`: an earlier version did
    not say."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Answer to `Ping`."""

    kind: ClassVar[int] = 2
    sender: MemberId
    generation: Generation
    sequence: int
    root: int
    size: int
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Relay:
    """Please ping `target` for me."""

    kind: ClassVar[int] = 3
    sender: MemberId
    generation: Generation
    sequence: int
    target: MemberId


@dataclass(frozen=True, slots=True)
class Relayed:
    """Answer to `Relay`: whether the target was heard. Not heard still proves the relay alive."""

    kind: ClassVar[int] = 4
    sender: MemberId
    generation: Generation
    sequence: int
    heard: bool


@dataclass(frozen=True, slots=True)
class Gossip:
    """News."""

    kind: ClassVar[int] = 5
    sender: MemberId
    generation: Generation
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """Here I am (on the first page), and let me have your table from bucket `cursor` on."""

    kind: ClassVar[int] = 6
    sender: MemberId
    generation: Generation
    sequence: int
    cursor: int
    me: Claim
    """Always with its advert."""


@dataclass(frozen=True, slots=True)
class Observe:
    """An observer asks for the table from bucket `cursor` on."""

    kind: ClassVar[int] = 7
    sender: MemberId
    generation: Generation
    cursor: int


@dataclass(frozen=True, slots=True)
class State:
    """Answer to `Join` and `Observe`: one page of the table."""

    kind: ClassVar[int] = 8
    sender: MemberId
    generation: Generation
    sequence: int
    root: int
    size: int
    claims: tuple[Claim, ...]
    cursor: int | None
    """Bucket at which to go on; None when this was the last page."""
    clock_ms: int | None = None
    """The sender's clock, in milliseconds since the epoch, for observers. None: not said."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Answer to a question that cannot be served now: ask again later, or ask one of these."""

    kind: ClassVar[int] = 9
    sender: MemberId
    generation: Generation
    sequence: int
    retry_after_ms: int
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Buckets:
    """Anti-entropy of a large table: the hash of each part of mine."""

    kind: ClassVar[int] = 10
    sender: MemberId
    generation: Generation
    root: int
    size: int
    hashes: tuple[int, ...]
    """`BUCKETS` hashes, 32 bits each."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a digest: which record I have, without the record."""

    id: MemberId
    generation: Generation
    incarnation: int
    status: int
    version: int


@dataclass(frozen=True, slots=True)
class Digest:
    """What I hold in these parts of the table. A question when the table is small, else an
    *answer*."""

    kind: ClassVar[int] = 11
    sender: MemberId
    generation: Generation
    answer: bool
    buckets: tuple[int, ...]
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """Claims that you lack, and members whose claims I lack. Question or *answer*."""

    kind: ClassVar[int] = 12
    sender: MemberId
    generation: Generation
    answer: bool
    claims: tuple[Claim, ...]
    want: tuple[MemberId, ...] = ()
    more: bool = False
    """True when not everything fitted: compare again at once."""


@dataclass(frozen=True, slots=True)
class Forget:
    """An operator says that a dead member will not come back. From an observer."""

    kind: ClassVar[int] = 13
    sender: MemberId
    generation: Generation
    member: MemberId


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Answer to `Forget`: how the member stands now. Only LEFT means that it is forgotten."""

    kind: ClassVar[int] = 14
    sender: MemberId
    generation: Generation
    member: MemberId
    status: Status | None
    """None when nothing is known of it."""


Message: TypeAlias = (
    Ping
    | Ack
    | Relay
    | Relayed
    | Gossip
    | Join
    | Observe
    | State
    | Busy
    | Buckets
    | Digest
    | Exchange
    | Forget
    | Forgotten
)
