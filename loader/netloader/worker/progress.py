"""Telling the mesh how far this worker's loads are, not more often than it can bear."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from netloader.identity.identity import Role
from netloader.worker.membership import Membership
from netloader.worker.pace import Pace


class Progress:
    """What one worker says of its loads. Thread safe."""

    def __init__(
        self,
        membership: Membership,
        loading: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`loading` counts the members that load now, this worker included."""
        self._membership = membership
        self._loading = loading
        self._clock = clock
        self._pace = Pace()
        self._lock = threading.Lock()

    def tell(
        self,
        role: Role,
        *,
        at_once: bool = False,
        longest_s: float = float("inf"),
        **changes: object,
    ) -> bool:
        """Announce changed fields of `Holding`. Returns False, and says nothing, where that is too
        early: call again with later values. `at_once` is for what others should not miss: a
        beginning and an end. `longest_s` is for how many seconds others can do without."""
        with self._lock:
            now = self._clock()
            if not at_once and not self._pace.allows(now, self._loading, longest_s):
                return False
            if self._membership.update(role, **changes):
                self._pace.spoke(now)
            return True
