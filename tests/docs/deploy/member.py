"""A member with the settings of its environment, as a worker has them, that waits for others.

    python -m tests.docs.deploy.member COUNT FILE

Writes the name of its mesh and the addresses that it sees into FILE. It stays until everybody has.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.fastest import HANG_S

from netloader.program import PROGRAM
from netmesh import Mesh, MeshSettings, Status


def main(count: int, file: Path) -> int:
    settings = MeshSettings.load({}, os.environ, PROGRAM)
    mesh = Mesh.start(settings, {})
    seen = mesh.wait(
        lambda members: sum(member.status is Status.ALIVE for member in members) >= count, HANG_S
    )
    file.write_text("\n".join([settings.name, *sorted(member.id for member in mesh.members())]))
    # Who leaves first would be missing from what a slower one sees.
    mesh.publish({"done": True})
    mesh.wait(
        lambda members: all(
            member.advert == {"done": True} or member.status is not Status.ALIVE
            for member in members
        ),
        HANG_S,
    )
    mesh.leave()
    return 0 if seen else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2])))
