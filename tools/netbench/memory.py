"""Peak memory of a process over a stretch of time, and memory that the host has taken back."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

import numpy as np

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Value that resets VmHWM; see proc(5)."""

MIB = 1 << 20

_SPARE: Final = 1.25
"""Margin when memory is fetched back, because the kernel also hands some out for other things."""


def mark() -> int:
    """Bytes resident now. The peak is counted from here on."""
    _CLEAR.write_text(_RESET_PEAK)
    return _kib("VmRSS") * 1024


def peak() -> int:
    """Peak of resident bytes since the mark."""
    return _kib("VmHWM") * 1024


def resident() -> int:
    """Bytes resident now."""
    return _kib("VmRSS") * 1024


def take_back(nbytes: int) -> None:
    """Make sure that the machine has memory for the next new bytes of this process.

    A virtual machine's host takes back memory that is free for some seconds. Getting that memory
    again costs several times as much as the kernel's own first touch, and a benchmark would then
    measure the host. So this function touches and frees as much memory right before.
    """
    with mmap.mmap(-1, int(nbytes * _SPARE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as spare:
        spare.madvise(mmap.MADV_HUGEPAGE)
        pages = np.frombuffer(spare, dtype=np.uint8)
        pages[:: mmap.PAGESIZE] = 1
        del pages  # Otherwise it could not be unmapped.


def _kib(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
