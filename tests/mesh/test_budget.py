"""What a quiet mesh costs the network: connects, counted by the kernel of a host of its own, and
lookups of names, counted in its members.

Slow: ten interpreters start, and a rate needs time. Needs the right to make network namespaces.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support import MemberProcess, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MEMBERS, DEAD = 10, 3
WINDOW_S = 15.0
MOST_PER_S = 0.5
"""Three dead are looked for three times a minute, by all together: 0.05/s. Each member that pinged
each of them over links that connect again made 6/s."""

MOST_LOOKUPS = 4
"""Names that seven members may ask for in a window: they share a lookup every 15 s at first, then
fewer. If each asked for itself, 7 would be asked for."""


@pytest.fixture
def host() -> Iterator[list[str]]:
    """How to run a command on a host of this test's own."""
    if shutil.which("ip") is None:
        pytest.skip("iproute2 is not installed (apt-get install iproute2)")
    name = f"nmb{os.getpid()}"
    inside = ["ip", "netns", "exec", name]
    try:
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True, capture_output=True)
    except (subprocess.CalledProcessError, OSError) as error:
        pytest.skip(f"network namespaces are not permitted here: {error}")
    yield inside
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def connects(inside: list[str]) -> int:
    """Connects that were begun there since it was made."""
    told = subprocess.run(
        [*inside, "cat", "/proc/net/snmp"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    names, values = (line.split() for line in told if line.startswith("Tcp:"))
    return int(values[names.index("ActiveOpens")])


def test_a_quiet_mesh_with_dead_members_connects_seldom(host: list[str], tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "MESH_DIRECTORY": str(tmp_path / "d"),
        "MESH_SEEDS": "dns://localhost",
    }
    members: list[MemberProcess] = []
    try:
        for _ in range(MEMBERS):
            members.append(MemberProcess(settings, log=tmp_path / "log", prefix=host))
            assert members[-1].id  # one after the other, for a busy machine
        until(lambda: all(list(m.statuses().values()) == ["ALIVE"] * MEMBERS for m in members), 120)
        gone, left = members[:DEAD], members[DEAD:]
        dead = [member.id for member in gone]
        for member in gone:
            member.kill()
        until(lambda: all(m.statuses()[d] == "DEAD" for m in left for d in dead), 30)
        # What told of the deaths has been told once nothing is sent beyond probes.
        before = connects(host)

        def settled() -> bool:
            nonlocal before
            then, before = before, connects(host)
            time.sleep(1.0)
            return connects(host) - then <= 1

        until(settled, 60)

        def lookups() -> int:
            return sum(member.ask("lookups") for member in left)

        asked = lookups()
        assert asked >= len(left), "nobody has looked for the seed"
        began, first = time.monotonic(), connects(host)
        time.sleep(WINDOW_S)
        rate = (connects(host) - first) / (time.monotonic() - began)
        asked = lookups() - asked
        print(f"{rate:.2f} connects/s and {asked} lookups by {len(left)} members, {DEAD} dead")
        assert rate <= MOST_PER_S
        assert asked <= MOST_LOOKUPS
    finally:
        for member in members:
            member.end()
