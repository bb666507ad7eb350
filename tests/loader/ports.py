"""What listens in a process, as the kernel tells."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"


def listening_ports(pid: int) -> set[int]:
    """IPv4 ports on which a process listens."""
    inodes = set()
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(one.readlink()))
    ports = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *_, inode = line.split()[:10]
        if state == _LISTEN and f"socket:[{inode}]" in inodes:
            ports.add(int(local.partition(":")[2], 16))
    return ports


def waiting(port: int) -> int:
    """Connections to a port that stand and that nobody has accepted yet (IPv4)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues = line.split()[:5]
        if state == _LISTEN and int(local.partition(":")[2], 16) == port:
            return int(queues.partition(":")[2], 16)
    return 0


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def knock(port: int, count: int = 1) -> list[socket.socket]:
    """Connects that are started and say nothing, whether they are let in or not."""
    made = []
    for _ in range(count):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        made.append(one)
    return made
