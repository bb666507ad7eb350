"""Does a small chunk of weights get here?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mesh_inspect.doctor.faults import Area, Check, Fault

_REMEDY: Final[Mapping[str, str]] = {
    "UNREACHED": "see the reason; the source's log has its side",
    "REFUSED": "see the reason: `mesh-inspect match --like MEMBER` says who could share",
    "NO_GROUP": (
        "open the ports on which that host takes transfers: any TCP port from members, unless a "
        "range is set there"
    ),
    "BROKEN": "see the source's log, and the network between the hosts (MTU, proxies, idle limits)",
    "WRONG_BYTES": "test the memory and the network of both hosts; restart that worker",
}
"""By how a trial ended."""


@dataclass(frozen=True, slots=True)
class Trialled:
    """One trial, in words and figures."""

    member: str
    end: str
    """Name of the `TrialEnd`."""
    said: str
    """The same for people, with the detail."""
    transport: str = ""
    nbytes: int = 0
    seconds: float = 0.0


def judge(trials: Sequence[Trialled], untried: str = "") -> Check:
    """`untried`: why nobody was asked."""
    if not trials:
        return Check(Area.TRANSFER, untried, looked=False)
    found = tuple(
        Fault(Area.TRANSFER, one.member, one.said, _REMEDY[one.end])
        for one in trials
        if one.end in _REMEDY
    )
    working = [one for one in trials if one.end == "WORKS"]
    if working:
        first = working[0]
        summary = (
            f"{len(working)} of {len(trials)} members sent a chunk, digest right: {first.nbytes} "
            f"bytes from {first.member} by {first.transport} in {first.seconds:.3f} s"
        )
        return Check(Area.TRANSFER, summary, found)
    if not found:
        busy = ", ".join(one.member for one in trials)
        return Check(Area.TRANSFER, f"busy, so not tried: {busy}", looked=False)
    return Check(Area.TRANSFER, f"none of {len(trials)} worked", found)
