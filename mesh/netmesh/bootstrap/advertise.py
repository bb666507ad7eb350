"""The address at which others reach this member: chosen once at start, and checked.

The first usable one counts: the operator's choice; the address that ports are bound to, if that was
set; an environment variable (`Program.host_variables`) with an address of this host; the address
from which the kernel would send towards a seed; the address from which it would send towards the
rest of the world; loopback. An unusable address is never advertised: nobody could reach a member at
`0.0.0.0`, and the member would not notice.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping, Sequence

from netmesh.address import Address, parse_address
from netmesh.bootstrap.resolve import Lookup, system_lookup
from netmesh.core.reach import Network, Reach
from netmesh.errors import SettingsError
from netmesh.settings import MeshSettings

_KEY = "MESH_ADVERTISE"
_NETWORKS = "MESH_NETWORKS"

LOOPBACK = "127.0.0.1"
_ANYWHERE = (Address("192.0.2.1", 9), Address("2001:db8::1", 9))
"""Documentation addresses. A UDP connect sends nothing; it only asks the routing table."""

_NOT_OURS = (
    "mesh: %s=%s is the address of no interface here, and is not advertised. If others reach this "
    "host at it, say so with MESH_ADVERTISE"
)

SourceOf = Callable[[Address], str | None]


def choose_host(
    settings: MeshSettings,
    environ: Mapping[str, str],
    seeds: Sequence[Address],
    *,
    remote_allowed: bool,
    source_of: SourceOf | None = None,
    lookup: Lookup = system_lookup,
    is_ours: Callable[[str], bool] | None = None,
    log: logging.Logger | None = None,
) -> Address:
    """The host to advertise, as an IP literal, with port 0 unless `settings` name one.

    `seeds` are the addresses of the seeds that resolved. `log` gets a warning for an environment
    variable that names another host's address. Raises SettingsError when the operator's
    choice is unusable or outside `MESH_NETWORKS`, when only loopback is left although a seed is
    remote, or when no address of this host is in `MESH_NETWORKS`.
    """
    source_of = source_of or udp_source
    is_ours = is_ours or is_own
    bound = settings.bind or ""
    if bound and not remote_allowed and not ipaddress.ip_address(bound).is_loopback:
        raise settings.program.needs_key("BIND", bound)
    if bound and not ipaddress.ip_address(bound).is_unspecified and not is_ours(bound):
        raise SettingsError(
            "BIND", bound, "no interface of this host has it: name an address that `ip addr` shows"
        )
    remote = [seed for seed in seeds if not seed.is_loopback]
    if settings.advertise is not None:
        address = _explicit(settings.advertise, remote, lookup, is_ours)
        if not remote_allowed and not address.is_loopback:
            raise settings.program.needs_key(_KEY, settings.advertise)
        if not address.is_loopback and not _inside(address.host, settings.networks):
            raise SettingsError(
                _KEY, settings.advertise, f"{address.host} is not in {_listed(settings)}"
            )
        return address
    if _usable(bound, remote) and _inside(bound, settings.networks):
        return Address(bound, 0)
    if not remote_allowed:
        v6_only = bool(seeds) and all(seed.is_v6 for seed in seeds)
        return Address("::1" if v6_only else LOOPBACK, 0)
    for key in settings.program.host_variables:
        host = environ.get(key, "")
        if _usable(host, remote) and _inside(host, settings.networks):
            if is_ours(host):
                return Address(host, 0)
            if log is not None:
                log.warning(_NOT_OURS, key, host)
    if bound and remote and ipaddress.ip_address(bound).is_loopback:
        raise SettingsError(
            "BIND",
            bound,
            f"only this host can reach it, but seed {remote[0]} is remote: bind an address in the "
            f"seed's network, or say with {_KEY} where a proxy takes connections for it",
        )
    if seeds and not remote:  # every seed is on this machine
        return Address(source_of(seeds[0]) or LOOPBACK, 0)
    # Towards an allowed network, the kernel sends from the address that is in it.
    allowed = [Address(str(network.network_address), 9) for network in settings.networks]
    for target in (*remote, *allowed, *_ANYWHERE):
        host = source_of(target) or ""
        outside = not _usable(host, remote) or not _inside(host, settings.networks)
        if not outside and not ipaddress.ip_address(host).is_loopback:
            return Address(host, 0)
    if settings.networks:
        raise SettingsError(
            _NETWORKS,
            _listed(settings),
            "no address of this host leads there: correct the networks, or name an address in "
            f"one of them as {_KEY}",
        )
    if remote:
        raise SettingsError(
            _KEY, "", f"no address of this host leads to the seed {remote[0]}: name one"
        )
    return Address(LOOPBACK, 0)


def is_own(host: str) -> bool:
    """Whether an address literal is one of this host's, as its kernel says."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def udp_source(target: Address) -> str | None:
    """The address from which this host would send to `target`; None without a route."""
    family = socket.AF_INET6 if target.is_v6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target.host, target.port or 9))
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _explicit(
    text: str, remote: Sequence[Address], lookup: Lookup, is_ours: Callable[[str], bool]
) -> Address:
    wanted = parse_address(text, 0)
    try:
        found = list(lookup(wanted))
    except OSError as error:
        raise _unresolved(text, error) from None
    if not found:
        raise _unresolved(text, "it has no address")
    # A name may have several. Members reach those of their own family, so the seeds decide first.
    families = {seed.is_v6 for seed in remote}
    best = min(found, key=lambda one: (one.is_v6 not in families, not is_ours(one.host)))
    address = Address(best.host, wanted.port)
    ip = address.ip
    if ip is None or ip.is_unspecified or ip.is_multicast:
        raise SettingsError(_KEY, text, f"nobody can connect to {address.host}")
    if ip.version == 6 and ip.is_link_local:
        raise SettingsError(
            _KEY,
            text,
            f"{address.host} means another host on each link: use a global or unique local address",
        )
    if ip.is_loopback and remote:
        raise SettingsError(
            _KEY,
            text,
            f"only this host can reach it, but seed {remote[0]} is remote: use an address of this "
            "host in the seed's network",
        )
    return address


def _unresolved(text: str, why: object) -> SettingsError:
    return SettingsError(
        _KEY, text, f"it does not resolve ({why}): correct DNS or /etc/hosts, or name an address"
    )


def _inside(host: str, networks: Sequence[Network]) -> bool:
    return Reach(None, tuple(networks)).allows(str(Address(host, 1)))


def _listed(settings: MeshSettings) -> str:
    return ",".join(map(str, settings.networks))


def _usable(host: str, remote: Sequence[Address]) -> bool:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    if ip.version == 6 and ip.is_link_local:
        return False
    return not (ip.is_unspecified or ip.is_multicast or (ip.is_loopback and remote))
