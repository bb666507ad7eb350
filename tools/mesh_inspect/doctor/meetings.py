"""Why an attempt to meet a member failed, and what to do: shared by all who meet members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mesh_inspect.doctor.faults import Area, Fault
from netmesh import Encounter, Meeting


@dataclass(frozen=True, slots=True)
class _Advice:
    area: Area
    remedy: str


_ADVICE: Final[Mapping[Meeting, _Advice]] = {
    Meeting.OTHER_MESH: _Advice(
        Area.MESH_NAME, "set NETLOADER_MESH_NAME (--mesh) here to that name, or there to this one"
    ),
    Meeting.OTHER_KEY: _Advice(
        Area.KEY,
        "compare NETLOADER_MESH_KEY_FILE here and there (`mesh-inspect keys` shows fingerprints), "
        "then NETLOADER_MESH_NAME, which is part of the key",
    ),
    Meeting.KEY_ONLY_HERE: _Advice(
        Area.KEY, "set NETLOADER_MESH_KEY_FILE there to the file of this host"
    ),
    Meeting.KEY_ONLY_THERE: _Advice(
        Area.KEY, "set NETLOADER_MESH_KEY_FILE here to the file of that host"
    ),
    Meeting.OTHER_VERSION: _Advice(
        Area.VERSIONS, "install releases of netloader-mesh whose protocol versions overlap"
    ),
    Meeting.SILENT: _Advice(
        Area.PORTS,
        "see whether that process is stopped; without a cluster key it may also belong to a mesh "
        "of another NETLOADER_MESH_NAME",
    ),
    Meeting.STRANGER: _Advice(Area.PORTS, "correct the port: another program has this one"),
    Meeting.UNREACHABLE: _Advice(
        Area.PORTS,
        "open this TCP port between the hosts (firewall, network policy, security group), or "
        "correct the address",
    ),
    Meeting.REFUSED: _Advice(
        Area.PORTS,
        "start the worker there, correct the port, or see whether it advertises loopback: then it "
        "listens on loopback only",
    ),
}
"""Most telling first."""

TELLING: Final = tuple(_ADVICE)


def finding(met: Encounter, area: Area | None = None, subject: str | None = None) -> Fault:
    """What is wrong with an encounter that met no member; `area` where the advice does not say a
    more telling one than `ports`."""
    advice = _ADVICE[met.meeting]
    known = advice.area if area is None or advice.area is not Area.PORTS else area
    what = str(met.meeting)
    if met.meeting is Meeting.OTHER_MESH and met.mesh:
        what = f"it belongs to mesh {met.mesh!r}"
    if met.detail:
        what += f" ({met.detail})"
    named = met.address if subject is None or subject == met.address else f"{subject}"
    if named != met.address:
        what = f"{met.address}: {what}"
    return Fault(known, named, what, advice.remedy)
