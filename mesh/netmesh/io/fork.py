"""Closes descriptors in a forked child that would make its dead parent look alive.

libzmq's sockets close on exec, but a plain fork (multiprocessing) copies them. The copies keep the
parent's port open in the kernel. So the kernel would accept connects to a killed parent for as long
as the child lives, and others would call the parent stalled instead of dead. A restarted parent
could not listen on the port either.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PORTS: list[int] = []
"""Ports on which this process listens, once for each socket. Changed without a lock, which could be
held at the moment of a fork: to append and to remove are one step each."""


def drop_in_children(port: int) -> None:
    """From now on, a forked child closes its copies of this port's sockets at once."""
    _PORTS.append(port)


def keep_in_children(port: int) -> None:
    """Undo one `drop_in_children`."""
    with suppress(ValueError):  # this is a child, which has given up all of them
        _PORTS.remove(port)


def drop_inherited(ports: Collection[int]) -> int:
    """In a forked child: put `/dev/null` over every TCP socket whose local port is one of `ports`.

    Returns how many there were. The descriptor numbers stay taken: the parent's ZeroMQ objects
    still exist in the child, unused, and must not hit a descriptor that is opened later.
    """
    dropped = 0
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for name in Path("/proc/self/fd").iterdir():
            with suppress(OSError, ValueError):
                descriptor = int(name.name)
                if _local_port(descriptor) in ports:
                    os.dup2(null, descriptor, inheritable=False)
                    dropped += 1
    except OSError:
        pass  # no /proc: the child keeps what it has
    finally:
        os.close(null)
    return dropped


def _local_port(descriptor: int) -> int | None:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return None
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if copy.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if copy.type != socket.SOCK_STREAM:
            return None
        port: int = copy.getsockname()[1]
        return port


def _after_fork_in_child() -> None:
    listening = set(_PORTS)
    _PORTS.clear()
    if listening:
        with suppress(OSError):  # no descriptor is free
            drop_inherited(listening)


os.register_at_fork(after_in_child=_after_fork_in_child)
