"""Do members go by addresses at which others reach them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from mesh_inspect.doctor.faults import Area, Check, Fault
from netmesh import Encounter, Meeting

_REMEDY: Final = "set NETLOADER_MESH_ADVERTISE there to an address that other hosts reach"
_HERE: Final = "set NETLOADER_MESH_ADVERTISE here to an address of this host that others reach"


@dataclass(frozen=True, slots=True)
class AddressFacts:
    """What a worker on this host would advertise, and what members do."""

    would_advertise: str
    """The host part; empty when no address can be used."""
    problem: str
    """Why none can be used."""
    met: Sequence[Encounter]
    """At seeds and at members' own addresses."""
    endpoints: Mapping[str, Sequence[str]]
    """Addresses of the listeners that each member publishes, by the member's id."""
    seeds: Sequence[str] = ()
    """Addresses that seeds lead to."""


def judge(facts: AddressFacts) -> Check:
    found: list[Fault] = []
    elsewhere = [where for where in (*facts.seeds, *facts.endpoints) if not is_loopback(where)]
    if facts.problem:
        found.append(Fault(Area.ADDRESS, "this host", facts.problem, f"correct that, or {_HERE}"))
    elif is_loopback(f"{facts.would_advertise}:1") and elsewhere:
        what = f"a worker here would advertise {facts.would_advertise}, and {elsewhere[0]} is not"
        found.append(Fault(Area.ADDRESS, "this host", f"{what} on this host", _HERE))
    unmet = {one.address for one in facts.met if one.meeting is not Meeting.MEMBER}
    for one in facts.met:
        if one.meeting is not Meeting.MEMBER or not one.member or one.member == one.address:
            continue
        if is_loopback(one.member) and not is_loopback(one.address):
            what = f"it advertises {one.member}, which leads nowhere from another host"
            found.append(Fault(Area.ADDRESS, one.address, what, _REMEDY))
        elif one.member in unmet:
            what = f"it advertises {one.member}, where it is not reached from here"
            found.append(Fault(Area.ADDRESS, one.address, what, _REMEDY))
    for member, endpoints in facts.endpoints.items():
        for endpoint in endpoints:
            if is_loopback(endpoint) and not is_loopback(member):
                what = f"its listener is at {endpoint}, which leads nowhere from another host"
                found.append(Fault(Area.ADDRESS, member, what, _REMEDY))
    named = facts.would_advertise or "nothing"
    return Check(Area.ADDRESS, f"a worker here would advertise {named}", tuple(found))


def is_loopback(where: str) -> bool:
    """Whether `host:port` never leaves a host; False for a name."""
    host = where.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
