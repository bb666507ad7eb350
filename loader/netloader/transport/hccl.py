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
  operation begins only once both ends have posted it (`turns.py`), on a stream of the group's own.
- It notices late, or never, that the peer has died. A line between the ends does at once
  (`line.py`).
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final, NoReturn

import torch
from torch._C._distributed_c10d import Store
from torch_npu import npu

from netloader.errors import TransportError
from netloader.system.threads import TransferThread, begin_with
from netloader.transport import acl
from netloader.transport.base import RANKS, SOURCE, Group, Pending, aborted, failed, peer_of
from netloader.transport.line import Line, open_line
from netloader.transport.turns import Note, Turns

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

_STAGED: Final = 2
"""Messages from host memory that may be on the device at once, in one group."""

_STAGING_S: Final = 30.0
"""Seconds that a message from host memory waits for the room of an earlier one."""

_BRIEF_S, _PAUSE_S = 0.0001, 0.001
"""How soon to look again whether an operation has ended: right after it began, and later."""

_IDLE_S: Final = 60.0
"""How long to sleep until the peer says something, or either end hangs up."""

_LAST_BYTES_S: Final = 0.25
"""Seconds that an abort gives operations under way to end by themselves. Both ends take part in
them, so a chunk needs a few milliseconds; one that is broken off costs its stream."""

_LAST_WORDS_S: Final = 0.5
"""The same for the peer's last operations once it has left: what it sent may have arrived."""

_RELEASE_S: Final = 5.0
"""Seconds that operations may take to end once their communicator is destroyed."""

_not_released: list[object] = []
"""Tensors that a destroyed communicator may still touch: they are never freed."""


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


class _Operation:
    """One operation of HCCL that has begun."""

    def __init__(
        self,
        communicator: acl.Communicator,
        stream: acl.AclStream,
        sends: bool,
        data: torch.Tensor,
        peer: int,
    ) -> None:
        """Begin it. Raises `AclError`."""
        self._communicator = communicator
        self._data = data  # HCCL holds only the address.
        communicator.start(sends, data.data_ptr(), data.numel(), peer, stream)
        self._event = acl.AclEvent(stream.handle)

    def has_ended(self) -> bool:
        """Raises `AclError` when it has failed."""
        if self._event.reached():
            return True
        self._communicator.check()
        return False

    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        try:
            return self._event.reached()
        except acl.AclError:
            return True


class HcclPending:
    """A send or receive of one group."""

    def __init__(self, group: HcclGroup, sends: bool, data: torch.Tensor, tag: int) -> None:
        self.sends = sends
        self.tag = tag
        self.nbytes = data.numel()
        self.data: torch.Tensor | None = data
        """On the device. HCCL holds only its address; None once it has ended."""
        self.ready: acl.AclEvent | None = None
        """Earlier work on the data, of the thread that posted the transfer."""
        self.operation: _Operation | None = None
        """None before it has begun, and once it has ended."""
        self.done = False
        self.error: str | None = None
        self.last_moment: float | None = None
        """How long to wait for its end after the peer has left, in seconds of `time.monotonic`."""
        self._group = group

    def wait(self, timeout_s: float) -> None:
        self._group.wait(self, timeout_s)


class HcclGroup:
    """One end of a group, with a thread that begins transfers as they are called."""

    def __init__(
        self, device: _Device, rank: int, communicator: acl.Communicator, line: Line
    ) -> None:
        """Raises `AclError` when the device has no stream left."""
        self._device = device
        self._rank = rank
        self._peer = peer_of(rank)
        self._communicator = communicator
        self._stream = acl.AclStream()
        self._line = line
        self._changed = threading.Condition()  # Guards the fields below, and all operations.
        self._turns: Turns[HcclPending] = Turns(rank)
        self._under_way: list[HcclPending] = []
        self._staged: list[HcclPending] = []
        self._broken: str | None = None  # What `_listen` has met.
        self._aborting = threading.Lock()
        self._why: str | None = None  # Set once, before anything is taken down.
        self._over = False
        self._listening = TransferThread(
            self._listen, "netloader-hccl", stop=lambda: self.abort("this process ends")
        )
        self._listening.start()

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        if data.device.type == "cpu":
            return self._send_staged(data, tag)
        return self._post(HcclPending(self, True, data, tag))

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        transfer = HcclPending(self, False, data, tag)
        if data.device.type == "cpu":
            raise TransportError(self._failed(transfer, "HCCL receives in device memory only"))
        return self._post(transfer)

    def abort(self, reason: str = "") -> None:
        with self._aborting:  # The second caller may not return before all is quiet either.
            if self._over:
                return
            self._why = aborted(reason)
            self._line.hang_up()
            acl.set_device(self._device.index)
            with self._changed:
                self._changed.notify_all()
                self._take_down()
            self._over = True
        if threading.current_thread() is not self._listening:
            self._listening.join()
        self._line.close()

    def wait(self, transfer: HcclPending, timeout_s: float) -> None:
        """Block until one transfer has ended. Raises `TransportError`."""
        deadline = time.monotonic() + timeout_s
        try:
            operation = self._begun(transfer, deadline)
            pause = _BRIEF_S
            while operation is not None and not operation.has_ended():
                self._check_patience(transfer, deadline, timeout_s)
                time.sleep(pause)
                pause = min(2 * pause, _PAUSE_S)
            self._finish(transfer)
        except (RuntimeError, TransportError) as error:
            self._give_up(transfer, self._reason(error))

    def _reason(self, error: Exception) -> str:
        """Why a transfer has failed. HCCL tells by a number that the peer has died, perhaps before
        the line tells by its end."""
        told = _first_line(error)
        if isinstance(error, TransportError):
            return told
        with self._changed:
            self._changed.wait_for(self._is_broken, _LAST_WORDS_S)
            return f"{self._broken} ({told})" if self._broken is not None else told

    def _begun(self, transfer: HcclPending, deadline: float) -> _Operation | None:
        """Wait until a transfer has begun; None when it has ended already."""
        began = time.monotonic()
        with self._changed:
            while transfer.operation is None and not transfer.done:
                if transfer.error is not None:
                    raise TransportError(transfer.error)
                self._check_patience(transfer, deadline, deadline - began)
                self._changed.wait(max(0.0, deadline - time.monotonic()))
            return transfer.operation

    def _check_patience(self, transfer: HcclPending, deadline: float, timeout_s: float) -> None:
        """Raises `TransportError` when there is no point in waiting any longer."""
        if self._why is not None:
            raise TransportError(self._why)
        if self._broken is not None:
            if transfer.operation is None:
                raise TransportError(self._broken)
            # The peer may have sent all of it before it left.
            transfer.last_moment = transfer.last_moment or time.monotonic() + _LAST_WORDS_S
            if time.monotonic() > transfer.last_moment:
                raise TransportError(self._broken)
        if time.monotonic() >= deadline:
            raise TransportError(f"timed out after {timeout_s:g} s")

    def _post(self, transfer: HcclPending) -> HcclPending:
        try:
            # What the calling thread still does with the data, as packing it, comes first.
            acl.set_device(self._device.index)
            transfer.ready = acl.AclEvent(_handle(npu.current_stream(self._device.index)))
            with self._changed:
                if self._why is not None or self._broken is not None:
                    raise TransportError(self._why or self._broken)
                notes = self._turns.post(transfer.sends, transfer.tag, transfer.nbytes, transfer)
                for note in notes:
                    self._line.say(note.encode())
                self._begin_called()
        except (RuntimeError, TransportError) as error:
            self._give_up(transfer, _first_line(error))
        return transfer

    def _send_staged(self, data: torch.Tensor, tag: int) -> HcclPending:
        """Send from host memory, by way of device memory of at most `_STAGED` messages."""
        transfer = HcclPending(self, True, data, tag)
        staged = [one for one in self._staged if not one.done]
        while len(staged) >= _STAGED:
            staged.pop(0).wait(_STAGING_S)
        try:
            with npu.stream(self._device.stream):
                transfer.data = torch.empty_like(data, device=self._device.name)
                transfer.data.copy_(data)
        except RuntimeError as error:
            self._give_up(transfer, f"staging it on the device failed: {_first_line(error)}")
        self._staged = [*staged, transfer]
        return self._post(transfer)

    def _listen(self) -> None:
        """Begin what the peer calls, until one end leaves."""
        acl.set_device(self._device.index)
        while not self._is_broken():
            self._line.wait(_IDLE_S)
            try:
                with self._changed:
                    if self._is_broken():
                        return
                    for piece in self._line.hear(Note.FORMAT.size):
                        called = self._turns.hear(Note.decode(piece))
                        if called is not None:
                            self._begin(called)
                    self._begin_called()
                    if self._line.gone:
                        self._break(f"the {RANKS[self._peer]} has left")
                    self._changed.notify_all()
            except (RuntimeError, TransportError) as error:
                with self._changed:
                    self._break(_first_line(error))

    def _is_broken(self) -> bool:
        return self._why is not None or self._broken is not None

    def _break(self, why: str) -> None:
        self._broken = why
        self._changed.notify_all()

    def _begin_called(self) -> None:
        for note, transfer in self._turns.calls():
            self._line.say(note.encode())
            self._begin(transfer)

    def _begin(self, transfer: HcclPending) -> None:
        if transfer.data is None or transfer.nbytes == 0:
            transfer.done = True
            return
        assert transfer.ready is not None, "recorded when it was posted"
        self._stream.wait_for(transfer.ready)
        transfer.operation = _Operation(
            self._communicator, self._stream, transfer.sends, transfer.data, self._peer
        )
        self._under_way.append(transfer)

    def _finish(self, transfer: HcclPending) -> None:
        """Take note of an operation that has ended. Raises `RuntimeError` if it has failed."""
        with self._changed:
            if transfer.operation is None:
                return
            if self._why is not None:
                raise TransportError(self._why)
            self._under_way.remove(transfer)
            transfer.done = True
            transfer.operation = transfer.ready = transfer.data = None

    def _give_up(self, transfer: HcclPending, why: str) -> NoReturn:
        """Break the group over one transfer. Raises `TransportError`."""
        if transfer.error is None:
            # A transfer that an abort ended fails for the abort's reason, whatever HCCL says.
            transfer.error = self._failed(transfer, self._why or why)
        self.abort(transfer.error)
        raise TransportError(transfer.error)

    def _failed(self, transfer: HcclPending, why: str) -> str:
        return failed(transfer.sends, transfer.nbytes, transfer.tag, self._peer, why)

    def _take_down(self) -> None:
        """End what is under way, and destroy the communicator."""
        operations = [one.operation for one in self._under_way if one.operation is not None]
        clean = _end_well(operations, _LAST_BYTES_S)
        try:
            self._communicator.destroy()
        except acl.AclError as error:
            _log.warning("a communicator is left behind: %s", error)
        if clean or _end(operations, _RELEASE_S):
            self._stream.destroy()
        else:
            _log.error(
                "HCCL still holds %d operations %g s after their communicator was destroyed: "
                "their memory stays reserved",
                len(operations),
                _RELEASE_S,
            )
            _not_released.extend(self._under_way)
        self._under_way.clear()
        self._staged.clear()
        self._turns = Turns(self._rank)


def _end_well(operations: Sequence[_Operation], timeout_s: float) -> bool:
    """Whether all end, and well, within some seconds."""
    deadline = time.monotonic() + timeout_s
    try:
        for operation in operations:
            while not operation.has_ended():
                if time.monotonic() > deadline:
                    return False
                time.sleep(_PAUSE_S)
    except RuntimeError as error:
        _log.debug("an operation has failed: %s", _first_line(error))
        return False
    return True


def _end(operations: Sequence[_Operation], timeout_s: float) -> bool:
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
        begin_with(acl.copy_beside_captures)

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
            group = HcclGroup(device, rank, communicator, line)
        except (RuntimeError, TransportError) as error:
            line.hang_up()
            line.close()
            raise TransportError(f"no HCCL group with the {peer}: {_first_line(error)}") from None
        self._exchange_a_byte(group, rank, device, deadline)
        return group

    def _exchange_a_byte(
        self, group: HcclGroup, rank: int, device: _Device, deadline: float
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


def _first_line(error: Exception) -> str:
    """torch_npu appends a trace and advice; the first line that says something is kept."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else f"{type(error).__name__} without words"
