"""How much memory a process has at most, over a stretch of time, and whose memory it is."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

import numpy as np

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""See proc(5): makes VmHWM begin anew."""

MIB = 1 << 20

_SPARE: Final = 1.25
"""Of memory taken back: the kernel hands out some for other things as well."""


def mark() -> int:
    """Bytes resident now; the peak is counted from here on."""
    _CLEAR.write_text(_RESET_PEAK)
    return _kib("VmRSS") * 1024


def peak() -> int:
    """The most bytes that were resident since the mark."""
    return _kib("VmHWM") * 1024


def resident() -> int:
    """Bytes resident now."""
    return _kib("VmRSS") * 1024


def take_back(nbytes: int) -> None:
    """See to it that the next so many bytes that are new here are not new to the machine.

    A virtual machine's host takes memory that is free for some seconds, and to get it again costs
    several times what the kernel's own first touch does: then the host is measured. So as much is
    touched and freed right before.
    """
    with mmap.mmap(-1, int(nbytes * _SPARE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as spare:
        spare.madvise(mmap.MADV_HUGEPAGE)
        pages = np.frombuffer(spare, dtype=np.uint8)
        pages[:: mmap.PAGESIZE] = 1
        del pages  # Else it could not be unmapped.


def _kib(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
