"""How one thread stops another from receiving, and knows that nothing is written any more.

If this side aborts a group halfway through a message, Gloo leaves the waiting thread blocked until
its timeout. So `cancel` does not wait for that thread to end. It waits until the thread writes
nothing, and makes sure that the thread writes nothing once it wakes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from netloader.transport import Group


class Cancellation:
    """Thread safe. One thread receives; any thread may cancel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # Guards the two fields below.
        self._reason: str | None = None
        self._group: Group | None = None
        self._writing = threading.Lock()  # Held while the receiving thread writes to tensors.

    @property
    def reason(self) -> str | None:
        """Why this was cancelled; None when it was not."""
        return self._reason

    def guard(self, group: Group) -> None:
        """Register a group that receives into tensors. `cancel` aborts it; a group registered after
        `cancel` is aborted at once."""
        with self._lock:
            self._group = group
            reason = self._reason
        if reason is not None:
            group.abort(reason)

    @contextmanager
    def writing(self) -> Iterator[bool]:
        """Hold up `cancel` while the caller writes. Yields False when `cancel` came first: write
        nothing."""
        with self._writing:
            yield self._reason is None

    def cancel(self, reason: str) -> None:
        """Stop the receiving; the first reason counts. Once this has returned, neither the group
        nor the thread that receives from it writes anything."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
            first, group = self._reason, self._group
        if group is not None:
            # The second caller aborts too: the group may not be closed yet.
            group.abort(first)
        with self._writing:
            pass  # The thread that was writing is done.
