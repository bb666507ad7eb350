"""Whether an upstream replica is served. Pure.

Upstream compares a name, a rank and two sizes, and nothing else. What its replica does not receive
decides too: a model of which it would lack something is refused, and the replica reads storage.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from netloader.upstream.messages import JoinRefused, UpstreamJoin

_OFF = (
    "this is a source of Netloader Mesh, and it serves no replica of vLLM Ascend's own Netloader: "
    "set UPSTREAM to serve at this source, or start the replica with Netloader Mesh"
)


@dataclass(frozen=True, slots=True)
class Access:
    """Whom the operator lets in without authentication."""

    serves: bool
    """Whether `UPSTREAM` lets upstream's replicas pull at all."""
    has_key: bool
    """Whether this worker has a cluster key."""
    around_key: bool
    """`UPSTREAM_INSECURE`."""
    beyond_host: bool
    """`MESH_INSECURE`: whether other hosts may come although there is no key."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The weights that a source can hand out, as far as upstream's replicas are concerned."""

    names: frozenset[str]
    """The names that the model has here."""
    rank: int
    """The global rank."""
    tp: int
    pp: int
    lacks: str = ""
    """What an upstream replica would not receive; empty when it would receive everything."""


def barred(host: str, access: Access) -> str | None:
    """Why nobody at this address is let in; None when everybody there is."""
    if not access.serves:
        return _OFF
    if access.has_key:
        return None if access.around_key else "this source has a cluster key and you have none"
    if access.beyond_host or is_loopback(host):
        return None
    return "this source has no cluster key, so it serves its own host only (MESH_INSECURE)"


def is_loopback(host: str) -> bool:
    """Whether an address is one of this host that no other host can use."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def unfit(join: UpstreamJoin, held: Offered) -> JoinRefused | None:
    """Why a replica cannot have these weights; None when it can."""
    if join.int8_cache == "no":
        return JoinRefused(
            "this source sends weights as they were loaded, and your INT8_CACHE is no: set it to "
            "dram or hbm"
        )
    wanted = (join.device_id, join.tp, join.pp)
    mine = (held.rank, held.tp, held.pp)
    if wanted != mine:
        return JoinRefused(f"(rank, tp, pp) are {mine} here, and you asked for {wanted}")
    if join.model_path not in held.names:
        shown = ", ".join(sorted(held.names))
        return JoinRefused(f"the model here is {shown}, and you asked for {join.model_path}")
    if held.lacks:
        return JoinRefused(f"upstream's transfer would leave out {held.lacks}")
    return None
