"""`mesh-inspect keys`: how many members serve by each of our cluster keys."""

from __future__ import annotations

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Inquiry
from mesh_inspect.options import asks_mesh, subcommand
from mesh_inspect.output.text import escape
from netmesh import count_keys


@subcommand("keys", "keys --seed 10.0.0.1")
@asks_mesh
def command(inquiry: Inquiry) -> InspectExit:
    """Count the members that serve by each cluster key.

    The keys are those of NETLOADER_MESH_KEY_FILE or NETLOADER_MESH_KEY. Useful while keys change.
    """
    asked = [member.id for member in inquiry.everybody() if member.status.live]
    counts = count_keys(inquiry.settings, asked, inquiry.timeout_s)
    for number, count in enumerate(counts, start=1):
        if count.fingerprint is not None:
            print(f"key {number} ({count.fingerprint}): {len(count.members)} members serve by it")
        elif count.members:
            print(f"none of these, or no answer: {len(count.members)} members")
            for member in count.members:
                print(f"  {escape(member)}")
    return InspectExit.OK
