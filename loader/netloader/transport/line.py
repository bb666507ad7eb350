"""A line: a TCP connection that lasts as long as its group and carries a few bytes a message.

HCCL reports a peer that has died late or never, and has no word for one that left. A connection of
the kernel's ends with the process that had it. So the ends of a group also hold a line. They say on
it what they are about to do (`turns.py`), and hear at once that the other has gone.

The source listens, and leaves port and password in the store of the rendezvous, where only the
replica can read them.
"""

from __future__ import annotations

import hmac
import secrets
import select
import socket
import time
from typing import Final

from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport.base import RANKS, SOURCE, peer_of
from netloader.transport.store import left

_WHERE, _THERE = "netloader/line", "netloader/line/dialled"
"""Keys in the store: the source's port and password, and the replica's word that it has dialled."""

_PASSWORD_BYTES: Final = 16
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


def open_line(store: Store, rank: int, host: str, deadline: float) -> Line:
    """Meet the other rank over the store. `host` is this side's address towards the peer, and
    `deadline` a time of `time.monotonic`. Raises `TransportError`."""
    try:
        one = _listen(store, host, deadline) if rank == SOURCE else _dial(store, deadline)
    except TransportError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        peer = RANKS[peer_of(rank)]
        raise TransportError(f"no line to the {peer}: {error or 'it did not come'}") from None
    return Line(one, rank)


def _listen(store: Store, host: str, deadline: float) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    password = secrets.token_hex(_PASSWORD_BYTES)
    with socket.create_server((host, 0), family=family, backlog=4) as listener:
        store.set(_WHERE, f"{listener.getsockname()[1]} {password} {host}")
        # Raises at once when the replica leaves instead.
        store.get(_THERE)
        while True:
            listener.settimeout(left(deadline))
            one, _ = listener.accept()
            try:
                one.settimeout(min(1.0, left(deadline)))
                if hmac.compare_digest(_read(one, len(password)), password.encode()):
                    return one
            except OSError:
                pass  # A stranger; the replica may still come.
            except BaseException:
                one.close()
                raise
            one.close()


def _dial(store: Store, deadline: float) -> socket.socket:
    port, password, host = store.get(_WHERE).decode().split(" ", 2)
    one = socket.create_connection((host, int(port)), left(deadline))
    try:
        one.sendall(password.encode())
        store.set(_THERE, "")
    except BaseException:
        one.close()
        raise
    return one


def _read(one: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = one.recv(size - len(data))
        if not part:
            raise ConnectionResetError("left")
        data += part
    return data
