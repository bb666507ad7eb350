"""The counts of one run, kept where they outlive the fuzzer: libFuzzer ends its process itself."""

from __future__ import annotations

import mmap
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from .target import Target

_COUNTS: Final = struct.Struct("5Q")
MAX_SHOWN: Final = 5
"""Findings printed; the rest is counted."""


class Campaign:
    """Runs inputs against one target and counts what came of it, in a file mapped into memory."""

    def __init__(self, target: Target, path: Path) -> None:
        path.write_bytes(bytes(_COUNTS.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _COUNTS.size)
        self._target = target
        self._counts = [0] * 5

    def run(self, data: bytes) -> None:
        """One input. A finding is counted and printed, and does not end the run."""
        counts = self._counts
        started = time.thread_time_ns()  # what others run on this machine must not count
        try:
            counts[1 if self._target.check(data) else 2] += 1
        except Exception:  # noqa: BLE001 - whatever it is, it is what we are looking for
            counts[3] += 1
            if counts[3] <= MAX_SHOWN:
                print(f"{self._target.name}: input {data.hex()}", file=sys.stderr)
                traceback.print_exc()
        counts[4] = max(counts[4], time.thread_time_ns() - started)
        counts[0] += 1
        _COUNTS.pack_into(self._memory, 0, *counts)


def read_counts(path: Path) -> dict[str, int]:
    """What a campaign has counted so far."""
    runs, accepted, refused, other, slowest_ns = _COUNTS.unpack(path.read_bytes())
    return {
        "runs": runs,
        "accepted": accepted,
        "refused": refused,
        "other_errors": other,
        "slowest_us": slowest_ns // 1000,
    }
