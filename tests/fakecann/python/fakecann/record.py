"""Which operators ran by fallback: tests print them, lest anybody takes them for NPU kernels."""

from __future__ import annotations

import os
from pathlib import Path

_seen: set[str] = set()


def start_again() -> None:
    """Note every operator once more, in another file perhaps: a test begins."""
    _seen.clear()


def ran(name: str) -> None:
    """Note an operator. A line goes to the file `FAKECANN_RECORD` at its first run in a process.

    Not at the end of the process: many of ours are killed.
    """
    if name in _seen:
        return
    _seen.add(name)
    if path := os.environ.get("FAKECANN_RECORD"):
        with Path(path).open("a") as lines:
            lines.write(f"{name}\n")
