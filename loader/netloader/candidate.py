"""A source that may have what a replica needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A source that may have what this replica needs."""

    endpoint: str
    """`host:port` of its listener."""
    found_by: str
    """`mesh`, or the setting that named it."""
    generation: int | None = None
    """What the mesh says the process behind the endpoint is; None when nobody told."""
