"""The budget of file descriptors: how many there may be, how many are left, which are reserved.

Every connection costs a descriptor, and strangers make connections. A process that has none left
does not only refuse: libraries below it spin, or end the process. So the limit is raised at start,
what may be refused is refused while a reserve is left, and `doors.py` keeps strangers out of it.
"""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MOST: Final = 65_536
"""Descriptors that a process is allowed at most. Large servers ask for as many; some libraries
keep a table as long as the limit, and the hard limit may be a billion."""

RESERVE: Final = 256
"""Descriptors that are kept free for what cannot be refused: files, and libraries that end the
process without one. With a small limit, a quarter of it."""

MEMBER: Final = 256
"""Descriptors of a member: up to 200 in a large mesh (docs/operations.md), and strangers."""

FEWEST: Final = 64
"""With fewer free descriptors, a member cannot even greet the others."""


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else soft


def _in_use() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted often, so cheaply
    except OSError:
        # No descriptor is left to list them with, or there is no `/proc`, where we cannot tell.
        return _soft_limit() if os.path.isdir("/proc/self") else 0  # noqa: PTH112


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The descriptors of this process."""

    limit: Callable[[], int] = _soft_limit
    in_use: Callable[[], int] = _in_use

    @property
    def free(self) -> int:
        """How many more may be opened."""
        return max(0, self.limit() - self.in_use())

    @property
    def reserve(self) -> int:
        """How many of these are kept for what cannot be refused."""
        return min(RESERVE, self.limit() // 4)

    def lack(self, wanted: int) -> str | None:
        """Why nobody should open `wanted` more; None while that leaves the reserve alone."""
        free = self.free
        if free - wanted >= self.reserve:
            return None
        return f"{free} of {self.limit()} file descriptors are left (`ulimit -n`)"


def raise_limit(most: int = MOST) -> int:
    """Raise the soft limit to the hard one, or to `most` if that is less. Returns the soft limit.

    Never lowers the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return _soft_limit()


def prepare(log: logging.Logger, needed: int, descriptors: Descriptors | None = None) -> int:
    """Raise the limit, and tell the operator if `needed` more cannot be opened. Returns how many
    can."""
    raise_limit()
    free = (descriptors or Descriptors()).free
    if free < needed:
        log.warning(
            "%d file descriptors are free, but up to %d are needed: connections and sessions will "
            "be refused before the last are used. Raise the hard limit (`ulimit -Hn`, LimitNOFILE)",
            free,
            needed,
        )
    return free
