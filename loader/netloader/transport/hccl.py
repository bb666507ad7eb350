"""HCCL: memory of Ascend NPUs. With `hccl_ordered.py`, the only importer of torch_npu.

The group is HCCL's own communicator of two ranks (`acl.py`), not torch_npu's `ProcessGroupHCCL`.
That one cannot live beside a model that serves:

- its watchdog ends the process over an error of any group;
- it lends 32 streams in turn, so the model's groups would get those that our failures have spoilt;
- it passes operations through a queue whose first error silently drops what others queue later;
- it notes its stream in the tensors, so they can never be freed once the stream is gone;
- it destroys a communicator under the GIL, and two that are made at once corrupt its memory.

What HCCL itself does badly, and what is done about it here:

- It makes a communicator with a peer that may be gone, and waits for it for `HCCL_CONNECT_TIMEOUT`.
  So that happens in a thread that can be left behind, and a group is open once a byte has come both
  ways.
- Its operations have no tags, and one that the peer never joins blocks its stream for good. So an
  operation begins only once both ends have posted it (`called.py`), on a stream of the group's own.
- It notices late, or never, that the peer has died. The line between the ends does at once.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, Final

import torch
from torch._C._distributed_c10d import Store
from torch_npu import npu

from netloader.errors import TransportError
from netloader.system.threads import TransferThread
from netloader.transport import acl
from netloader.transport.base import RANKS, SOURCE, Group, peer_of
from netloader.transport.called import CalledGroup, Operation, first_line
from netloader.transport.line import Line, open_line

_log = logging.getLogger(__name__)

_MIB: Final = 1 << 20

_ROOT: Final = "netloader/hccl"
"""Key in the store: how the replica's HCCL finds the source's."""

_BUFFER_MIB: Final = 20
"""torch_npu's default of `P2P_HCCL_BUFFSIZE`."""

_BUFFERS: Final = 2
"""Buffers of that size that HCCL keeps on the device for each communicator."""

_SPARE_BYTES: Final = 64 * _MIB
"""Device memory to leave free beside the buffers: HCCL also needs room for queues and notifies."""

_LEFT_BEHIND: Final = 8
"""Threads that may still wait for peers that never came, each until `HCCL_CONNECT_TIMEOUT`."""

_PAUSE_S: Final = 0.001
"""How soon to look again whether something has ended."""

_LAST_BYTES_S: Final = 0.25
"""Seconds that an abort gives operations under way to end by themselves. Both ends take part in
them, so a chunk needs a few milliseconds; one that is broken off costs its stream."""

_RELEASE_S: Final = 5.0
"""Seconds that operations may take to end once their communicator is destroyed."""


class _Device:
    """What all groups of this process share on one device."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.name = f"npu:{index}"
        with npu.device(index):
            self.stream = npu.SyncLaunchStream()
            """For copies to the device, beside the model's streams."""
        self.lock = threading.Lock()
        self.left_behind = 0
        """Threads that still wait for peers that never came."""


_devices: dict[int, _Device] = {}
_devices_lock = threading.Lock()


def _device(index: int) -> _Device:
    with _devices_lock:
        if index not in _devices:
            _devices[index] = _Device(index)
        return _devices[index]


class _HcclOperation:
    """One operation of HCCL that has begun."""

    def __init__(self, communicator: acl.Communicator, event: acl.AclEvent) -> None:
        self._communicator = communicator
        self._event = event

    def has_ended(self) -> bool:
        """Raises `AclError` when it has failed."""
        if self._event.reached():
            return True
        self._communicator.check()
        return False

    def is_over(self) -> bool:
        """Whether it has ended, well or not. The communicator may be gone."""
        try:
            return self._event.reached()
        except acl.AclError:
            return True


class _HcclEnd:
    """A communicator, with a stream that nobody else has."""

    name = "HCCL"

    def __init__(self, device: _Device, communicator: acl.Communicator, peer: int) -> None:
        """Raises `AclError` when the device has no stream left."""
        self._device = device
        self._communicator = communicator
        self._peer = peer
        self._stream = acl.AclStream()

    def here(self) -> AbstractContextManager[object]:
        acl.set_device(self._device.index)
        return nullcontext()

    def holds(self, data: torch.Tensor) -> bool:
        return data.device == torch.device(self._device.name)

    def copy_of(self, data: torch.Tensor) -> torch.Tensor:
        with npu.stream(self._device.stream):
            return data.to(self._device.name)

    def mark(self) -> acl.AclEvent:
        return acl.AclEvent(_handle(npu.current_stream(self._device.index)))

    def begin(self, sends: bool, data: torch.Tensor, after: object) -> _HcclOperation:
        assert isinstance(after, acl.AclEvent), "a mark of this end"
        self._stream.wait_for(after)
        self._communicator.start(sends, data.data_ptr(), data.numel(), self._peer, self._stream)
        return _HcclOperation(self._communicator, acl.AclEvent(self._stream.handle))

    def break_off(self, under_way: Sequence[Operation]) -> bool:
        operations = [one for one in under_way if isinstance(one, _HcclOperation)]
        clean = _end_well(operations, _LAST_BYTES_S)
        try:
            self._communicator.destroy()
        except acl.AclError as error:
            _log.warning("a communicator is left behind: %s", error)
        if not clean and not _end(operations, _RELEASE_S):
            return False
        self._stream.destroy()
        return True


def _end_well(operations: Sequence[_HcclOperation], timeout_s: float) -> bool:
    """Whether all end, and well, within some seconds."""
    deadline = time.monotonic() + timeout_s
    try:
        for operation in operations:
            while not operation.has_ended():
                if time.monotonic() > deadline:
                    return False
                time.sleep(_PAUSE_S)
    except RuntimeError as error:
        _log.debug("an operation has failed: %s", first_line(error))
        return False
    return True


def _end(operations: Sequence[_HcclOperation], timeout_s: float) -> bool:
    """Whether none is under way after some seconds, however they ended."""
    deadline = time.monotonic() + timeout_s
    for operation in operations:
        while not operation.is_over():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
    return True


class HcclBackend:
    """Opens HCCL groups on the device that is current where the backend is made."""

    name = "hccl"
    connections = 1

    def __init__(self) -> None:
        self._index: int = npu.current_device()
        self._told = False

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        deadline = time.monotonic() + timeout.total_seconds()
        peer = RANKS[peer_of(rank)]
        device = _device(self._index)
        npu.set_device(self._index)
        acl.set_device(self._index)
        self._check_memory(device)
        line = open_line(store, rank)
        try:
            if rank == SOURCE:
                root = acl.root_info()
                store.set(_ROOT, root)  # type: ignore[arg-type]  # The stub knows only text.
            else:
                root = bytes(store.get(_ROOT))
            communicator = _Opening(device, root, rank).result(line, deadline)
            group = CalledGroup(_HcclEnd(device, communicator, peer_of(rank)), rank, line)
        except (RuntimeError, TransportError) as error:
            line.hang_up()
            line.close()
            raise TransportError(f"no HCCL group with the {peer}: {first_line(error)}") from None
        self._exchange_a_byte(group, rank, device, deadline)
        return group

    def _exchange_a_byte(
        self, group: CalledGroup, rank: int, device: _Device, deadline: float
    ) -> None:
        """Both ways, so that the first transfer does not find out what does not work. Raises
        `TransportError`."""
        with npu.stream(device.stream):
            mine = torch.tensor([rank], dtype=torch.uint8).to(device.name)
            theirs = torch.empty_like(mine)
            arriving, leaving = group.recv(theirs, 0), group.send(mine, 0)
            for pending in (arriving, leaving):
                pending.wait(max(0.0, deadline - time.monotonic()))
            got = theirs.tolist()
        if got != [peer_of(rank)]:
            group.abort(f"the first byte is {got[0]}, not {peer_of(rank)}")
            raise TransportError(f"HCCL brought {got[0]} as the first byte, not {peer_of(rank)}")

    def _check_memory(self, device: _Device) -> None:
        """Raises `TransportError` when HCCL's buffers would not fit."""
        needed = _BUFFERS * _buffer_mib() * _MIB
        free, _ = npu.mem_get_info(device.index)
        if free < needed + _SPARE_BYTES:
            raise TransportError(
                f"device {device.index} has {free // _MIB} MiB free, and an HCCL group takes "
                f"{needed // _MIB} MiB for its buffers beside {_SPARE_BYTES // _MIB} MiB to spare: "
                "lower gpu_memory_utilization or P2P_HCCL_BUFFSIZE"
            )
        if not self._told:
            self._told = True
            _log.info(
                "HCCL takes %d MiB of device %d for each session; %d MiB are free",
                needed // _MIB,
                device.index,
                free // _MIB,
            )


class _Opening:
    """Makes a communicator in a thread, because HCCL itself may wait for minutes."""

    def __init__(self, device: _Device, root: bytes, rank: int) -> None:
        """Raises `TransportError` when this process can open no group now."""
        self._device = device
        self._root = root
        self._rank = rank
        self._lock = threading.Lock()  # Guards the hand-over between the two threads.
        self._abandoned = False
        self._ended = threading.Event()
        self._made: acl.Communicator | None = None
        self._error: str | None = None
        with device.lock:
            if device.left_behind >= _LEFT_BEHIND:
                raise TransportError(
                    f"{_LEFT_BEHIND} threads wait in HCCL for peers that went while a group opened"
                )
        TransferThread(self._run, "netloader-hccl-open").start()

    def result(self, line: Line, deadline: float) -> acl.Communicator:
        """Wait for the communicator, as long as the peer is there. Raises `TransportError`."""
        while not self._ended.wait(_PAUSE_S):
            # Nothing is said on the line yet.
            line.peek()
            if line.gone:
                self._abandon(f"the {RANKS[peer_of(self._rank)]} has left")
            if time.monotonic() > deadline:
                self._abandon("HCCL did not make a communicator in time")
        if self._made is None:
            raise TransportError(self._error or "HCCL made no communicator")
        return self._made

    def _abandon(self, why: str) -> None:
        """Leave the thread behind; raises `TransportError` unless it has just ended."""
        with self._lock:
            if self._ended.is_set():
                return
            self._abandoned = True
            with self._device.lock:
                self._device.left_behind += 1
        raise TransportError(why)

    def _run(self) -> None:
        made, error = None, None
        try:
            acl.set_device(self._device.index)
            made = acl.Communicator(self._root, self._rank, _buffer_mib())
        except acl.AclError as found:
            error = str(found)
        with self._lock:
            self._error = error
            if not self._abandoned:
                self._made = made
                self._ended.set()
                return
        with self._device.lock:
            self._device.left_behind -= 1
        if made is not None:
            made.destroy()


def _buffer_mib() -> int:
    """MiB of one buffer of a communicator."""
    try:
        return max(1, int(os.environ["P2P_HCCL_BUFFSIZE"]))
    except (KeyError, ValueError):
        return _BUFFER_MIB


def _handle(stream: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(stream.npu_stream)
