"""Processes that this worker has caught sending wrong bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from netloader.discovery.candidate import Process
from netloader.identity.identity import Role


class Accusations:
    """The processes that this worker accuses: it no longer asks them, and tells the mesh. Thread
    safe.

    Only the pull itself avoids an accused process that the operator lists, because the operator
    wants that process used.
    """

    def __init__(self, publish: Callable[[Role, tuple[object, ...]], object]) -> None:
        """`publish` is told all processes accused on behalf of one model, oldest first, as
        `Holding.accuses` takes them."""
        self._publish = publish
        self._lock = threading.Lock()
        self._by_role: dict[Role, tuple[Process, ...]] = {}

    @property
    def processes(self) -> frozenset[Process]:
        """All processes that were ever accused."""
        with self._lock:
            return frozenset(process for found in self._by_role.values() for process in found)

    def add(self, role: Role, process: Process) -> None:
        """Accuse a process that should have delivered the model of `role`."""
        with self._lock:
            before = self._by_role.get(role, ())
            if process in before:
                return
            self._by_role[role] = (*before, process)
            # Within the lock, because an earlier list could otherwise be published last.
            self._publish(
                role,
                tuple(
                    {"endpoint": endpoint, "generation": generation}
                    for endpoint, generation in self._by_role[role]
                ),
            )
