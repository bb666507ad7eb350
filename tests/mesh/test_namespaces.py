"""Members on hosts of their own: a network namespace each, joined by a bridge whose ports are cut.

Slow: suspicions run for seconds. Needs the right to make network namespaces, and iproute2.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fastest import at_most, fastest_of, took_less

from netmesh import generate_key

from .support import MemberProcess, until

pytestmark = pytest.mark.slow

HOSTS = 4

SHORT_S = 3.0
"""A cut that lasts no longer kills nobody."""


class Network:
    """A bridge in one namespace and hosts in others, all with names of this test process."""

    def __init__(self) -> None:
        self._tag = f"nm{os.getpid() % 100000}"
        self._hub = f"{self._tag}h"
        self._made: list[str] = []

    def build(self) -> None:
        self._add(self._hub)
        self._ip(self._hub, "link add br0 type bridge")
        self._ip(self._hub, "link set br0 up")
        for number in range(1, HOSTS + 1):
            host = self.host(number)
            self._add(host)
            self._ip(self._hub, f"link add p{number} type veth peer name eth0 netns {host}")
            self._ip(self._hub, f"link set p{number} master br0 up")
            self._ip(host, f"addr add {self.address(number)}/24 dev eth0")
            self._ip(host, "link set eth0 up")
            self._ip(host, "link set lo up")

    def host(self, number: int) -> str:
        return f"{self._tag}n{number}"

    def address(self, number: int) -> str:
        return f"10.99.0.{number}"

    def inside(self, number: int) -> list[str]:
        return ["ip", "netns", "exec", self.host(number)]

    def cut(self, number: int) -> None:
        self._ip(self._hub, f"link set p{number} down")

    def mend(self, number: int) -> None:
        self._ip(self._hub, f"link set p{number} up")

    def remove(self) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def _add(self, name: str) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        self._made.append(name)

    def _ip(self, namespace: str, command: str) -> None:
        subprocess.run(
            ["ip", "-n", namespace, *command.split()], check=True, capture_output=True, text=True
        )


@pytest.fixture
def network() -> Iterator[Network]:
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed (apt-get install iproute2)")
    made = Network()
    try:
        made.build()
    except (subprocess.CalledProcessError, OSError) as error:
        made.remove()
        reason = getattr(error, "stderr", b"") or error
        pytest.skip(f"network namespaces are not permitted here: {reason!r}")
    yield made
    made.remove()


@pytest.fixture
def members(network: Network, tmp_path: Path) -> Iterator[list[MemberProcess]]:
    key = generate_key()
    spawned = [
        MemberProcess(
            {
                "MESH_KEY": key,
                "MESH_SEEDS": [network.address(1), network.address(2)],
                "MESH_DIRECTORY": str(tmp_path / f"host{number}"),
            },
            {"number": number},
            log=tmp_path / "log",
            prefix=network.inside(number),
        )
        for number in range(1, HOSTS + 1)
    ]
    yield spawned
    for member in spawned:
        member.end()


def all_alive(members: list[MemberProcess]) -> bool:
    return all(list(member.statuses().values()) == ["ALIVE"] * HOSTS for member in members)


def test_a_cut_host_is_unreachable_and_heals(
    network: Network, members: list[MemberProcess]
) -> None:
    # The same seeds everywhere and nothing else: each found its own address towards them.
    assert [member.id for member in members] == [
        f"{network.address(number)}:17946" for number in range(1, HOSTS + 1)
    ]
    until(lambda: all_alive(members))
    cut, others = members[-1], members[:-1]
    network.cut(HOSTS)
    pids = [member.pid for member in members]
    with at_most(10, *pids):
        took = until(lambda: all(m.statuses()[cut.id] in ("SUSPECT", "DEAD") for m in others))
    print(f"unreachable to all after {took:.2f} s")
    with at_most(30, *pids):
        took = until(lambda: all(m.statuses()[cut.id] == "DEAD" for m in others))
    print(f"dead to all after another {took:.2f} s")
    # The cut host doubts itself first (it hears nobody), so it only suspects the others for long.
    with at_most(60, *pids):
        until(lambda: all(cut.statuses()[m.id] in ("SUSPECT", "DEAD") for m in others))
    # And among the others nobody but it is missed.
    assert all(m.statuses()[n.id] == "ALIVE" for m in others for n in others)
    network.mend(HOSTS)
    with at_most(30, *pids):
        healed = until(lambda: all_alive(members))
    print(f"healed after {healed:.2f} s")


def test_a_short_cut_kills_nobody(network: Network, members: list[MemberProcess]) -> None:
    until(lambda: all_alive(members))
    cut, others = members[-1].id, members[:-1]

    @fastest_of(5)
    def survives() -> None:
        seen: set[str] = set()
        began = time.monotonic()
        network.cut(HOSTS)
        while time.monotonic() < began + 1.5:
            seen |= {m.statuses()[cut] for m in others}
            time.sleep(0.05)
        network.mend(HOSTS)
        lasted_s = time.monotonic() - began
        until(lambda: all_alive(members))
        took_less(lasted_s, SHORT_S)
        assert "DEAD" not in seen

    survives()


def test_a_killed_process_on_another_host_is_known_in_under_a_second(
    network: Network, members: list[MemberProcess]
) -> None:
    until(lambda: all_alive(members))
    gone = members[-1].id
    members[-1].kill()
    with at_most(1.0, *(member.pid for member in members[:-1])):
        took = until(lambda: all(m.statuses()[gone] == "DEAD" for m in members[:-1]))
    print(f"known to all after {took * 1000:.0f} ms")
