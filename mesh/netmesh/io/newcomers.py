"""Connections at a port of ours that may be strangers': who came when, and how to end them.

libzmq tells which descriptor a connection got, but not which one proved itself. The kernel knows
how many bytes came: with few, nobody can have. libzmq closes descriptors in a thread of its own,
and the number may be another file's a moment later. So what is looked at, and ended, is a
duplicate.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

GREETING_BYTES: Final = 64
"""What both sides of ZMTP 3 send first (ZeroMQ RFC 37)."""

KEYED_BYTES: Final = GREETING_BYTES + 202
"""Up to here, a client of CURVE has said its greeting and HELLO, and proved nothing (RFC 26)."""

KEYLESS_BYTES: Final = GREETING_BYTES + 26
"""Up to here, a client without a key has not said READY: its shortest form has 27 bytes."""

YOUNG_S: Final = 0.1
"""A younger connection is left alone. An honest one proves itself within milliseconds, or within
the moment for which our thread is held up."""

_RECEIVED_AT: Final = 128
"""Where Linux has `tcpi_bytes_received` in its `tcp_info`."""


class Newcomers:
    """The connections at one port that have not been seen to prove anything, oldest first."""

    def __init__(self, port: int, proof_bytes: int) -> None:
        self._port = port
        self._proof_bytes = proof_bytes
        self._came: dict[int, tuple[object, float]] = {}

    def __len__(self) -> int:
        return len(self._came)

    def came(self, descriptor: int, now: float) -> None:
        """A connection was accepted under this descriptor."""
        self._came.pop(descriptor, None)
        peer = self._of(descriptor, lambda one: one.getpeername())
        if peer is not None:
            self._came[descriptor] = (peer, now)

    def went(self, descriptor: int) -> None:
        """The connection under this descriptor has ended."""
        self._came.pop(descriptor, None)

    def end(self, count: int, now: float) -> int:
        """End up to `count` of them, the oldest first. Returns how many."""
        ended = 0
        for descriptor, (peer, since) in list(self._came.items()):
            if ended == count or now - since < YOUNG_S:
                break
            del self._came[descriptor]
            ended += bool(self._of(descriptor, lambda one, peer=peer: self._end(one, peer)))  # type: ignore[misc]
        return ended

    def _of(self, descriptor: int, ask: Callable[[socket.socket], object]) -> object:
        """The answer about a connection at our port; None if the descriptor is something else."""
        try:
            with _duplicate(descriptor) as one:
                if one.type == socket.SOCK_STREAM and one.getsockname()[1:2] == (self._port,):
                    return ask(one)
        except OSError:
            return None  # closed meanwhile, or no socket
        return None

    def _end(self, one: socket.socket, peer: object) -> bool:
        if one.getpeername() != peer:
            return False
        state = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _RECEIVED_AT + 8)
        if len(state) < _RECEIVED_AT + 8:
            return False
        if struct.unpack_from("=Q", state, _RECEIVED_AT)[0] > self._proof_bytes:
            return False
        one.shutdown(socket.SHUT_RDWR)
        return True


@contextmanager
def _duplicate(descriptor: int) -> Iterator[socket.socket]:
    """A duplicate of a connection; the connection itself where no descriptor is left for one.

    There nobody else can open anything: the number stays this connection's, or becomes that of one
    accepted right after it. Raises `OSError`.
    """
    try:
        number = os.dup(descriptor)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        number = descriptor
    try:
        one = socket.socket(fileno=number)
    except OSError:  # no socket any more
        if number != descriptor:
            os.close(number)
        raise
    try:
        yield one
    finally:
        if number == descriptor:
            one.detach()
        else:
            one.close()
