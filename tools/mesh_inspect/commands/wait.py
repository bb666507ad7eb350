"""`mesh-inspect wait`: until enough members are in a state, for scripts and probes."""

from __future__ import annotations

from typing import Final

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import (
    DEFAULT_TIMEOUT_S,
    WAIT_TIMEOUT_S,
    Arguments,
    Means,
    nobody_answered,
    say,
)
from mesh_inspect.rows import HoldingRow, rows_of
from netmesh import NoMeshError, Status

PAUSE_S: Final = 1.0
"""Between two looks. Each costs the mesh one answer."""


def run(options: Arguments, means: Means) -> InspectExit:
    settings = options.settings
    timeout_s = WAIT_TIMEOUT_S if options.timeout is None else options.timeout
    deadline = means.monotonic() + timeout_s
    last, silence = 0, NoMeshError(settings.name, (), timeout_s)
    answered = False
    while (left := deadline - means.monotonic()) > 0:
        try:
            # Warnings would come back with every look, so only the end of waiting is told.
            members = means.look(
                settings, min(left, DEFAULT_TIMEOUT_S), seeds_only=options.seeds_only
            )
        except NoMeshError as error:
            answered, silence = False, error
        else:
            answered = True
            rows = rows_of(members, options.model)
            last = len({row.member.id for row in rows if _holds(row, options.awaited)})
            if last >= options.count:
                print(f"{last} {options.awaited}")
                return InspectExit.OK
        means.pause(max(0.0, min(PAUSE_S, deadline - means.monotonic())))
    if not answered:
        never = NoMeshError(settings.name, silence.tried, timeout_s)
        say(nobody_answered(never, settings, seeds_only=options.seeds_only))
        return InspectExit.NO_MESH
    model = "" if options.model is None else f" with {options.model!r}"
    say(
        f"after {timeout_s:g} s {last} members of mesh {settings.name!r}{model} are "
        f"{options.awaited}, not {options.count}"
    )
    return InspectExit.NOTHING_MATCHES


def _holds(row: HoldingRow, awaited: str) -> bool:
    return row.ready if awaited == "ready" else row.member.status is Status.ALIVE
