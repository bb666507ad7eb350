"""Run as `python -m netmesh.sim`."""

from __future__ import annotations

import sys

from netmesh.sim.cli import main

if __name__ == "__main__":
    sys.exit(main())
