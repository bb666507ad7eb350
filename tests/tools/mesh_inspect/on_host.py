"""`mesh-inspect` on a host of a test.

Run as `python -m tests.tools.mesh_inspect.on_host NAMESPACE ARGUMENTS...`.
"""

from __future__ import annotations

import sys

from tests.loader.host_process import enter

from mesh_inspect import cli


def main() -> int:
    namespace, *arguments = sys.argv[1:]
    enter(namespace, "-")
    # The one that came with the fork believes that it is still what the parent writes to.
    with open(1, "w", closefd=False) as sys.stdout:
        return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
