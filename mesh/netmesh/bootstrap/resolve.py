"""From seeds to addresses. Everything here may block for seconds: never call it from the gossip
thread."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
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

_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT

_POLL_S = 0.01
"""A command that has closed its output ends at once; this is how often we look."""


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
    with contextlib.closing(_Output(argv)) as output:
        return output.read(timeout_s)


class _Output:
    """Standard output of a command. `close` ends the command, and what it has started."""

    def __init__(self, argv: tuple[str, ...]) -> None:
        self._name = argv[0]
        # A group of its own, because a shell's children outlive the shell.
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def read(self, timeout_s: float) -> bytes:
        """Whole lines, at most `MAX_TEXT` bytes. Raises OSError when the command fails or takes
        longer."""
        deadline = time.monotonic() + timeout_s
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise self._late(timeout_s)
                part = os.read(pipe, MAX_TEXT)
                if not part:
                    break
                text += part
                if len(text) > MAX_TEXT:  # more than a list of hosts has, so nobody waits for more
                    return text[:MAX_TEXT].rpartition(b"\n")[0]
        # Not reaped here: until `close` has ended its group, nobody else may get its number.
        while (ended := os.waitid(os.P_PID, self._process.pid, _PEEK)) is None:
            if time.monotonic() >= deadline:
                raise self._late(timeout_s)
            time.sleep(_POLL_S)
        if ended.si_status != 0:
            raise OSError(f"seed command {self._name!r} ended with {ended.si_status}")
        return text

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _late(self, timeout_s: float) -> TimeoutError:
        return TimeoutError(f"seed command {self._name!r} took over {timeout_s:g} s")
