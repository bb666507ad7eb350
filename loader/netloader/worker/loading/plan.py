"""Before the model exists: which weights it needs, and whether they can be shared at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

from netloader.checkpoint.wanted import Wanted
from netloader.discovery.advert import for_older_members
from netloader.errors import ConfigError, TransportError
from netloader.identity.identity import Identity
from netloader.replica.pull import Delivery
from netloader.transport import Backend, backends_for
from netloader.worker.loading.ahead import read_ahead
from netloader.worker.loading.failures import Failed, Step, attempt
from netloader.worker.loading.request import LoadRequest


@dataclass(frozen=True, slots=True)
class Tried:
    """What has been tried so far, including tries with a model that had to be built again."""

    skipped: tuple[str, ...] = ()
    """Sources that failed or were not used, in order, each with its reason."""
    deliveries: tuple[Delivery, ...] = ()
    """What each source contributed."""
    waited: tuple[tuple[str, float], ...] = ()
    """For whom this worker has waited while they read storage, and for how many seconds."""

    @property
    def transports(self) -> tuple[str, ...]:
        """What has carried weights from peers, each once."""
        return tuple(dict.fromkeys(one.transport for one in self.deliveries))

    def but(self, *reasons: str) -> Tried:
        """A copy with more reasons."""
        return replace(self, skipped=self.skipped + reasons)

    @property
    def after(self) -> str:
        """For whom it has waited, as the end of a sentence; empty where it has not."""
        whom = ", ".join(f"{seconds:.1f} s for {name}" for name, seconds in self.waited)
        return f", after waiting {whom} to read storage" if whom else ""


@dataclass(frozen=True, slots=True)
class Planned:
    """Weights that can be shared, as far as the worker knows before the model is built."""

    request: LoadRequest
    identity: Identity
    backends: tuple[Backend, ...]
    """What can carry the bytes of the weights, best first."""
    tried: Tried = Tried()
    from_peers: bool = True
    """Whether peers may fill the model. False once a pull has spoilt a model."""


@dataclass(frozen=True, slots=True)
class Unshared:
    """A model that is neither filled from peers nor served to them, with what is known about it."""

    request: LoadRequest
    reason: str
    tried: Tried = Tried()
    identity: Identity | None = None
    wanted: Wanted | None = None
    absent: str = ""
    """Why its files are not on this host; empty when they are, or nobody has looked."""


@dataclass(frozen=True, slots=True)
class BuildAgain:
    """A model that lost some of its values: it must be built again, for another plan."""

    plan: Planned | Unshared
    reason: str


def plan(request: LoadRequest) -> Planned | Unshared:
    """Announce in the mesh that these weights are being loaded, and listen for replicas that want
    them.

    Raises `ConfigError` for a `LISTEN_PORT` that leaves the range.
    """
    announced = attempt(Step.PLAN, lambda: _announce(request))
    if isinstance(announced, Failed):
        return Unshared(request, announced.reason)
    identity, backends = announced
    read_ahead(request, identity)
    return Planned(request, identity, backends)


def _announce(request: LoadRequest) -> tuple[Identity, tuple[Backend, ...]]:
    """Returns the announced identity, and what can carry bytes of the model's device."""
    worker, role = request.worker, request.role
    identity, backends = request.engine.identity(), _backends(request)
    transports = tuple(backend.name for backend in backends)
    source = worker.sources.listen(role, request.engine.device_type())
    worker.membership.announce(
        role=role,
        state="loading",
        names=identity.names.travelling(),
        identity=identity.digest,
        fields=identity.fields(),
        content={},
        endpoint=source.endpoint if source is not None else "",
        backend=for_older_members(transports),
        fabric=worker.config.fabric,
        transports=transports,
        chunk_bytes=worker.config.chunk_bytes,
    )
    return identity, backends


def _backends(request: LoadRequest) -> tuple[Backend, ...]:
    """What may carry bytes of the model's device. Raises `ConfigError`."""
    allowed = request.worker.config.transports
    try:
        confined = request.worker.membership.confined
        return backends_for(request.engine.device_type(), allowed, confined=confined)
    except TransportError as error:
        raise ConfigError("TRANSPORTS", ",".join(allowed or ()), str(error)) from None
