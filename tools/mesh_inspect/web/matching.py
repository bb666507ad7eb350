"""Would a source feed a replica, and if not, why: as `mesh-inspect match --like` says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

from mesh_inspect.view.rows import place_of
from netloader.discovery.advert import Holding
from netloader.discovery.prospect import Prospect, match
from netloader.identity.identity import Identity
from netmesh import Member, MemberId, Reach

Network: TypeAlias = IPv4Network | IPv6Network


def fits(
    held: Sequence[tuple[Member, Sequence[Holding]]],
    replica: MemberId,
    source: MemberId,
    networks: Sequence[Network],
) -> list[dict[str, object]]:
    """For each model of `replica`: whether a worker with its needs could pull from `source`."""
    return [
        _judged(
            held,
            Prospect(
                Identity.of_fields(holding.fields, holding.names, holding.content),
                holding.offered,
                holding.chunk_bytes,
                Reach.of(member.id, networks),
                holding.fabric,
            ),
            source,
        )
        for member, holdings in held
        if member.id == replica
        for holding in holdings
    ]


def _judged(
    held: Sequence[tuple[Member, Sequence[Holding]]], prospect: Prospect, source: MemberId
) -> dict[str, object]:
    # Only the source is asked, and the accusers of its process count.
    found = match(held, prospect)
    one = next((one for one in found.sources if one.member.id == source), None)
    reasons = [
        f"{other.reason} ({other.model})" if other.model else other.reason
        for other in found.others
        if other.member == source
    ]
    if one is not None and one.accused:
        reasons.append("accused of wrong bytes, so it is asked last")
    return {
        "model": prospect.identity.model or None,
        "role": prospect.identity.role,
        "layout": asdict(place_of(prospect.identity.fields())),
        "fits": one is not None,
        "reasons": reasons,
    }
