"""Staged groups: device memory over a transport that carries host memory, such as Gloo.

A message of device memory is copied to a host buffer and sent from there; the other end receives it
into a host buffer and copies it to its device. On the wire nothing differs from the transport
underneath: one end may be staged and the other not, and their devices may be of two kinds.

Each direction has a few buffers of one message each. While the transport sends one of them, the
next is filled, and while it receives into one, the one before is emptied. Transfers beyond these
buffers begin, in order, once earlier ones have been waited for. A received message is in its tensor
when its `wait` returns, and not before.

Host memory is not staged: it goes as it is, in its turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.system import memory
from netloader.transport.base import Backend, Group, Pending, aborted, failed, peer_of
from netloader.transport.copies import Copies, copies_for, on_a_device

_log = logging.getLogger(__name__)

HOST_BYTES: Final = 64 * 1024 * 1024
"""Bytes of host buffers for each direction of a group, or `MIN_MESSAGES` of its messages where that
is more, as it is with chunks of the default size."""

MIN_MESSAGES: Final = 3
"""Of three messages, one is copied, one is on the wire, and one is ready to follow."""

_SMALLEST: Final = 4096
"""Bytes of the smallest buffer. Buffers are powers of two, as torch allocates pinned memory."""


class HostBuffers:
    """The host buffers of one direction. Belongs to whoever holds the group's lock."""

    def __init__(self) -> None:
        self._free: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
        self._used_bytes = 0
        self._used = 0
        self._made_bytes = 0

    def has_room(self, nbytes: int) -> bool:
        """Whether one more message of this size may have a buffer."""
        return self._used < MIN_MESSAGES or self._used_bytes + _rounded(nbytes) <= HOST_BYTES

    def take(self, nbytes: int, make: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """A buffer of at least `nbytes`."""
        size = _rounded(nbytes)
        if not self._free[size]:
            if self._made_bytes + size > HOST_BYTES:
                # Those of other sizes, or large ones. torch keeps pinned memory for the next.
                self._free.clear()
                self._made_bytes = self._used_bytes
            self._free[size].append(make(size))
            self._made_bytes += size
        buffer = self._free[size].pop()
        self._used += 1
        self._used_bytes += size
        return buffer

    def give_back(self, buffer: torch.Tensor) -> None:
        """Nothing reads or writes the buffer any more."""
        self._used -= 1
        self._used_bytes -= buffer.numel()
        self._free[buffer.numel()].append(buffer)


def _rounded(nbytes: int) -> int:
    return max(_SMALLEST, 1 << (nbytes - 1).bit_length())


class StagedPending:
    """A transfer of device memory by way of host memory, or of host memory in its turn."""

    def __init__(self, group: StagedGroup, sends: bool, data: torch.Tensor, tag: int) -> None:
        self.sends = sends
        self.data = data
        self.tag = tag
        self.buffer: torch.Tensor | None = None
        """Holds the message in host memory; None before it begins, and where `data` does."""
        self.inner: Pending | None = None
        """The transport's part; None before it begins."""
        self.after: object = None
        """Stands for what has to happen before the device's memory is read or written."""
        self.complete = False
        self.why = ""
        """The error with which the transfer failed."""
        self.finishing = threading.Lock()
        """Held by the thread that completes the transfer."""
        self._group = group

    def wait(self, timeout_s: float) -> None:
        self._group.wait(self, timeout_s)


class _Direction:
    """What was posted in one direction of a group, in order."""

    def __init__(self) -> None:
        self.buffers = HostBuffers()
        self.begun: deque[StagedPending] = deque()
        """Handed to the transport, and not complete."""
        self.waiting: deque[StagedPending] = deque()
        """No buffer is free for the first of them, so `begun` is not empty."""


class StagedGroup:
    """A group whose transport carries host memory only. One error breaks all of it."""

    def __init__(
        self,
        inner: Group,
        rank: int,
        copies: Callable[[torch.device], Copies],
        stages: Callable[[torch.Tensor], bool],
    ) -> None:
        self._inner = inner
        self._rank = rank
        self._make_copies = copies
        self._stages = stages
        self._lock = threading.Lock()  # Guards the fields below, and every copy.
        self._copies: Copies | None = None
        self._directions = {True: _Direction(), False: _Direction()}
        self._why = ""  # Why nothing moves any more. Set before anybody is woken, without the lock.

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        return self._post(True, data, tag)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        return self._post(False, data, tag)

    def abort(self, reason: str = "") -> None:
        self._why = self._why or aborted(reason)
        self._inner.abort(reason)
        with self._lock:  # The copy under way was the last one.
            for direction in self._directions.values():
                direction.begun.clear()
                direction.waiting.clear()

    def wait(self, transfer: StagedPending, timeout_s: float) -> None:
        """Block until a transfer of this group is complete. Raises `TransportError`."""
        deadline = time.monotonic() + timeout_s
        try:
            while (earlier := self._in_the_way(transfer)) is not None:
                self._finish(earlier, deadline)
        except TransportError as error:
            _log.debug("%s", error)  # It broke the group, and so this transfer.
        self._finish(transfer, deadline)

    def _post(self, sends: bool, data: torch.Tensor, tag: int) -> Pending:
        transfer = StagedPending(self, sends, data, tag)
        direction = self._directions[sends]
        with self._lock:
            self._mark(transfer)
            direction.waiting.append(transfer)
            broken = transfer.why or self._begin(direction)
        if broken:
            self.abort(broken)
            raise TransportError(transfer.why or self._failed(transfer, self._why))
        return transfer

    def _mark(self, transfer: StagedPending) -> None:
        """Note what the calling thread still does with the device's memory."""
        if not self._stages(transfer.data):
            return
        try:
            if self._copies is None:
                self._copies = self._make_copies(transfer.data.device)
            transfer.after = self._copies.mark()
        except RuntimeError as error:
            transfer.why = self._failed(transfer, f"no copy: {error}")

    def _in_the_way(self, transfer: StagedPending) -> StagedPending | None:
        """A transfer that must be complete before this one can begin."""
        with self._lock:
            direction = self._directions[transfer.sends]
            return direction.begun[0] if transfer in direction.waiting else None

    def _begin(self, direction: _Direction) -> str:
        """Begin what there are buffers for. Returns the error that breaks the group, if any."""
        while direction.waiting:
            transfer = direction.waiting[0]
            if self._why:
                transfer.why = self._failed(transfer, self._why)
                return transfer.why
            staged = self._stages(transfer.data)
            if staged and not direction.buffers.has_room(transfer.data.numel()):
                break
            try:
                transfer.inner = self._start(direction, transfer, staged)
            except TransportError as error:
                transfer.why = str(error)
                return transfer.why
            direction.begun.append(direction.waiting.popleft())
        return ""

    def _start(self, direction: _Direction, transfer: StagedPending, staged: bool) -> Pending:
        """Hand a transfer to the transport. Raises `TransportError`."""
        message = transfer.data
        if staged:
            message = self._staged(direction, transfer)
        start = self._inner.send if transfer.sends else self._inner.recv
        return start(message, transfer.tag)

    def _staged(self, direction: _Direction, transfer: StagedPending) -> torch.Tensor:
        """The host memory from which a message is sent, or into which it is received."""
        assert self._copies is not None, "made when it was posted"
        nbytes = transfer.data.numel()
        try:
            transfer.buffer = direction.buffers.take(nbytes, self._copies.buffer)
            message = transfer.buffer[:nbytes]
            if transfer.sends:
                self._copies.to_host(message, transfer.data, transfer.after)()
        except RuntimeError as error:
            raise TransportError(self._failed(transfer, f"no copy: {error}")) from None
        return message

    def _finish(self, transfer: StagedPending, deadline: float) -> None:
        """Wait for a transfer that has begun, and empty its buffer. Raises `TransportError`."""
        if not transfer.finishing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            why = self._failed(transfer, "timed out")
            self.abort(why)
            raise TransportError(why)
        try:
            if transfer.complete:
                return
            if transfer.why or transfer.inner is None:
                raise TransportError(transfer.why or self._failed(transfer, self._why))
            transfer.inner.wait(max(0.0, deadline - time.monotonic()))
            with self._lock:
                broken = self._complete(transfer)
        except TransportError as error:
            transfer.why = str(error)
            self.abort(transfer.why)
            raise TransportError(transfer.why) from None
        finally:
            transfer.finishing.release()
        if broken:
            self.abort(broken)

    def _complete(self, transfer: StagedPending) -> str:
        """Put what has arrived into its tensor, and begin what waits for the buffer. Returns the
        error that breaks the group for later transfers, if any. Raises `TransportError`."""
        if self._why:
            raise TransportError(self._failed(transfer, self._why))
        direction = self._directions[transfer.sends]
        if transfer.buffer is not None:
            if not transfer.sends:
                self._empty(transfer, transfer.buffer)
            direction.buffers.give_back(transfer.buffer)
        transfer.complete = True
        transfer.buffer = transfer.inner = None
        direction.begun.remove(transfer)
        return self._begin(direction)

    def _empty(self, transfer: StagedPending, buffer: torch.Tensor) -> None:
        assert self._copies is not None, "made with the first buffer"
        try:
            message = buffer[: transfer.data.numel()]
            self._copies.to_device(transfer.data, message, transfer.after)()
        except RuntimeError as error:
            raise TransportError(self._failed(transfer, f"no copy: {error}")) from None

    def _failed(self, transfer: StagedPending, why: str) -> str:
        nbytes = transfer.data.numel()
        return failed(transfer.sends, nbytes, transfer.tag, peer_of(self._rank), why)


class StagedBackend:
    """Opens groups of another backend, and stages what its transport cannot carry.

    Its name is that backend's: the bytes on the wire are the same.
    """

    def __init__(
        self,
        inner: Backend,
        copies: Callable[[torch.device], Copies] = copies_for,
        stages: Callable[[torch.Tensor], bool] = on_a_device,
    ) -> None:
        """`stages` says which tensors the transport cannot carry."""
        self.name = inner.name
        self.connections = inner.connections
        self._inner = inner
        self._copies = copies
        self._stages = stages

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        group = self._inner.open(store, rank, host, timeout)
        _log.info(
            "%s carries device memory by way of host memory: up to %s for this session, or %d "
            "messages",
            self.name,
            memory.text(HOST_BYTES),
            MIN_MESSAGES,
        )
        return StagedGroup(group, rank, self._copies, self._stages)
