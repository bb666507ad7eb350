"""NCCL: memory of CUDA devices, by a communicator of our own beside torch's.

- An operation whose peer never joins spins on the device until its communicator is aborted. So an
  operation begins only once both ends have posted it (`turns.py`), and an abort ends it.
- NCCL may never notice that a peer on the same host has died. A line between the ends does at once
  (`line.py`).
- No call waits for the peer: communicators do not block (`libnccl.py`), and the end of an operation
  is asked for. While a group opens, a byte travels both ways.
- Transfers have a stream of their own, of the lowest priority, and few blocks of the device, since
  a source serves requests meanwhile.

NCCL takes device memory only. What a source keeps in host memory is copied to the device first.

Nobody has run this on a GPU yet: the tests run it over a library that plays NCCL on host memory.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Final, NoReturn, Protocol

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.system.threads import TransferThread
from netloader.transport.base import RANKS, SOURCE, Group, Pending, aborted, failed, peer_of
from netloader.transport.libnccl import NcclLibrary
from netloader.transport.line import Line, open_line
from netloader.transport.turns import Note, Turns

_log = logging.getLogger(__name__)

MAX_CTAS: Final = 4
"""Blocks of the device that a transfer may take, each of which occupies a multiprocessor. A guess,
to be replaced by a measurement."""

NEEDED_BYTES: Final = 256 * 1024 * 1024
"""Device memory that must be free to open a group: NCCL's buffers for `MAX_CTAS` channels in both
directions, with room to spare. An estimate, to be replaced by a measurement."""

_KEY: Final = "netloader/nccl"
"""Key in the store of the unique id, in hex."""

_PAUSE_S: Final = 0.001
"""How soon to look again whether something has ended."""

_IDLE_S: Final = 60.0
"""How long to sleep until the peer says something, or either end hangs up."""

_LAST_WORDS_S: Final = 0.5
"""Seconds that an operation may go on after the peer has left: it may have sent all of it."""

_RELEASE_S: Final = 5.0
"""Seconds that operations may take to end once their communicator is aborted. After an abort the
state of a communicator cannot be asked for any more: only what is on the stream counts then."""

_LAUNCH_S: Final = 5.0
"""Seconds that NCCL may take to queue a transfer. The two ends are connected since the group
opened, so microseconds will do."""

_not_released: list[object] = []
"""Tensors that an aborted communicator may still touch: they are never freed."""


class NcclOperation(Protocol):
    """A transfer that has begun."""

    def has_ended(self) -> bool:
        """Raises `RuntimeError` when it has failed."""


class NcclCommunicator(Protocol):
    """One end of a communicator of two ranks. Never waits for the peer."""

    def is_ready(self) -> bool:
        """Whether the next call may be made. Raises `RuntimeError` when it has failed."""

    def begin(self, sends: bool, data: torch.Tensor) -> NcclOperation:
        """Begin a transfer of device memory. Raises `RuntimeError`."""

    def abort(self) -> NcclOperation:
        """End everything that has begun. Returns what may still touch memory. Raises
        `RuntimeError`."""


class NcclDevice(Protocol):
    """The device whose memory is carried, and its library."""

    def here(self) -> AbstractContextManager[object]:
        """Make it the calling thread's current device."""

    def free_bytes(self) -> int:
        """Memory that is free on it."""

    def holds(self, data: torch.Tensor) -> bool:
        """Whether a tensor lies in its memory."""

    def copy_of(self, data: torch.Tensor) -> torch.Tensor:
        """A copy of host memory on it. Raises `RuntimeError`."""

    def mark(self) -> NcclOperation:
        """What the calling thread has given the device until now."""

    def unique_id(self) -> bytes:
        """A new place for two ranks to meet. Raises `RuntimeError`."""

    def join(self, unique_id: bytes, rank: int) -> NcclCommunicator:
        """Begin to meet the other rank. Raises `RuntimeError`."""


class NcclPending:
    """A transfer that was posted, and begins when it is called."""

    def __init__(self, group: NcclGroup, sends: bool, data: torch.Tensor, tag: int) -> None:
        self.sends = sends
        self.tag = tag
        self.nbytes = data.numel()
        self.data: torch.Tensor | None = data
        """Kept until the transfer has ended."""
        self.operation: NcclOperation | None = None
        self.done = False
        self.error: str | None = None
        self._group = group

    def wait(self, timeout_s: float) -> None:
        self._group.wait(self, timeout_s)


class NcclGroup:
    """One end of a group, with a thread that begins transfers as they are called."""

    def __init__(
        self, device: NcclDevice, rank: int, communicator: NcclCommunicator, line: Line
    ) -> None:
        """`communicator` has formed."""
        self._device = device
        self._rank = rank
        self._peer = peer_of(rank)
        self._communicator = communicator
        self._line = line
        self._changed = threading.Condition()  # Guards the fields below, and the communicator.
        self._turns: Turns[NcclPending] = Turns(rank)
        self._under_way: list[NcclPending] = []
        self._broken: str | None = None  # What the listening thread has met.
        self._why: str | None = None  # Set once, by the first abort.
        self._aborting = threading.Lock()
        self._over = False
        self._listening = TransferThread(
            self._listen, "netloader-nccl", stop=lambda: self.abort("this process ends")
        )
        self._listening.start()

    def send(self, data: torch.Tensor, tag: int) -> Pending:
        transfer = NcclPending(self, True, data, tag)
        if not self._device.holds(data):
            try:
                with self._device.here():
                    transfer.data = self._device.copy_of(data)
            except RuntimeError as error:
                self._give_up(transfer, f"no copy on the device: {_first_line(error)}")
        return self._post(transfer)

    def recv(self, data: torch.Tensor, tag: int) -> Pending:
        transfer = NcclPending(self, False, data, tag)
        if not self._device.holds(data):
            raise TransportError(self._failed(transfer, "NCCL receives in device memory only"))
        return self._post(transfer)

    def abort(self, reason: str = "") -> None:
        with self._aborting:  # The second caller may not return before all is quiet either.
            if not self._over:
                self._why = aborted(reason)
                self._line.hang_up()
                with self._changed, self._device.here():
                    self._changed.notify_all()
                    self._take_down()
                self._over = True
        if threading.current_thread() is not self._listening:
            self._listening.join()
            self._line.close()

    def wait(self, transfer: NcclPending, timeout_s: float) -> None:
        """Block until one transfer has ended. Raises `TransportError`."""
        deadline = time.monotonic() + timeout_s
        left_at: float | None = None
        try:
            with self._device.here():
                while not self._has_ended(transfer, deadline):
                    if self._broken is not None:
                        left_at = left_at or time.monotonic()
                        if transfer.operation is None or time.monotonic() > left_at + _LAST_WORDS_S:
                            raise TransportError(self._broken)
                    if time.monotonic() >= deadline:
                        raise TransportError(f"timed out after {timeout_s:g} s")
        except (RuntimeError, TransportError) as error:
            self._give_up(transfer, _first_line(error))

    def _has_ended(self, transfer: NcclPending, deadline: float) -> bool:
        """Look whether a transfer has ended, and pause if it has not."""
        with self._changed:
            if transfer.done:
                return True
            if transfer.error is not None or self._why is not None:
                raise TransportError(transfer.error or self._why)
            operation = transfer.operation
            if operation is None:
                if self._broken is None:
                    self._changed.wait(max(0.0, deadline - time.monotonic()))
                return transfer.done
            if operation.has_ended():
                self._under_way.remove(transfer)
                transfer.done = True
                transfer.operation = transfer.data = None
                return True
        time.sleep(_PAUSE_S)
        return False

    def _post(self, transfer: NcclPending) -> NcclPending:
        try:
            with self._device.here():
                # What the calling thread still does with the data, as packing it, comes first.
                ready = self._device.mark()
                while not ready.has_ended():
                    time.sleep(_PAUSE_S)
                with self._changed:
                    if self._why is not None or self._broken is not None:
                        raise TransportError(self._why or self._broken)
                    notes = self._turns.post(
                        transfer.sends, transfer.tag, transfer.nbytes, transfer
                    )
                    for note in notes:
                        self._line.say(note.encode())
                    self._begin_called()
        except (RuntimeError, TransportError) as error:
            self._give_up(transfer, _first_line(error))
        return transfer

    def _listen(self) -> None:
        """Begin what the peer calls, until one end leaves."""
        while self._why is None and self._broken is None:
            self._line.wait(_IDLE_S)
            with self._changed, self._device.here():
                if self._why is None:
                    try:
                        self._hear()
                    except (RuntimeError, TransportError) as error:
                        self._broken = _first_line(error)
                self._changed.notify_all()

    def _hear(self) -> None:
        for piece in self._line.hear(Note.FORMAT.size):
            called = self._turns.hear(Note.decode(piece))
            if called is not None:
                self._begin(called)
        self._begin_called()
        if self._line.gone:
            self._broken = f"the {RANKS[self._peer]} has left"

    def _begin_called(self) -> None:
        for note, transfer in self._turns.calls():
            self._line.say(note.encode())
            self._begin(transfer)

    def _begin(self, transfer: NcclPending) -> None:
        if transfer.data is None or transfer.nbytes == 0:
            transfer.done = True
            return
        transfer.operation = self._communicator.begin(transfer.sends, transfer.data)
        self._under_way.append(transfer)

    def _give_up(self, transfer: NcclPending, why: str) -> NoReturn:
        """Break the group over one transfer. Raises `TransportError`."""
        if transfer.error is None:
            # A transfer that an abort ended fails for the abort's reason, whatever NCCL says.
            transfer.error = self._failed(transfer, self._why or why)
        self.abort(transfer.error)
        raise TransportError(transfer.error)

    def _failed(self, transfer: NcclPending, why: str) -> str:
        return failed(transfer.sends, transfer.nbytes, transfer.tag, self._peer, why)

    def _take_down(self) -> None:
        """End what is under way, and the communicator with it."""
        deadline = time.monotonic() + _RELEASE_S
        try:
            rest = self._communicator.abort()
            while not _is_over(rest):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"its operations go on {_RELEASE_S:g} s later")
                time.sleep(_PAUSE_S)
        except RuntimeError as error:
            _log.error(
                "a communicator could not be aborted, and its memory stays reserved: %s",
                _first_line(error),
            )
            _not_released.extend(self._under_way)
        self._under_way = []
        self._turns = Turns(self._rank)


class NcclBackend:
    """Opens NCCL groups on one device."""

    name = "nccl"
    connections = 1

    def __init__(self, device: NcclDevice | None = None) -> None:
        """By default on the device that is current here. Raises `TransportError` when this machine
        lacks CUDA or NCCL."""
        self._device = device if device is not None else CudaDevice()

    def open(self, store: Store, rank: int, host: str, timeout: timedelta) -> Group:
        deadline = time.monotonic() + timeout.total_seconds()
        line: Line | None = None
        group: NcclGroup | None = None
        try:
            with self._device.here():
                free = self._device.free_bytes()
                if free < NEEDED_BYTES:
                    raise TransportError(
                        f"{free >> 20} MiB of the device are free, and NCCL may take "
                        f"{NEEDED_BYTES >> 20} MiB: lower gpu_memory_utilization"
                    )
                line = open_line(store, rank)
                communicator = self._join(store, rank, line, deadline)
            group = NcclGroup(self._device, rank, communicator, line)
            return group
        except (RuntimeError, TransportError) as error:
            peer = RANKS[peer_of(rank)]
            raise TransportError(f"no NCCL group with the {peer}: {_first_line(error)}") from None
        finally:
            if group is None and line is not None:
                line.hang_up()
                line.close()

    def _join(self, store: Store, rank: int, line: Line, deadline: float) -> NcclCommunicator:
        """Form the communicator, and let a byte travel both ways. Raises `RuntimeError`,
        `TransportError`."""
        if rank == SOURCE:
            store.set(_KEY, self._device.unique_id().hex())
        unique_id = bytes.fromhex(store.get(_KEY).decode())
        communicator = self._device.join(unique_id, rank)
        try:
            _until(communicator.is_ready, line, rank, deadline)
            byte = self._device.copy_of(torch.zeros(1, dtype=torch.uint8))
            for sends in (rank == SOURCE, rank != SOURCE):
                operation = communicator.begin(sends, byte)
                _until(operation.has_ended, line, rank, deadline)
        except BaseException:
            communicator.abort()
            raise
        return communicator


class CudaDevice:
    """A CUDA device and NCCL."""

    def __init__(self) -> None:
        """The calling thread's current device. Raises `TransportError`."""
        if not torch.cuda.is_available():
            raise TransportError("this torch has no CUDA device")
        self._library = NcclLibrary()
        self._index: int = torch.cuda.current_device()

    def here(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self._index)

    def free_bytes(self) -> int:
        return int(torch.cuda.mem_get_info(self._index)[0])

    def holds(self, data: torch.Tensor) -> bool:
        return data.device == torch.device("cuda", self._index)

    def copy_of(self, data: torch.Tensor) -> torch.Tensor:
        return data.to(torch.device("cuda", self._index))

    def mark(self) -> NcclOperation:
        return _Mark(torch.cuda.current_stream(self._index))

    def unique_id(self) -> bytes:
        return self._library.unique_id()

    def join(self, unique_id: bytes, rank: int) -> NcclCommunicator:
        handle = self._library.init(unique_id, rank, MAX_CTAS)
        # A stream for each, so that no group waits for another's peer. 0 is the lowest priority.
        stream = torch.cuda.Stream(priority=0)  # type: ignore[no-untyped-call]
        return _CudaCommunicator(self._library, handle, peer_of(rank), stream)


class _CudaCommunicator:
    def __init__(self, library: NcclLibrary, handle: int, peer: int, stream: Any) -> None:
        self._library = library
        self._handle = handle
        self._peer = peer
        self._stream = stream
        self._latest: _CudaOperation | None = None

    def is_ready(self) -> bool:
        if not self._handle:
            raise RuntimeError("the communicator was aborted")
        return self._library.state(self._handle)

    def begin(self, sends: bool, data: torch.Tensor) -> NcclOperation:
        deadline = time.monotonic() + _LAUNCH_S
        while self._latest is not None and not self._latest.is_queued():
            if time.monotonic() > deadline:
                raise RuntimeError(f"NCCL has not begun the last transfer after {_LAUNCH_S:g} s")
            time.sleep(_PAUSE_S)
        start = self._library.send if sends else self._library.recv
        address, nbytes = data.data_ptr(), data.numel()
        start(self._handle, address, nbytes, self._peer, self._stream.cuda_stream)
        self._latest = _CudaOperation(self.is_ready, self._stream)
        return self._latest

    def abort(self) -> NcclOperation:
        # Freed by the call, and not to be asked about any more.
        handle, self._handle = self._handle, 0
        self._library.abort(handle)
        return _Mark(self._stream)


class _CudaOperation:
    """A transfer, which NCCL queues on the stream some time after it was told to."""

    def __init__(self, is_ready: Callable[[], bool], stream: Any) -> None:
        self._is_ready = is_ready
        self._stream = stream
        self._mark: _Mark | None = None

    def is_queued(self) -> bool:
        """Raises `RuntimeError` when the communicator has failed."""
        if self._mark is None and self._is_ready():
            self._mark = _Mark(self._stream)
        return self._mark is not None

    def has_ended(self) -> bool:
        return self.is_queued() and self._mark is not None and self._mark.has_ended()


class _Mark:
    """All that a stream was given until now."""

    def __init__(self, stream: Any) -> None:
        self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(stream)

    def has_ended(self) -> bool:
        """Raises `RuntimeError` when something on the device has failed."""
        return bool(self._event.query())


def _until(done: Callable[[], bool], line: Line, rank: int, deadline: float) -> None:
    """Wait for something, as long as the peer is there. Raises `TransportError`."""
    while not done():
        # The line has nothing to say before the source's first call.
        line.peek()
        if line.gone:
            raise TransportError(f"the {RANKS[peer_of(rank)]} has left")
        if time.monotonic() > deadline:
            raise TransportError("no communicator formed in time")
        time.sleep(_PAUSE_S)


def _is_over(operation: NcclOperation) -> bool:
    """Whether it has ended, well or not."""
    with contextlib.suppress(RuntimeError):
        return operation.has_ended()
    return True


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
