"""`mesh-inspect keygen`: a new cluster key."""

from __future__ import annotations

from mesh_inspect.exits import InspectExit
from mesh_inspect.options import subcommand
from netmesh import generate_key


@subcommand("keygen", "keygen > mesh.key")
def command() -> InspectExit:
    """Print a new cluster key.

    Only the workers may be able to read the file: (umask 077; mesh-inspect keygen > mesh.key)
    """
    print(generate_key())
    return InspectExit.OK
