"""A line: a TCP connection that lasts as long as its group and carries a few bytes a message.

HCCL reports a peer that has died late or never, and has no word for one that left. A connection of
the kernel's ends with the process that had it. So the ends of a group also hold a line. They say on
it what they are about to do (`turns.py`), and hear at once that the other has gone.

A line is a connection of the rendezvous, so it needs no port of its own.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Final

from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport.base import RANKS, peer_of
from netloader.transport.store import met

_READ_BYTES: Final = 64 * 1024
_SEND_S: Final = 5.0
"""Seconds that a peer may take to read what is said to it. The kernel's buffers hold thousands of
notes, so only a peer that has stopped takes any."""


class Line:
    """One end of a line. Belongs to one thread at a time; any thread may close it."""

    def __init__(self, one: socket.socket, rank: int) -> None:
        self._socket = one
        self._peer = RANKS[peer_of(rank)]
        self._heard = bytearray()
        self._gone = False
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def gone(self) -> bool:
        """Whether the peer has left, as far as `hear` has noticed."""
        return self._gone

    def say(self, data: bytes) -> None:
        """Raises `TransportError` when the peer has gone or does not read."""
        deadline = time.monotonic() + _SEND_S
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TransportError(f"the {self._peer} has stopped reading") from None
                self._wait_to_write(deadline)
            except (OSError, ValueError):
                self._gone = True
                raise TransportError(f"the {self._peer} has left") from None

    def hear(self, size: int) -> list[bytes]:
        """What the peer has said until now, in pieces of `size` bytes. Never waits."""
        while not self._gone:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            except (OSError, ValueError):
                data = b""
            self._heard += data
            self._gone = not data
        whole = len(self._heard) // size * size
        pieces = [bytes(self._heard[at : at + size]) for at in range(0, whole, size)]
        del self._heard[:whole]
        return pieces

    def peek(self) -> None:
        """Look whether the peer has left, and leave what it has said. Never waits."""
        try:
            self._gone = self._gone or not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            pass
        except (OSError, ValueError):
            self._gone = True

    def wait(self, timeout_s: float) -> None:
        """Sleep, without the GIL, until the peer says something or leaves, or the line is closed;
        `timeout_s` at most."""
        if self._gone:
            time.sleep(timeout_s)
            return
        try:
            # poll, because select cannot watch descriptors from 1024 on.
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            waiting.poll(max(0.0, timeout_s) * 1000)
        except (OSError, ValueError):  # Closed a moment ago.
            self._gone = True

    def hang_up(self) -> None:
        """Let both ends notice that this is over. Idempotent; `close` frees the descriptor."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._gone = True

    def close(self) -> None:
        """Nobody may use the line any more."""
        self._socket.close()

    def _wait_to_write(self, deadline: float) -> None:
        waiting = select.poll()
        waiting.register(self._socket, select.POLLOUT)
        waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)


def open_line(store: Store, rank: int) -> Line:
    """A line on a connection of the rendezvous, which has proved the session's secret. Raises
    `TransportError`."""
    (one,) = met(store).take_lanes(1)
    return Line(one, rank)
