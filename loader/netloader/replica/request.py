"""Who pulls, and what for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from netloader.identity.identity import Identity
from netloader.transport import Backend
from netmesh import SocketSecurity


@dataclass(frozen=True, slots=True)
class Request:
    """What a pull asks every source for."""

    identity: Identity
    """Of the weights that are wanted."""
    backend: Backend
    """What carries their bytes."""
    security: Callable[[], SocketSecurity]
    """The keys as they are now: they may be replaced while a pull runs."""
    replica: str
    """What this worker calls itself in the source's log."""
