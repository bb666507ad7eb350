"""Which operators ran by fallback. Tests print them, because they are no NPU kernels."""

from __future__ import annotations

import os
from pathlib import Path

_seen: set[str] = set()


def start_again() -> None:
    """Note every operator once more, in another file perhaps: a test begins."""
    _seen.clear()


def ran(name: str) -> None:
    """Note an operator. A line goes to the file `FAKECANN_RECORD` at its first run in a process.

    It is written at once, because tests kill many of their processes.
    """
    if name in _seen:
        return
    _seen.add(name)
    if path := os.environ.get("FAKECANN_RECORD"):
        with Path(path).open("a") as lines:
            lines.write(f"{name}\n")
