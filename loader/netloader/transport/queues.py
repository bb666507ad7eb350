"""Short send queues for connections that do not leave this host.

A sender may be ahead of its receiver by its socket's send buffer, and Linux lets that grow to
megabytes. A network needs them; between two processes of one host they push what was just written
out of the processor's cache before it is read, and every byte goes to memory and back once more.
With a quarter of a megabyte a pair moved half as much again (docs/benchmarks.md).

Gloo has no setting for it and does not tell its descriptors. So its connections are found among
this process's by the ports at which its ends met: those are in what they left for each other in the
store. Where they cannot be found everything works as it would without this module.

All descriptors are looked at without giving up the interpreter in between: in a process whose
other threads keep it busy, each of hundreds of calls would wait for it again.
"""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import re
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from torch._C._distributed_c10d import Store

_log = logging.getLogger(__name__)

QUEUE_BYTES: Final = 256 * 1024
"""Send buffer of a connection. Linux doubles it, for its own bookkeeping. Twice and half of it
moved as much."""

_STATUS: Final = Path("/proc/self/status")
_MAX_DESCRIPTORS: Final = 1 << 16
_SOCKADDR_BYTES: Final = 128


class Overheard(Store):
    """A store that passes everything on, and keeps what was said."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.values: list[bytes] = []
        self._store = store

    def set(self, key: str, value: str | bytes) -> None:
        self.values.append(value.encode() if isinstance(value, str) else bytes(value))
        self._store.set(key, value)  # type: ignore[arg-type]  # The stub knows text only.

    def get(self, key: str) -> bytes:
        value = self._store.get(key)
        self.values.append(bytes(value))
        return value

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        if timeout is None:
            self._store.wait(list(keys))
        else:
            self._store.wait(list(keys), timeout)

    def check(self, keys: Sequence[str]) -> bool:
        return self._store.check(list(keys))

    def has_extended_api(self) -> bool:
        return False


def shorten(host: str, said: Collection[bytes]) -> int:
    """Shorten the queues of the connections between ends that both are at `host`, an IP address.

    `said` is what the two ends left in the store. Returns how many connections there were.
    """
    ports = {port for value in said for port in _ports(host, value)}
    if not ports:
        return 0
    found = 0
    for one in _connections(host):
        with one:
            try:
                if one.family not in (socket.AF_INET, socket.AF_INET6) or (
                    one.type != socket.SOCK_STREAM
                ):
                    continue
                mine, peer = one.getsockname(), one.getpeername()
                if mine[0] == peer[0] == host and not ports.isdisjoint((mine[1], peer[1])):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, QUEUE_BYTES)
                    found += 1
            except OSError as error:
                _log.debug("not a connection: %s", error)
    return found


def _ports(host: str, value: bytes) -> Iterator[int]:
    """Ports of `host` in something that has socket addresses as C lays them out."""
    address = ipaddress.ip_address(host)
    family, flow = (socket.AF_INET, 0) if address.version == 4 else (socket.AF_INET6, 4)
    pattern = re.escape(struct.pack("=H", family)) + b"(..).{%d}" % flow + re.escape(address.packed)
    for port in re.findall(pattern, value, re.DOTALL):
        yield int.from_bytes(port, "big")


def _connections(host: str) -> Iterator[socket.socket]:
    """This process's connections to `host`, as duplicates that may be closed. None where there is
    no /proc."""
    try:
        slots = int(re.findall(r"^FDSize:\s*(\d+)", _STATUS.read_text(), re.MULTILINE)[0])
        peer_of = ctypes.PyDLL(None).getpeername
    except (OSError, AttributeError, IndexError) as error:
        _log.debug("descriptors cannot be listed: %s", error)
        return
    packed = ipaddress.ip_address(host).packed
    peer = ctypes.create_string_buffer(_SOCKADDR_BYTES)
    for descriptor in range(min(slots, _MAX_DESCRIPTORS)):
        length = ctypes.c_uint(_SOCKADDR_BYTES)
        if peer_of(descriptor, peer, ctypes.byref(length)):
            continue
        if packed not in peer.raw[: length.value]:
            continue
        try:
            yield socket.socket(fileno=os.dup(descriptor))
        except OSError as error:  # Closed by another thread in the meantime.
            _log.debug("descriptor %d: %s", descriptor, error)
