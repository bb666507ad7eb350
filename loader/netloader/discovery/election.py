"""Who reads storage when several workers start at once and nobody has the weights. Pure.

Each worker that could read storage says so, and looks whom else it sees. All order the others by
the same rule, so that they agree without a vote: who reads already goes first, then whoever hashes
lowest with the identity. The first `STORAGE_LOADERS` read, and the others wait for them.

Views may differ for a moment, or for as long as a partition lasts. Then more of them read, which
costs nothing but reads.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from netloader.discovery.advert import Holding
from netloader.identity.identity import Identity, content_mismatch, other_model
from netmesh import Member, Status

MemberStart = tuple[str, int]
"""A member's address and generation."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A worker that loads the same weights, and no peer has them."""

    process: MemberStart
    reads: bool
    """Whether it reads storage; otherwise it could."""
    held: int
    """Bytes that it has read, told now and then."""

    @property
    def name(self) -> str:
        """The member's address."""
        return self.process[0]


@dataclass(frozen=True, slots=True)
class Electorate:
    """Everybody else who loads the same weights."""

    contenders: tuple[Contender, ...] = ()
    company: bool = False
    """Whether others load what may turn out to be the same."""
    unnamed: bool = False
    """Whether somebody reads it who has not said which content that is."""
    unshared: str = ""
    """Who has read these weights and cannot serve them, in words: waiting for others is in vain
    then. Empty while there is nobody."""

    def has(self, process: MemberStart) -> bool:
        """Whether this process still loads."""
        return any(one.process == process for one in self.contenders)


def survey(
    everybody: Iterable[tuple[Member, Sequence[Holding]]],
    identity: Identity,
    fits: Callable[[Holding], bool] = lambda holding: True,
) -> Electorate:
    """Who loads the weights of `identity` now. `fits` says whether this worker could pull from a
    holding. Compares evidence of content, so some may be made."""
    mine = identity.fields()
    contenders: list[Contender] = []
    company, unnamed, unshared = False, False, ""
    for member, holdings in everybody:
        if member.me or member.status >= Status.DEAD:
            continue
        for holding in holdings:
            if holding.role != identity.role or other_model(identity.names, holding.names):
                continue
            loads, reads = holding.state == "loading", holding.storage == "reading"
            if not fits(holding) or not holding.fields.items() <= mine.items():
                continue
            company = company or loads
            if holding.fields != mine:
                continue
            unnamed = unnamed or (loads and reads and not holding.content)
            if not holding.content or content_mismatch(identity.content, holding.content):
                continue
            if holding.state == "unavailable" and holding.origin == "storage":
                unshared = f"{member.id} has read them and serves nobody: {holding.reason}"
            # A worker that is held up for a moment goes on reading, but is not chosen to begin.
            if loads and (reads or (holding.storage and member.selectable)):
                process = (str(member.id), int(member.generation))
                contenders.append(Contender(process, reads, holding.held))
    return Electorate(tuple(contenders), company, unnamed, unshared)


@dataclass(frozen=True, slots=True)
class Read:
    """It is this worker's turn."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Others read, or will."""

    whom: tuple[Contender, ...]


def elect(
    me: MemberStart | None,
    identity: Identity,
    electorate: Electorate,
    loaders: int,
    passed: Collection[MemberStart] = (),
    *,
    claimed: bool = False,
) -> Read | Wait:
    """Whether this worker should read storage. `loaders` are enough of those who do. Processes in
    `passed` have had their chance. `me` is None for a worker that cannot read: it is told to only
    when nobody else could. `claimed`: this worker has said already that it reads."""
    able = [one for one in electorate.contenders if one.process not in passed]
    if me is not None:
        able.append(Contender(me, claimed, 0))
    digest = identity.digest

    def order(contender: Contender) -> tuple[bool, bytes]:
        return not contender.reads, _weight(digest, contender.process)

    ahead = sorted(able, key=order)[:loaders]
    if not ahead or any(one.process == me for one in ahead):
        return Read()
    return Wait(tuple(ahead))


def _weight(identity: str, process: MemberStart) -> bytes:
    return blake2b(f"{identity}\0{process[0]}\0{process[1]}".encode(), digest_size=8).digest()
