"""Do the seeds lead to members of this mesh?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mesh_inspect.doctor import meetings
from mesh_inspect.doctor.faults import Area, Check, Fault
from netmesh import Encounter, Meeting, SeedFound


@dataclass(frozen=True, slots=True)
class SeedFacts:
    """Where seeds lead, and who was met there."""

    seeds: Sequence[SeedFound]
    met: Mapping[str, Encounter]
    """By address, of all seeds."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """By the address of a seed at which nobody listens: a member on the same host."""
    problem: str = ""
    """Why the seeds cannot be used at all."""


def judge(facts: SeedFacts) -> Check:
    if facts.problem:
        wrong = Fault(Area.SEEDS, "NETLOADER_MESH_SEEDS", facts.problem, "correct the setting")
        return Check(Area.SEEDS, "cannot be used", (wrong,))
    if not facts.seeds:
        return Check(Area.SEEDS, "none is set: only this host is searched", looked=False)
    found: list[Fault] = []
    reached = 0
    for seed in facts.seeds:
        wrong_one = _wrong(seed, facts)
        if wrong_one is None:
            reached += 1
        else:
            found.append(wrong_one)
    return Check(Area.SEEDS, f"{reached} of {len(facts.seeds)} lead to a member", tuple(found))


def _wrong(seed: SeedFound, facts: SeedFacts) -> Fault | None:
    if seed.problem:
        remedy = "correct NETLOADER_MESH_SEEDS, or what answers for it (DNS, the file, the command)"
        return Fault(Area.SEEDS, seed.name, seed.problem, remedy)
    met = [facts.met[where] for where in seed.addresses if where in facts.met]
    if any(one.meeting is Meeting.MEMBER for one in met):
        return None
    bad = [one for one in met if one.meeting in meetings.TELLING]
    if not bad:
        return Fault(Area.SEEDS, seed.name, "there was no time to ask it", "raise --timeout")
    worst = min(bad, key=lambda one: meetings.TELLING.index(one.meeting))
    wrong = meetings.finding(worst, Area.SEEDS, seed.name)
    member = facts.instead.get(worst.address)
    if member is not None:
        wrong = replace(wrong, remedy=f"use {member}: a member of this mesh listens there")
    return wrong
