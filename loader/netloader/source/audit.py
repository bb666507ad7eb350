"""Who is at fault when a replica reports a chunk whose digest is not the promised one.

Either the bytes were damaged on the way or at the replica, or this source's weights have changed
since they were loaded. Something then changed them without notice: a weight update, or a kernel
that writes where it should not. Reading the chunk once more shows which. A source whose weights
have changed must not serve them.

Replicas cannot make the audit read much: one chunk at a time, with a pause after each. Complaints
that come meanwhile are dropped; a replica that receives changed bytes complains again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from netloader.source.offer import CurrentOffer, Offer
from netloader.system import affinity
from netloader.system.threads import TransferThread, use_device
from netloader.weights import digests
from netloader.weights.capture import Weights
from netloader.weights.manifest import Chunk

_log = logging.getLogger(__name__)

CHANGED = "its weights have changed since they were loaded"


class Audit:
    """Reads chunks that replicas complain about, in threads of its own.

    `accuse` belongs to the source's thread; any thread may call `settle`.
    """

    def __init__(
        self,
        current: CurrentOffer,
        on_changed: Callable[[Offer], None],
        pause_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        read: Callable[[Weights, Chunk], bytes] = digests.of_chunk,
    ) -> None:
        """Only chunks of the current offer are read.

        `on_changed` is called from the audit's thread when a chunk is not what was promised.
        `pause_s` lies between two readings; `read` returns the digest of a chunk as it is now.
        """
        self._current = current
        self._on_changed = on_changed
        self._pause_s = pause_s
        self._clock = clock
        self._read = read
        self._last = float("-inf")
        self._reading = threading.Lock()  # Held from the reading until its consequences are done.

    def accuse(self, replica: str, offer: Offer, chunk: int) -> bool:
        """Start checking a chunk that a replica has found wrong. Returns False when there is no
        check now. Does not block."""
        now = self._clock()
        if now - self._last < self._pause_s or self._reading.locked():
            _log.info("%.200r complains about chunk %d too: not checked now", replica, chunk)
            return False
        self._last = now
        TransferThread(lambda: self._look(replica, offer, chunk), "netloader-audit").start()
        return True

    def settle(self, timeout_s: float) -> bool:
        """Wait until no weights are being read. Returns False when that took too long. A check that
        begins later finds that the weights are no longer offered."""
        if not self._reading.acquire(timeout=timeout_s):
            return False
        self._reading.release()
        return True

    def _look(self, replica: str, offer: Offer, chunk: int) -> None:
        affinity.step_aside(background=True)
        with self._reading:
            if self._current.now is not offer:
                return
            try:
                use_device(offer.weights.device)
                same = self._read(offer.weights, offer.chunks[chunk]) == offer.digests[chunk]
            except Exception:  # noqa: BLE001
                # Unreadable bytes are not served either: any session that tries fails.
                _log.exception("chunk %d cannot be read to check it", chunk)
                return
            if same:
                _log.warning(
                    "%.200r received chunk %d with a wrong digest, and mine is right: its bytes "
                    "are damaged on the way, or at that replica",
                    replica,
                    chunk,
                )
                return
            _log.error("chunk %d (complaint of %.200r): %s", chunk, replica, CHANGED)
            # Still under the lock: a withdrawal that comes meanwhile has the last word.
            self._on_changed(offer)
