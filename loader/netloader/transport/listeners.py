"""Gloo's listening sockets: nobody can connect there any more once the group is formed.

libgloo ends the process when it cannot accept a connection, for example because the process has no
descriptor left. It keeps its listeners open for as long as the group lives, although both lanes
stand by then, and anybody may connect to them. So they are found among this process's descriptors,
by the addresses that this end left in the store, and the kernel drops whatever still asks for a
connection there.

Nothing is closed or replaced: Gloo's event loop would fail over a listener that is not there. What
is acted on is a duplicate, and what the duplicate is was looked at before. So a descriptor that
another thread closes, and a third one opens under the same number, cannot be hit.
"""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import os
import socket
from collections.abc import Collection, Iterator

from netloader.transport import send_buffers
from netmesh import Door

_log = logging.getLogger(__name__)

_SOCKADDR_BYTES = 128


def shut_listeners(host: str, mine: Collection[bytes]) -> list[Door]:
    """Shut this end's listeners, whose addresses are in `mine`: what this end left in the store.

    `host` is an IP address. The doors stay shut until they are closed, and keep the ports taken
    until then. Returns fewer than there are listeners where not all can be found.
    """
    try:
        ports = {port for value in mine for port in send_buffers.ports_in(host, value)}
    except ValueError as error:
        _log.debug("Gloo's listeners stay open: %s", error)
        return []
    doors = []
    for listening in _listening(host, ports) if ports else ():
        door = Door(listening)
        door.shut()
        doors.append(door)
    return doors


def _listening(host: str, ports: Collection[int]) -> Iterator[socket.socket]:
    """Duplicates of this process's sockets that listen on these ports of `host`."""
    try:
        name_of = ctypes.PyDLL(None).getsockname
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]  # noqa: PTH208
    except (OSError, AttributeError) as error:
        _log.debug("listeners cannot be looked for here: %s", error)
        return
    packed = ipaddress.ip_address(host).packed
    wanted = {port.to_bytes(2, "big") for port in ports}
    name = ctypes.create_string_buffer(_SOCKADDR_BYTES)
    length = ctypes.c_uint()
    for number in numbers:
        length.value = _SOCKADDR_BYTES
        # A quick look at thousands; the answer that counts is that of the duplicate.
        if name_of(number, name, ctypes.byref(length)) or name.raw[2:4] not in wanted:
            continue
        if packed not in name.raw[: length.value]:
            continue
        try:
            one = send_buffers.duplicate(number)
        except OSError as error:
            _log.debug("descriptor %d: %s", number, error)
            continue
        if _listens(one, host, ports):
            yield one
        else:
            one.close()


def _listens(one: socket.socket, host: str, ports: Collection[int]) -> bool:
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    address, port = one.getsockname()[:2]
    accepts = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return bool(accepts) and address == host and port in ports
