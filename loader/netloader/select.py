"""Whom to ask: from everybody in the mesh to an ordered list of candidates. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from netloader.advert import Holding, decode
from netloader.candidate import Candidate
from netloader.identity import Identity, mismatch
from netmesh import Member, MemberId


@dataclass(frozen=True, slots=True)
class Choice:
    """Candidates, best first, and why members that hold the same model are not among them."""

    candidates: tuple[Candidate, ...]
    rejected: tuple[str, ...]
    """One sentence a member."""


def choose(members: Iterable[Member], identity: Identity, backend: str) -> Choice:
    """Members that hold exactly these weights and can hand them out now.

    Few sessions first, then the same host before others, then rendezvous hashing, so that many
    replicas that start together spread over equal sources. A member never picks itself.
    """
    found: list[tuple[tuple[int, bool, bytes], Candidate]] = []
    rejected: list[str] = []
    everybody = tuple(members)
    me = next((member for member in everybody if member.me), None)
    for member in everybody:
        if member.me:
            continue
        for holding in decode(member.advert):
            if holding.model != identity.model or holding.role != identity.role:
                continue
            why_not = _unsuitable(member, holding, identity, backend)
            if why_not is not None:
                rejected.append(f"{member.id}: {why_not}")
                continue
            key = (
                holding.serving,
                me is not None and member.host != me.host,
                _weight(me.id if me is not None else None, member.id),
            )
            found.append((key, Candidate(holding.endpoint, "mesh", member.generation)))
    found.sort(key=lambda entry: entry[0])
    return Choice(tuple(candidate for _, candidate in found), tuple(rejected))


def _unsuitable(member: Member, holding: Holding, identity: Identity, backend: str) -> str | None:
    different = mismatch(identity, holding.fields, holding.content)
    if different is not None:
        return different
    if not member.selectable:
        return f"is {member.status.name.lower()}"
    if holding.state != "ready":
        return f"is {holding.state}" + (f": {holding.reason}" if holding.reason else "")
    if not holding.endpoint:
        return "has no listener"
    if holding.backend != backend:
        return f"backend: mine {backend}, theirs {holding.backend or 'none'}"
    return None


def _weight(mine: MemberId | None, theirs: MemberId) -> bytes:
    return blake2b(f"{mine}\0{theirs}".encode(), digest_size=8).digest()
