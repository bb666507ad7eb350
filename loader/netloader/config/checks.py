"""Settings that are valid one by one and do not go together."""

from __future__ import annotations

from netloader.config.settings import WorkerSettings
from netloader.errors import ConfigError
from netloader.terms import UpstreamUse
from netloader.transport.sealed import missing
from netloader.transport.tcp import SealedBackend


def check(settings: WorkerSettings) -> None:
    """Raise `ConfigError` for the first contradiction."""
    _check_ports(settings)
    _check_sealed(settings)
    _check_upstream(settings)


def _check_ports(settings: WorkerSettings) -> None:
    """Raise `ConfigError` for ports that nobody could reach."""
    if settings.listen_advertise is not None and settings.listen_port is None:
        raise ConfigError(
            "LISTEN_ADVERTISE",
            settings.listen_advertise,
            "it needs LISTEN_PORT, which it stands for",
        )
    if settings.mesh_settings.port_range is None:
        return
    free = sorted({"gloo", "nccl"} & {*(settings.transports or ())})
    if free:
        raise ConfigError(
            "TRANSPORTS",
            ",".join(settings.transports or ()),
            f"{' and '.join(free)} opens ports that PORT_RANGE cannot bound: leave it out",
        )


def _check_sealed(settings: WorkerSettings) -> None:
    """Raise `ConfigError` if weights shall be encrypted and cannot be."""
    if settings.transports is None or SealedBackend.name not in settings.transports:
        return
    lacks = missing()
    if lacks is None and not settings.has_key:
        lacks = (
            "without a cluster key others can learn the secret that seals the weights: set "
            "MESH_KEY_FILE"
        )
    if lacks is not None:
        raise ConfigError("TRANSPORTS", ",".join(settings.transports), lacks)


def _check_upstream(settings: WorkerSettings) -> None:
    """Raise `ConfigError` if upstream's transfers would go around a cluster key unasked."""
    if settings.upstream is UpstreamUse.OFF or not settings.has_key or settings.upstream_insecure:
        return
    raise ConfigError(
        "UPSTREAM",
        str(settings.upstream),
        "this worker has a cluster key, and upstream's transfers go around it: leave "
        "UPSTREAM off, or also set UPSTREAM_INSECURE to allow transfers without "
        "authentication",
    )
