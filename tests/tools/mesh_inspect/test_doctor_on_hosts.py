"""`doctor` between hosts: what firewalls, NAT and loopback do is found, and nothing else.

The command runs in a network namespace, beside workers in others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fastest import HANG_S
from tests.forked import start_loader
from tests.loader.hosts import PUBLIC, Hosts, published, two_hosts

pytestmark = pytest.mark.slow

FIRST = "10.97.0.1"


@dataclass(frozen=True)
class Said:
    """What the command says."""

    status: int
    document: dict[str, Any]
    found: list[tuple[str, str, str]] = field(init=False)
    """Area, subject and words of each finding."""

    def __post_init__(self) -> None:
        findings = [
            (one["area"], one["subject"], one["what"])
            for check in self.document["checks"]
            for one in check["findings"]
        ]
        object.__setattr__(self, "found", findings)

    def summary(self, area: str) -> str:
        return next(check["summary"] for check in self.document["checks"] if check["area"] == area)


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    for name in list(os.environ):
        if name.startswith(("NETLOADER_", "KUBERNETES_", "SLURM_", "RAY_", "VLLM_", "POD_")):
            monkeypatch.delenv(name)
    with two_hosts(tmp_path) as made:
        monkeypatch.setenv("NETLOADER_MESH_KEY", made.key)
        monkeypatch.setenv("NETLOADER_MESH_DIRECTORY", str(tmp_path / "looker"))
        yield made


def inspect(hosts: Hosts, host: str, *arguments: str, **settings: str) -> tuple[int, str]:
    """The command on a host: its exit status, and what it writes."""
    with pytest.MonkeyPatch.context() as here:
        for key, value in settings.items():
            here.setenv(f"NETLOADER_{key}", value)
        module = "tests.tools.mesh_inspect.on_host"
        process = start_loader(module, hosts.name(host), *arguments, "--timeout", str(HANG_S))
    try:
        written = process.stdout.read()
        return process.wait(), written
    finally:
        process.close()


def doctor(hosts: Hosts, host: str, **settings: str) -> Said:
    status, written = inspect(hosts, host, "doctor", "-o", "json", **settings)
    return Said(status, json.loads(written))


def both_ready(hosts: Hosts, host: str, **settings: str) -> None:
    assert inspect(hosts, host, "wait", "--count", "2", **settings) == (0, "2 ready\n")


def test_a_healthy_mesh_of_two_hosts_and_two_fabrics(hosts: Hosts) -> None:
    """A member of another fabric is not asked for weights: its data port may be out of reach."""
    ports = {"MESH_PORT": 7000, "LISTEN_PORT": 7100, "FABRIC": "rail-2"}
    ports |= {"PORT_RANGE": "7200-7209"}
    hosts.drop("b", "7100-7209")
    with (
        hosts.workers("a", {"MESH_SEEDS": FIRST, "FABRIC": "rail-1"}) as first,
        hosts.workers("b", {"MESH_SEEDS": f"{FIRST}:17946", **ports}),
    ):
        both_ready(hosts, "a", MESH_SEEDS=FIRST)
        said = doctor(hosts, "a", MESH_SEEDS=FIRST, FABRIC="rail-1")
        assert (said.found, said.status) == ([], 0)
        assert "2 of 2 members reached, 1 of 1 listeners" in said.summary("ports")
        assert f"from {first[0]['member']}" in said.summary("transfer")


def test_a_healthy_mesh_of_ipv6_alone(hosts: Hosts) -> None:
    hosts.only_v6()
    with hosts.workers("a", {"MESH_SEEDS": "[fd97::1]"}) as first:
        said = doctor(hosts, "b", MESH_SEEDS="[fd97::1]")
    assert (said.found, said.status) == ([], 0)
    assert f"from {first[0]['member']}" in said.summary("transfer")
    assert said.summary("address") == "a worker here would advertise fd97::2"


def test_a_data_port_that_a_firewall_drops_is_named_beside_one_that_works(hosts: Hosts) -> None:
    seeds = {"MESH_SEEDS": f"{FIRST}:7000"}
    ports = [
        {"MESH_PORT": 7000 + n, "LISTEN_PORT": 7100 + n, "PORT_RANGE": f"72{n}0-72{n}9"}
        for n in range(2)
    ]
    hosts.drop("a", "7210-7219")
    with hosts.workers("a", *(seeds | one for one in ports)) as two:
        both_ready(hosts, "b", **seeds)
        said = doctor(hosts, "b", **seeds)
    ((area, subject, what),) = said.found
    assert (said.status, area, subject) == (1, "transfer", two[1]["member"])
    assert f"data port does not answer: {FIRST}:721" in what
    assert f"1 of 2 members sent a chunk, digest right: 4096 bytes from {two[0]['member']}"


def test_a_mesh_port_that_a_firewall_drops(hosts: Hosts) -> None:
    hosts.drop("a", "7000")
    with hosts.workers("a", {"MESH_SEEDS": f"{FIRST}:7000", "MESH_PORT": 7000}):
        said = doctor(hosts, "b", MESH_SEEDS=f"{FIRST}:7000")
    ((area, subject, what),) = said.found
    assert (said.status, area, subject) == (1, "seeds", f"seed {FIRST}:7000")
    assert "nothing came back" in what


def test_a_member_behind_nat_that_advertises_its_inner_address(hosts: Hosts) -> None:
    hosts.container()
    inside = {"MESH_PORT": 7000, "LISTEN_PORT": 7100, "PORT_RANGE": "7200-7209"}
    outside = {"MESH_ADVERTISE": f"{PUBLIC}:17000", "LISTEN_ADVERTISE": 17100}
    data = [(port, port) for port in range(7200, 7210)]
    seeds = {"MESH_SEEDS": f"{PUBLIC}:17000"}
    with published(hosts, (17000, 7000), (17100, 7100), *data):
        with hosts.workers("c", inside | {"MESH_ADVERTISE": "172.31.0.2"}):
            said = doctor(hosts, "b", **seeds)
            area, subject, what = said.found[0]
            assert (said.status, area, subject) == (1, "address", f"{PUBLIC}:17000")
            assert "it advertises 172.31.0.2:7000, where it is not reached from here" in what
        with hosts.workers("c", inside | outside):
            said = doctor(hosts, "b", **seeds)
            assert (said.found, said.status) == ([], 0)


@pytest.mark.parametrize("bound", [True, False], ids=["bound", "on loopback"])
def test_a_member_that_advertises_loopback(hosts: Hosts, bound: bool) -> None:
    settings = {"MESH_ADVERTISE": "127.0.0.1", "MESH_PORT": 7000}
    with hosts.workers("a", settings | ({"BIND": "0.0.0.0"} if bound else {})):
        said = doctor(hosts, "b", MESH_SEEDS=f"{FIRST}:7000")
    assert said.status == 1
    area, subject, what = said.found[0]
    if bound:
        assert (area, subject) == ("address", f"{FIRST}:7000")
        assert "it advertises 127.0.0.1:7000, which leads nowhere from another host" in what
    else:
        assert (area, subject) == ("seeds", f"seed {FIRST}:7000")
        (fault,) = [one for check in said.document["checks"] for one in check["findings"]]
        assert "advertises loopback" in fault["remedy"]


def test_a_host_whose_own_worker_would_advertise_loopback(hosts: Hosts) -> None:
    with hosts.workers("a", {"MESH_SEEDS": FIRST}):
        said = doctor(hosts, "b", MESH_SEEDS=FIRST, MESH_ADVERTISE="127.0.0.1")
    assert said.status == 1
    ((area, subject, what),) = said.found
    assert (area, subject) == ("address", "this host")
    assert "would advertise 127.0.0.1" in what or "MESH_ADVERTISE" in what
