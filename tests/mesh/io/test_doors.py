"""Doors: what a shut one does to who knocks, and what a forked child keeps of them."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from netmesh.io.descriptors import Descriptors
from netmesh.io.doors import SCARCE, Door, all_shut

from ..support import MESH_ROOT


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def comes_in(listening: socket.socket) -> bool:
    """Whether a connect is let in; a refused one fails the test."""
    try:
        socket.create_connection(listening.getsockname(), timeout=0.2).close()
    except TimeoutError:
        return False
    return True


def test_a_shut_door_drops_and_keeps_what_stands(listening: socket.socket) -> None:
    door = Door(listening)
    with socket.create_connection(listening.getsockname()) as client, listening.accept()[0] as mine:
        door.shut()
        door.shut()
        assert not comes_in(listening)
        client.sendall(b"x")
        assert mine.recv(1) == b"x"
        door.open()
        assert not comes_in(listening)  # somebody else still wants it shut
        door.open()
        assert comes_in(listening)
    door.close()
    door.close()


@pytest.mark.parametrize("free", [SCARCE - 1, SCARCE])
def test_all_doors_are_shut_only_while_descriptors_are_scarce(
    listening: socket.socket, free: int
) -> None:
    door = Door(listening)
    with socket.create_connection(listening.getsockname()):
        with all_shut(Descriptors(lambda: 10_000, lambda: 10_000 - free)) as room:
            assert comes_in(listening) == (free == SCARCE)
            if free < SCARCE:
                assert room == free - 1  # who waits at the door already
        assert comes_in(listening)
    door.close()


def test_a_forked_child_keeps_no_door_and_no_connection(listening: socket.socket) -> None:
    door = Door(listening)
    reader, writer = os.pipe()
    with socket.create_connection(listening.getsockname()) as client, listening.accept()[0] as mine:
        child = os.fork()
        if child == 0:
            null = os.stat(os.devnull).st_rdev  # noqa: PTH116
            kept = [os.fstat(one.fileno()).st_rdev != null for one in (listening, mine, client)]
            os.write(writer, repr(kept).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 99) == repr([False, False, True]).encode()
    door.close()
    os.close(reader)
    os.close(writer)


LIMITS = """
import resource
from netmesh.io.descriptors import Descriptors, raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 5000))
print(raise_limit(), raise_limit(200), Descriptors().limit(), Descriptors().reserve)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
print(raise_limit(), Descriptors().reserve)
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 5000:
        pytest.skip("the hard limit is lower here")
    ended = subprocess.run(
        [sys.executable, "-c", LIMITS],
        env={**os.environ, "PYTHONPATH": str(MESH_ROOT)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert ended.stdout == "5000 5000 5000 256\n100 25\n"


@pytest.mark.parametrize(("free", "wanted", "lacks"), [(356, 100, False), (355, 100, True)])
def test_nobody_opens_what_would_touch_the_reserve(free: int, wanted: int, lacks: bool) -> None:
    assert (Descriptors(lambda: 4000, lambda: 4000 - free).lack(wanted) is not None) == lacks


def test_the_descriptors_of_this_process_are_counted() -> None:
    before = Descriptors().free
    taken = [os.dup(0) for _ in range(10)]
    assert Descriptors().free == before - 10
    for one in taken:
        os.close(one)
