"""Pulls between hosts as clusters have them: behind NAT, behind firewalls, with IPv6.

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

from netloader.replica.settings import PullSettings
from netmesh import generate_key

pytestmark = pytest.mark.slow

BUDGET_S = PullSettings().peer_budget_s
CONSTANT_S = 10.0
"""Mesh start, discovery, a busy test machine, and a model of a few megabytes from storage."""

PUBLIC = "10.97.0.254"
"""Address of the machine that publishes the ports of a container."""


class Hosts:
    """Two hosts on one wire, `a` and `b`, and a container behind a third."""

    def __init__(self, folder: Path) -> None:
        self._tag = f"nl{os.getpid() % 100000}"
        self._made: list[str] = []
        self._folder = folder
        self._key = generate_key()

    def build(self) -> None:
        for name in ("a", "b"):
            self._add(name)
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
        # The kernel looks at its own addresses first, unless it is told to do so later.
        self.ip(host, "rule add pref 1000 lookup local")
        self.ip(host, "rule del pref 0")
        for number, one in enumerate(ports):
            rule = f"rule add pref {number + 1} iif eth0 ipproto tcp dport {one} blackhole"
            self.ip(host, rule)

    @contextmanager
    def workers(
        self, host: str, *settings: Mapping[str, Any], names: str = ""
    ) -> Iterator[list[dict[str, Any]]]:
        """What workers on a host say about their loads; they serve until the end."""
        common = {
            "MESH_KEY": self._key,
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

    def _run(self, *command: str) -> None:
        subprocess.run(["ip", *command], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed (apt-get install iproute2)")
    made = Hosts(tmp_path)
    try:
        made.build()
    except (subprocess.CalledProcessError, OSError) as error:
        made.remove()
        reason = getattr(error, "stderr", "") or error
        pytest.skip(f"network namespaces are not permitted here: {reason!r}")
    yield made
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


def pulled(said: list[dict[str, Any]], endpoint: str) -> None:
    (one,) = said
    assert (one["origin"], one["right"], one["not_served"]) == ("peers", True, ""), one
    assert list(one["delivered"]) == [endpoint]


def from_storage_in_time(said: list[dict[str, Any]], *words: str) -> None:
    (one,) = said
    assert (one["origin"], one["right"]) == ("storage", True), one
    assert one["seconds"] < BUDGET_S + CONSTANT_S
    assert all(any(word in reason for reason in one["skipped"]) for word in words), one["skipped"]


def test_published_ports_make_a_working_source(hosts: Hosts) -> None:
    hosts.container()
    inside = {
        "MESH_PORT": 7000,
        "MESH_ADVERTISE": f"{PUBLIC}:17000",
        "LISTEN_PORT": 7100,
        "LISTEN_ADVERTISE": 17100,
        "PORT_RANGE": "7200-7209",
    }
    data = [(port, port) for port in range(7200, 7210)]
    with (
        published(hosts, (17000, 7000), (17100, 7100), *data),
        hosts.workers("c", inside) as first,
    ):
        assert first[0]["member"] == f"{PUBLIC}:17000"
        assert (first[0]["endpoint"], first[0]["not_served"]) == (f"{PUBLIC}:17100", "")
        with hosts.workers("b", {"MESH_SEEDS": f"{PUBLIC}:17000"}) as second:
            pulled(second, f"{PUBLIC}:17100")


def test_data_ports_that_are_not_published_cost_seconds_and_are_named(hosts: Hosts) -> None:
    hosts.container()
    inside = {
        "MESH_PORT": 7000,
        "MESH_ADVERTISE": f"{PUBLIC}:7000",
        "LISTEN_PORT": 7100,
        "PORT_RANGE": "7200-7209",
    }
    hosts.drop("a", "7200-7209")
    with (
        published(hosts, (7000, 7000), (7100, 7100)),
        hosts.workers("c", inside),
        hosts.workers("b", {"MESH_SEEDS": f"{PUBLIC}:7000"}) as second,
    ):
        from_storage_in_time(second, f"its data port {PUBLIC}:72")


def test_a_firewall_that_lets_only_the_range_through(hosts: Hosts) -> None:
    ports = {"PORT_RANGE": "20000-20019"}
    for host in ("a", "b"):
        hosts.drop(host, "1024-19999", "20020-32767")  # Above are the ports of clients.
    with (
        hosts.workers("a", {"MESH_SEEDS": "10.97.0.1", **ports}) as first,
        hosts.workers("b", {"MESH_SEEDS": "10.97.0.1", **ports}) as second,
    ):
        pulled(second, first[0]["endpoint"])
        for one in (*first, *second):
            for address in (one["member"], one["endpoint"]):
                assert 20000 <= int(address.rpartition(":")[2]) <= 20019


@pytest.mark.soak
def test_one_of_24_members_whose_data_ports_are_open(hosts: Hosts) -> None:
    members = [
        {"MESH_SEEDS": "10.97.0.1:7000", "MESH_PORT": 7000 + number, "LISTEN_PORT": 7100 + number}
        | {"PORT_RANGE": f"{20000 + 10 * number}-{20009 + 10 * number}"}
        for number in range(24)
    ]
    with hosts.workers("a", *members) as sources:
        assert [one["not_served"] for one in sources] == [""] * 24
        hosts.drop("a", "20000-20129", "20140-20239")
        with hosts.workers("b", {"MESH_SEEDS": "10.97.0.1:7000"}) as second:
            pulled(second, "10.97.0.1:7113")
            assert second[0]["seconds"] < BUDGET_S


@pytest.mark.parametrize("seed", ["[fd97::1]", "nodes"])
def test_addresses_of_ipv6_alone(hosts: Hosts, seed: str) -> None:
    hosts.only_v6()
    names = "127.0.0.1 localhost\n::1 localhost\nfd97::1 nodes\nfd97::2 nodes\n"
    with (
        hosts.workers("a", {"MESH_SEEDS": seed}, names=names) as first,
        hosts.workers("b", {"MESH_SEEDS": seed}, names=names) as second,
    ):
        assert first[0]["endpoint"].startswith("[fd97::1]:")
        pulled(second, first[0]["endpoint"])


def test_a_name_with_addresses_of_both_kinds(hosts: Hosts) -> None:
    names = "127.0.0.1 localhost\n" + "".join(
        f"{address} nodes\n" for address in ("10.97.0.1", "fd97::1", "10.97.0.2", "fd97::2")
    )
    with (
        hosts.workers("a", {"MESH_SEEDS": "nodes"}, names=names) as first,
        hosts.workers("b", {"MESH_SEEDS": "nodes"}, names=names) as second,
    ):
        pulled(second, first[0]["endpoint"])


def test_members_of_other_fabrics_never_transfer(hosts: Hosts) -> None:
    seeds = {"MESH_SEEDS": "10.97.0.1"}
    with hosts.workers("a", seeds | {"FABRIC": "rail-1"}) as first:
        with hosts.workers("b", seeds | {"FABRIC": "rail-2"}) as second:
            from_storage_in_time(second, "FABRIC: mine rail-2, theirs rail-1")
        with hosts.workers("b", seeds | {"FABRIC": "rail-1"}) as third:
            pulled(third, first[0]["endpoint"])
