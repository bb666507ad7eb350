"""Do the clocks of this host and of the members agree?"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final

from mesh_inspect.doctor.faults import Area, Check, Fault
from netmesh import Encounter

MAX_SKEW_S: Final = 10.0
"""Seconds by which clocks may differ. Time servers keep hosts within a tenth of a second. A process
that starts again must look newer than the one before, and starting takes longer than this."""

_REMEDY: Final = "synchronise the clocks: `timedatectl`, `chronyc tracking`"


def judge(met: Sequence[Encounter]) -> Check:
    told = [one for one in met if one.ahead_s is not None]
    if not told:
        return Check(Area.CLOCK, "no member said what its clock shows", looked=False)
    shift_s = median(one.ahead_s or 0.0 for one in told)
    # More than half of the others are not wrong in the same way: this host is.
    if len(told) > 1 and abs(shift_s) > MAX_SKEW_S:
        what = f"this clock is {_apart(-shift_s)} those of the members"
        mine: tuple[Fault, ...] = (Fault(Area.CLOCK, "this host", what, _REMEDY),)
    else:
        mine, shift_s = (), 0.0
    odd = tuple(
        Fault(Area.CLOCK, one.address, f"its clock is {_apart(ahead_s)} this one", _REMEDY)
        for one in told
        if (ahead_s := one.ahead_s or 0.0) is not None
        and abs(ahead_s - shift_s) > MAX_SKEW_S + one.unsure_s
    )
    widest = max(abs(one.ahead_s or 0.0) for one in told)
    return Check(Area.CLOCK, f"{len(told)} members within {widest:.1f} s", mine + odd)


def _apart(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"
