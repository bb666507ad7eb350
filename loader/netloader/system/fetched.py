"""How much this process has read that was not in memory yet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_COUNTERS: Final = Path("/proc/self/io")
"""See proc(5): `read_bytes` counts what file systems fetched for this process, all its threads
included. Pages that were cached count nothing. FUSE and some network file systems never count."""

_FETCHED: Final = re.compile(rb"^read_bytes: (\d+)$", re.MULTILINE)


def fetched_bytes(counters: Path = _COUNTERS) -> int | None:
    """Bytes fetched since the process began; None where the kernel does not say."""
    try:
        found = _FETCHED.search(counters.read_bytes())
    except OSError:
        return None  # A hardened container hides it, or this is not Linux.
    return int(found[1]) if found else None
