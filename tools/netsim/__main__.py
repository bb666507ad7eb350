"""Run as `python -m netsim`."""

from __future__ import annotations

import sys

from netsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
