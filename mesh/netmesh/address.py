"""Addresses as operators write them and as members are named: `host:port`, `[v6]:port`."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from netmesh.core.records import MemberId
from netmesh.errors import SettingsError

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_ALLOWED = "use host, host:port, [ipv6] or [ipv6]:port with a port of 1..65535"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host (name or IP literal, without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address, None when it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    @property
    def is_loopback(self) -> bool:
        """True for 127/8, ::1 and the name `localhost`, which never leave the machine."""
        ip = self.ip
        return self.host == "localhost" if ip is None else ip.is_loopback

    @property
    def is_v6(self) -> bool:
        return ":" in self.host

    def member_id(self) -> MemberId:
        return MemberId(str(self))


def parse_address(text: str, default_port: int) -> Address:
    """Parse an operator's text; a missing port becomes `default_port`.

    Raises SettingsError naming the text and what is allowed.
    """
    host, port = _split(text.strip())
    if not host:
        raise SettingsError("address", text, _ALLOWED)
    if ":" in host:
        try:
            host = str(ipaddress.IPv6Address(host))
        except ValueError:
            raise SettingsError("address", text, f"not an IPv6 address; {_ALLOWED}") from None
    elif re.fullmatch(r"[0-9.]+", host):
        try:
            host = str(ipaddress.IPv4Address(host))
        except ValueError:
            raise SettingsError("address", text, f"not an IPv4 address; {_ALLOWED}") from None
    elif len(host) > 253 or not _NAME.fullmatch(host):
        raise SettingsError("address", text, f"not a host name; {_ALLOWED}")
    if port is None:
        return Address(host, default_port)
    if not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= 65535:
        raise SettingsError("address", text, f"bad port; {_ALLOWED}")
    return Address(host, int(port))


Locate: TypeAlias = Callable[[MemberId], Address | None]
"""The address behind a member's id, or None if nobody may connect there."""


def numeric_address(member: MemberId) -> Address | None:
    """The address behind a member's id; None unless the id is an IP literal with a port.

    Ids arrive from the network; a name would make ZeroMQ's I/O thread wait for a resolver.
    """
    try:
        address = parse_address(member, 0)
    except SettingsError:
        return None
    ip = address.ip
    if ip is None or ip.is_unspecified or ip.is_multicast or address.port == 0:
        return None
    if "%" in address.host and not _zone_is_here(address.host, link_local=ip.is_link_local):
        return None
    return address


def _zone_is_here(host: str, *, link_local: bool) -> bool:
    """False for a zone that the C library would take for part of a name and ask a resolver for."""
    zone = host.partition("%")[2]
    if not link_local:
        return False
    if zone.isdigit():
        return True
    try:
        socket.if_nametoindex(zone)
    except (OSError, ValueError):
        return False
    return True


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return "", None
        return host, rest[1:] if rest else None
    if text.count(":") > 1:  # an IPv6 literal without brackets cannot carry a port
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None
