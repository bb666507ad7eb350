"""Processes that this worker has caught sending wrong bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable

from netloader.discovery.candidate import Process
from netloader.identity.identity import Role


class Accusations:
    """Whom this worker accuses: it asks them no more, and says so to the mesh. Thread safe.

    A process that the operator lists is avoided by the pull alone: the operator wants it.
    """

    def __init__(self, publish: Callable[[Role, tuple[object, ...]], object]) -> None:
        """`publish` is told all that are accused on behalf of one model, oldest first, as
        `Holding.accuses` takes them."""
        self._publish = publish
        self._lock = threading.Lock()
        self._by_role: dict[Role, tuple[Process, ...]] = {}

    @property
    def processes(self) -> frozenset[Process]:
        """All that were ever accused."""
        with self._lock:
            return frozenset(process for found in self._by_role.values() for process in found)

    def add(self, role: Role, process: Process) -> None:
        """Accuse a process that was to deliver the model of `role`."""
        with self._lock:
            before = self._by_role.get(role, ())
            if process in before:
                return
            self._by_role[role] = (*before, process)
            # Within the lock: else an earlier list could be published last.
            self._publish(
                role,
                tuple(
                    {"endpoint": endpoint, "generation": generation}
                    for endpoint, generation in self._by_role[role]
                ),
            )
