"""Prints the names of all modules that a process forked by `tests/forked.py` has imported."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    print(*sys.modules, flush=True)
