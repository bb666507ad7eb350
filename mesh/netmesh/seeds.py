"""Seeds: the first contacts that an operator names, as text and as values.

==========================  =====================================================================
`host`, `host:port`         one machine; without a port, the well-known one
`[ipv6]`, `[ipv6]:port`     the same for IPv6
`dns://name[:port]`         every address of a name (a headless service)
`dns+srv://name`            targets and ports of SRV records (needs dnspython)
`file:path`                 one address a line, `#` comments; read again every time
`exec:command args`         a program that prints such lines; no shell is involved
==========================  =====================================================================
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netmesh.address import Address, parse_address
from netmesh.errors import SettingsError

NEEDS_DNSPYTHON = "SRV records need dnspython: pip install dnspython, or use dns://name"


@dataclass(frozen=True, slots=True)
class HostSeed:
    """One machine by name or IP literal."""

    address: Address


@dataclass(frozen=True, slots=True)
class DnsSeed:
    """Every A/AAAA record of a name, all on one port."""

    address: Address


@dataclass(frozen=True, slots=True)
class SrvSeed:
    """SRV records: targets with ports of their own."""

    name: str


@dataclass(frozen=True, slots=True)
class FileSeed:
    """A file of addresses, one a line."""

    path: Path


@dataclass(frozen=True, slots=True)
class ExecSeed:
    """A command that prints addresses, one a line."""

    argv: tuple[str, ...]


Seed = HostSeed | DnsSeed | SrvSeed | FileSeed | ExecSeed


def parse_seed(
    text: str, default_port: int, find: Callable[[str], object] = importlib.util.find_spec
) -> Seed:
    """Parse one seed. Raises SettingsError naming the text and what is allowed.

    `find` returns None for a Python package that is not installed.
    """
    if text.startswith("dns+srv://"):
        name = text.removeprefix("dns+srv://")
        parse_address(name, default_port)  # refuses a text that is not a name
        if find("dns") is None:
            raise SettingsError("seed", text, NEEDS_DNSPYTHON)
        return SrvSeed(name)
    if text.startswith("dns://"):
        return DnsSeed(parse_address(text.removeprefix("dns://"), default_port))
    if text.startswith("file:"):
        path = text.removeprefix("file:")
        if not path:
            raise SettingsError("seed", text, "use file:/path/to/list")
        return FileSeed(Path(path).expanduser())
    if text.startswith("exec:"):
        try:
            argv = tuple(shlex.split(text.removeprefix("exec:")))
        except ValueError as error:
            raise SettingsError("seed", text, f"not a command line: {error}") from None
        if not argv:
            raise SettingsError("seed", text, "use exec:command args")
        return ExecSeed(argv)
    if "://" in text:
        raise SettingsError(
            "seed",
            text,
            "unknown scheme; use host, host:port, [ipv6]:port, dns://name, dns+srv://name, "
            "file:path or exec:command",
        )
    return HostSeed(parse_address(text, default_port))
