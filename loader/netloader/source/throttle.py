"""How fast a worker hands out bytes, when its operator has set a limit.

One throttle for all sessions of all models of a worker: what the limit protects, the link that the
model's own traffic needs, is one as well. Chunks are cut into messages and each waits for its turn,
so that what leaves is a trickle and never a burst. A session asks for one turn at a time, and turns
are given in the order they are asked for: sessions get equal shares.

A turn costs the model as well: about a millisecond in which our threads and its own take the
interpreter from each other. So turns are long (`TURN_S`), where that makes no burst of a message
(`MAX_MESSAGE`) and no silence: between two turns of one session lie those of all the others, and
its replica takes that time for a source that makes no progress. With as many sessions as a worker
can have (64 for a model and 64 for its draft) and the smallest message, that is 8.4 s at 1 MB/s,
well below `TRANSFER_TIMEOUT`. A fifth of that rate would end such sessions: hence the least value
of `RATE_LIMIT`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from netloader.protocol.messages import MIN_BULK_MESSAGE_BYTES

TURN_S = 0.2
"""How much of the rate one message is, in seconds."""

SILENCE_S = 8.0
"""What may lie between two turns of one session, unless messages would be too small."""

MIN_MESSAGE, MAX_MESSAGE = MIN_BULK_MESSAGE_BYTES, 4 * 1024 * 1024
"""Bounds of a message in bytes. Below, its fixed cost (0.1..0.2 ms on Gloo) counts; above, it is a
burst by itself (3.4 ms of a link of 10 Gbit/s)."""

LATE_S = 0.02
"""How late a thread may wake and make up for it."""

_STEP = 4096


class Bucket:
    """A token bucket. The time is passed in."""

    def __init__(self, rate: float, burst_s: float) -> None:
        """`rate` in bytes per second. `burst_s` is how many seconds of the rate may be made up for
        at once after a pause."""
        self._rate = rate
        self._burst_s = burst_s
        self._free_at = float("-inf")

    def reserve(self, nbytes: int, now: float) -> float:
        """Take the next turn. Returns the seconds until it comes; 0 is now."""
        start = max(self._free_at, now - self._burst_s)
        self._free_at = start + nbytes / self._rate
        return max(0.0, start - now)

    def take(self, nbytes: int, now: float) -> bool:
        """Take a turn if there is one now; change nothing otherwise."""
        if self._free_at > now:
            return False
        self.reserve(nbytes, now)
        return True


class Throttle:
    """The limit of one worker. Thread safe."""

    def __init__(
        self, rate_limit: int, sessions: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`rate_limit` in bytes per second; `sessions` is how many there may be at once."""
        turn_s = min(TURN_S, SILENCE_S / sessions)
        wanted = int(rate_limit * turn_s) // _STEP * _STEP
        self.rate_limit = rate_limit
        self.message_bytes = min(max(wanted, MIN_MESSAGE), MAX_MESSAGE)
        """What a session cuts chunks into."""
        self._bucket = Bucket(rate_limit, LATE_S)
        self._clock = clock
        self._lock = threading.Lock()

    def wait(self, nbytes: int, stop: threading.Event) -> float:
        """Block until these bytes may leave, or `stop` is set. Returns the seconds it took.

        The turn of a session that is stopped passes unused: it is one message.
        """
        with self._lock:
            asked = self._clock()
            delay_s = self._bucket.reserve(nbytes, asked)
        if delay_s <= 0:
            return 0.0
        stop.wait(delay_s)
        return self._clock() - asked
