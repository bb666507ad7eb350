"""A source that may have what a replica needs."""

from __future__ import annotations

from dataclasses import dataclass

BY_MESH = "mesh"

Process = tuple[str, int]
"""A source's endpoint and generation: one process, not the next one that listens there."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A source that may have what this replica needs."""

    endpoint: str
    """`host:port` of its listener."""
    found_by: str
    """`BY_MESH`, or the setting that named it."""
    generation: int | None = None
    """Generation of the process behind the endpoint, as the mesh gives it; None when unknown."""
    transports: tuple[str, ...] | None = None
    """What can carry its bytes, as its advert says; None when unknown."""

    complete: bool = True
    """Whether it has everything; otherwise it is a replica that still loads."""
    near: bool = False
    """Whether it is on this worker's host, as its advert says."""
    serving: int = 0
    """How many replicas it serves, as its advert says."""

    @property
    def listed(self) -> bool:
        """Whether the operator named this source: such sources go before those of the mesh."""
        return self.found_by != BY_MESH
