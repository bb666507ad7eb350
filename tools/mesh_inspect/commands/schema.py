"""`mesh-inspect schema`: the JSON schema of every document."""

from __future__ import annotations

from importlib.resources import files

from mesh_inspect.exits import InspectExit
from mesh_inspect.options import subcommand


@subcommand("schema", "schema > mesh-v1.json")
def command() -> InspectExit:
    """Print the JSON schema of every document that `-o json` and `-o jsonl` print."""
    print((files("mesh_inspect") / "schema" / "mesh-v1.json").read_text().rstrip("\n"))
    return InspectExit.OK
