"""TCP: host memory between two processes, over connections that proved the session's secret.

The connections are those of the rendezvous: the first carries the store, the others come to the
same port. So a session needs one port, nothing listens any longer, and no stranger is read from.

A message travels on one connection or in halves on two, as `stripes.py` says. If one connection
breaks, so does the group, at both ends and at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport.base import SOURCE, Group, Pending, aborted, failed, peer_of
from netloader.transport.lane import Framing, Lane, PlainFraming
from netloader.transport.sealed import SealedFraming
from netloader.transport.send_buffers import SEND_BUFFER_BYTES
from netloader.transport.store import AuthenticatedStore, met
from netloader.transport.stripes import LANES, stripes


class TcpPending:
    """A send or receive under way, in one part or more."""

    def __init__(self, group: TcpGroup, sends: bool, data: torch.Tensor, tag: int) -> None:
        self.sends = sends
        self.data = data  # The parts hold only addresses: this keeps the memory alive.
        self.tag = tag
        self.parts_left = 0
        self._group = group

    def wait(self, timeout_s: float) -> None:
        self._group.wait(self, timeout_s)


class _Part:
    """What one lane carries of a transfer."""

    __slots__ = ("_group", "_pending", "data", "tag")

    def __init__(self, group: TcpGroup, pending: TcpPending, data: memoryview) -> None:
        self.tag = pending.tag
        self.data = data
        self._group = group
        self._pending = pending

    def arrived(self) -> None:
        self._group.arrived(self._pending)


class TcpGroup:
    """A group on `LANES` connections. Thread safe."""

    def __init__(
        self, connections: Sequence[socket.socket], framings: Sequence[Framing], rank: int
    ):
        """Take over the connections, in the same order at both ends."""
        self._peer = peer_of(rank)
        self._changed = threading.Condition()  # Guards the fields below, and the pending ones'.
        self._why: str | None = None
        self._posting = threading.Lock()  # Both lanes get the parts of messages in one order.
        self._lanes = [
            Lane(connection, framing, self._broke)
            for connection, framing in zip(connections, framings, strict=True)
        ]
        for lane in self._lanes:
            # Weights go from source to replica. The thread of the other way starts when needed.
            lane.start(sends=rank == SOURCE)

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(True, data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return self._start(False, data, tag)

    def abort(self, reason: str = "") -> None:
        self._break(aborted(reason))
        # The second caller may not return before nothing is touched any more either.
        for lane in self._lanes:
            lane.join()

    def arrived(self, pending: TcpPending) -> None:
        """Note, in a lane's thread, that a part of a transfer is done."""
        with self._changed:
            pending.parts_left -= 1
            if not pending.parts_left:
                self._changed.notify_all()

    def wait(self, pending: TcpPending, timeout_s: float) -> None:
        """Wait for a transfer. Raises `TransportError`, and then breaks the group."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while pending.parts_left and self._why is None:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            if not pending.parts_left:
                return
            why = self._why or f"timed out after {timeout_s:g} s"
        found = self._failed(pending.sends, pending.data.numel(), pending.tag, why)
        self.abort(found)
        raise TransportError(found)

    def _start(self, sends: bool, data: torch.Tensor, tag: int) -> Pending:
        pending = TcpPending(self, sends, data, tag)
        whole = data.numpy().data
        parts = [
            (lane, _Part(self, pending, whole[part])) for lane, part in stripes(len(whole), tag)
        ]
        with self._posting:
            with self._changed:
                if self._why is not None:
                    raise TransportError(self._failed(sends, len(whole), tag, self._why))
                pending.parts_left = len(parts)
            for lane, part in parts:
                self._lanes[lane].post(sends, part)
        return pending

    def _broke(self, why: str) -> None:
        """A lane's connection is of no use any more."""
        self._break(why)

    def _break(self, why: str) -> None:
        with self._changed:
            if self._why is None:
                self._why = why
            self._changed.notify_all()
        for lane in self._lanes:
            lane.shut()

    def _failed(self, sends: bool, nbytes: int, tag: int, why: str) -> str:
        return failed(sends, nbytes, tag, self._peer, why)


class TcpBackend:
    """Opens groups on the connections that the rendezvous brings along."""

    name = "tcp"
    connections = LANES

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        where = met(store)
        return TcpGroup(_opened(where, rank), [PlainFraming() for _ in range(LANES)], rank)


class SealedBackend:
    """As `TcpBackend`, with all bytes encrypted."""

    name = "tcp-sealed"
    connections = LANES

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        where = met(store)
        framings = [SealedFraming(where.secret, rank, lane) for lane in range(LANES)]
        return TcpGroup(_opened(where, rank), framings, rank)


_HERE: Final = ("tcp/source", "tcp/replica")


def _opened(store: AuthenticatedStore, rank: int) -> list[socket.socket]:
    """The connections, once both ends have them all. Raises `TransportError`."""
    store.set(_HERE[rank], "")
    store.get(_HERE[peer_of(rank)])
    lanes = store.take_lanes(LANES)
    for lane in lanes:
        with contextlib.suppress(OSError):  # The peer has gone again, as the first use will tell.
            lane.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if lane.getsockname()[0] == lane.getpeername()[0]:
                lane.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return lanes
