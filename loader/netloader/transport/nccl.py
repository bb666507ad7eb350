"""NCCL: memory of CUDA devices, by a communicator of our own beside torch's.

- An operation whose peer never joins spins on the device until its communicator is aborted. So an
  operation begins only once both ends have posted it (`called.py`), and an abort ends it.
- NCCL may never notice that a peer on the same host has died. The line between the ends does at
  once.
- No call waits for the peer: communicators do not block (`libnccl.py`), and the end of an operation
  is asked for. While a group opens, a byte travels both ways.
- Transfers have a stream of their own, of the lowest priority, and few blocks of the device, since
  a source serves requests meanwhile.

Nobody has run this on a GPU yet: the tests run it over a library that plays NCCL on host memory.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Final, Protocol

import torch
from torch._C._distributed_c10d import Store

from netloader.errors import TransportError
from netloader.transport.base import RANKS, SOURCE, Group, peer_of
from netloader.transport.called import CalledGroup, Operation, first_line
from netloader.transport.libnccl import NcclLibrary
from netloader.transport.line import Line, open_line

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

_RELEASE_S: Final = 5.0
"""Seconds that operations may take to end once their communicator is aborted. After an abort the
state of a communicator cannot be asked for any more: only what is on the stream counts then."""

_LAUNCH_S: Final = 5.0
"""Seconds that NCCL may take to queue a transfer. The two ends are connected since the group
opened, so microseconds will do."""


class NcclCommunicator(Protocol):
    """One end of a communicator of two ranks. Never waits for the peer."""

    def is_ready(self) -> bool:
        """Whether the next call may be made. Raises `RuntimeError` when it has failed."""

    def begin(self, sends: bool, data: torch.Tensor) -> Operation:
        """Begin a transfer of device memory. Raises `RuntimeError`."""

    def abort(self) -> Operation:
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

    def mark(self) -> Operation:
        """What the calling thread has given the device until now."""

    def unique_id(self) -> bytes:
        """A new place for two ranks to meet. Raises `RuntimeError`."""

    def join(self, unique_id: bytes, rank: int) -> NcclCommunicator:
        """Begin to meet the other rank. Raises `RuntimeError`."""


class _NcclEnd:
    """A communicator and its device."""

    name = "NCCL"

    def __init__(self, device: NcclDevice, communicator: NcclCommunicator) -> None:
        self._device = device
        self._communicator = communicator

    def here(self) -> AbstractContextManager[object]:
        return self._device.here()

    def holds(self, data: torch.Tensor) -> bool:
        return self._device.holds(data)

    def copy_of(self, data: torch.Tensor) -> torch.Tensor:
        return self._device.copy_of(data)

    def mark(self) -> None:
        """Waits for it: NCCL queues a transfer on its stream some time after it was told to."""
        given = self._device.mark()
        while not given.has_ended():
            time.sleep(_PAUSE_S)

    def begin(self, sends: bool, data: torch.Tensor, after: object) -> Operation:
        return self._communicator.begin(sends, data)

    def break_off(self, under_way: Sequence[Operation]) -> bool:
        deadline = time.monotonic() + _RELEASE_S
        try:
            rest = self._communicator.abort()
            while not _is_over(rest):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"its operations go on {_RELEASE_S:g} s later")
                time.sleep(_PAUSE_S)
        except RuntimeError as error:
            _log.error("a communicator could not be aborted: %s", first_line(error))
            return False
        return True


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
        group: CalledGroup | None = None
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
            group = CalledGroup(_NcclEnd(self._device, communicator), rank, line)
            return group
        except (RuntimeError, TransportError) as error:
            peer = RANKS[peer_of(rank)]
            raise TransportError(f"no NCCL group with the {peer}: {first_line(error)}") from None
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

    def mark(self) -> Operation:
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

    def begin(self, sends: bool, data: torch.Tensor) -> Operation:
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

    def abort(self) -> Operation:
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


def _is_over(operation: Operation) -> bool:
    """Whether it has ended, well or not."""
    with contextlib.suppress(RuntimeError):
        return operation.has_ended()
    return True
