"""`mesh-inspect peers`: the members and what they hold."""

from __future__ import annotations

import sys

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Arguments, Means, everybody, say
from mesh_inspect.render import to_json, write_table
from mesh_inspect.rows import rows_of


def run(options: Arguments, means: Means) -> InspectExit:
    mesh = options.settings.name
    rows = rows_of(everybody(options, means), options.model)
    if options.output == "json":
        print(to_json(rows, mesh=mesh))
    elif rows:
        write_table(
            rows,
            sys.stdout,
            mesh=mesh,
            wide=options.output == "wide",
            terminal=sys.stdout.isatty(),
        )
    if rows:
        return InspectExit.OK
    if options.model is None:
        say(f"mesh {mesh!r} answered, but has no members")
    else:
        say(f"no member of mesh {mesh!r} holds a model that matches {options.model!r}")
    return InspectExit.NOTHING_MATCHES
