"""Reach: which members this one may talk to, judged by their ids alone.

Ids arrive in messages, and a connection follows an id. So one rule says for every id whether it
may be followed: for claims before they are taken in, for connects before they are made, and for
whatever else a user of the mesh connects to.

- A member that advertises loopback, as every member without a key does, knows loopback only.
- Every other member takes in no loopback id, which on each host would lead to somebody else.
- With allowed networks, every other member also takes in nothing outside of them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from netmesh.core.records import host_of

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Reach:
    """The rule of one member or observer."""

    loopback: bool | None = None
    """True: loopback only; False: never loopback; None: both."""

    networks: tuple[Network, ...] = ()
    """Networks to which everything beyond loopback must belong; empty: all."""

    @classmethod
    def of(cls, me: str, networks: Sequence[Network] = ()) -> Reach:
        """The rule of a member with the id (or `host:0`) `me`."""
        ip = _literal(me)
        return cls(ip is not None and ip.is_loopback, tuple(networks))

    def allows(self, where: str) -> bool:
        """Whether `where` (`host:port`, IPv6 in brackets) may be connected to and taken in.

        A name is never allowed, because only a resolver knows where it leads. Nothing is looked
        up. EVERYWHERE allows anything.
        """
        return self == EVERYWHERE or _allows(self, where)


EVERYWHERE = Reach()
"""For machines that connect nowhere: simulations and tests."""


@lru_cache(maxsize=65536)
def _allows(reach: Reach, where: str) -> bool:
    ip = _literal(where)
    if ip is None or ip.is_unspecified or ip.is_multicast:
        return False
    if ip.is_loopback:
        return reach.loopback is not False
    if reach.loopback:
        return False
    return not reach.networks or any(ip in network for network in reach.networks)


def _literal(where: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    host = host_of(where)
    if host.startswith("[") is not host.endswith("]"):
        return None
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    # The kernel connects to the IPv4 address inside such an IPv6 address.
    return getattr(ip, "ipv4_mapped", None) or ip
