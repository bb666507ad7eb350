"""Gloo's listeners, and who still gets in once the group is formed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.loader.ports import knock, listening_ports
from tests.loader.transport.carriers import open_pair

from netloader.transport.gloo import GlooBackend
from netloader.transport.listeners import shut_listeners
from netloader.transport.stripes import LANES

HERE = Path(__file__).parents[3]


def test_nobody_connects_to_a_formed_group() -> None:
    before = listening_ports(os.getpid())
    pair = open_pair(GlooBackend())
    try:
        ports = listening_ports(os.getpid()) - before
        assert len(ports) == 2 * LANES
        for port in ports:
            with pytest.raises(TimeoutError):  # dropped, and not refused
                socket.create_connection(("127.0.0.1", port), timeout=0.2)
        target = torch.zeros(100_000, dtype=torch.uint8)
        arriving = pair.replica.recv(target, 1)
        pair.source.send(torch.full((100_000,), 7, dtype=torch.uint8), 1).wait(30)
        arriving.wait(30)
        assert set(target.tolist()) == {7}
    finally:
        pair.abort()
    del pair
    assert not listening_ports(os.getpid()) & ports


@pytest.mark.parametrize("mine", [[], [b""], [b"no address in this"]])
def test_nothing_is_found_where_nothing_was_left(mine: list[bytes]) -> None:
    assert shut_listeners("127.0.0.1", mine) == []
    assert shut_listeners("a name", mine) == []


FULL = """
import os, resource, sys
import torch
from tests.loader.ports import knock, listening_ports, open_descriptors
from tests.loader.transport.carriers import open_pair
from netloader.transport.gloo import GlooBackend

pair = open_pair(GlooBackend())
ports = listening_ports(os.getpid())
print(*ports, flush=True)
taken = []
resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors(os.getpid()) + 8,) * 2)
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
print("full", flush=True)
sys.stdin.readline()
target = torch.zeros(1000, dtype=torch.uint8)
arriving = pair.replica.recv(target, 1)
pair.source.send(torch.ones(1000, dtype=torch.uint8), 1).wait(30)
arriving.wait(30)
print(int(target.sum()), flush=True)
os._exit(0)
"""
"""A process with both ends of a group, and no descriptor left."""


def test_a_connect_does_not_end_a_process_without_descriptors() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", FULL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        ports = [int(port) for port in child.stdout.readline().split()]
        assert child.stdout.readline() == "full\n"
        strangers = [one for port in ports for one in knock(port, 3)]
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "1000\n"
        assert child.wait(30) == 0
        for one in strangers:
            one.close()
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()
