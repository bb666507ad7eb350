"""The listening sockets of this process as doors that can be shut for a while.

A shut door drops what asks to come in, as a full queue does: the other side's kernel asks again
after a second, and nobody takes this process for dead, as a refusal would say. Linux drops in the
kernel, by a filter on the listening socket, so no thread of ours has to be awake. A connection that
stands is not touched.

All doors are known in one place, for two reasons. A child that was forked must not keep its
parent's ports open (`fork.py`). And for a moment in which a descriptor too few would end the
process, all doors can be shut at once (`all_shut`).
"""

from __future__ import annotations

import ctypes
import socket
import struct
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from netmesh.io import fork
from netmesh.io.descriptors import Descriptors

_SO_ATTACH_FILTER: Final = 26
_SO_DETACH_FILTER: Final = 27
_DROP: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""One instruction of the kernel's packet filter: keep zero bytes."""

SCARCE: Final = 2048
"""While fewer descriptors are free, a flood could use them up within the moment that `all_shut`
is for: libzmq accepts a connection in 20 microseconds or more, and the moment has some 15 ms."""

_AT_ONCE: Final = 4096

_QUEUE_AT: Final = 24
"""Where Linux has the length of a listening socket's queue in its `tcp_info` (`tcpi_unacked`)."""


def drop_newcomers(listening: socket.socket) -> bool:
    """Let the kernel drop whatever asks `listening` for a connection. False where it cannot."""
    code = ctypes.create_string_buffer(_DROP)
    try:
        # The kernel copies the instructions during the call.
        program = struct.pack("@HL", 1, ctypes.addressof(code))
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:
        return False
    return True


class Door:
    """One listening socket of ours. Thread safe. Shut while anybody wants it shut."""

    def __init__(self, listening: socket.socket) -> None:
        self._socket = listening
        self.port: int = listening.getsockname()[1]
        self._lock = threading.Lock()
        self._reasons = 0
        self._closed = False
        fork.drop_in_children(self.port)
        with _KNOWN:
            _DOORS.add(self)

    def shut(self) -> None:
        with self._lock:
            self._reasons += 1
            if self._reasons == 1 and not self._closed:
                drop_newcomers(self._socket)

    def open(self) -> None:
        """Undo one `shut`."""
        with self._lock:
            self._reasons -= 1
            if self._reasons == 0 and not self._closed:
                with suppress(OSError):
                    self._socket.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    @property
    def waiting(self) -> int:
        """Connections that stand and that nobody has accepted yet. They come in even when the door
        is shut."""
        try:
            state = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE_AT + 4)
        except OSError:
            return 0  # closed meanwhile
        return int(struct.unpack_from("=I", state, _QUEUE_AT)[0]) if len(state) > _QUEUE_AT else 0

    def turn_away(self) -> int:
        """Close the connections that nobody has accepted yet. Returns how many there were.

        For a process without a free descriptor, in which libzmq would try to accept them without
        pause. Needs one descriptor; stops where there is none.
        """
        turned = 0
        with suppress(OSError):  # none is waiting any more, or no descriptor is free
            while turned < _AT_ONCE:
                self._socket.accept()[0].close()
                turned += 1
        return turned

    def close(self) -> None:
        """Forget the socket, and close it. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with _KNOWN:
                _DOORS.discard(self)
            fork.keep_in_children(self.port)
            self._socket.close()


_KNOWN: Final = threading.Lock()
_DOORS: Final[weakref.WeakSet[Door]] = weakref.WeakSet()


@contextmanager
def all_shut(descriptors: Descriptors | None = None) -> Iterator[int]:
    """Shut all doors of this process while descriptors are scarce and one too few would end it.

    Yields how many descriptors nobody who comes through a door can take meanwhile.
    """
    descriptors = descriptors or Descriptors()
    free = descriptors.free
    with _KNOWN:
        shut = list(_DOORS) if free < SCARCE else []
    for door in shut:
        door.shut()
    try:
        waiting = sum(door.waiting for door in shut)
        # Counted again: between the first look and the last shut door, others came in.
        yield max(0, descriptors.free - waiting)
    finally:
        for door in shut:
            door.open()
