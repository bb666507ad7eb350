"""Reads, every few seconds, what nobody tells: the mesh's members and counters."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from netloader.system import affinity
from netloader.telemetry import Telemetry
from netmesh import ClosedError, Member, Status

_log = logging.getLogger(__name__)

SAMPLE_S: Final = 5.0
"""Seconds between two looks; Prometheus' own interval is 15 s or more."""

Look = Callable[[], tuple[Sequence[Member], Mapping[str, int]]]
"""The members now, and all that the mesh has counted since it started."""


class Sampler:
    """Tells a `Telemetry` about the mesh, from a thread of its own."""

    def __init__(self, look: Look, telemetry: Telemetry, every_s: float = SAMPLE_S) -> None:
        self._look = look
        self._telemetry = telemetry
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"{affinity.OURS}metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        affinity.step_aside(background=True)
        while True:
            try:
                members, counters = self._look()
            except ClosedError:
                return  # The worker has left the mesh.
            self._telemetry.mesh(by_status(members), counters)
            if self._stopping.wait(self._every_s):
                return


def by_status(members: Sequence[Member]) -> dict[str, int]:
    """How many members have each status; every status is named."""
    found = Counter(member.status for member in members)
    return {status.name.lower(): found[status] for status in Status}
