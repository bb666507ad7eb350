"""Is what members wrote into the same-host directory true?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mesh_inspect.doctor import meetings
from mesh_inspect.doctor.faults import Area, Check, Fault
from netmesh import DirectoryEntry, Encounter


@dataclass(frozen=True, slots=True)
class DirectoryFacts:
    """The same-host directory, as its files say."""

    path: str
    entries: Sequence[DirectoryEntry]
    mesh: str
    """The mesh that is looked for."""
    met: Mapping[str, Encounter]
    """At the addresses of entries of this mesh."""
    anybody: bool
    """Whether any member of this mesh has answered, there or elsewhere."""
    problem: str = ""
    """Why the directory cannot be used."""


def judge(facts: DirectoryFacts) -> Check:
    if facts.problem:
        remedy = "remove it or make it yours alone (chmod 700), or set NETLOADER_MESH_DIRECTORY"
        return Check(
            Area.DIRECTORY,
            "cannot be used",
            (Fault(Area.DIRECTORY, facts.path, facts.problem, remedy),),
        )
    found: list[Fault] = []
    others: dict[str, str] = {}
    living = 0
    for entry in facts.entries:
        if entry.stale:
            what = f"process {entry.pid}, which wrote it for {entry.member}, is gone"
            remedy = "remove the file; a worker that starts on this host does so, too"
            found.append(Fault(Area.DIRECTORY, str(entry.path), what, remedy))
        elif entry.mesh != facts.mesh:
            others[entry.mesh] = entry.member
        else:
            living += 1
            met = facts.met.get(entry.member)
            if met is not None and met.meeting in meetings.TELLING:
                found.append(meetings.finding(met, Area.DIRECTORY))
    if not facts.anybody and not living:
        found += [
            Fault(
                Area.MESH_NAME,
                member,
                f"members of mesh {mesh!r} meet on this host, and none of {facts.mesh!r}",
                f"set NETLOADER_MESH_NAME={mesh} (--mesh {mesh}) if you look for these",
            )
            for mesh, member in others.items()
        ]
    return Check(
        Area.DIRECTORY, f"{living} members of {facts.mesh!r} in {facts.path}", tuple(found)
    )
