"""How fast a worker hands out bytes, when its operator has set a limit.

All sessions of all models of a worker share one throttle, because they share the link that the
limit protects for the model's own traffic. Chunks are cut into messages, each of which waits for
its turn, so bytes leave in a trickle and never in a burst. A session asks for one turn at a time,
and turns are given in the order they are asked for, so sessions get equal shares.

A turn costs the model too: about a millisecond in which our threads and the model's take the
interpreter from each other. So turns are long (`TURN_S`), within two bounds: no message becomes a
burst (`MAX_MESSAGE`), and no session falls silent. Between two turns of one session lie those of
all the others, and in that time the source seems to make no progress to the replica. A worker can
have at most 128 sessions, 64 for a model and 64 for its draft. With that many and the smallest
message, the time is 8.4 s at 1 MB/s, well below `TRANSFER_TIMEOUT`. A fifth of that rate would end
such sessions, hence the least value of `RATE_LIMIT`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from netloader.protocol.messages import MIN_BULK_MESSAGE_BYTES

TURN_S = 0.2
"""Size of one message, in seconds of the rate."""

SILENCE_S = 8.0
"""Seconds that may lie between two turns of one session, unless messages would be too small."""

MIN_MESSAGE, MAX_MESSAGE = MIN_BULK_MESSAGE_BYTES, 4 * 1024 * 1024
"""Bounds of a message in bytes. Below, its fixed cost (0.1..0.2 ms on Gloo) counts; above, the
message is a burst by itself (3.4 ms of a 10 Gbit/s link)."""

LATE_S = 0.02
"""Seconds by which a thread may wake late and still make up for it."""

_STEP = 4096


class Bucket:
    """A token bucket. The time is passed in."""

    def __init__(self, rate: float, burst_s: float) -> None:
        """`rate` is in bytes per second. After a pause, up to `burst_s` seconds of the rate may be
        made up for at once."""
        self._rate = rate
        self._burst_s = burst_s
        self._free_at = float("-inf")

    def reserve(self, nbytes: int, now: float) -> float:
        """Take the next turn. Returns the seconds until it comes; 0 means now."""
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
        """`rate_limit` is in bytes per second; `sessions` is the greatest number of sessions at
        once."""
        turn_s = min(TURN_S, SILENCE_S / sessions)
        wanted = int(rate_limit * turn_s) // _STEP * _STEP
        self.rate_limit = rate_limit
        self.message_bytes = min(max(wanted, MIN_MESSAGE), MAX_MESSAGE)
        """Bytes of the messages that a session cuts chunks into."""
        self._bucket = Bucket(rate_limit, LATE_S)
        self._clock = clock
        self._lock = threading.Lock()

    def wait(self, nbytes: int, stop: threading.Event) -> float:
        """Block until these bytes may leave, or `stop` is set. Returns the seconds of waiting.

        The turn of a stopped session passes unused; the loss is one message.
        """
        with self._lock:
            asked = self._clock()
            delay_s = self._bucket.reserve(nbytes, asked)
        if delay_s <= 0:
            return 0.0
        stop.wait(delay_s)
        return self._clock() - asked
