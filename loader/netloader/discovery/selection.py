"""Whom to ask: turns all members of the mesh into an ordered list of candidates. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import ip_address
from typing import Final, NamedTuple

from netloader.discovery.accusations import accusers
from netloader.discovery.advert import Holding, decode
from netloader.discovery.candidate import BY_MESH, Candidate, Process
from netloader.identity.identity import (
    LAYOUT,
    SHARDS,
    Fields,
    Identity,
    content_mismatch,
    differences,
    listed,
    names_differ,
    other_model,
)
from netmesh import Member, MemberId

MAX_REJECTED: Final = 8
"""Members that are reported. The mesh may hold thousands that are as near."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Candidates, best first, and why near matches are not among them."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[str, ...]
    """One sentence for each member, nearest first: members that differ only in state or content,
    and members of the same name. Where there are none, the member that differs least."""


def choose(
    members: Iterable[Member],
    identity: Identity,
    transports: Sequence[str],
    chunk_bytes: int,
    *,
    fabric: str = "",
    caught: Collection[Process] = (),
    read: Callable[[Member], Sequence[Holding]] = lambda member: decode(member.advert),
    reaches: Callable[[str], bool] = lambda endpoint: True,
    explain: bool = True,
) -> Choice:
    """Members that hold exactly these weights and can hand them out now.

    Members with few sessions come first, then the same host, the same network, the rest. Rendezvous
    hashing orders equals, so that many replicas that start together spread over them. Members that
    another member accuses of wrong bytes come last, because the accuser may be at fault. Processes
    in `caught` have sent wrong bytes to this worker, and are left out. A member never picks itself.

    `transports` are those that can carry bytes to this worker; a member needs one of them. `fabric`
    is this worker's label, if it has one.
    `reaches` says whether an endpoint may be connected to.

    `read` gives the holdings of a member, so that a caller may remember them. Evidence of content
    is made for the first member that fits in everything else, unless that member knows a stronger
    kind. Without `explain` no rejected member is reported.
    """
    found: list[tuple[tuple[bool, int, int, bytes], Candidate]] = []
    rejected: list[Rejected] = []
    everybody = [(member, read(member)) for member in members]
    me = next((member for member, _ in everybody if member.me), None)
    for one in verdicts(
        everybody,
        identity,
        transports,
        chunk_bytes,
        fabric=fabric,
        caught=caught,
        reaches=reaches,
        explain=explain,
    ):
        member, holding = one.member, one.holding
        if one.rejected is not None:
            rejected.append(one.rejected)
            continue
        away = distance(me.host, member.host) if me is not None else 0
        key = (
            one.accused,
            holding.serving,
            away,
            _weight(me.id if me is not None else None, member.id),
        )
        candidate = Candidate(
            holding.endpoint,
            BY_MESH,
            member.generation,
            holding.offered,
            complete=holding.state == "ready",
            near=away == 0,
            serving=holding.serving,
        )
        found.append((key, candidate))
    found.sort(key=lambda entry: entry[0])
    return Choice(tuple(candidate for _, candidate in found), _told(rejected, bool(found)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a replica makes of one holding of another member."""

    member: Member
    holding: Holding
    accused: bool
    """Whether another member says that this process sent it wrong bytes."""
    rejected: Rejected | None
    """None: the replica would ask for these weights."""


def verdicts(
    everybody: Sequence[tuple[Member, Sequence[Holding]]],
    identity: Identity,
    transports: Sequence[str],
    chunk_bytes: int,
    *,
    fabric: str = "",
    caught: Collection[Process] = (),
    reaches: Callable[[str], bool] = lambda endpoint: True,
    explain: bool = True,
) -> Iterator[Verdict]:
    """A verdict on each holding of the identity's role; the arguments are those of `choose`.

    Without `explain` holdings that differ in a part of the identity are left out.
    """
    accused = accusers(everybody)
    mine = identity.fields()
    for member, holdings in everybody:
        if member.me:
            continue
        for holding in holdings:
            if holding.role != identity.role:
                continue
            theirs = holding.fields.get(LAYOUT)
            if theirs == "checkpoint" and identity.layout != theirs:
                continue  # Said already, when that layout was looked for.
            process = (holding.endpoint, int(member.generation))
            rejected = None
            if holding.fields != mine or other_model(identity.names, holding.names):
                if not explain:
                    continue
                rejected = _differing(member, holding, identity, mine)
            else:
                why_not = _unsuitable(member, holding, transports, chunk_bytes, fabric)
                if why_not is None and not reaches(holding.endpoint):
                    why_not = f"its endpoint {holding.endpoint} may not be reached from here"
                if why_not is None and process in caught:
                    why_not = "sent other bytes than it had promised"
                if why_not is None:
                    why_not = content_mismatch(identity.content, holding.content)
                if why_not is not None:
                    rejected = Rejected(0, member.id, holding.model, why_not)
            yield Verdict(member, holding, process in accused, rejected)


class Rejected(NamedTuple):
    """A member that is not a candidate."""

    differences: int
    """0: the member needs exactly the same. `_FAR` and more: another model altogether."""
    member: MemberId
    model: str
    reason: str


_FAR = 1_000
"""Added to the differences of a member with another name."""


def _differing(member: Member, holding: Holding, identity: Identity, mine: Fields) -> Rejected:
    other = other_model(identity.names, holding.names)
    if other is not None:
        return Rejected(_FAR, member.id, holding.model, other)
    if holding.state == "loading" and SHARDS in mine and SHARDS not in holding.fields:
        # The member learns what its layers hold only once they exist.
        known = {name: value for name, value in mine.items() if name in holding.fields}
        if not differences(known, holding.fields):
            return Rejected(0, member.id, holding.model, "is loading: its model is being built")
    differing = differences(mine, holding.fields)
    if len(differing) == 1 and holding.fields.get(LAYOUT) not in (None, identity.layout):
        return Rejected(0, member.id, holding.model, "has them as post-processing left them")
    named_alike = names_differ(identity.names, holding.names) is None and holding.names
    far = 0 if named_alike else _FAR
    reason = listed(differing) if named_alike else differing[0]
    return Rejected(far + len(differing), member.id, holding.model, reason)


def _told(rejected: list[Rejected], found_one: bool) -> tuple[str, ...]:
    """What to report about members that are not candidates."""
    if not rejected:
        return ()
    rejected.sort()
    near = [one for one in rejected if one.differences < _FAR]
    if near:
        more = len(near) - MAX_REJECTED
        rest = (f"and {more} more that come as near",) if more > 0 else ()
        return (*(f"{one.member}: {one.reason}" for one in near[:MAX_REJECTED]), *rest)
    if found_one:
        return ()
    one = rejected[0]
    return (f"nobody holds these weights; nearest is {one.member} ({one.model}): {one.reason}",)


def _unsuitable(
    member: Member, holding: Holding, transports: Sequence[str], chunk_bytes: int, fabric: str
) -> str | None:
    if not member.selectable:
        return f"is {member.status.name.lower()}"
    if not holding.serves:
        return f"is {holding.state}" + (f": {holding.reason}" if holding.reason else "")
    if not holding.endpoint:
        return "has no listener"
    return no_transfer(holding, transports, chunk_bytes, fabric)


def no_transfer(
    holding: Holding, transports: Sequence[str], chunk_bytes: int, fabric: str = ""
) -> str | None:
    """Why nothing can be transferred from this holding to a worker with these `transports` and
    settings; None when something can."""
    if not set(transports) & set(holding.offered):
        return f"backend: mine {listing(transports)}, theirs {listing(holding.offered)}"
    if holding.chunk_bytes not in (0, chunk_bytes):
        return f"CHUNK_BYTES: mine {chunk_bytes}, theirs {holding.chunk_bytes}"
    if holding.fabric and fabric not in ("", holding.fabric):
        return f"FABRIC: mine {fabric}, theirs {holding.fabric}"
    return None


def listing(transports: Sequence[str]) -> str:
    """Names of transports, in words."""
    return ", ".join(transports) or "none"


def distance(mine: str, theirs: str) -> int:
    """0 on one host, 1 in one network, 2 beyond. Networks are /24 or /64, as operators cut them."""
    if mine == theirs:
        return 0
    try:
        here, there = ip_address(mine), ip_address(theirs)
    except ValueError:
        # A name does not say where the member is.
        return 2
    if here.version != there.version:
        return 2
    host_bits = 8 if here.version == 4 else 64
    return 1 if int(here) >> host_bits == int(there) >> host_bits else 2


def _weight(mine: MemberId | None, theirs: MemberId) -> bytes:
    return blake2b(f"{mine}\0{theirs}".encode(), digest_size=8).digest()
