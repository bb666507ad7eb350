"""`mesh-inspect transfers`: who loads what, how fast, and from whom."""

from __future__ import annotations

import sys

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry, say
from mesh_inspect.options import MODEL, asks_mesh, output, subcommand


@subcommand(
    "transfers",
    "transfers -o wide",
    "transfers -o json | jq '.transfers[] | select(.state == \"idle\")'",
)
@output("table", "wide", "json")
@MODEL
@asks_mesh
def command(inquiry: Inquiry, form: str, model: str | None) -> InspectExit:
    """Print who loads what, how fast, and from whom."""
    from mesh_inspect.output.documents import ascii_json
    from mesh_inspect.output.table import Showing, write_table
    from mesh_inspect.output.transfers import TRANSFERS, summary
    from mesh_inspect.view.rows import matches, rows_of
    from mesh_inspect.view.transfers import transfers_of

    mesh = inquiry.settings.name
    transfers = transfers_of(
        rows_of(inquiry.everybody()), lambda row: model is None or matches(row.model, model)
    )
    if form == "json":
        print(ascii_json(transfers.document(mesh)))
    elif transfers.loads:
        showing = Showing(wide=form == "wide", terminal=sys.stdout.isatty())
        write_table(TRANSFERS, transfers.loads, sys.stdout, showing, summary(transfers, mesh))
    else:
        # Nothing moves most of the time: that is an answer, and no failure of whoever asks.
        what = "" if model is None else f" a model that matches {model!r}"
        say(f"nobody loads{what} in mesh {mesh!r}")
    return InspectExit.OK
