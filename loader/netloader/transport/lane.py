"""One TCP connection of a group, on which messages travel in the order in which they were posted.

A message is a header and its bytes. The header repeats what the receiver has posted: tag and number
of bytes. A receiver reads exactly as many bytes as it has room for, whatever its peer sends: a
header that differs ends the group. So a peer can send wrong bytes, which digests find, and nothing
else.

Each direction has a thread. The kernel moves the bytes in calls that block and that release the
interpreter; a call for a whole message costs the interpreter some microseconds. `close` makes these
calls return.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from netloader.errors import TransportError
from netloader.system import affinity
from netloader.system.threads import TransferThread
from netloader.transport.bounce import Memory

_log = logging.getLogger(__name__)

HEADER: Final = struct.Struct("!QQ")
"""Tag and number of bytes."""


class Framing(Protocol):
    """How a message is put on a connection. One thread sends and one receives."""

    def send(
        self, connection: socket.socket, tag: int, nbytes: int, blocks: Iterable[memoryview]
    ) -> None:
        """Send a header and the bytes. Raises `OSError`."""

    def recv(
        self, connection: socket.socket, tag: int, nbytes: int, rooms: Iterable[memoryview]
    ) -> None:
        """Read a message of exactly this tag and size. Raises `OSError`, and `TransportError` for
        another message than that."""


class Travelling(Protocol):
    """A message, or a part of one, as a lane sees it."""

    tag: int
    memory: Memory

    def arrived(self) -> None:
        """The bytes are where they belong, or have been handed to the system."""


class PlainFraming:
    """The bytes as they are."""

    def send(
        self, connection: socket.socket, tag: int, nbytes: int, blocks: Iterable[memoryview]
    ) -> None:
        before = [memoryview(HEADER.pack(tag, nbytes))]
        for block in blocks:
            self._send(connection, [*before, block])
            before = []
        if before:
            self._send(connection, before)

    def _send(self, connection: socket.socket, parts: list[memoryview]) -> None:
        left = sum(map(len, parts))
        while left:
            sent = connection.sendmsg(parts)
            left -= sent
            # A call that a signal interrupts has sent a part.
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if sent:
                parts[0] = parts[0][sent:]

    def recv(
        self, connection: socket.socket, tag: int, nbytes: int, rooms: Iterable[memoryview]
    ) -> None:
        header = bytearray(HEADER.size)
        fill(connection, memoryview(header))
        check(bytes(header), tag, nbytes)
        for room in rooms:
            fill(connection, room)


def fill(connection: socket.socket, room: memoryview) -> None:
    """Read until `room` is full. Raises `OSError` when the connection ends before."""
    while room:
        got = connection.recv_into(room, len(room), socket.MSG_WAITALL)
        if not got:
            raise ConnectionError("the connection was closed")
        room = room[got:]


def check(header: bytes, tag: int, nbytes: int) -> None:
    """Raise `TransportError` unless a header announces the message that was posted."""
    other, length = HEADER.unpack(header)
    if (other, length) != (tag, nbytes):
        raise TransportError(f"it sent {length} bytes (tag {other}) instead")


class Lane:
    """Belongs to a group, which is told when the connection breaks."""

    def __init__(
        self, connection: socket.socket, framing: Framing, broke: Callable[[str], object]
    ) -> None:
        """Take over a connected socket. `broke` is called with the reason, by a thread of the lane,
        which then ends."""
        connection.settimeout(None)  # Waits are bounded by those who wait; `close` ends the calls.
        self._connection = connection
        self._framing = framing
        self._broke = broke
        self._lock = threading.Lock()  # Guards the fields below.
        self._ways: dict[bool, _Way] = {}
        self._closed = False

    def start(self, sends: bool) -> None:
        """Start the thread of one direction. It inherits cores and priority of the caller."""
        with self._lock:
            self._way(sends)

    def post(self, sends: bool, message: Travelling) -> None:
        """Queue a message. It is dropped if the lane has been closed."""
        with self._lock:
            if not self._closed:
                self._way(sends).messages.put(message)

    def shut(self) -> None:
        """Make both ends' calls on the connection fail, and the threads end. Does not wait."""
        with self._lock:
            self._closed = True
            ways = tuple(self._ways.values())
        with contextlib.suppress(OSError):  # The peer has gone already.
            self._connection.shutdown(socket.SHUT_RDWR)
        for way in ways:
            way.messages.put(None)

    def join(self) -> None:
        """Wait, after `shut`, until nothing is read or written any more, and free the descriptor.
        Idempotent."""
        with self._lock:
            ways = tuple(self._ways.values())
        for way in ways:
            if way.thread is not threading.current_thread():
                way.thread.join()
        with self._lock:
            if True not in self._ways:
                # Nothing of ours is on its way. A peer that found no more room may have to be
                # reset: once we read no further, the system announces none, and it would wait for
                # room until the system forgets the connection, minutes later.
                _reset_on_close(self._connection)
            self._connection.close()

    def _way(self, sends: bool) -> _Way:
        if sends not in self._ways:
            self._ways[sends] = _Way(self._connection, self._framing, sends, self._broke)
        return self._ways[sends]


def _reset_on_close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # It is closed already.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Way:
    """One direction of a lane."""

    def __init__(
        self,
        connection: socket.socket,
        framing: Framing,
        sends: bool,
        broke: Callable[[str], object],
    ) -> None:
        self.messages: queue.SimpleQueue[Travelling | None] = queue.SimpleQueue()
        """None: there will be no more."""
        self._connection = connection
        self._framing = framing
        self._sends = sends
        self._broke = broke
        # Copies of device memory are made here.
        self.thread = TransferThread(
            self._run,
            f"{affinity.OURS}lane-{'out' if sends else 'in'}",
            stop=lambda: broke("this process ends"),
        )
        self.thread.start()

    def _run(self) -> None:
        while (message := self.messages.get()) is not None:
            broken = self._moved(message)
            # A thread that waits for the next message must not keep the last one's memory.
            del message
            if broken is not None:
                self._broke(broken)
                break
        # Nothing is posted any more, and what was posted keeps its memory alive.
        while not self.messages.empty():
            self.messages.get()

    def _moved(self, message: Travelling) -> str | None:
        """Move one message. Returns why that failed, if it did."""
        memory = message.memory
        blocks = memory.leaving() if self._sends else memory.arriving()
        move = self._framing.send if self._sends else self._framing.recv
        try:
            with contextlib.closing(blocks):
                move(self._connection, message.tag, memory.nbytes, blocks)
        except OSError as error:
            return error.strerror or str(error)
        except TransportError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001
            # A fault of ours must end the group: the other thread would wait for its timeout.
            _log.exception("a lane failed")
            return repr(error)
        message.arrived()
        return None
