"""From seeds to addresses. Everything here may block for seconds: never call it from the gossip
thread."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from netmesh.address import Address, parse_address
from netmesh.errors import SettingsError
from netmesh.seeds import (
    NEEDS_DNSPYTHON,
    DnsSeed,
    ExecSeed,
    FileSeed,
    HostSeed,
    Seed,
    SrvSeed,
)

Lookup = Callable[[Address], list[Address]]
"""Turns a name into IP literals. Raises OSError if that fails."""

MAX_TEXT = 256 * 1024
"""Bytes read from a seed file or command: room for 4,000 long names."""


def system_lookup(address: Address) -> list[Address]:
    """Ask the operating system's resolver; an IP literal is its own answer."""
    if address.ip is not None:
        return [address]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    # A scope ("fe80::1%eth0") has a meaning only on this host, so such an address is not a contact.
    hosts = [str(entry[4][0]) for entry in found]
    return [Address(host, address.port) for host in dict.fromkeys(hosts) if "%" not in host]


def srv_targets(name: str) -> list[Address]:
    """Targets and ports of the SRV records of `name`, by priority; OSError, SettingsError."""
    try:
        import dns.exception
        import dns.resolver
    except ImportError:
        raise SettingsError("seed", f"dns+srv://{name}", NEEDS_DNSPYTHON) from None
    try:
        answer = dns.resolver.resolve(name, "SRV", lifetime=5.0, search=True)
    except dns.exception.DNSException as error:
        raise OSError(f"no SRV records for {name}: {error}") from None
    records = sorted((record.priority, str(record.target), record.port) for record in answer)
    return [Address(target.rstrip("."), port) for _, target, port in records]


@dataclass(frozen=True, slots=True)
class Resolver:
    """Finds the addresses behind a seed."""

    lookup: Lookup = system_lookup
    srv: Callable[[str], list[Address]] = srv_targets
    """Targets of the SRV records of a name; raises OSError when there are none."""

    exec_timeout_s: float = 10.0
    """A seed command that takes longer is stopped, and run again soon."""

    def resolve(self, seed: Seed, default_port: int) -> list[Address]:
        """Addresses (IP literals) behind one seed, now.

        Raises OSError when a name, file or command gives no answer, and SettingsError when the
        answer is not a list of addresses.
        """
        match seed:
            case HostSeed(address) | DnsSeed(address):
                return self.lookup(address)
            case SrvSeed(name):
                return _each(self.srv(name), self.lookup)
            case FileSeed(path):
                with path.open("rb") as file:
                    return _each(_parse_lines(file.read(MAX_TEXT), default_port), self.lookup)
            case ExecSeed(argv):
                printed = _run(argv, self.exec_timeout_s)
                return _each(_parse_lines(printed, default_port), self.lookup)


def _each(addresses: list[Address], lookup: Lookup) -> list[Address]:
    """Resolve all. A bad name among good ones is left out."""
    found: list[Address] = []
    failed: OSError | None = None
    for address in addresses:
        try:
            found += lookup(address)
        except OSError as error:
            failed = error
    if not found and failed is not None:
        raise failed
    return found


def _parse_lines(text: bytes, default_port: int) -> list[Address]:
    lines = (line.partition("#")[0].strip() for line in text.decode("utf-8", "replace").split("\n"))
    return [parse_address(line, default_port) for line in lines if line]


def _run(argv: tuple[str, ...], timeout_s: float) -> bytes:
    try:
        with contextlib.closing(_Output(argv)) as output:
            return output.read(timeout_s)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"seed command {argv[0]!r} took over {timeout_s:g} s") from None


class _Output:
    """Standard output of a command. `close` ends the command."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._name = argv[0]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def read(self, timeout_s: float) -> bytes:
        output, _ = self._process.communicate(timeout=timeout_s)
        if self._process.returncode != 0:
            raise OSError(f"seed command {self._name!r} ended with {self._process.returncode}")
        return output[:MAX_TEXT]

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
