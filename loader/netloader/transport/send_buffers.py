"""Small send buffers for connections that do not leave this host.

A sender may be ahead of its receiver by its socket's send buffer, which Linux lets grow to
megabytes. A network needs such buffers. Between two processes of one host, they push fresh bytes
out of the processor's cache before these are read. So every byte goes to memory and back once more.
With buffers of a quarter of a megabyte, a pair moved half as much again
(docs/evidence/benchmarks.md).

Gloo has no setting for the buffer and does not reveal its descriptors. So its connections are found
among this process's by the ports at which its ends met; the entries that the ends left for each
other in the store hold these ports. Where the connections cannot be found, everything works as it
would without this module.

The search begins at the first descriptor that was free before, and ends when all connections are
found. The search keeps the interpreter throughout: where other threads keep the interpreter busy,
each call would have to wait for it again.
"""

from __future__ import annotations

import ctypes
import ipaddress
import itertools
import logging
import os
import re
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Final

_log = logging.getLogger(__name__)

SEND_BUFFER_BYTES: Final = 256 * 1024
"""Bytes of a connection's send buffer. Linux doubles it, for its own bookkeeping. Twice this size
and half of it moved as much."""

_REACH: Final = 1024
"""Descriptors to look at, upwards from the first that was free, then downwards. A group takes ten;
other threads open and close some meanwhile, and free ones may lie far apart."""

_SOCKADDR_BYTES: Final = 128


def lowest_free_descriptor() -> int:
    """The lowest free descriptor, at which the next ones to be opened begin."""
    with socket.socket() as probe:
        return probe.fileno()


def shrink(
    host: str, mine: Collection[bytes], theirs: Collection[bytes], first: int, expected: int
) -> int:
    """Shrink the send buffers of the connections between this end and the other, both at `host`.

    `host` is an IP address; for a name nothing can be found. `mine` and `theirs` are what the ends
    left in the store. `first` is the descriptor at which to start looking for the `expected`
    connections. Returns how many were found.
    """
    found = 0
    try:
        my_ports = {port for value in mine for port in ports_in(host, value)}
        their_ports = {port for value in theirs for port in ports_in(host, value)}
    except ValueError as error:
        _log.debug("send buffers stay as they are: %s", error)
        return found
    if not my_ports or not their_ports:
        return found
    above, below = range(first, first + _REACH), range(first - 1, max(-1, first - _REACH), -1)
    for one in _connections(host, itertools.chain(above, below)):
        with one:
            try:
                my_end, their_end = one.getsockname(), one.getpeername()
                # One of the two ends was listening.
                if my_end[0] == host and (my_end[1] in my_ports or their_end[1] in their_ports):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
                    found += 1
            except OSError as error:  # The connection has just broken.
                _log.debug("no send buffer to shrink: %s", error)
        if found == expected:
            break
    return found


def ports_in(host: str, value: bytes) -> Iterator[int]:
    """Ports of `host` in bytes that contain socket addresses as C lays them out. Raises
    `ValueError`."""
    address = ipaddress.ip_address(host)
    family, flow = (socket.AF_INET, 0) if address.version == 4 else (socket.AF_INET6, 4)
    pattern = re.escape(struct.pack("=H", family)) + b"(..).{%d}" % flow + re.escape(address.packed)
    for port in re.findall(pattern, value, re.DOTALL):
        yield int.from_bytes(port, "big")


def _connections(host: str, descriptors: Iterable[int]) -> Iterator[socket.socket]:
    """This process's TCP connections to `host`, as duplicates that may be closed."""
    try:
        peer_of = ctypes.PyDLL(None).getpeername
    except (OSError, AttributeError) as error:
        _log.debug("connections cannot be looked for here: %s", error)
        return
    packed = ipaddress.ip_address(host).packed
    peer = ctypes.create_string_buffer(_SOCKADDR_BYTES)
    length = ctypes.c_uint()
    for descriptor in descriptors:
        length.value = _SOCKADDR_BYTES
        if peer_of(descriptor, peer, ctypes.byref(length)):
            continue
        if packed not in peer.raw[: length.value]:
            continue
        try:
            one = duplicate(descriptor)
        except OSError as error:  # Closed by another thread in the meantime.
            _log.debug("descriptor %d: %s", descriptor, error)
            continue
        if one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM:
            yield one
        else:
            one.close()


def duplicate(descriptor: int) -> socket.socket:
    """A duplicate of a socket. Raises `OSError` for anything else, and leaves nothing open then."""
    number = os.dup(descriptor)
    try:
        return socket.socket(fileno=number)
    except OSError:
        os.close(number)
        raise
