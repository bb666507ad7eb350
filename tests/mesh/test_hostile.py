"""What a member stands: rubbish on its port, frames without end, a mesh of two thousand.

Slow: ten thousand connections, and a table of hundreds, take seconds.
"""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from tests.fastest import at_most
from tests.forked import start_mesh
from tests.meshes import OWN_MESH
from tests.named_ids import attack

from netmesh import generate_key
from netmesh.io.links import MAX_FRAME

from .support import MESH_ROOT, MemberProcess, until

pytestmark = pytest.mark.slow

GREETING = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48)
"""What a ZeroMQ peer says first: gets a connection past the first checks."""


@pytest.fixture(params=["plain", "curve"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[MemberProcess]]:
    settings: dict[str, object] = {
        "MESH_DIRECTORY": str(tmp_path / "netmesh"),
        "MESH_ADVERTISE": "127.0.0.1",
        # It gives them ports of their own: once another test left the first port of `default`, a
        # member would listen there too, and have more descriptors.
        "MESH_NAME": OWN_MESH,
    }
    if request.param == "curve":
        settings["MESH_KEY"] = generate_key()
    spawned = [MemberProcess(settings, log=tmp_path / "log") for _ in range(2)]
    yield spawned
    for member in spawned:
        member.end()


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def both_alive(pair: list[MemberProcess]) -> bool:
    return all(list(member.statuses().values()) == ["ALIVE"] * 2 for member in pair)


def nobody_dead(pair: list[MemberProcess]) -> bool:
    seen = [status for member in pair for status in member.statuses().values()]
    return len(seen) == 4 and not {"DEAD", "LEFT"} & set(seen)


def no_stranger_left(pair: list[MemberProcess]) -> bool:
    """Whether the first has as many descriptors as the second, which no stranger has called.

    An earlier count of its own says less: a member opens links and dials when it needs them.
    """
    called, spared = (member.ask("fds") for member in pair)
    return bool(called <= spared + 2)


def test_ten_thousand_garbage_connections(pair: list[MemberProcess]) -> None:
    until(lambda: both_alive(pair))
    target = pair[0]
    host, _, port = target.id.rpartition(":")
    memory = resident_bytes(target.pid)
    rng = random.Random(1)
    rubbish = [
        lambda: b"",
        lambda: rng.randbytes(rng.randrange(1, 200)),
        lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: GREETING + rng.randbytes(rng.randrange(1, 200)),
        lambda: GREETING + b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x06DEALER" + rng.randbytes(50),
        lambda: GREETING + b"\x06" + b"\xff" * 8,  # a command of 2^64 bytes
    ]
    open_ones: list[socket.socket] = []
    for number in range(10_000):
        one = socket.create_connection((host, int(port)))
        one.sendall(rubbish[number % len(rubbish)]())
        open_ones.append(one)
        if len(open_ones) == 100:  # held open for a while, as an attacker would
            for old in open_ones:
                old.close()
            open_ones = []
            if number % 1000 == 999:
                # On a busy machine one may doubt the other for a moment, and no longer.
                assert nobody_dead(pair)
    until(lambda: both_alive(pair))
    with at_most(10, target.pid):
        until(lambda: no_stranger_left(pair) and both_alive(pair))
    assert resident_bytes(target.pid) - memory < 32 * 1024 * 1024
    errors = {k: n for k, n in target.ask("counters").items() if k.startswith("error.")}
    assert not errors


def test_silent_connections_are_dropped(pair: list[MemberProcess]) -> None:
    until(lambda: both_alive(pair))
    host, _, port = pair[0].id.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    with at_most(10, pair[0].pid):  # the handshake has three seconds
        until(lambda: no_stranger_left(pair) and both_alive(pair))
    for one in silent:
        one.close()


FOREIGN = [
    b"G",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\xff",
    GREETING[:10],
    GREETING[:11] + b"\x01",
    GREETING,
]
"""What scrapers with keep-alive and old or half ZeroMQ peers begin with, and then stay."""


@pytest.mark.parametrize("said", FOREIGN)
def test_foreign_and_half_open_clients_that_stay_are_dropped(
    pair: list[MemberProcess], said: bytes
) -> None:
    host, _, port = pair[0].id.rpartition(":")
    clients = [socket.create_connection((host, int(port))) for _ in range(20)]
    for one in clients:
        one.sendall(said)
    for one in clients:
        one.settimeout(20)
        with suppress(ConnectionResetError):
            while one.recv(999):  # the end comes from the member: nobody closes here
                pass
        one.close()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_member_at_its_limit_of_descriptors_stands_and_does_not_spin(tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "MESH_DIRECTORY": str(tmp_path / "netmesh"),
        "MESH_ADVERTISE": "127.0.0.1",
        "MESH_NAME": OWN_MESH,
        "MESH_KEY": generate_key(),
    }
    limited = ["sh", "-c", 'ulimit -n 128; exec "$@"', "sh"]
    log = tmp_path / "log"
    members = [
        MemberProcess(settings, log=log, prefix=limited),
        MemberProcess(settings, log=log),
    ]
    try:
        until(lambda: both_alive(members), 30)
        host, _, port = members[0].id.rpartition(":")
        silent = []
        for _ in range(400):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((host, int(port)))
            silent.append(one)
        started, before = time.monotonic(), cpu_s(members[0].pid)
        until(lambda: time.monotonic() - started > 4, 30)
        used = (cpu_s(members[0].pid) - before) / (time.monotonic() - started)
        assert used < 0.5  # of a core; a listener that spins takes a whole one, if it gets it
        assert both_alive(members)
        for one in silent:
            one.close()
        assert "lets nobody in for a moment" in log.read_text()
        assert "but up to 256 are needed" in log.read_text()
        until(lambda: both_alive(members), 30)
    finally:
        for member in members:
            member.end()


def test_a_process_without_descriptors_starts_no_member_and_says_so(tmp_path: Path) -> None:
    script = (
        "import os, resource\n"
        "from netmesh import Mesh, MeshSettings, StartError\n"
        "used = len(os.listdir('/proc/self/fd'))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, used + 20))\n"
        "try: Mesh.start(MeshSettings(directory='%s'), {})\n"
        "except StartError as error: print(error)\n"
    ) % (tmp_path / "d")
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(MESH_ROOT)},
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    assert "file descriptors are free, and it needs 64" in ended.stdout


def test_oversize_and_malformed_messages(tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "MESH_NAME": OWN_MESH,
        "MESH_DIRECTORY": str(tmp_path / "netmesh"),
    }
    member = MemberProcess(settings, log=tmp_path / "log")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        memory = resident_bytes(member.pid)
        for _ in range(50):
            dealer = context.socket(zmq.DEALER)
            dealer.setsockopt(zmq.LINGER, 1000)
            dealer.connect(f"tcp://{member.id}")
            dealer.send_multipart([b"h", b"x" * (MAX_FRAME - 1)])  # passes ZeroMQ, not the decoder
            dealer.send_multipart([b"h"] * 1000)
            dealer.send_multipart([b"h", b"x" * (16 * MAX_FRAME)])  # never passes
            dealer.close()
        until(lambda: member.ask("counters").get("dropped.malformed", 0) == 100)
        assert list(member.statuses().values()) == ["ALIVE"]
        assert resident_bytes(member.pid) - memory < 64 * 1024 * 1024
    finally:
        context.destroy(linger=0)
        member.end()


def test_a_client_that_names_ids_ends_no_member(tmp_path: Path) -> None:
    settings: dict[str, object] = {"MESH_NAME": OWN_MESH, "MESH_DIRECTORY": str(tmp_path / "d")}
    # A new interpreter: of a forked one, nobody knows what has used C's `rand`.
    member = MemberProcess(settings, log=tmp_path / "log", prefix=["env"])
    try:
        attackers = attack(int(member.id.rpartition(":")[2]))
        until(lambda: member.ask("counters").get("zap.accepted", 0) >= len(attackers))
        assert list(member.statuses().values()) == ["ALIVE"]
        for one in attackers:
            one.close()
    finally:
        member.end()


@pytest.mark.parametrize(
    ("members", "links"), [(400, 60), pytest.param(2000, 150, marks=pytest.mark.soak)]
)
def test_descriptors_among_many_members(tmp_path: Path, members: int, links: int) -> None:
    """A member that has opened so many links has had all 40 that it may have at a time. It opens
    some two a second, however many members there are."""
    log = tmp_path / "log"
    with log.open("ab") as errors:
        crowd = start_mesh("tests.mesh.crowd", OWN_MESH, str(members), "60", stderr=errors)
    seed = crowd.stdout.readline().strip()
    assert seed, log.read_text()
    settings: dict[str, object] = {
        "MESH_NAME": OWN_MESH,
        "MESH_DIRECTORY": str(tmp_path / "d"),
        "MESH_SEEDS": [seed],
    }
    member = MemberProcess(settings, log=log)
    try:
        crowd.stdin.write(member.id + "\n")
        crowd.stdin.flush()
        until(lambda: list(member.statuses().values()).count("ALIVE") == members + 1)
        most = 0

        def busy() -> bool:
            nonlocal most
            most = max(most, member.ask("fds"))
            member.ask(f'publish {{"n": {most}}}')  # something to gossip to everybody
            return bool(member.ask("counters").get("links.opened", 0) > links)

        until(busy)
        counters = member.ask("counters")
        print(f"{most} descriptors at most, {counters['links.opened']} links opened", counters)
        assert counters["links.evicted"] > links - 50  # all links were in use
        assert 130 < most <= 200  # 40 links, 60 connections to it and the sockets' own
        assert not [name for name in counters if name.startswith("error.")]
        with at_most(1.0, member.pid):
            member.ask("close")
    finally:
        crowd.kill()
        crowd.wait()
        crowd.close()
        member.end()
