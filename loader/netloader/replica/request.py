"""Who pulls, and which weights."""

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
    """Identity of the wanted weights."""
    backends: tuple[Backend, ...]
    """What can carry the bytes of the weights, best first."""
    security: Callable[[], SocketSecurity]
    """Returns the current keys, which may be replaced while a pull runs."""
    replica: str
    """Name of this worker in the source's log."""
    fabric: str = ""
    """Label of the network that this worker's transfers use; empty: none."""
    serves_at: str = ""
    """Where this worker hands out what it has while it pulls; empty: nowhere."""
    reaches: Callable[[str], bool] = lambda endpoint: True
    """Whether this worker may connect to an endpoint (`host:port`) that others name. A source that
    is within reach may not lead out of it."""

    @property
    def transports(self) -> tuple[str, ...]:
        """Names of the backends, best first."""
        return tuple(backend.name for backend in self.backends)
