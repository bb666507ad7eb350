"""Chunks that a replica has asked for and not been sent, and how long it asked for nothing."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

_SPARE = 64
"""Requests allowed beyond a multiple of the chunks, for models that have few."""


class RequestQueue:
    """Chunk ids, first come first sent. Thread safe: any thread adds and closes, the session's
    thread takes."""

    def __init__(
        self, chunks: int, max_repeats: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """A queue for weights of `chunks` chunks, each asked for `max_repeats` times on average at
        most."""
        self._chunks = chunks
        self._max_repeats = max_repeats
        self._clock = clock
        self._changed = threading.Condition()  # Guards everything below.
        self._queued: deque[int] = deque()
        self._may_ask = max_repeats * chunks + _SPARE
        self._closed = False
        self._held = self._parked = False
        self._idle_s = 0.0
        self._idle_since: float | None = clock()

    def add(self, chunks: Sequence[int]) -> str | None:
        """Queue chunks for sending, all or none. Returns what is wrong with them, if anything."""
        if any(chunk >= self._chunks for chunk in chunks):
            return f"there are only {self._chunks} chunks"
        with self._changed:
            if len(chunks) > self._may_ask:
                return f"asked for each chunk more than {self._max_repeats} times"
            self._may_ask -= len(chunks)
            self._queued.extend(chunks)
            self._changed.notify_all()
        return None

    def take(self, timeout_s: float) -> int | None:
        """The next chunk; None once the queue is closed, whatever it still holds.

        Waiting counts as idle time. A timeout of 0 does not, because its caller has sends under
        way. Raises `TimeoutError` when nothing is asked for in time, or the queue is held for
        longer.
        """
        with self._changed:
            if self._held:
                self._park(timeout_s)
            if timeout_s > 0 and self._idle_since is None:
                self._idle_since = self._clock()
            self._changed.wait_for(lambda: self._queued or self._closed, timeout_s)
            if self._closed:
                return None
            if not self._queued:
                raise TimeoutError
            self._stop_idling()
            return self._queued.popleft()

    def hold(self) -> None:
        """Hand out nothing until `release`. What is asked for meanwhile is queued."""
        with self._changed:
            self._held = True
            self._stop_idling()

    def release(self) -> None:
        """Go on after `hold`."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def wait_parked(self, timeout_s: float) -> bool:
        """Wait, after `hold`, until the session's thread waits for the release: it has nothing
        under way. Returns False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self._parked or self._closed, timeout_s)

    def close(self) -> None:
        """Hand out nothing more, and wake the session's thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _park(self, timeout_s: float) -> None:
        """Wait for the release. Raises `TimeoutError` when it does not come in time."""
        if timeout_s <= 0:
            raise TimeoutError  # The caller settles its sends first.
        self._parked = True
        self._changed.notify_all()
        released = self._changed.wait_for(lambda: not self._held or self._closed, timeout_s)
        self._parked = False
        if not released:
            raise TimeoutError

    def _stop_idling(self) -> None:
        self._idle_s = self._idle_until_now()
        self._idle_since = None

    @property
    def idle_s(self) -> float:
        """Seconds with nothing asked for and nothing under way, until now."""
        with self._changed:
            return self._idle_until_now()

    def _idle_until_now(self) -> float:
        since = self._idle_since
        return self._idle_s + (self._clock() - since if since is not None else 0.0)
