"""`mesh-inspect keys`: how many members serve by each of our cluster keys."""

from __future__ import annotations

from mesh_inspect.exits import InspectExit
from mesh_inspect.looking import Arguments, Means, everybody
from mesh_inspect.render import escape
from netmesh import count_keys


def run(options: Arguments, means: Means) -> InspectExit:
    asked = [member.id for member in everybody(options, means) if member.status.live]
    counts = count_keys(options.settings, asked, options.timeout_s)
    for number, count in enumerate(counts, start=1):
        if count.fingerprint is not None:
            print(f"key {number} ({count.fingerprint}): {len(count.members)} members serve by it")
        elif count.members:
            print(f"none of these, or no answer: {len(count.members)} members")
            for member in count.members:
                print(f"  {escape(member)}")
    return InspectExit.OK
