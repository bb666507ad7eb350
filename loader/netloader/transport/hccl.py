"""HCCL: memory of Ascend NPUs, by torch_npu's `ProcessGroupHCCL`. Nothing else imports torch_npu.

What HCCL does badly, and what is done about it here:

- It makes the communicator inside the first send or receive, which waits for the peer for
  `HCCL_CONNECT_TIMEOUT`. So a group exchanges a byte both ways while it opens, in a thread that can
  be left behind.
- Its operations have no tags, and one that the peer never joins blocks its stream for good. So an
  operation begins only once both ends have posted it (`turns.py`).
- It notices late, or never, that the peer has died. A line between the ends does at once
  (`line.py`).
- Its watchdog ends the process over an error of any group. It is stopped for ours before it has
  anything to watch, and the errors are asked for here. Groups of the model keep theirs.
- torch_npu hands out its 32 streams in turn, so the model's groups would soon get streams that our
  failures have spoilt, and queue behind our transfers. It has four more for synchronous launches,
  which nobody else uses. All that is done here runs on these. So nothing of ours passes torch_npu's
  task queue either, whose first error silently drops what others queue later.

An operation that is broken off can leave its stream unusable, and whoever then synchronises the
device would wait for it or get its error. So that stream is destroyed, and used no more. A process
that has lost all of them, to peers that died halfway through a message, opens no more groups.
"""

from __future__ import annotations

import ctypes
import itertools
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
from torch_npu._C._distributed_c10d import ProcessGroupHCCL

from netloader.errors import TransportError
from netloader.system.threads import TransferThread
from netloader.transport.base import RANKS, SOURCE, Group, Pending, aborted, failed, peer_of
from netloader.transport.line import Line, open_line
from netloader.transport.turns import Note, Turns

_log = logging.getLogger(__name__)

_MIB: Final = 1 << 20

_STOP: Final = 2
"""`WatchdogStatus::STOP` of torch_npu: the watchdog looks at nothing, and nothing is queued for
it."""

_BUFFER_MIB: Final = 20
"""torch_npu's default of `P2P_HCCL_BUFFSIZE`, which it reads once for all groups of a process."""

_BUFFERS: Final = 2
"""Buffers of that size that HCCL keeps on the device for each communicator."""

_SPARE_BYTES: Final = 64 * _MIB
"""Device memory to leave free beside the buffers: HCCL also needs room for queues and notifies."""

_STREAMS: Final = 3
"""Streams for HCCL's operations. torch_npu has four for synchronous launches on each device, and
the first of them issues ours."""

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

_LAST_WORDS_S: Final = 1.0
"""The same for the peer's last operations once it has left: what it sent may have arrived."""

_RELEASE_S: Final = 5.0
"""Seconds that operations may take to end once their communicator is destroyed."""

_numbers = itertools.count()

_not_released: list[object] = []
"""Tensors that a destroyed communicator may still touch: they are never freed."""


class _Streams:
    """The streams of one device for HCCL's operations, lent by name.

    torch_npu binds a stream to each name (`hccl_buffer_name`) when a communicator is first made
    with it. Two groups may share a stream: an operation begins only when both ends are there, so
    none waits long behind another.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._users = {f"netloader-{number}": 0 for number in range(_STREAMS)}
        self._lost: dict[str, int] = {}
        """Handles of streams that will be destroyed when their last user is gone, by name."""

    def borrow(self, rank: int) -> str:
        """The name of the least used stream. Raises `TransportError` when none is left."""
        with self._lock:
            # The ends of one group, should they be in one process, need two.
            order = sorted(self._users, reverse=rank == SOURCE)
            names = [name for name in order if name not in self._lost]
            if not names:
                raise TransportError(
                    f"device {self._device} has lost its {_STREAMS} streams for transfers to peers "
                    "that died halfway through a message: only a restart brings them back"
                )
            name = min(names, key=self._users.__getitem__)
            self._users[name] += 1
            return name

    def give_back(self, name: str, lost: int | None = None) -> None:
        """`lost` is the handle of the stream if an operation on it was broken off."""
        with self._lock:
            self._users[name] -= 1
            if lost is not None:
                _log.warning("device %d loses a stream for transfers", self._device)
                self._lost[name] = lost
            if self._users[name] == 0 and self._lost.get(name):
                _destroy_stream(self._lost[name])
                self._lost[name] = 0


def _destroy_stream(handle: int) -> None:
    """Free the current device of a stream of ours, whatever is on it. torch_npu has no call for
    that, and does not look at its streams by itself."""
    destroy = ctypes.CDLL("libascendcl.so").aclrtDestroyStreamForce
    destroy.argtypes = [ctypes.c_void_p]
    error = destroy(handle)
    if error:
        _log.warning("a stream could not be destroyed: CANN reports %d", error)


class _Device:
    """What all groups of this process share on one device."""

    def __init__(self, index: int) -> None:
        self.index = index
        with npu.device(index):
            self.stream = npu.SyncLaunchStream()
        """Issues all that is done here. Never waits for an operation that has not ended."""
        self.streams = _Streams(index)
        self.left_behind = 0
        self.lock = threading.Lock()


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
        self, group: Any, sends: bool, data: torch.Tensor, peer: int, device: _Device
    ) -> None:
        """Begin it, after all that `device.stream` was given. Raises `RuntimeError`."""
        start = group.send if sends else group.recv
        # The same memory, of which torch_npu's allocator knows nothing: it would note the stream,
        # use it whenever the tensor is freed, and end the process if the stream is gone by then.
        # The view also has a storage of just these bytes, whatever format the tensor is part of.
        self._alias = torch.utils.dlpack.from_dlpack(data)
        with npu.stream(device.stream):
            self._work = start([self._alias], peer, 0)
        self._device = device
        self.stream = npu.Stream(
            stream_id=group._get_stream_id(True, peer),
            device_index=device.index,
            device_type=device.stream.device_type,
        )
        self._event = npu.Event()
        self._event.record(self.stream)

    def has_ended(self) -> bool:
        """Raises `RuntimeError` when it has failed."""
        if self._event.query():
            return True
        # Also true when HCCL has reported an error of the communicator.
        if not self._work.is_completed():
            return False
        deadline = time.monotonic() + _LAST_BYTES_S
        while not self._event.query():
            if time.monotonic() > deadline:
                raise RuntimeError("HCCL reports an error of the communicator")
            time.sleep(_BRIEF_S)
        return True

    def is_over(self) -> bool:
        """Whether it has ended, well or not."""
        try:
            return bool(self._event.query())
        except RuntimeError:
            return True

    def settle(self) -> None:
        """Show what was received to all streams. Raises `RuntimeError` when the operation has
        failed after all, which a stream tells only whoever synchronises it."""
        self._device.stream.wait_event(self._event)
        self._device.stream.synchronize()


class HcclPending:
    """A send or receive of one group."""

    def __init__(self, group: HcclGroup, sends: bool, data: torch.Tensor, tag: int) -> None:
        self.sends = sends
        self.tag = tag
        self.nbytes = data.numel()
        self.data: torch.Tensor | None = data
        """On the device. HCCL holds only its address; None once it has ended."""
        self.ready: npu.Event | None = None
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
        self,
        device: _Device,
        rank: int,
        group: Any,
        line: Line,
        stream_name: str,
        stream: npu.Stream,
    ) -> None:
        """`stream` is the one of that name, on which the group's operations run."""
        self._device = device
        self._rank = rank
        self._peer = peer_of(rank)
        self._group = group
        self._line = line
        self._stream_name = stream_name
        self._stream = stream
        self._handle: int = stream.npu_stream
        self._changed = threading.Condition()  # Guards the fields below, and all use of `_group`.
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

    def beside_the_model(self) -> None:
        npu.set_device(self._device.index)
        npu.set_stream(self._device.stream)

    def abort(self, reason: str = "") -> None:
        with self._aborting:  # The second caller may not return before all is quiet either.
            if self._over:
                return
            self._why = aborted(reason)
            self._line.hang_up()
            with self._changed, npu.device(self._device.index):
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
            self._give_up(transfer, _first_line(error))

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
        # What the calling thread still does with the data, as packing it, comes first.
        current = npu.current_stream(self._device.index)
        if current.stream_id != self._device.stream.stream_id:
            transfer.ready = npu.Event()
            transfer.ready.record(current)
        try:
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
                transfer.data = torch.empty_like(data, device=f"npu:{self._device.index}")
                transfer.data.copy_(data)
        except RuntimeError as error:
            self._give_up(transfer, f"staging it on the device failed: {_first_line(error)}")
        self._staged = [*staged, transfer]
        return self._post(transfer)

    def _listen(self) -> None:
        """Begin what the peer calls, until one end leaves."""
        npu.set_device(self._device.index)
        while self._why is None and self._broken is None:
            self._line.wait(_IDLE_S)
            try:
                with self._changed:
                    if self._why is not None:
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
        if transfer.ready is not None:
            self._device.stream.wait_event(transfer.ready)
        transfer.operation = _Operation(
            self._group, transfer.sends, transfer.data, self._peer, self._device
        )
        self._under_way.append(transfer)

    def _finish(self, transfer: HcclPending) -> None:
        """Take note of an operation that has ended. Raises `RuntimeError` if it has failed."""
        with self._changed:
            if transfer.operation is None:
                return
            if self._why is not None:
                raise TransportError(self._why)
            transfer.operation.settle()
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
        if clean and self._stream.query():
            # The stream is idle: this waits for nothing but the watchdog, and without the GIL.
            self._group.shutdown()
        else:
            # Holds the GIL while HCCL destroys the communicator: there is no other way.
            self._group.abort_hccl_comm("netloader")
        if not clean and not _end(operations, _RELEASE_S):
            _log.error(
                "HCCL still holds %d operations %g s after their communicator was destroyed: "
                "their memory stays reserved",
                len(operations),
                _RELEASE_S,
            )
            _not_released.extend(self._under_way)
        self._device.streams.give_back(self._stream_name, None if clean else self._handle)
        self._under_way.clear()
        self._staged.clear()
        self._turns = Turns(self._rank)
        self._group = None


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
    connections = 0

    def __init__(self) -> None:
        self._index: int = npu.current_device()
        self._told = False

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        deadline = time.monotonic() + timeout.total_seconds()
        peer = RANKS[peer_of(rank)]
        npu.set_device(self._index)
        device = _device(self._index)
        self._check_memory(device)
        line = open_line(store, rank, host, deadline)
        opening: _Opening | None = None
        try:
            opening = _Opening(device, store, rank, deadline)
            return opening.result(line)
        except TransportError as error:
            raise TransportError(f"no HCCL group with the {peer}: {error}") from None
        except RuntimeError as error:
            why = _first_line(error)
            raise TransportError(f"no HCCL group with the {peer}: {why}") from None
        finally:
            if opening is None or opening.failed:
                line.hang_up()
                line.close()

    def _check_memory(self, device: _Device) -> None:
        """Raises `TransportError` when HCCL's buffers would not fit."""
        try:
            size = int(os.environ.get("P2P_HCCL_BUFFSIZE", _BUFFER_MIB)) or 200
        except ValueError:
            size = _BUFFER_MIB
        needed = _BUFFERS * size * _MIB
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

    def __init__(self, device: _Device, store: Store, rank: int, deadline: float) -> None:
        """Raises `TransportError` when this process can open no group now."""
        self._device = device
        self._store: Store | None = store
        self._rank = rank
        self._deadline = deadline
        self._lock = threading.Lock()  # Guards the hand-over between the two threads.
        self._abandoned = False
        self._ended = threading.Event()
        self._group: Any = None
        self._operations: list[_Operation] = []
        self._error: str | None = None
        self.failed = True
        with device.lock:
            if device.left_behind >= _LEFT_BEHIND:
                raise TransportError(
                    f"{_LEFT_BEHIND} threads wait in HCCL for peers that went while a group opened"
                )
        self._name = device.streams.borrow(rank)
        TransferThread(self._run, "netloader-hccl-open").start()

    def result(self, line: Line) -> HcclGroup:
        """Wait for the communicator, as long as the peer is there. Raises `TransportError`."""
        while not self._ended.wait(_PAUSE_S):
            # The line has nothing to say before the source's first call.
            line.peek()
            if line.gone:
                self._abandon(f"the {RANKS[peer_of(self._rank)]} has left")
            if time.monotonic() > self._deadline:
                self._abandon("HCCL did not make a communicator in time")
        if self._error is not None:
            raise TransportError(self._error)
        self.failed = False
        return HcclGroup(
            self._device, self._rank, self._group, line, self._name, self._operations[-1].stream
        )

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
        group, error = None, None
        try:
            group = self._open()
        except (RuntimeError, TransportError) as found:
            error = _first_line(found)
        with self._lock:
            self._group, self._error = group, error
            self._store = None
            self._ended.set()
            if not self._abandoned and error is None:
                return
            self._group = None
            if self._abandoned:
                with self._device.lock:
                    self._device.left_behind -= 1
        if group is not None:
            group.abort_hccl_comm("netloader")
        self._device.streams.give_back(self._name)

    def _open(self) -> Any:
        npu.set_device(self._device.index)
        peer = peer_of(self._rank)
        options = ProcessGroupHCCL.Options()
        options.global_ranks_in_group = [0, 1]
        options.group_id = f"netloader-{os.getpid()}-{next(_numbers)}"
        options.hccl_config = {"hccl_buffer_name": self._name}
        with npu.stream(self._device.stream):
            group = ProcessGroupHCCL(self._store, self._rank, 2, options)
            group.set_watchdog_status(_STOP)
            byte = torch.empty(1, dtype=torch.uint8, device=f"npu:{self._device.index}")
        try:
            for sends in (self._rank == SOURCE, self._rank != SOURCE):
                operation = _Operation(group, sends, byte, peer, self._device)
                self._operations.append(operation)
                while not operation.has_ended():
                    if time.monotonic() > self._deadline or self._abandoned:
                        raise TransportError("the first byte did not come")
                    time.sleep(_BRIEF_S)
                operation.settle()
        except BaseException:
            group.abort_hccl_comm("netloader")
            raise
        return group


def _first_line(error: Exception) -> str:
    """torch_npu appends a trace and advice; the first line that says something is kept."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else f"{type(error).__name__} without words"
