"""`mesh-inspect keygen`: a new cluster key."""

from __future__ import annotations

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Arguments, Means
from netmesh import generate_key


def run(options: Arguments, means: Means) -> InspectExit:
    print(generate_key())
    return InspectExit.OK
