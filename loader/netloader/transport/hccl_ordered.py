"""HCCL as vLLM Ascend's own Netloader uses it: whole tensors in order, then a barrier.

The other end knows neither our turns nor our line (`hccl.py`), only torch_npu's group. An operation
that it never joins blocks its stream, and the first operation and the barrier each make a
communicator, for which HCCL waits up to `HCCL_CONNECT_TIMEOUT`. So:

- one operation is under way at a time, and its end is asked for, never waited for;
- the two calls that may block are made by a thread that can be left behind. The first of them
  moves a copy, so a thread that is left behind touches no weights;
- `gone` tells that the other end has left: both ends keep the connection open by which they met;
- torch_npu's watchdog is stopped for the group before it has anything to watch;
- operations run on the streams for synchronous launches, which torch_npu binds to the name of a
  group's buffers. The model's groups get others. A stream whose operation was broken off is
  destroyed, or whoever synchronises the device would get its error.

The barrier costs a second communicator with HCCL's large buffers. Upstream's end waits in it.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
from torch._C._distributed_c10d import BarrierOptions, Store
from torch_npu import npu
from torch_npu._C._distributed_c10d import ProcessGroupHCCL

from netloader.errors import TransportError
from netloader.system.threads import TransferThread
from netloader.transport.called import first_line

_log = logging.getLogger(__name__)

_MIB: Final = 1 << 20

_STOP: Final = 2
"""`WatchdogStatus::STOP` of torch_npu: the watchdog looks at nothing."""

_BUFFERS_MIB: Final = {"P2P_HCCL_BUFFSIZE": 20, "HCCL_BUFFSIZE": 200}
"""torch_npu's defaults for the two communicators. Each keeps two such buffers on the device."""

_SPARE_MIB: Final = 128
"""Device memory to leave free beside HCCL's buffers."""

_BRIEF_S, _PAUSE_S = 0.0001, 0.001

_LAST_WORDS_S: Final = 1.0
"""Seconds in which an operation may still end after the other end has left: it may have sent all
of it before. The same for errors that HCCL reports before the stream does."""

_RELEASE_S: Final = 5.0
"""Seconds that an operation may take to end once its communicator is destroyed."""

_LEFT_BEHIND: Final = 4
"""Threads that may still wait for replicas and servers that never came."""

_STREAMS: Final = 2
"""Streams that may be lost. torch_npu has four for synchronous launches on each device: one issues
our operations, and one is left."""

_numbers = itertools.count()

_not_released: list[object] = []
"""Tensors that a destroyed communicator may still touch: they are never freed."""


class _Losses:
    """What this process has lost to other ends that died. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._streams = 0

    def check(self) -> None:
        """Raises `TransportError` when no further group can be opened."""
        with self._lock:
            if self._threads >= _LEFT_BEHIND:
                raise TransportError(
                    f"{_LEFT_BEHIND} threads wait in HCCL for ends that never came"
                )
            if self._streams >= _STREAMS:
                raise TransportError(
                    f"{_STREAMS} streams were lost to ends that died halfway through a tensor: "
                    "only a restart of this process brings them back"
                )

    def thread(self, change: int) -> None:
        with self._lock:
            self._threads += change

    def stream(self) -> str:
        """Count one, and return the name by which the next one is bound."""
        with self._lock:
            self._streams += 1
            return self.name

    @property
    def name(self) -> str:
        return f"netloader-upstream-{self._streams}"


_lost = _Losses()


class _WholeTensor:
    """One transfer of a group."""

    def __init__(self, group: Any, sends: bool, data: torch.Tensor, peer: int, issuer: Any) -> None:
        """Begin it. Raises `RuntimeError`."""
        # The same memory, of which torch_npu's allocator knows nothing: it would note the stream,
        # and end the process if the stream is gone when the tensor is freed.
        self._alias = torch.from_dlpack(data)  # type: ignore[attr-defined]
        with npu.stream(issuer):
            self._work = (group.send if sends else group.recv)([self._alias], peer, 0)
        self.stream = npu.Stream(
            stream_id=group._get_stream_id(True, peer),
            device_index=issuer.device_index,
            device_type=issuer.device_type,
        )
        self._event = npu.Event()
        self._event.record(self.stream)
        self._issuer = issuer

    def has_ended(self) -> bool:
        """Raises `RuntimeError` when it has failed."""
        if self._event.query():
            return True
        # Also true when HCCL has reported an error of the communicator.
        if not self._work.is_completed():
            return False
        deadline = time.monotonic() + _LAST_WORDS_S
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
        """Show what was received to all streams. Raises `RuntimeError` when it has failed after
        all, which a stream tells only whoever synchronises it."""
        self._issuer.wait_event(self._event)
        self._issuer.synchronize()


@cache
def _issuer(index: int) -> Any:
    """The stream that issues all operations on a device: one for all carriers. torch_npu lends its
    four in turn, so a fifth would be one that has been destroyed."""
    with npu.device(index):
        return npu.SyncLaunchStream()


class HcclCarrier:
    """Opens such groups on the device that is current where this is made."""

    def __init__(self) -> None:
        self._index: int = npu.current_device()
        self.device = torch.device("npu", self._index)
        self._issuer = _issuer(self._index)

    def open(
        self, store: Store, rank: int, timeout_s: float, gone: Callable[[], bool]
    ) -> HcclOrderedGroup:
        """Blocks no longer than it takes to look: the ends meet in their first operation, which may
        take `timeout_s`. Raises `TransportError` when HCCL's buffers would not fit, or this process
        can open no group now."""
        npu.set_device(self._index)
        _lost.check()
        self._check_memory()
        return HcclOrderedGroup(self._issuer, store, rank, timeout_s, gone)

    def _check_memory(self) -> None:
        needed = sum(2 * _buffer_mib(name, usual) for name, usual in _BUFFERS_MIB.items())
        free = npu.mem_get_info(self._index)[0] // _MIB
        if free < needed + _SPARE_MIB:
            raise TransportError(
                f"device {self._index} has {free} MiB free, and a transfer with vLLM Ascend's own "
                f"Netloader takes {needed} MiB for HCCL's buffers beside {_SPARE_MIB} MiB to "
                "spare: lower gpu_memory_utilization or HCCL_BUFFSIZE"
            )


class HcclOrderedGroup:
    """One end. Belongs to one thread, but for `close`."""

    def __init__(
        self,
        issuer: Any,
        store: Store,
        rank: int,
        timeout_s: float,
        gone: Callable[[], bool],
    ) -> None:
        self._issuer = issuer
        self._index: int = issuer.device_index
        self._peer = 1 - rank
        self._timeout_s = timeout_s
        self._gone = gone
        self._lock = threading.Lock()  # Guards the fields below.
        self._why: str | None = None
        self._operation: _WholeTensor | None = None
        self._met = False
        self._in_call = False
        self._abandoned = False
        self._closed = False
        self._taken_down = threading.Event()
        options = ProcessGroupHCCL.Options()
        options.global_ranks_in_group = [0, 1]
        options.group_id = f"netloader-upstream-{os.getpid()}-{next(_numbers)}"
        options.hccl_config = {"hccl_buffer_name": _lost.name}
        try:
            with npu.stream(issuer):
                self._group: Any = ProcessGroupHCCL(store, rank, 2, options)
                self._group.set_watchdog_status(_STOP)
        except RuntimeError as error:
            raise TransportError(f"no HCCL group: {first_line(error)}") from None

    def beside_the_model(self) -> None:
        npu.set_device(self._index)
        npu.set_stream(self._issuer)

    def send(self, data: torch.Tensor, timeout_s: float) -> None:
        self._move(True, data, timeout_s)

    def recv(self, data: torch.Tensor, timeout_s: float) -> None:
        self._move(False, data, timeout_s)

    def barrier(self, timeout_s: float) -> None:
        options = BarrierOptions()
        options.device_ids = [self._index]
        options.device = torch.device("npu", self._index)
        work: Any = None

        def begin() -> None:
            nonlocal work
            with npu.stream(self._issuer):
                work = self._group.barrier(options)

        self._call(begin, self._timeout_s)
        self._until(lambda: bool(work.is_completed()), timeout_s, "the barrier")

    def close(self, reason: str = "") -> None:
        with self._lock:
            if self._closed:
                wait = not self._abandoned
            else:
                wait = False
                self._closed = True
                self._why = self._why or reason or "the group is closed"
                if self._in_call:
                    self._leave_behind()
                else:
                    self._take_down()
        if wait:
            self._taken_down.wait()

    def _move(self, sends: bool, data: torch.Tensor, timeout_s: float) -> None:
        what = f"{'send' if sends else 'receive'} of {data.nbytes} bytes"
        if not self._met:
            copy = data.clone() if sends else torch.empty_like(data)
            # Everything else here runs on another stream.
            npu.current_stream().synchronize()
            self._call(lambda: self._begin(sends, copy), self._timeout_s)
            self._met = True
            self._finish(timeout_s, what)
            if not sends:
                data.copy_(copy)
                npu.current_stream().synchronize()
            return
        npu.current_stream().synchronize()
        with self._lock:
            self._check()
            self._begin(sends, data)
        self._finish(timeout_s, what)

    def _begin(self, sends: bool, data: torch.Tensor) -> None:
        """Raises `TransportError`."""
        try:
            self._operation = _WholeTensor(self._group, sends, data, self._peer, self._issuer)
        except RuntimeError as error:
            raise TransportError(first_line(error)) from None

    def _finish(self, timeout_s: float, what: str) -> None:
        """Wait for the operation under way. Raises `TransportError`."""
        operation = self._operation
        assert operation is not None, "an operation has begun"
        self._until(operation.has_ended, timeout_s, what)
        with self._lock:
            self._check()
            try:
                operation.settle()
            except RuntimeError as error:
                raise TransportError(f"{what}: {first_line(error)}") from None
            self._operation = None

    def _until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Raises `TransportError` when it does not happen."""
        deadline = time.monotonic() + timeout_s
        last_moment: float | None = None
        try:
            while not done():
                self._check()
                now = time.monotonic()
                if last_moment is None and self._gone():
                    last_moment = now + _LAST_WORDS_S
                if last_moment is not None and now > last_moment:
                    raise TransportError(f"{what}: the other end has left")
                if now > deadline:
                    raise TransportError(f"{what}: timed out after {timeout_s:g} s")
                time.sleep(_PAUSE_S)
        except RuntimeError as error:
            raise TransportError(f"{what}: {first_line(error)}") from None

    def _check(self) -> None:
        if self._why is not None:
            raise TransportError(self._why)

    def _call(self, call: Callable[[], None], timeout_s: float) -> None:
        """Make a call that may block in a thread, and leave that thread behind if it must be.
        Raises `TransportError`."""
        ended = threading.Event()
        failed: list[str] = []

        def run() -> None:
            npu.set_device(self._index)
            try:
                call()
            except (RuntimeError, TransportError) as error:
                failed.append(first_line(error))
            with self._lock:
                self._in_call = False
                ended.set()
                if self._abandoned:
                    _lost.thread(-1)
                    self._take_down()

        with self._lock:
            self._check()
            self._in_call = True
        TransferThread(run, "netloader-hccl-call").start()
        deadline = time.monotonic() + timeout_s
        while not ended.wait(_PAUSE_S):
            if self._gone() or self._why is not None or time.monotonic() > deadline:
                self._abandon()
        if failed:
            raise TransportError(failed[0])

    def _abandon(self) -> None:
        """Leave the thread behind, unless it has just ended. Raises `TransportError`."""
        with self._lock:
            if not self._in_call:
                return
            if not self._abandoned:
                self._closed = True
                self._why = self._why or "the other end did not come, or has left"
                self._leave_behind()
            why = self._why
        raise TransportError(why)

    def _leave_behind(self) -> None:
        """Let the thread in a call take the group down when the call ends. The caller holds the
        lock."""
        self._abandoned = True
        _lost.thread(1)

    def _take_down(self) -> None:
        """End what is under way, and destroy the communicators. The caller holds the lock."""
        with npu.device(self._index):
            self._end_all()
        self._taken_down.set()

    def _end_all(self) -> None:
        operation, self._operation = self._operation, None
        if operation is None and not self._abandoned:
            self._shut_down()
            self._group = None
            return
        # Holds the GIL while HCCL destroys the communicator: there is no other way.
        self._group.abort_hccl_comm("netloader")
        self._group = None
        if operation is None:
            return
        deadline = time.monotonic() + _RELEASE_S
        while not operation.is_over():
            if time.monotonic() > deadline:
                _log.error("HCCL still holds an operation of a group that was closed")
                _not_released.append(operation)
                break
            time.sleep(_PAUSE_S)
        _log.warning("device %d loses a stream to an end that died", self._index)
        _lost.stream()
        _destroy_stream(operation.stream.npu_stream)

    def _shut_down(self) -> None:
        try:
            self._group.shutdown()
        except RuntimeError as error:
            _log.debug("a group did not shut down: %s", first_line(error))
            self._group.abort_hccl_comm("netloader")


def _buffer_mib(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default)) or default
    except ValueError:
        return default


def _destroy_stream(handle: int) -> None:
    """Free the current device of a stream, whatever is on it. torch_npu has no call for that, and
    does not look at its streams by itself."""
    destroy = ctypes.CDLL("libascendcl.so").aclrtDestroyStreamForce
    destroy.argtypes = [ctypes.c_void_p]
    error = destroy(handle)
    if error:
        _log.warning("a stream could not be destroyed: CANN reports %d", error)
