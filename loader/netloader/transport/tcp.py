"""TCP: bytes between two processes, over connections that proved the session's secret.

The connections are those of the rendezvous: the first carries the store, the others come to the
same port. So a session needs one port, nothing listens any longer, and no stranger is read from.

A message travels on one connection or in halves on two, as `stripes.py` says. If one connection
breaks, so does the group, at both ends and at once.

Memory of devices is *staged*: it travels by way of host memory, block by block (`bounce.py`). On
the wire nothing differs, so the two ends may have two kinds of devices, or one of them none.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.system import memory
from netloader.transport.base import SOURCE, Group, Pending, aborted, failed, peer_of
from netloader.transport.bounce import (
    BUFFERS,
    Buffers,
    DeviceMemory,
    HostMemory,
    Memory,
    Staging,
    buffers_in_this_thread,
)
from netloader.transport.called import first_line
from netloader.transport.copies import Copies
from netloader.transport.lane import Framing, Lane, PlainFraming
from netloader.transport.sealed import SealedFraming
from netloader.transport.send_buffers import SEND_BUFFER_BYTES
from netloader.transport.store import AuthenticatedStore, met
from netloader.transport.stripes import LANES, stripes

STAGING: Final = Staging()
"""Of whatever device a tensor lies on."""


_log = logging.getLogger(__name__)


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

    __slots__ = ("_group", "_pending", "memory", "tag")

    def __init__(self, group: TcpGroup, pending: TcpPending, memory: Memory) -> None:
        self.tag = pending.tag
        self.memory = memory
        self._group = group
        self._pending = pending

    def arrived(self) -> None:
        self._group.arrived(self._pending)


class TcpGroup:
    """A group on `LANES` connections. Thread safe."""

    def __init__(
        self,
        connections: Sequence[socket.socket],
        framings: Sequence[Framing],
        rank: int,
        staging: Staging = STAGING,
    ):
        """Take over the connections, in the same order at both ends."""
        self._staging = staging
        self._buffers: dict[tuple[int, bool], Buffers] = {}  # Each belongs to a lane's thread.
        self._marks: Copies | None = None
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
        carried = self._carried(sends, data, tag)
        parts = [
            (lane, _Part(self, pending, carried(lane, part)))
            for lane, part in stripes(data.numel(), tag)
        ]
        with self._posting:
            with self._changed:
                if self._why is not None:
                    raise TransportError(self._failed(sends, data.numel(), tag, self._why))
                pending.parts_left = len(parts)
            for lane, part in parts:
                self._lanes[lane].post(sends, part)
        return pending

    def _carried(self, sends: bool, data: torch.Tensor, tag: int) -> Callable[[int, slice], Memory]:
        """What a lane carries of a tensor. Raises `TransportError`."""
        if not self._staging.stages(data):
            whole = data.numpy().data
            return lambda lane, part: HostMemory(whole[part])
        try:
            if self._marks is None:
                self._marks = self._staging.copies(data.device)
                _log.info(
                    "TCP carries device memory by way of host memory: %s for this session",
                    memory.text(LANES * BUFFERS * self._staging.block_bytes),
                )
            after = self._marks.mark()
        except RuntimeError as error:
            why = self._failed(sends, data.numel(), tag, f"no copy: {first_line(error)}")
            self.abort(why)
            raise TransportError(why) from None
        block_bytes = self._staging.block_bytes

        def device_memory(lane: int, part: slice) -> Memory:
            def buffers() -> Buffers:
                """Called by the lane's thread."""
                if (lane, sends) not in self._buffers:
                    made = buffers_in_this_thread(self._staging, data.device)
                    self._buffers[lane, sends] = made
                return self._buffers[lane, sends]

            return DeviceMemory(data[part], after, buffers, block_bytes)

        return device_memory

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

    def __init__(self, staging: Staging = STAGING) -> None:
        self._staging = staging

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        lanes = _opened(met(store), rank)
        return TcpGroup(lanes, [PlainFraming() for _ in range(LANES)], rank, self._staging)


class SealedBackend:
    """As `TcpBackend`, with all bytes encrypted."""

    name = "tcp-sealed"
    connections = LANES

    def __init__(self, staging: Staging = STAGING) -> None:
        self._staging = staging

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        where = met(store)
        framings = [SealedFraming(where.secret, rank, lane) for lane in range(LANES)]
        return TcpGroup(_opened(where, rank), framings, rank, self._staging)


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
