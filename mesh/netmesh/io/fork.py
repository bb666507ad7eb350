"""Closes descriptors in a forked child that would make its dead parent look alive.

libzmq's sockets close on exec, but a plain fork (multiprocessing) copies them. The copies keep the
parent's port open in the kernel. So the kernel would accept connects to a killed parent for as long
as the child lives, and the mesh would call the parent stalled instead of dead.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path


def drop_inherited(port: int) -> int:
    """In a forked child: put `/dev/null` over every TCP socket whose local port is `port`.

    Returns how many there were. The descriptor numbers stay taken: the parent's ZeroMQ objects
    still exist in the child, unused, and must not hit a descriptor that is opened later.
    """
    dropped = 0
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        for name in Path("/proc/self/fd").iterdir():
            with suppress(OSError, ValueError):
                descriptor = int(name.name)
                if _local_port(descriptor) == port:
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
