"""Whether one member could feed another, judged as a replica would. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh_inspect.view.rows import RankPlace, place_of
from netloader.discovery.advert import Holding, decode
from netloader.discovery.prospect import Prospect, match
from netloader.identity.identity import Identity
from netmesh import Member, MeshSettings, Reach


@dataclass(frozen=True, slots=True)
class Fitness:
    """Whether a source has what a replica needs for one of its models."""

    model: str
    """Empty: the replica does not say."""
    role: str
    place: RankPlace
    fits: bool
    """Whether the replica would ask the source for these weights."""
    reasons: tuple[str, ...]
    """Why not; empty where it fits."""


def prospects_like(member: Member, settings: MeshSettings) -> tuple[Prospect, ...]:
    """Workers that need what this member needs or holds, one for each of its models."""
    return tuple(
        Prospect(
            Identity.of_fields(holding.fields, holding.names, holding.content),
            holding.offered,
            holding.chunk_bytes,
            Reach.of(member.id, settings.networks),
            holding.fabric,
        )
        for holding in decode(member.advert)
    )


def fitness(replica: Member, source: Member, settings: MeshSettings) -> tuple[Fitness, ...]:
    """An entry for each model of the replica; none where it publishes none."""
    everybody: Sequence[tuple[Member, Sequence[Holding]]] = [(source, decode(source.advert))]
    found = []
    for prospect in prospects_like(replica, settings):
        one = match(everybody, prospect)
        identity = prospect.identity
        reasons = () if one.sources else tuple(other.reason for other in one.others)
        place = place_of(identity.fields())
        found.append(Fitness(identity.model, identity.role, place, bool(one.sources), reasons))
    return tuple(found)
