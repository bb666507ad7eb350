"""`mesh-inspect list`: the members and what they hold."""

from __future__ import annotations

import sys

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import MODEL, asks_mesh, output, subcommand


@subcommand(
    "list",
    "list --model 'Qwen/*' -o wide",
    "list -o json --seed 10.0.0.1",
)
@output("table", "wide", "json")
@MODEL
@asks_mesh
def command(inquiry: Inquiry, form: str, model: str | None) -> InspectExit:
    """Print the members and what they hold."""
    from mesh_inspect.output.documents import ascii_json
    from mesh_inspect.output.members import MEMBERS, summary
    from mesh_inspect.output.table import Showing, write_table
    from mesh_inspect.view.entries import entries_of, listed
    from mesh_inspect.view.rows import matches, rows_of

    mesh = inquiry.settings.name
    everybody = rows_of(inquiry.everybody())
    rows = [row for row in everybody if model is None or matches(row.model, model)]
    if form == "json":
        print(ascii_json(listed(entries_of(rows, everybody), mesh)))
    elif rows:
        showing = Showing(wide=form == "wide", terminal=sys.stdout.isatty())
        write_table(MEMBERS, rows, sys.stdout, showing, summary(rows, mesh))
    if rows:
        return InspectExit.OK
    if model is None:
        say(f"mesh {mesh!r} answered, but has no members")
    else:
        say(f"no member of mesh {mesh!r} holds a model that matches {model!r}")
    return InspectExit.NOTHING_MATCHES
