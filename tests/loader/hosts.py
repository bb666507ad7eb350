"""Hosts as clusters have them: behind NAT, behind firewalls, with IPv6.

Each host is a network namespace. The firewall is a table of routing rules that drops what comes to
some ports; NAT is a process that forwards published ports, as Docker's does. Needs the right to
make namespaces, and iproute2.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.forked import start_loader

from netmesh import generate_key

PUBLIC = "10.97.0.254"
"""Address of the machine that publishes the ports of a container."""


class Hosts:
    """Two hosts on one wire, `a` and `b`, and a container behind a third."""

    def __init__(self, folder: Path) -> None:
        self._tag = f"nl{os.getpid() % 100000}"
        self._made: list[str] = []
        self._folder = folder
        self.key = generate_key()

    def build(self) -> None:
        for name in ("a", "b"):
            self._add(name)
        self.wire()

    def wire(self) -> None:
        """Lay the wire between `a` and `b`."""
        self.ip("a", f"link add eth0 type veth peer name eth0 netns {self.name('b')}")
        for number, name in enumerate(("a", "b"), 1):
            self.ip(name, f"addr add 10.97.0.{number}/24 dev eth0")
            self.ip(name, f"addr add fd97::{number}/64 dev eth0 nodad")
            self.ip(name, "link set eth0 up")

    def container(self) -> None:
        """Put a host `c` behind `a`: others reach its ports at `PUBLIC`, which `c` does not
        have."""
        self._add("c")
        self.ip("a", f"link add in0 type veth peer name eth0 netns {self.name('c')}")
        self.ip("a", "addr add 172.31.0.1/24 dev in0")
        self.ip("a", f"addr add {PUBLIC}/24 dev eth0")
        self.ip("a", "link set in0 up")
        self.ip("c", "addr add 172.31.0.2/24 dev eth0")
        self.ip("c", "link set eth0 up")
        self.ip("c", "route add default via 172.31.0.1")

    def name(self, host: str) -> str:
        return f"{self._tag}{host}"

    def only_v6(self) -> None:
        for number, name in enumerate(("a", "b"), 1):
            self.ip(name, f"addr del 10.97.0.{number}/24 dev eth0")

    def drop(self, host: str, *ports: str) -> None:
        """Drop what comes to these ports of a host, as a firewall does that says nothing."""
        self._filter(host, *(f"ipproto tcp dport {one}" for one in ports))

    def cut_off(self, host: str) -> None:
        """Drop all that comes over TCP, connections that stand included."""
        self._filter(host, "ipproto tcp")

    def received(self, host: str) -> int:
        """Bytes that have come over its wire."""
        told = self._run("-n", self.name(host), "-s", "-j", "link", "show", "eth0")
        return int(json.loads(told)[0]["stats64"]["rx"]["bytes"])

    def _filter(self, host: str, *what: str) -> None:
        # The kernel looks at its own addresses first, unless it is told to do so later.
        self.ip(host, "rule add pref 1000 lookup local")
        self.ip(host, "rule del pref 0")
        for number, one in enumerate(what):
            self.ip(host, f"rule add pref {number + 1} iif eth0 {one} blackhole")

    def narrow(self) -> None:
        """Make the way from `c` to `b` narrower than either knows: large packets are dropped, and
        the firewall of `c` drops the messages that say so."""
        self._run("netns", "exec", self.name("a"), "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.ip("b", "route add 172.31.0.0/24 via 10.97.0.1")
        self.ip("a", "link set eth0 mtu 1280")
        self._filter("c", "ipproto icmp")

    @contextmanager
    def workers(
        self, host: str, *settings: Mapping[str, Any], names: str = ""
    ) -> Iterator[list[dict[str, Any]]]:
        """What workers on a host say about their loads; they serve until the end."""
        common = {
            "MESH_KEY": self.key,
            "MESH_DIRECTORY": str(self._folder / host),
            "DISCOVERY_TIMEOUT": 5,
        }
        hosts = "-"
        if names:
            (self._folder / "hosts").write_text(names)
            hosts = str(self._folder / "hosts")
        arguments = [json.dumps(common | dict(one)) for one in settings]
        module = "tests.loader.host_process"
        with start_loader(module, self.name(host), hosts, *arguments) as process:
            try:
                said = []
                for _ in settings:
                    line = process.stdout.readline()
                    assert line, "the host ended"
                    said.append(json.loads(line))
                for one in said:
                    print(f"{host}: {one['origin']} in {one['seconds']:.2f} s at {one['endpoint']}")
                yield said
            finally:
                process.kill()

    def remove(self) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def ip(self, host: str, command: str) -> None:
        self._run("-n", self.name(host), *command.split())

    def _add(self, host: str) -> None:
        self._run("netns", "add", self.name(host))
        self._made.append(self.name(host))
        self.ip(host, "link set lo up")

    def _run(self, *command: str) -> str:
        done = subprocess.run(["ip", *command], check=True, capture_output=True, text=True)
        return done.stdout


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Skips the test where it may not make namespaces."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed (apt-get install iproute2)")
    made = Hosts(folder)
    try:
        made.build()
    except (subprocess.CalledProcessError, OSError) as error:
        made.remove()
        reason = getattr(error, "stderr", "") or error
        pytest.skip(f"network namespaces are not permitted here: {reason!r}")
    try:
        yield made
    finally:
        made.remove()


_FORWARD = """
import asyncio, sys

async def pump(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()

async def main(inside, pairs):
    def to(port):
        async def one(reader, writer):
            try:
                there = await asyncio.open_connection(inside, port)
            except OSError:
                writer.close()
                return
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        return one
    for public, private in pairs:
        await asyncio.start_server(to(private), sys.argv[1], public)
    print("ready", flush=True)
    await asyncio.Event().wait()

pairs = [tuple(map(int, one.split(":"))) for one in sys.argv[3:]]
asyncio.run(main(sys.argv[2], pairs))
"""


@contextmanager
def published(hosts: Hosts, *ports: tuple[int, int]) -> Iterator[None]:
    """Forward (public port, port inside) from `PUBLIC` to the container."""
    pairs = [f"{public}:{private}" for public, private in ports]
    command = ["ip", "netns", "exec", hosts.name("a"), sys.executable, "-c", _FORWARD]
    with subprocess.Popen(
        [*command, PUBLIC, "172.31.0.2", *pairs], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.kill()
