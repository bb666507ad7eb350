"""A worker that does not exist yet: what it would look for in the mesh. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netloader.discovery.advert import Holding
from netloader.discovery.selection import Rejected, Verdict, verdicts
from netloader.identity.identity import Identity
from netmesh import Member, Reach


@dataclass(frozen=True, slots=True)
class Prospect:
    """One rank of a worker that would be started."""

    identity: Identity
    transports: tuple[str, ...]
    """What could carry weights to it, best first."""
    chunk_bytes: int
    reach: Reach
    """Whom it could connect to."""
    fabric: str = ""
    """Label of the network that its transfers would use (`FABRIC`); empty: none."""


@dataclass(frozen=True, slots=True)
class Match:
    """What the mesh has for a prospect."""

    prospect: Prospect
    sources: tuple[Verdict, ...]
    """Who could feed it: those with few sessions first, the accused last."""
    others: tuple[Rejected, ...]
    """One entry for each other member, with the one reason why not, nearest first."""


_NOTHING = 1_000_000
"""Differences of a member that holds no model of the role: further away than any that does."""


def match(everybody: Sequence[tuple[Member, Sequence[Holding]]], prospect: Prospect) -> Match:
    """Judge every member as a replica with these needs would. May read the prospect's checkpoint,
    if its content is a `LazyContent`."""
    identity = prospect.identity
    sources: list[Verdict] = []
    nearest: dict[str, Rejected] = {}
    for member, _ in everybody:
        if not member.me:
            nothing = f"holds no {identity.role} model" + (
                "" if member.selectable else f", and is {member.status.name.lower()}"
            )
            nearest[member.id] = Rejected(_NOTHING, member.id, "", nothing)
    for verdict in verdicts(
        everybody,
        identity,
        prospect.transports,
        prospect.chunk_bytes,
        fabric=prospect.fabric,
        reaches=prospect.reach.allows,
    ):
        if verdict.rejected is None:
            sources.append(verdict)
        elif verdict.member.id in nearest:
            nearest[verdict.member.id] = min(nearest[verdict.member.id], verdict.rejected)
    for verdict in sources:
        nearest.pop(verdict.member.id, None)
    sources.sort(key=lambda one: (one.accused, one.holding.serving, one.member.id))
    return Match(prospect, tuple(sources), tuple(sorted(nearest.values())))
