"""Are the ports of members open from here: the mesh's, and the listeners of those that serve?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mesh_inspect.doctor import meetings
from mesh_inspect.doctor.faults import Area, Check, Fault
from netmesh import Encounter, Meeting, Status

_OPEN: Final = (
    "open this TCP port between the hosts, and set NETLOADER_LISTEN_PORT there if it must be a "
    "known one"
)


@dataclass(frozen=True, slots=True)
class PortFacts:
    """What was met at the addresses of members."""

    met: Sequence[Encounter]
    """At the addresses of members in the table."""
    statuses: Mapping[str, Status]
    """By address: what the mesh thinks of that member."""
    listeners: Mapping[str, str]
    """By the address of a ready source's listener: what is wrong there; empty when it greets."""
    members: int
    """How many live members there are in all."""


def judge(facts: PortFacts) -> Check:
    # The mesh knows already of members that it does not hold for alive.
    alive = [one for one in facts.met if facts.statuses.get(one.address) is Status.ALIVE]
    bad = [one for one in alive if one.meeting in meetings.TELLING]
    good = sum(one.meeting is Meeting.MEMBER for one in alive)
    found = [meetings.finding(one) for one in bad]
    found += [
        Fault(Area.PORTS, where, f"its control port: {wrong}", _OPEN)
        for where, wrong in facts.listeners.items()
        if wrong
    ]
    greeted = sum(not wrong for wrong in facts.listeners.values())
    summary = (
        f"{good} of {facts.members} members reached, {greeted} of {len(facts.listeners)} listeners"
    )
    return Check(Area.PORTS, summary, tuple(found))
