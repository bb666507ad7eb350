"""How much memory a process has at most, over a stretch of time."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""See proc(5): makes VmHWM begin anew."""

MIB = 1 << 20


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


def _kib(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
