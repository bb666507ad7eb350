"""How fast storage was when a worker of this host last read weights from it.

Only what was fetched counts: a checkpoint in the page cache says nothing of the disk or network
below. The time is that of vLLM's whole load, so it includes what vLLM does with the bytes. A read
of which less than half was fetched is no measurement.

A figure holds for the file systems that the files lie on, as they are mounted now, until this
machine starts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import xxhash

from netloader.checkpoint.files import Stamp
from netloader.checkpoint.hostcache import HostCache

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

RELIED_ON: Final = 0.5
"""Part of a measured rate that is counted on. One worker may have measured alone, and when many
start, they read at the same time."""


def remember(
    cache: HostCache | None,
    stamps: Sequence[Stamp],
    nbytes: int,
    fetched: int | None,
    seconds: float,
) -> None:
    """Note a load of `nbytes` of weights from these files that took `seconds`, for which `fetched`
    bytes were not in memory (None: unknown)."""
    if cache is None or fetched is None or seconds <= 0 or not stamps or fetched < nbytes / 2:
        return
    # What was read beyond the weights, such as evidence, brought no weights.
    cache.note(_key(stamps), str(int(min(fetched, nbytes) / seconds)))


def rate(cache: HostCache | None, stamps: Sequence[Stamp]) -> float | None:
    """Bytes per second that storage can be relied on to bring from these files; None when nobody
    has measured."""
    noted = cache.noted(_key(stamps)) if cache is not None and stamps else None
    return RELIED_ON * int(noted) if noted is not None and noted.isdecimal() else None


def _key(stamps: Sequence[Stamp]) -> str:
    devices = sorted({stamp.device for stamp in stamps})
    try:
        boot = _BOOT.read_text()
    except OSError:
        boot = ""
    return xxhash.xxh3_128_hexdigest(f"rate {boot} {devices}".encode())
