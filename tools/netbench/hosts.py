"""Hosts of their own on one machine: a network namespace each, joined by a bridge.

What a host sends can be limited to a rate, as a network card would. Everything has a name with this
process's id in it and is removed when the context ends. Needs root, and iproute2.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from types import TracebackType
from typing import Self

_BURST = "256kb"
"""What may leave at once: a few segments as large as the kernel hands down."""

_LATENCY = "100ms"
"""Of the queue: TCP finds the rate without losing much."""

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
"""iproute2 is where root looks for programs, and not everybody else."""

_RATE = re.compile(r"([0-9]{1,6})([kmg])bit")
_BITS = {"k": 10**3, "m": 10**6, "g": 10**9}


class HostsError(Exception):
    """This machine does not let us make hosts."""


class RateError(ValueError):
    """Not a rate."""


def bits_per_second(rate: str) -> int:
    """Of a rate as `tc` writes it: 400mbit. Raises `RateError`."""
    match = _RATE.fullmatch(rate)
    if match is None or int(match[1]) == 0:
        raise RateError(f"{rate!r} is not a rate like 400mbit or 1gbit")
    return int(match[1]) * _BITS[match[2]]


class Hosts:
    """Hosts numbered from 1, each with an address."""

    def __init__(self, count: int) -> None:
        """Make them. Raises `HostsError`, and leaves nothing behind then."""
        for tool in ("ip", "tc"):
            if shutil.which(tool, path=_PATH) is None:
                raise HostsError(f"`{tool}` is not installed: it is part of iproute2")
        if os.geteuid() != 0:
            raise HostsError("hosts of their own are network namespaces: making them needs root")
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
        """What to put before a command to run it on this host."""
        ip = shutil.which("ip", path=_PATH) or "ip"
        return (ip, "netns", "exec", self._name(number))

    def limit(self, number: int, rate: str) -> None:
        """Let the host send no faster than this."""
        shape = f"root tbf rate {rate} burst {_BURST} latency {_LATENCY}"
        _run("tc", "-n", self._name(number), *f"qdisc add dev eth0 {shape}".split())

    def cut(self, number: int) -> None:
        """Unplug the host: nothing comes from it or reaches it, and nobody is told."""
        self._ip(self._hub, f"link set p{number} down")

    def remove(self) -> None:
        """Take everything away again. Idempotent."""
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
        # Noted first: a signal may come between the two.
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
