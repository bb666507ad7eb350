"""Chunks that a replica has asked for and not been sent, and how long it asked for nothing.

The queue can be held: then it hands out nothing, takes in what is asked for, and tells when the
session's thread has put away what it had taken before.
"""

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
        self._closed = self._held = False
        self._working = False  # Whether a chunk that was handed out may still be read.
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

        Only a caller that has sends under way asks with a timeout of 0. Any other timeout says that
        no chunk is read any more, and waiting counts as idle time, unless the queue is held. Raises
        `TimeoutError`, which says why, when nothing can be handed out in time. The time begins anew
        when the queue is held or released.
        """
        with self._changed:
            if timeout_s > 0:
                self._rest()
            while not self._waited(timeout_s):
                pass
            if self._closed:
                return None
            if self._held:
                raise TimeoutError(f"nothing could be sent for {timeout_s:g} s")
            if not self._queued:
                raise TimeoutError(f"nothing asked for in {timeout_s:g} s")
            self._stop_idling()
            self._working = True
            return self._queued.popleft()

    def hold(self) -> None:
        """Hand out nothing until `release`. What is asked for meanwhile is queued."""
        with self._changed:
            self._held = True
            self._stop_idling()
            self._changed.notify_all()

    def release(self) -> None:
        """Go on after `hold`."""
        with self._changed:
            self._held = False
            if not self._working:
                self._start_idling()
            self._changed.notify_all()

    def wait_resting(self, timeout_s: float) -> bool:
        """Wait until no chunk that was handed out is read any more. Returns False when that took
        too long, or the queue is closed before."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._working, timeout_s)
            return not self._working

    def close(self) -> None:
        """Hand out nothing more, and wake the session's thread. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _waited(self, timeout_s: float) -> bool:
        """Wait for something to hand out. Returns False when the queue was held or released
        meanwhile."""
        held = self._held

        def due() -> bool:
            return self._closed or self._held is not held or (not held and bool(self._queued))

        self._changed.wait_for(due, timeout_s)
        return self._closed or self._held is held

    def _rest(self) -> None:
        self._working = False
        self._changed.notify_all()
        if not self._held:
            self._start_idling()

    def _start_idling(self) -> None:
        if self._idle_since is None:
            self._idle_since = self._clock()

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
