"""Lines that show how far a load is, in the manner of vLLM's own bars.

vLLM ends each state of a bar with a newline: Ray and multiprocessing put prefixes before lines, and
log lines come in between. It has one state for each file. A pull has thousands of chunks, so here a
line stands for a twentieth of the bytes, and for ten seconds in which less has come.

    Pulling weights from peers:  45% Completed | 1.20GB/2.70GB [00:03<00:04, 402MB/s, 3 sources]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

from tqdm import tqdm

from netloader.worker.loading.speed import Speed

SHORTEST_S: Final = 1.0
"""Seconds between two lines at least. What takes less has only a last line."""

LONGEST_S: Final = 10.0
"""Seconds after which there is a line, also where nothing comes."""

SHARE: Final = 0.05
"""Part of all bytes after which there is one."""


def line(label: str, nbytes: int, total: int, seconds: float, rate: int, note: str = "") -> str:
    """One state. `seconds` have passed, and bytes come at `rate` a second now."""
    share = 100 * min(1.0, nbytes / total) if total else 100
    left_s = max(0, total - nbytes) / rate if rate else None
    left = "?" if left_s is None else tqdm.format_interval(left_s)
    return (
        f"{label}: {share:3.0f}% Completed | {_size(nbytes)}B/{_size(total)}B "
        f"[{tqdm.format_interval(seconds)}<{left}, {_size(rate)}B/s{note and ', '}{note}]"
    )


def _size(nbytes: int) -> str:
    return tqdm.format_sizeof(nbytes)


class Bar:
    """Of one thread."""

    def __init__(
        self,
        label: str,
        total: int,
        *,
        shown: bool,
        write: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total` bytes are to come. Where it is not `shown`, nothing is written. `write` gets
        whole lines; by default they go where vLLM's bars go, to stderr."""
        self._label = label
        self._total = total
        self.shown = shown
        """Whether it still writes lines."""
        self._write = write if write is not None else _to_stderr
        self._clock = clock
        self._began = self._wrote_at = clock()
        self._speed = Speed(self._began)
        self._nbytes = self._wrote = 0
        self._note = ""

    def at(self, nbytes: int, note: str = "") -> None:
        """Show that so many bytes have come, unless it is too early for another line. `note` says
        what else there is to know: who brings them, or whom this worker waits for."""
        if not self.shown:
            return
        now = self._clock()
        self._speed.note(now, nbytes)
        self._nbytes, self._note = nbytes, note
        since_s, more = now - self._wrote_at, abs(nbytes - self._wrote)
        if since_s >= LONGEST_S or (since_s >= SHORTEST_S and 0 < more >= SHARE * self._total):
            self._say(now, self._speed.rate)

    def end(self, note: str = "") -> None:
        """Show where it ended, and the rate of all. Nothing, if nothing has ever come."""
        if self.shown and self._nbytes:
            now, self._note = self._clock(), note
            self._say(now, round(self._nbytes / max(1e-3, now - self._began)))

    def _say(self, now: float, rate: int) -> None:
        self._wrote_at, self._wrote = now, self._nbytes
        seconds = now - self._began
        said = line(self._label, self._nbytes, self._total, seconds, rate, self._note)
        try:
            self._write(f"{said}\n")
        except (OSError, ValueError):
            # Whoever read it is gone: a closed pipe or file. The load goes on.
            self.shown = False


def _to_stderr(text: str) -> None:
    """Write whole lines at once, so that no other line comes in between."""
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()
