"""Separate hosts on one machine: network namespaces, joined by a bridge.

A host's sending can be limited to a rate, as by a network card. All names contain this process's
id, and everything is removed when the context ends. Needs root and iproute2.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from types import TracebackType
from typing import Self

_BURST = "256kb"
"""Bytes that may leave at once: a few segments of the size that the kernel hands down."""

_LATENCY = "100ms"
"""Latency of the queue, at which TCP finds the rate without much loss."""

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
"""Folders of root's search path, where iproute2 is. Other users may not have them."""

_RATE = re.compile(r"([0-9]{1,6})([kmg])bit")
_BITS = {"k": 10**3, "m": 10**6, "g": 10**9}


class HostsError(Exception):
    """This machine does not allow us to make hosts."""


class RateError(ValueError):
    """Not a rate."""


def bits_per_second(rate: str) -> int:
    """Bits per second of a rate in `tc`'s notation: 400mbit. Raises `RateError`."""
    match = _RATE.fullmatch(rate)
    if match is None or int(match[1]) == 0:
        raise RateError(f"{rate!r} is not a rate like 400mbit or 1gbit")
    return int(match[1]) * _BITS[match[2]]


class Hosts:
    """Hosts numbered from 1, each with an address."""

    def __init__(self, count: int) -> None:
        """Make the hosts. Raises `HostsError`, and then leaves nothing behind."""
        for tool in ("ip", "tc"):
            if shutil.which(tool, path=_PATH) is None:
                raise HostsError(f"`{tool}` is not installed: it is part of iproute2")
        if os.geteuid() != 0:
            raise HostsError("separate hosts are network namespaces: making them needs root")
        self._tag = f"nb{os.getpid()}"
        self._hub = f"{self._tag}hub"
        self._made: list[str] = []
        try:
            self._make(count)
        except BaseException:
            self.remove()
            raise

    def address(self, number: int) -> str:
        return f"10.99.0.{number}"

    def inside(self, number: int) -> tuple[str, ...]:
        """Prefix that runs a command on this host."""
        ip = shutil.which("ip", path=_PATH) or "ip"
        return (ip, "netns", "exec", self._name(number))

    def limit(self, number: int, rate: str) -> None:
        """Let the host send no faster than this."""
        shape = f"root tbf rate {rate} burst {_BURST} latency {_LATENCY}"
        _run("tc", "-n", self._name(number), *f"qdisc add dev eth0 {shape}".split())

    def limit_both(self, number: int, rate: str) -> None:
        """Let the host neither send nor receive faster than this, as a full-duplex link."""
        self.limit(number, rate)
        shape = f"root tbf rate {rate} burst {_BURST} latency {_LATENCY}"
        _run("tc", "-n", self._hub, *f"qdisc add dev p{number} {shape}".split())

    def cut(self, number: int) -> None:
        """Unplug the host without notice: nothing leaves or reaches it any more."""
        self._ip(self._hub, f"link set p{number} down")

    def remove(self) -> None:
        """Remove everything. Idempotent."""
        while self._made:
            subprocess.run(
                ["ip", "netns", "del", self._made.pop()],
                capture_output=True,
                check=False,
                env=_environment(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()

    def _make(self, count: int) -> None:
        hub = self._hub
        self._namespace(hub)
        self._ip(hub, "link add br0 type bridge")
        self._ip(hub, "link set br0 up")
        for number in range(1, count + 1):
            host = self._name(number)
            self._namespace(host)
            self._ip(hub, f"link add p{number} type veth peer name eth0 netns {host}")
            self._ip(hub, f"link set p{number} master br0 up")
            self._ip(host, f"addr add {self.address(number)}/24 dev eth0")
            self._ip(host, "link set eth0 up")
            self._ip(host, "link set lo up")

    def _name(self, number: int) -> str:
        return f"{self._tag}n{number}"

    def _namespace(self, name: str) -> None:
        # Noted first, because a signal may come between the two.
        self._made.append(name)
        _run("ip", "netns", "add", name)

    def _ip(self, namespace: str, command: str) -> None:
        _run("ip", "-n", namespace, *command.split())


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": _PATH}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode != 0:
        raise HostsError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
