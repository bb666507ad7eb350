"""`mesh-inspect wait`: until enough members are in a state, for scripts and probes."""

from __future__ import annotations

from typing import Final

import click

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import (
    DEFAULT_TIMEOUT_S,
    WAIT_TIMEOUT_S,
    Inquiry,
    nobody_answered,
    say,
)
from mesh_inspect.options import MODEL, asks_mesh, subcommand
from mesh_inspect.view.rows import HoldingRow, rows_of
from netmesh import NoMeshError, Status

PAUSE_S: Final = 1.0
"""Between two looks. Each costs the mesh one answer."""


@subcommand(
    "wait --for ready --model Qwen/Qwen3-8B --count 2 --timeout 600",
    "wait --for alive --timeout 2",
)
@click.option(
    "--for",
    "awaited",
    type=click.Choice(["ready", "alive"]),
    default="ready",
    show_default=True,
    help="ready: may be asked for weights; alive: is there.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 1_000_000),
    default=1,
    show_default=True,
    metavar="N",
    help="How many members.",
)
@MODEL
@asks_mesh
def command(inquiry: Inquiry, awaited: str, count: int, model: str | None) -> InspectExit:
    """Wait until members are ready.

    A member counts once, whatever it holds. The mesh is asked once a second.
    """
    means, settings = inquiry.means, inquiry.settings
    timeout_s = WAIT_TIMEOUT_S if inquiry.timeout is None else inquiry.timeout
    deadline = means.monotonic() + timeout_s
    last, silence = 0, NoMeshError(settings.name, (), timeout_s)
    answered = False
    # Warnings would come back with every look, so only the end of waiting is told.
    with inquiry.observer(quiet=True) as observer:
        while (left := deadline - means.monotonic()) > 0:
            try:
                members = observer.look(min(left, DEFAULT_TIMEOUT_S))
            except NoMeshError as error:
                answered, silence = False, error
            else:
                answered = True
                rows = rows_of(members, model)
                last = len({row.member.id for row in rows if _holds(row, awaited)})
                if last >= count:
                    print(f"{last} {awaited}")
                    return InspectExit.OK
            means.pause(max(0.0, min(PAUSE_S, deadline - means.monotonic())))
    if not answered:
        never = NoMeshError(settings.name, silence.tried, timeout_s)
        say(nobody_answered(never, settings, seeds_only=inquiry.seeds_only))
        return InspectExit.NO_MESH
    with_model = "" if model is None else f" with {model!r}"
    say(
        f"after {timeout_s:g} s {last} members of mesh {settings.name!r}{with_model} are "
        f"{awaited}, not {count}"
    )
    return InspectExit.NOTHING_MATCHES


def _holds(row: HoldingRow, awaited: str) -> bool:
    return row.ready if awaited == "ready" else row.member.status is Status.ALIVE
