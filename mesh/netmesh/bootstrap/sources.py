"""Collects the places to ask: explicit seeds, the scheduler's seeds, the same-host directory.

Also keeps a member without a key from following any that lead off loopback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from netmesh.address import Address
from netmesh.bootstrap.directory import HostDirectory
from netmesh.bootstrap.environment import scheduler_seeds
from netmesh.bootstrap.finder import ContactSource
from netmesh.bootstrap.resolve import Resolver
from netmesh.core.reach import Network, Reach
from netmesh.errors import MeshError, SettingsError
from netmesh.seeds import DnsSeed, HostSeed, Seed, SrvSeed, parse_seed
from netmesh.settings import MeshSettings

RESOLVE_S = 2.0
"""How long a start waits for its seeds' addresses before it chooses its own without theirs."""

FEW_HOSTS = 16
"""With up to so many hosts behind a seed, each is asked at all ports of the mesh."""

_NO_PORT = 0
"""Port of a seed that names none."""

_NOT_MET = "not looked into, so members on this host do not meet there (seeds still work)"


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Where one member (or observer) looks for others."""

    seeds: tuple[Seed, ...]
    """The explicit seeds, else those that the scheduler knows."""

    directory: HostDirectory
    ports: tuple[int, ...]
    """Where a member may listen on the host of a seed that names no port."""

    remote_allowed: bool
    resolver: Resolver
    networks: tuple[Network, ...] = ()
    """Networks that contacts beyond loopback must be in; empty: all."""

    @classmethod
    def of(
        cls,
        settings: MeshSettings,
        environ: Mapping[str, str],
        log: logging.Logger,
        *,
        remote_allowed: bool,
        resolver: Resolver | None = None,
    ) -> Bootstrap:
        """Read settings and environment.

        Raises SettingsError, also for a remote seed without a key.
        """
        ports = settings.well_known_ports
        program = settings.program
        directory = HostDirectory(settings.host_directory(environ), settings.name)
        resolver = resolver or Resolver()
        explicit = tuple(parse_seed(text, _NO_PORT) for text in settings.seeds)
        if not remote_allowed:
            for seed, text in zip(explicit, settings.seeds, strict=True):
                if _leaves_host(seed):
                    raise program.needs_key("MESH_SEEDS", text)
            return cls(explicit, directory, ports, remote_allowed, resolver)
        if explicit:
            return cls(explicit, directory, ports, remote_allowed, resolver, settings.networks)
        service = settings.kubernetes_service or program.service
        try:
            found = scheduler_seeds(environ, port=_NO_PORT, service=service)
        except SettingsError as error:  # a scheduler wrote this, not the operator: go on without it
            log.warning("mesh: no seeds from the scheduler: %s", error)
            found = ()
        if found:
            log.info("mesh: %d seeds from the scheduler's environment", len(found))
        return cls(found, directory, ports, remote_allowed, resolver, settings.networks)

    def accepts(self, address: Address, mine: Address | None = None) -> bool:
        """Whether `address` may become a contact of a member that advertises `mine`.

        A member has one address, so a name's addresses of the other family lead nowhere.
        """
        if not self.reach(mine).allows(str(address)):
            return False
        return mine is None or address.is_v6 == mine.is_v6

    def reach(self, mine: Address | None = None) -> Reach:
        """Whom a member that advertises `mine`, or an observer, may talk to."""
        if not self.remote_allowed:
            return Reach(loopback=True)
        if mine is None:
            return Reach(None, self.networks)
        return Reach.of(str(mine), self.networks)

    def sources(
        self, announce: Callable[[], Address] | None = None, *, on_this_host: bool = True
    ) -> list[ContactSource]:
        """One source for each seed, and with `on_this_host` one for the directory.

        A member passes what tells its address as `announce`; then every round writes its entry and
        sweeps dead ones away. An observer passes None; then nothing on this host is created,
        written or removed.
        """

        def mine() -> Address | None:
            return None if announce is None else announce()

        def asker(seed: Seed) -> Callable[[], list[Address]]:
            # All hosts of a deployment often have the same seeds, which then include themselves.
            return lambda: [found for found in self._resolve(seed) if found != mine()]

        made = [ContactSource(_name(seed), asker(seed)) for seed in self.seeds]

        def meet() -> list[Address]:
            try:
                if announce is not None:
                    self.directory.announce(announce())
                return self.directory.contacts()
            except (OSError, SettingsError) as error:
                raise OSError(f"{_NOT_MET}: {error}") from None

        return (
            [*made, ContactSource("same-host directory", meet, local=True)]
            if on_this_host
            else made
        )

    def _resolve(self, seed: Seed) -> list[Address]:
        """Where members may listen behind a seed."""
        found = self.resolver.resolve(seed, _NO_PORT)
        named = [address for address in found if address.port != _NO_PORT]
        hosts = [address.host for address in found if address.port == _NO_PORT]
        # Another mesh or program may have been first on a host. Of many hosts, one surely has a
        # member on the usual port.
        ports = self.ports if len(hosts) <= FEW_HOSTS else self.ports[:1]
        return named + [Address(host, port) for port in ports for host in hosts]

    def resolve_now(self, timeout_s: float = RESOLVE_S) -> list[Address]:
        """Addresses of the seeds that resolve within `timeout_s`. Blocks no longer than that."""
        found: list[Address] = []

        def ask(seed: Seed) -> None:
            try:
                found.extend(self._resolve(seed))
            except (OSError, MeshError):
                return  # the finder asks again, and logs the failure

        threads = [threading.Thread(target=ask, args=(seed,), daemon=True) for seed in self.seeds]
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return list(found)


def _leaves_host(seed: Seed) -> bool:
    """True if the seed surely leads off this host; answers of files and commands are filtered."""
    if isinstance(seed, HostSeed | DnsSeed):
        return not seed.address.is_loopback
    return isinstance(seed, SrvSeed)


def _shown(address: Address) -> str:
    return str(address) if address.port != _NO_PORT else address.host


def _name(seed: Seed) -> str:
    match seed:
        case HostSeed(address):
            return f"seed {_shown(address)}"
        case DnsSeed(address):
            return f"seed dns://{_shown(address)}"
        case SrvSeed(name):
            return f"seed dns+srv://{name}"
        case _:
            return f"seed {type(seed).__name__.removesuffix('Seed').lower()}"
