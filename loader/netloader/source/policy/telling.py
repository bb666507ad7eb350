"""When replicas hear which chunks a source has gained. Pure.

Each word costs both ends some of the interpreter, and a source that loads gains a chunk every few
milliseconds and tells each of its replicas. So the first chunk after a silence is told at once, and
what follows is told in bunches: of `MANY` chunks as soon as `SHORTEST_S` allows, of fewer after
`LONGEST_S`. Time is passed in, in seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from typing import Final

MANY: Final = 4

SHORTEST_S: Final = 0.01
"""Seconds between two words to one replica. A faster link fills the bunches."""

LONGEST_S: Final = 0.05
"""Seconds that a chunk waits to be told. A replica with other chunks to fetch misses nothing: in a
swarm of eight on links of 400 Mbit/s it gets two or three meanwhile."""


def due_in_s(untold: int, silent_s: float) -> float:
    """Seconds until a replica is to be told of `untold` chunks, `silent_s` after the last word to
    it. Infinite for none, and at most 0 when it is time."""
    if untold == 0:
        return math.inf
    return (SHORTEST_S if untold >= MANY else LONGEST_S) - silent_s
